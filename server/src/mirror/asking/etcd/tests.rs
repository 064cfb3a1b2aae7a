//! Against Debian's etcd (package etcd-server; `tests/install-packages.sh` installs it).

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use mirror::{NodeId, Revision};

use super::*;
use crate::{
    mirror::asking::{
        DEADLINE, WitnessPlace,
        tests::{Process, Server, secret_in},
    },
    pki::Pki,
};

const LOOK: WitnessRequest = WitnessRequest {
    number: 1,
    from: NodeId::A,
    swap: None,
};

struct Site {
    folder: tempfile::TempDir,
    secret: PathBuf,
    /// Each member's ports: for clients, and for the others.
    members: Vec<(u16, u16)>,
    /// Certificates, for https.
    pki: Option<PathBuf>,
}

/// A port that nobody has.
fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Site {
    fn new() -> Self {
        Self::with_members(1)
    }

    fn with_members(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            secret: secret_in(folder.path()),
            folder,
            members: (0..count).map(|_| (port(), port())).collect(),
            pki: None,
        }
    }

    fn with_tls() -> Self {
        let mut site = Self::new();
        let pki = site.folder.path().join("pki");
        Pki::at(&pki).init(&["127.0.0.1".to_owned()]).unwrap();
        site.pki = Some(pki);
        site
    }

    fn data(&self, member: usize) -> PathBuf {
        self.folder.path().join(format!("m{member}"))
    }

    fn url(&self) -> String {
        self.url_of(0)
    }

    fn url_of(&self, member: usize) -> String {
        let scheme = if self.pki.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.members[member].0)
    }

    fn peer_of(&self, member: usize) -> String {
        format!("http://127.0.0.1:{}", self.members[member].1)
    }

    fn etcd(&self) -> Process {
        self.member(0)
    }

    fn member(&self, member: usize) -> Process {
        let (url, peer) = (self.url_of(member), self.peer_of(member));
        let all = 0..self.members.len();
        let all: Vec<_> = all.map(|i| format!("m{i}={}", self.peer_of(i))).collect();
        let mut command = Command::new("/usr/bin/etcd");
        command.arg("--data-dir").arg(self.data(member));
        command.args(["--name", &format!("m{member}")]);
        command.args(["--listen-client-urls", &url]);
        command.args(["--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &all.join(",")]);
        if let Some(pki) = &self.pki {
            command.arg("--cert-file").arg(pki.join("server.pem"));
            command.arg("--key-file").arg(pki.join("server.key"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        Process(command.spawn().expect("etcd (package etcd-server) runs"))
    }

    fn place(&self, urls: &[&str], ca: Option<&Path>) -> WitnessPlace {
        WitnessPlace::Etcd {
            endpoints: urls.iter().map(|url| url.parse().unwrap()).collect(),
            ca: ca.map(Path::to_owned),
        }
    }

    fn way(&self, urls: &[&str]) -> Etcd {
        let endpoints = urls.iter().map(|url| url.parse().unwrap()).collect();
        Etcd::new(endpoints, None, &PairSecret::read(&self.secret).unwrap()).unwrap()
    }

    fn server(&self, me: NodeId) -> Server {
        self.server_at(&[&self.url()], me)
    }

    fn server_at(&self, urls: &[&str], me: NodeId) -> Server {
        let ca = self.pki.as_ref().map(|pki| pki.join("ca.pem"));
        Server::new(self.place(urls, ca.as_deref()), &self.secret, me)
    }

    /// A call of etcd's own, with curl.
    fn curl(&self, what: &str, body: &str) -> String {
        self.curl_as("", what, body)
    }

    fn curl_as(&self, token: &str, what: &str, body: &str) -> String {
        let url = format!("{}/v3/{what}", self.url());
        let mut curl = Command::new("curl");
        curl.args(["-H", &format!("Authorization: {token}")]);
        curl.args(["-sS", "--fail-with-body", &url, "-d", body]);
        let output = curl.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{what}: {said} {output:?}");
        said
    }

    fn key(&self) -> String {
        let secret = PairSecret::read(&self.secret).unwrap();
        format!("bootroom/pair/{}", secret.fingerprint())
    }
}

#[test]
fn one_of_two_that_want_it_at_once_gets_it() {
    let site = Site::new();
    let _etcd = site.etcd();
    let (a, b) = (site.server(NodeId::A), site.server(NodeId::B));
    // The first round is the race for who makes the key, too.
    let (seen, also) = both(|| a.look(), || b.look());
    assert_eq!(
        seen,
        WitnessAnswer {
            number: seen.number,
            ..also
        }
    );
    let mut revision = Revision(0);
    let mut wins = [0, 0];
    for round in 0..30 {
        let seen = a.look();
        assert_eq!(seen.revision, revision, "round {round}");
        let (from_a, from_b) = both(|| a.take(seen), || b.take(seen));
        revision.0 += 1;
        for answer in [from_a, from_b] {
            assert_eq!(answer.revision, revision, "round {round}: {answer:?}");
        }
        assert_eq!(from_a.record, from_b.record);
        wins[from_a.record.unwrap().holder as usize] += 1;
    }
    assert_eq!(wins[0] + wins[1], 30);
}

fn both<T: Send>(one: impl FnOnce() -> T + Send, two: impl FnOnce() -> T + Send) -> (T, T) {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let two = two();
        (one.join().unwrap(), two)
    })
}

#[test]
fn its_record_is_the_witness_file_and_outlives_etcd_but_not_its_data() {
    let site = Site::new();
    let mut etcd = site.etcd();
    let a = site.server(NodeId::A);
    let won = a.take(a.look());
    let range = format!(r#"{{"key":"{}"}}"#, b64(site.key().as_bytes()));
    let kept = site.curl("kv/range", &range);
    let state = WitnessState {
        id: won.witness,
        revision: won.revision,
        record: won.record,
    };
    assert!(kept.contains(&b64(&encode(&state))), "{kept}");

    etcd.kill();
    a.fail_with("refused");
    let mut etcd = site.etcd();
    let again = a.look();
    assert_eq!((again.witness, again.record), (won.witness, won.record));

    etcd.kill();
    fs::remove_dir_all(site.data(0)).unwrap();
    let _etcd = site.etcd();
    let emptied = a.look();
    assert_ne!(emptied.witness, won.witness);
    assert_eq!((emptied.revision, emptied.record), (Revision(0), None));
    // What was meant for the old one does not count.
    assert_eq!(a.take(won).record, None);
}

fn b64(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

#[test]
fn pairs_do_not_meet_and_what_is_no_record_is_not_taken_for_one() {
    let site = Site::new();
    let _etcd = site.etcd();
    let other = Site::new();
    let (a, b) = (
        site.server(NodeId::A),
        other.server_at(&[&site.url()], NodeId::B),
    );
    let (ours, theirs) = (a.take(a.look()), b.look());
    assert_ne!(ours.witness, theirs.witness);
    assert_eq!(theirs.record, None);

    let put = format!(
        r#"{{"key":"{}","value":"{}"}}"#,
        b64(site.key().as_bytes()),
        b64(b"something else")
    );
    site.curl("kv/put", &put);
    a.fail_with("is no record of a pair");
}

#[test]
fn a_frozen_one_holds_nobody_up_and_the_next_member_is_asked() {
    let site = Site::new();
    let etcd = site.etcd();
    let alone = site.server(NodeId::A);
    let won = alone.take(alone.look());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let gone = format!("http://127.0.0.1:{}", port());

    // One that refuses is passed over at once, a silent one with the next question.
    let mut way = site.way(&[&gone, &site.url()]);
    let answer = way.ask(&LOOK, Instant::now() + 20 * DEADLINE);
    assert_eq!(answer.unwrap().record, won.record);
    let c = site.server_at(&[&silent, &site.url()], NodeId::B);
    assert!(c.fail().contains("no answer in time"));
    assert_eq!(c.look().record, won.record);

    etcd.freeze();
    assert!(alone.fail().contains("no answer in time"));
    etcd.thaw();
    assert_eq!(alone.look().record, won.record);
}

#[test]
fn a_cluster_answers_as_long_as_most_of_it_is_there() {
    let site = Site::with_members(3);
    let mut members: Vec<_> = (0..3).map(|i| site.member(i)).collect();
    let urls: Vec<_> = (0..3).map(|i| site.url_of(i)).collect();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let a = site.server_at(&urls, NodeId::A);
    let mut seen = a.take(a.look());
    assert_eq!(seen.revision, Revision(1));
    // One of them leads, so that the other two have to agree anew.
    for (number, member) in members.iter_mut().enumerate() {
        member.kill();
        let next = a.take(seen);
        assert_eq!(next.revision.0, seen.revision.0 + 1, "{next:?}");
        seen = next;
        *member = site.member(number);
    }
    members[0].kill();
    members[1].kill();
    a.fail();
    members[0] = site.member(0);
    let again = a.look();
    assert_eq!((again.revision, again.record), (seen.revision, seen.record));
}

#[test]
fn a_login_is_used_and_renewed() {
    let site = Site::new();
    let _etcd = site.etcd();
    site.server(NodeId::A).look();
    site.curl("auth/user/add", r#"{"name":"root","password":"r"}"#);
    site.curl("auth/user/grant", r#"{"user":"root","role":"root"}"#);
    site.curl("auth/user/add", r#"{"name":"pair","password":"a:b@c"}"#);
    site.curl("auth/role/add", r#"{"name":"pair"}"#);
    let (first, last) = (b64(b"bootroom/pair/"), b64(b"bootroom/pair0"));
    site.curl(
        "auth/role/grant",
        &format!(
            r#"{{"name":"pair","perm":{{"permType":"READWRITE","key":"{first}","range_end":"{last}"}}}}"#
        ),
    );
    site.curl("auth/user/grant", r#"{"user":"pair","role":"pair"}"#);
    site.curl("auth/enable", "{}");

    let with = |login: &str| site.url().replace("//", &format!("//{login}@"));
    site.server(NodeId::A).fail_with("user name is empty");
    let wrong = site.server_at(&[&with("pair:x")], NodeId::A);
    wrong.fail_with("login: 400 Bad Request: etcdserver: authentication failed");
    let a = site.server_at(&[&with("pair:a:b@c")], NodeId::A);
    let won = a.take(a.look());
    assert_eq!(won.revision, Revision(1));
    // A change of the password, also to the same one, ends what was logged in with it.
    let root = site.curl("auth/authenticate", r#"{"name":"root","password":"r"}"#);
    let root: serde_json::Value = serde_json::from_str(&root).unwrap();
    let root = root["token"].as_str().unwrap();
    let same = r#"{"name":"pair","password":"a:b@c"}"#;
    site.curl_as(root, "auth/user/changepw", same);
    assert_eq!(a.look().record, won.record);
}

#[test]
fn https_needs_the_right_ca() {
    let site = Site::with_tls();
    let _etcd = site.etcd();
    let a = site.server(NodeId::A);
    assert_eq!(a.take(a.look()).revision, Revision(1));

    let other = Site::with_tls();
    let ca = other.pki.as_ref().unwrap().join("ca.pem");
    let stranger = Server::new(
        site.place(&[&site.url()], Some(&ca)),
        &site.secret,
        NodeId::A,
    );
    stranger.fail_with("certificate");
    let none = Etcd::new(
        vec![site.url().parse().unwrap()],
        None,
        &PairSecret::read(&site.secret).unwrap(),
    );
    assert!(none.err().unwrap().to_string().contains("CA"));
}
