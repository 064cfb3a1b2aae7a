//! The witness beside a client of another make: Python's TLS, and bytes put together by the page that describes them.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use bootroom_tests::{binary, deadline::wait_for};

/// Asks once. Arguments: port, folder of certificates, certificate, what to send in hex. Prints the answer in hex, or
/// nothing when the connection ended without one.
const ASK: &str = r#"
import socket, ssl, sys
port, pki, name, data = sys.argv[1:]
tls = ssl.create_default_context(cafile=pki + "/ca.pem")
tls.minimum_version = ssl.TLSVersion.TLSv1_3
if name != "none":
    tls.load_cert_chain(f"{pki}/clients/{name}.pem", f"{pki}/clients/{name}.key")
plain = socket.create_connection(("127.0.0.1", int(port)), timeout=20)
try:
    with tls.wrap_socket(plain, server_hostname="127.0.0.1") as s:
        s.sendall(bytes.fromhex(data))
        head = s.recv(4)
        body = b""
        while head and len(body) < int.from_bytes(head, "little"):
            body += s.recv(4096)
        print(body.hex())
except (ssl.SSLError, ConnectionError):
    pass
"#;

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
        let pki = site.pki();
        let pki = pki.to_str().unwrap();
        done(&mut binary::command(&[
            "pki",
            "init",
            "--dir",
            pki,
            "--host",
            "127.0.0.1",
        ]));
        for name in ["server-a", "server-b", "r12-01"] {
            done(&mut binary::command(&["pki", "issue", name, "--dir", pki]));
        }
        fs::write(site.dir.path().join("ask.py"), ASK).unwrap();
        site
    }

    fn pki(&self) -> PathBuf {
        self.dir.path().join("pki")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn command(&self) -> Command {
        let mut command = binary::command(&[
            "witness",
            "--listen",
            "127.0.0.1:0",
            "--a",
            "server-a",
            "--b",
            "server-b",
        ]);
        command
            .arg("--state")
            .arg(self.state())
            .arg("--pki")
            .arg(self.pki());
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

    /// Sends bytes under a certificate; the answer's bytes, if there is one.
    fn send(&self, witness: &Witness, certificate: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut python = Command::new("/usr/bin/python3");
        python
            .arg(self.dir.path().join("ask.py"))
            .arg(&witness.port);
        python.arg(self.pki()).arg(certificate).arg(hex(bytes));
        let printed = done(&mut python);
        let text = printed.trim();
        let pairs = (0..text.len()).step_by(2);
        let bytes: Vec<u8> = pairs
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect();
        (!bytes.is_empty()).then_some(bytes)
    }

    fn ask(
        &self,
        witness: &Witness,
        from: u8,
        swap: Option<(u64, u64, (u64, u8, u8))>,
    ) -> Option<Answer> {
        let certificate = if from == A { "server-a" } else { "server-b" };
        let answer = self.send(witness, certificate, &request(from, swap))?;
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
    for certificate in ["none", "r12-01", "server-b"] {
        assert_eq!(
            site.send(witness, certificate, &good),
            None,
            "{certificate}"
        );
    }
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
    fs::create_dir(site.state().join("witness.next")).unwrap();
    assert_eq!(site.ask(&witness, A, Some((id, 0, (2, A, B)))), None);
    let limit = Duration::from_secs(20);
    let ended = wait_for("the witness' end", limit, || {
        witness.child.try_wait().unwrap()
    });
    assert_eq!(ended.code(), Some(1));
    fs::remove_dir(site.state().join("witness.next")).unwrap();
    witness = site.start();
    assert_eq!(site.ask(&witness, A, None).unwrap().revision, 0);
}
