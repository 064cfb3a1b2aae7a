use std::{fs::File, os::fd::AsFd, os::unix::net::UnixStream, thread, time::Duration};

use rustls::{
    CipherSuite, ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedCipherSuite,
    crypto::ring::default_provider,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use super::*;

type Client = StreamOwned<ClientConnection, UnixStream>;

fn configs(suite: SupportedCipherSuite) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut provider = default_provider();
    provider.cipher_suites = vec![suite];
    let provider = Arc::new(provider);
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_no_client_auth();
    let mut server = server
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    server.enable_secret_extraction = true;
    server.send_tls13_tickets = 0;
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[suite.version()])
        .unwrap();
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.enable_secret_extraction = true;
    (Arc::new(server), Arc::new(client))
}

fn suite(name: CipherSuite) -> SupportedCipherSuite {
    let all = default_provider().cipher_suites;
    all.into_iter().find(|one| one.suite() == name).unwrap()
}

/// A connection with a foreign client.
fn connected(suite: SupportedCipherSuite) -> (Secured, Socket, Client) {
    let (server, client) = configs(suite);
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let session = ClientConnection::new(client, "localhost".try_into().unwrap()).unwrap();
    let mut client = StreamOwned::new(session, theirs);
    let shaking = thread::spawn(move || {
        // What comes right behind the handshake's last record is no longer rustls's.
        client.write_all(b"hello").unwrap();
        client
    });
    let socket = Socket::Unix(ours);
    let deadline = Instant::now() + Duration::from_secs(20);
    let (mut secured, shown) = Secured::accept(server, &socket, deadline).unwrap();
    assert!(shown.is_none());
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    assert_eq!(received(&mut secured, &socket, 5).unwrap(), b"hello");
    (secured, socket, shaking.join().unwrap())
}

fn connected_13() -> (Secured, Socket, Client) {
    connected(suite(CipherSuite::TLS13_AES_128_GCM_SHA256))
}

