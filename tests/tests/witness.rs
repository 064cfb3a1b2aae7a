//! The witness beside a client of another make: keys by b3sum and openssl, GnuTLS, and bytes put together by the page that
//! describes them (server/mirror/PROTOCOL.md).

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bootroom_tests::{binary, deadline::wait_for};

/// What GnuTLS may use: TLS 1.3 and raw public keys, both ways.
const PRIORITY: &str = "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CTYPE-ALL:+CTYPE-CLI-RAWPK:+CTYPE-SRV-RAWPK";

const A: u8 = 0;
const B: u8 = 1;
const NONE: u8 = 2;

struct Site {
    dir: tempfile::TempDir,
}

struct Witness {
    child: Child,
    port: String,
    said: String,
}

/// What the witness says it holds.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    witness: u64,
    revision: u64,
    /// Term, holder, outdated.
    record: Option<(u64, u8, u8)>,
}

impl Site {
    fn new() -> Self {
        let site = Self {
            dir: tempfile::tempdir_in("/var/tmp").unwrap(),
        };
        site.make_secret("secret");
        site.make_secret("other");
        for (name, secret, role) in [
            ("server-a", "secret", "server A"),
            ("server-b", "secret", "server B"),
            ("witness", "secret", "the witness"),
            ("stranger", "other", "server A"),
        ] {
            site.make_key(name, secret, role);
        }
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn make_secret(&self, name: &str) {
        let path = self.path(name);
        done(&mut binary::command(&[
            "standby",
            "secret",
            path.to_str().unwrap(),
        ]));
    }

    /// A private key and a public one, as the page says that they are made.
    fn make_key(&self, name: &str, secret: &str, role: &str) {
        let dir = self.dir.path().display();
        let context = format!("bootroom 2026-11-28 pair: key of {role}");
        let head = "302e020100300506032b657004220420";
        let script = format!(
            "cd {dir}; set -e; xxd -r -p {secret} > raw; key=$(b3sum --no-names --derive-key '{context}' raw)
             echo {head}$key | xxd -r -p | openssl pkey -inform DER -out {name}.key
             openssl pkey -in {name}.key -pubout -out {name}.pub"
        );
        done(Command::new("sh").args(["-c", &script]));
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn command(&self) -> Command {
        let mut command = binary::command(&["witness", "--listen", "127.0.0.1:0"]);
        command.arg("--state").arg(self.state());
        command.arg("--secret").arg(self.path("secret"));
        command.stdin(Stdio::null());
        command
    }

    fn start(&self) -> Witness {
        let mut child = self.command().stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut said)
            .unwrap();
        let port = said.trim().rsplit(':').next().unwrap().to_owned();
        Witness { child, port, said }
    }

    /// Sends bytes as who has this key; the answer's bytes, if there is one.
    fn send(&self, witness: &Witness, name: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut gnutls = Command::new("gnutls-cli");
        gnutls.args([
            "--port",
            &witness.port,
            "--insecure",
            "--priority",
            PRIORITY,
        ]);
        if name != "none" {
            let key = |end: &str| self.path(&format!("{name}.{end}"));
            gnutls.arg("--rawpkkeyfile").arg(key("key"));
            gnutls.arg("--rawpkfile").arg(key("pub"));
        }
        gnutls.args(["--logfile", "/dev/null", "127.0.0.1"]);
        gnutls.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = gnutls.stderr(Stdio::null()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // It may be gone already, with a connection that was refused.
        let _ = input.write_all(bytes);
        let answer = frame(child.stdout.take().unwrap());
        let _ = child.kill();
        child.wait().unwrap();
        answer
    }

    fn ask(
        &self,
        witness: &Witness,
        from: u8,
        swap: Option<(u64, u64, (u64, u8, u8))>,
    ) -> Option<Answer> {
        let name = if from == A { "server-a" } else { "server-b" };
        let answer = self.send(witness, name, &request(from, swap))?;
        Some(read(&answer))
    }
}

impl Witness {
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// One frame's content; `None` if the stream ends before.
fn frame(mut stream: impl Read) -> Option<Vec<u8>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).ok()?;
    let mut content = vec![0; u32::from_le_bytes(head) as usize];
    stream.read_exact(&mut content).ok()?;
    Some(content)
}

fn request(from: u8, swap: Option<(u64, u64, (u64, u8, u8))>) -> Vec<u8> {
    let mut body = 42u64.to_le_bytes().to_vec();
    body.extend([from, u8::from(swap.is_some())]);
    if let Some((witness, expect, (term, holder, outdated))) = swap {
        body.extend(witness.to_le_bytes());
        body.extend(expect.to_le_bytes());
        body.extend(term.to_le_bytes());
        body.extend([holder, outdated, 0]);
    }
    let mut frame = (body.len() as u32).to_le_bytes().to_vec();
    frame.extend(body);
    frame
}

fn read(answer: &[u8]) -> Answer {
    let number = |at: usize| u64::from_le_bytes(answer[at..at + 8].try_into().unwrap());
    assert_eq!(number(0), 42);
    let record = (answer[24] == 1).then(|| (number(25), answer[33], answer[34]));
    assert_eq!(answer.len(), if record.is_some() { 35 } else { 25 });
    Answer {
        witness: number(8),
        revision: number(16),
        record,
    }
}

#[test]
fn one_record_that_survives_and_obeys_two_servers_only() {
    let site = Site::new();
    let mut witness = site.start();
    assert!(witness.said.starts_with("witness "), "{:?}", witness.said);
    let empty = site.ask(&witness, A, None).unwrap();
    let id = empty.witness;
    assert_eq!((empty.revision, empty.record), (0, None));
    assert!(witness.said.contains(&format!("{id:016x}")));

    let first = Some((2, A, B));
    let answer = site.ask(&witness, A, Some((id, 0, (2, A, B)))).unwrap();
    assert_eq!((answer.revision, answer.record), (1, first));
    let refused = [
        (B, (id, 0, (3, B, A))),        // an old revision
        (B, (id, 1, (3, B, A))),        // outdated
        (B, (id, 1, (4, A, NONE))),     // in the other's name
        (A, (id + 1, 1, (2, A, NONE))), // meant for another witness
        (A, (id, 1, (2, A, A))),        // itself outdated
    ];
    for (from, swap) in refused {
        let answer = site.ask(&witness, from, Some(swap)).unwrap();
        assert_eq!((answer.revision, answer.record), (1, first), "{swap:?}");
    }

    witness.kill();
    witness = site.start();
    let after = site.ask(&witness, B, None).unwrap();
    assert_eq!(
        after,
        Answer {
            witness: id,
            revision: 1,
            record: first
        }
    );

    strangers_are_turned_away(&site, &witness);
    let still = site.ask(&witness, A, Some((id, 1, (2, A, NONE)))).unwrap();
    assert_eq!((still.revision, still.record), (2, Some((2, A, NONE))));
}

fn strangers_are_turned_away(site: &Site, witness: &Witness) {
    let good = request(A, None);
    for name in ["none", "stranger", "witness", "server-b"] {
        assert_eq!(site.send(witness, name, &good), None, "{name}");
    }
    assert!(site.send(witness, "server-a", &good).is_some());
    let mut long = good.clone();
    long[0..4].copy_from_slice(&100_000u32.to_le_bytes());
    let mut trailing = good.clone();
    trailing[0] += 1;
    trailing.push(0);
    for bad in [
        long,
        trailing,
        vec![255; 300],
        vec![10, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    ] {
        assert_eq!(site.send(witness, "server-a", &bad), None, "{bad:?}");
    }
}

#[test]
fn it_is_in_the_help_and_keeps_to_a_secret_that_is_one() {
    let site = Site::new();
    assert!(done(&mut binary::command(&["--help"])).contains("  witness "));
    let help = done(&mut binary::command(&["witness", "--help"]));
    assert!(
        help.contains("Examples:") && help.contains("--secret"),
        "{help}"
    );
    let secret = site.path("secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = site.command().output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("chmod 600"));
    let again = binary::command(&["standby", "secret", secret.to_str().unwrap()]).output();
    assert_eq!(again.unwrap().status.code(), Some(1));
}

#[test]
fn a_second_one_and_a_damaged_file_are_refused() {
    let site = Site::new();
    let mut witness = site.start();
    let second = site.command().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another witness"));
    witness.kill();

    damage(&site.state().join("witness"));
    let damaged = site.command().output().unwrap();
    assert_eq!(damaged.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&damaged.stderr).contains("is damaged"));
}

fn damage(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    *bytes.last_mut().unwrap() ^= 0x40;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_witness_that_cannot_write_gives_no_answer_and_ends() {
    let site = Site::new();
    let mut witness = site.start();
    let id = site.ask(&witness, A, None).unwrap().witness;
    // Where the next state is written, there is a folder: the write fails.
    fs::create_dir(site.state().join("witness.new")).unwrap();
    assert_eq!(site.ask(&witness, A, Some((id, 0, (2, A, B)))), None);
    let limit = Duration::from_secs(20);
    let ended = wait_for("the witness' end", limit, || {
        witness.child.try_wait().unwrap()
    });
    assert_eq!(ended.code(), Some(1));
    fs::remove_dir(site.state().join("witness.new")).unwrap();
    witness = site.start();
    assert_eq!(site.ask(&witness, A, None).unwrap().revision, 0);
}

/// Three hundred that say nothing have fewer places than there are, and not for as long as they like.
#[test]
fn strangers_at_the_door_keep_no_server_out() {
    let site = Site::new();
    let witness = site.start();
    let port: u16 = witness.port.parse().unwrap();
    let knock = |_| TcpStream::connect(("127.0.0.1", port)).unwrap();
    let silent: Vec<_> = (0..300).map(knock).collect();
    let begun = Instant::now();
    assert!(site.ask(&witness, A, None).is_some());
    let limit = Duration::from_millis(3500);
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    let sent_away = silent.iter().filter(|socket| {
        socket.set_nonblocking(true).unwrap();
        matches!((&**socket).read(&mut [0]), Ok(0))
    });
    let sent_away = sent_away.count();
    assert!((290..300).contains(&sent_away), "{sent_away}");
}
