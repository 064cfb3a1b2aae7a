use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use rustls::{ClientConnection, ConnectionCommon, ServerConnection, SideData, StreamOwned};

use super::*;
use PairRole::{A, B, Witness};

fn secret(byte: u8) -> PairSecret {
    PairSecret::new(&[byte; LENGTH]).unwrap()
}

/// Both ends after a handshake over a pair of sockets, or what each has against the other.
struct Met {
    client: Result<StreamOwned<ClientConnection, UnixStream>, String>,
    server: Result<StreamOwned<ServerConnection, UnixStream>, String>,
}

fn meet(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Met {
    let (ours, theirs) = UnixStream::pair().unwrap();
    for socket in [&ours, &theirs] {
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
    }
    let accepting = thread::spawn(move || {
        let mut server = ServerConnection::new(server).unwrap();
        finish(&mut server, &theirs).map(|()| StreamOwned::new(server, theirs))
    });
    let mut dialling = ClientConnection::new(client, Witness.name()).unwrap();
    let client = finish(&mut dialling, &ours).map(|()| StreamOwned::new(dialling, ours));
    let server = accepting.join().unwrap();
    Met { client, server }
}

fn finish<D: SideData>(
    connection: &mut ConnectionCommon<D>,
    mut socket: &UnixStream,
) -> Result<(), String> {
    while connection.is_handshaking() {
        let done = connection.complete_io(&mut socket);
        done.map_err(|error| error.to_string())?;
    }
    Ok(())
}

impl Met {
    /// Sends a byte each way; `None` if the two did not come together.
    fn talk(self) -> Option<(StreamOwned<ClientConnection, UnixStream>, PairRole)> {
        let (mut client, mut server) = (self.client.ok()?, self.server.ok()?);
        client.write_all(b"?").unwrap();
        let mut got = [0];
        server.read_exact(&mut got).unwrap();
        server.write_all(b"!").unwrap();
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"!");
        let shown = secret(1).shown(&server.conn).unwrap();
        Some((client, shown))
    }

    /// What the client and the server say against each other.
    fn quarrel(self) -> (String, String) {
        let server = self.server.expect_err("the server is content");
        let client = match self.client {
            // A TLS 1.3 client is done before the server has looked at its key.
            Ok(mut stream) => stream.read(&mut [0]).unwrap_err().to_string(),
            Err(error) => error,
        };
        (client, server)
    }
}