/// The next `count` bytes, or what came before the end.
fn received(secured: &mut Secured, socket: &Socket, count: usize) -> io::Result<Vec<u8>> {
    let mut all = vec![0; count];
    let mut have = 0;
    while have < count {
        match secured.step(socket, &mut all[have..])? {
            Some(0) => break,
            came => have += came.unwrap_or(0),
        }
    }
    all.truncate(have);
    Ok(all)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// Sends `bytes` and has the client check that they come.
fn send(secured: &mut Secured, socket: &Socket, mut client: Client, bytes: &[u8]) -> Client {
    let wanted = bytes.to_vec();
    let reader = thread::spawn(move || {
        let mut came = vec![0; wanted.len()];
        client.read_exact(&mut came).unwrap();
        assert!(came == wanted);
        client
    });
    secured.send_bytes(socket, bytes).unwrap();
    reader.join().unwrap()
}

#[test]
fn every_cipher_of_both_versions_carries_data_both_ways() {
    let all = default_provider().cipher_suites;
    // The certificate's key is not RSA.
    let usable = |one: &&SupportedCipherSuite| !format!("{:?}", one.suite()).contains("_RSA_");
    let usable: Vec<_> = all.iter().filter(usable).collect();
    assert_eq!(usable.len(), 6);
    for suite in usable {
        let (mut secured, socket, mut client) = connected(*suite);
        let bytes = pattern(300_000);
        let sent = bytes.clone();
        let writer = thread::spawn(move || {
            client.write_all(&sent).unwrap();
            client
        });
        assert!(
            received(&mut secured, &socket, bytes.len()).unwrap() == bytes,
            "{suite:?}"
        );
        send(&mut secured, &socket, writer.join().unwrap(), &bytes);
    }
}

#[test]
fn keys_change_when_the_client_asks() {
    let (mut secured, socket, mut client) = connected_13();
    for round in 0..100 {
        client.conn.refresh_traffic_keys().unwrap();
        client.write_all(b"new key").unwrap();
        assert_eq!(received(&mut secured, &socket, 7).unwrap(), b"new key");
        client = send(&mut secured, &socket, client, &pattern(round));
    }
}

/// Replies would wait for the client's next request.
#[test]
fn behind_a_record_without_data_nobody_waits_for_the_socket() {
    let (mut secured, socket, mut client) = connected_13();
    client.write_all(b"data").unwrap();
    client.conn.refresh_traffic_keys().unwrap();
    client.flush().unwrap();
    assert_eq!(received(&mut secured, &socket, 4).unwrap(), b"data");
    assert!(secured.has_pending());
    let next = secured.step(&socket, &mut [0; 4]).unwrap();
    assert_eq!(next, None);
    assert!(!secured.has_pending());
}

#[test]
fn a_client_that_only_changes_keys_is_cut_off() {
    let (mut secured, socket, mut client) = connected_13();
    for _ in 0..33 {
        client.conn.refresh_traffic_keys().unwrap();
        client.flush().unwrap();
    }
    let error = received(&mut secured, &socket, 1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_key_that_has_done_its_share_is_changed() {
    let (mut secured, socket, mut client) = connected_13();
    secured.records.limit_to(10);
    for _ in 0..20 {
        client = send(&mut secured, &socket, client, &pattern(200_000));
    }
    let (mut secured, socket, _client) =
        connected(suite(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256));
    secured.records.limit_to(10);
    let sent = (0..20).try_for_each(|_| secured.send_bytes(&socket, b"short"));
    assert!(sent.is_err(), "TLS 1.2 has no other key");
}

#[test]
fn goodbye_is_the_end_for_either_side() {
    let (mut secured, socket, mut client) = connected_13();
    client.write_all(b"last").unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(received(&mut secured, &socket, 10).unwrap(), b"last");
    assert_eq!(secured.step(&socket, &mut [0; 9]).unwrap(), Some(0));
    secured.close(&socket);
    drop((secured, socket));
    // Without the goodbye this would be an error.
    assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0);
}

#[test]
fn files_go_into_records_until_they_are_cut_short() {
    let (mut secured, socket, mut client) = connected_13();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base");
    let bytes = pattern(500_000);
    std::fs::write(&path, &bytes).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut output = Output::default();
    for range in [3..70_000, 70_000..500_000] {
        output.space(4).unwrap().copy_from_slice(b"head");
        let file = file.as_fd();
        output.file(FilePart { file, range });
    }
    let wanted = [b"head", &bytes[3..70_000], b"head", &bytes[70_000..]].concat();
    let reader = thread::spawn(move || {
        let mut came = vec![0; wanted.len()];
        client.read_exact(&mut came).unwrap();
        assert!(came == wanted);
        let mut rest = Vec::new();
        // Cut off without a goodbye.
        client.read_to_end(&mut rest).unwrap_err();
        assert!(wanted.starts_with(&rest), "something was made up");
    });
    secured.send(&socket, &output).unwrap();
    file.set_len(100_000).unwrap();
    let result = secured.send(&socket, &output);
    assert!(matches!(result, Err(Unsent::File(_))), "{result:?}");
    drop((secured, socket));
    reader.join().unwrap();
}

#[test]
fn a_client_that_speaks_no_tls_is_told_so_at_once() {
    let (server, _) = configs(suite(CipherSuite::TLS13_AES_128_GCM_SHA256));
    for words in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[22, 3, 1, 0, 4, 99, 0, 0, 0],
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(words).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let socket = Socket::Unix(ours);
        let Err(error) = Secured::accept(server.clone(), &socket, deadline) else {
            panic!("{words:?} was taken for TLS");
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop(socket);
        let mut alert = Vec::new();
        theirs.read_to_end(&mut alert).unwrap();
        assert_eq!(alert.first(), Some(&21), "{alert:?}");
    }
}

mod misbehaviour;