#[test]
fn the_right_roles_get_through_and_are_told_apart() {
    for (from, to) in [(A, B), (B, A), (A, Witness), (B, Witness)] {
        let met = meet(secret(1).client(from, to), secret(1).server(to));
        let (client, shown) = met.talk().expect("a handshake");
        assert_eq!(shown, from);
        assert_eq!(secret(1).shown(&client.conn), Some(to));
        let version = client.conn.protocol_version();
        assert_eq!(version, Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(secret(2).shown(&client.conn), None);
    }
}

#[test]
fn another_secret_is_refused_by_both() {
    let met = meet(secret(1).client(A, B), secret(2).server(B));
    let (client, _) = met.quarrel();
    assert!(client.contains("Stranger"), "{client}");

    // A client that takes any server that it dials: so it is the server's turn to look.
    let mut client = (*secret(1).client(A, B)).clone();
    let all = Arc::new(secret(2).pinned(&[B]));
    client.dangerous().set_certificate_verifier(all);
    let (client, server) = meet(Arc::new(client), secret(2).server(B)).quarrel();
    assert!(server.contains("Stranger"), "{server}");
    assert!(client.contains("alert"), "{client}");
}

#[test]
fn each_address_is_for_one_role_only() {
    for to in PairRole::ALL {
        for meant in PairRole::ALL.into_iter().filter(|meant| *meant != to) {
            let from = if to == A { B } else { A };
            let met = meet(secret(1).client(from, meant), secret(1).server(to));
            let (client, _) = met.quarrel();
            assert!(client.contains(&format!("Other({to:?})")), "{client}");
        }
    }
    // Nobody is dialled by the witness, nor by itself.
    for (from, to) in [(Witness, A), (Witness, Witness), (A, A), (B, B)] {
        let met = meet(secret(1).client(from, to), secret(1).server(to));
        let (_, server) = met.quarrel();
        assert!(server.contains(&format!("Other({from:?})")), "{server}");
    }
}

/// Shows the key of one role and signs with another's.
fn impostor(shown: PairRole, has: PairRole) -> Arc<CertifiedKey> {
    let secret = secret(1);
    let private = secret.key(has).key.clone();
    Arc::new(CertifiedKey::new(secret.key(shown).cert.clone(), private))
}

#[test]
fn to_show_a_key_is_not_to_have_it() {
    let mut client = (*secret(1).client(B, Witness)).clone();
    client.client_auth_cert_resolver =
        Arc::new(AlwaysResolvesClientRawPublicKeys::new(impostor(A, B)));
    let (_, server) = meet(Arc::new(client), secret(1).server(Witness)).quarrel();
    assert!(server.contains("BadSignature"), "{server}");

    let mut server = (*secret(1).server(B)).clone();
    server.cert_resolver = Arc::new(AlwaysResolvesServerRawPublicKeys::new(impostor(B, A)));
    let (client, _) = meet(secret(1).client(A, B), Arc::new(server)).quarrel();
    assert!(client.contains("BadSignature"), "{client}");
}

#[test]
fn who_shows_no_key_or_speaks_older_tls_is_refused() {
    let mut client = (*secret(1).client(A, B)).clone();
    client.client_auth_cert_resolver = Arc::new(NoKey);
    let (_, server) = meet(Arc::new(client), secret(1).server(B)).quarrel();
    assert!(!server.is_empty());

    let older = ClientConfig::builder_with_provider(secret(1).provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(secret(1).pinned(&[B])))
        .with_no_client_auth();
    let (_, server) = meet(Arc::new(older), secret(1).server(B)).quarrel();
    assert!(
        server.contains("Tls13Required") || server.contains("Tls12"),
        "{server}"
    );
}

#[derive(Debug)]
struct NoKey;

impl rustls::client::ResolvesClientCert for NoKey {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn nothing_follows_the_handshake() {
    let met = meet(secret(1).client(A, B), secret(1).server(B));
    // The server's part is over: what it sends of itself has been sent.
    let (client, server) = (met.client.unwrap(), met.server.unwrap());
    client.sock.set_nonblocking(true).unwrap();
    let mut socket = &client.sock;
    let error = socket.read(&mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!(!server.conn.wants_write());
}

#[test]
fn a_file_is_made_once_for_its_owner_only_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    PairSecret::make(&one).unwrap();
    PairSecret::make(&two).unwrap();
    let text = fs::read_to_string(&one).unwrap();
    assert_eq!(text.trim().len(), 64);
    assert_ne!(text, fs::read_to_string(&two).unwrap());
    assert_eq!(
        fs::metadata(&one).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let again = PairSecret::make(&one).unwrap_err();
    assert!(again.to_string().contains("not overwritten"), "{again}");
    assert_eq!(fs::read_to_string(&one).unwrap(), text);

    let (first, same) = (
        PairSecret::read(&one).unwrap(),
        PairSecret::read(&one).unwrap(),
    );
    assert!(meet(first.client(A, B), same.server(B)).client.is_ok());
    let other = PairSecret::read(&two).unwrap();
    assert!(meet(first.client(A, B), other.server(B)).client.is_err());
    assert_eq!(format!("{first:?}"), "PairSecret");
}

#[test]
fn a_file_that_others_may_read_or_that_is_no_secret_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    PairSecret::make(&path).unwrap();
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let refused = PairSecret::read(&path).unwrap_err().to_string();
        assert!(refused.contains("chmod 600"), "{refused}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let (short, odd) = ("ab".repeat(31), "a".repeat(65));
    let (long, other) = ("ab".repeat(5000), "xy".repeat(32));
    for bad in ["", &short, &odd, &long, &other, &"é".repeat(32)] {
        fs::write(&path, bad).unwrap();
        let refused = PairSecret::read(&path).unwrap_err().to_string();
        assert!(refused.contains("is no secret"), "{refused}");
        assert!(bad.is_empty() || !refused.contains(bad));
    }
    fs::write(&path, format!("  {}\n", "Ab".repeat(32))).unwrap();
    PairSecret::read(&path).unwrap();
    assert!(PairSecret::read(&folder.path().join("none")).is_err());
}

/// What openssl makes of the private key that `b3sum --derive-key` gives: see PROTOCOL.md, "The secret".
#[test]
fn the_keys_never_change() {
    let public = |role| {
        let secret = secret(0xab);
        let key: Vec<String> = secret
            .public(role)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        key.concat()
    };
    let known = [
        (
            A,
            "62b704f3ac03d79d071240dee941d57ab9fcbc02d336cef06ee50212d4373326",
        ),
        (
            B,
            "de7e86e3b7bb06fd93fdfdaa5a951855c88b4b458b2ca56bea570832bf775c56",
        ),
        (
            Witness,
            "d85c7b783d55040684dc6f3b7ab5d35f37630ddb3f20fce46694a38c553cfd1f",
        ),
    ];
    for (role, key) in known {
        // The head says "an Ed25519 key of 32 bytes".
        assert_eq!(public(role), format!("302a300506032b6570032100{key}"));
    }
}
