//! `kill -9` of the pulling process at any moment.

use std::{
    os::unix::net::UnixListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::*;

/// Tells this test binary to pull into the catalogue at the path.
const WORK: &str = "BOOTROOM_TEST_CATALOGUE";
/// And from the socket at this one.
const FROM: &str = "BOOTROOM_TEST_SOCKET";

/// Not a test of its own: what the killed process does.
#[test]
#[ignore = "run and killed by a_killed_pull_leaves_nothing_to_see"]
fn worker() {
    let here = Catalogue::open(std::env::var_os(WORK).unwrap()).unwrap();
    let mut stream = UnixStream::connect(std::env::var_os(FROM).unwrap()).unwrap();
    pull_all(&here, &mut stream).unwrap();
}

fn start_worker(here: &Path, socket: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "mirror::images::tests::kill::worker",
        ])
        .env(WORK, here)
        .env(FROM, socket)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills the process at the other end once it has been sent so much.
struct Deadly {
    inner: UnixStream,
    left: u64,
    child: Child,
}

impl Read for Deadly {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

impl Write for Deadly {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let room = self.left.min(buf.len() as u64) as usize;
        if room == 0 {
            self.child.kill()?;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = self.inner.write(&buf[..room])?;
        self.left -= count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// One round: the worker dies after `most` bytes, or so long after the last one.
fn killed_pull(pair: &Pair, here: &Path, most: u64, then: Duration) -> u64 {
    let socket = pair.path("socket");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let child = start_worker(here, &socket);
    let (inner, _) = listener.accept().unwrap();
    let mut stream = Deadly {
        inner,
        left: most,
        child,
    };
    // Ends when it has killed the other side, or the list was all that was left to send.
    let begun = Instant::now();
    let _ = serve(&pair.there, &mut stream, &|| false, &|_| ());
    while begun.elapsed() < then {
        std::hint::spin_loop();
    }
    let _ = stream.child.kill();
    stream.child.wait().unwrap();
    most - stream.left
}

#[test]
fn a_killed_pull_leaves_nothing_to_see() {
    let pair = Pair::new();
    let data = [(0, noise(1, 100_000)), (3 * CHUNK, noise(2, 130_000))];
    publish(&pair.there, "debian", 8 * CHUNK, &data);
    publish(&pair.there, "debian", 8 * CHUNK, &data[..1]);
    let whole = pull_from(&pair.there, |mut stream| {
        let other = Catalogue::open(pair.path("other")).unwrap();
        pull_all(&other, &mut stream).unwrap().received
    });
    let (mut rounds, mut unseen) = (0, 0);
    for most in (0..whole + 40_000).step_by(whole as usize / 25) {
        let root = pair.path(&format!("here-{rounds}"));
        killed_pull(&pair, &root, most, Duration::from_micros(rounds * 97));
        // As the server opens it at its next start.
        let here = Catalogue::open(&root).unwrap();
        check_whole(&here);
        unseen += u64::from(here.list().unwrap().is_empty());
        pull_from(&pair.there, |mut stream| pull_all(&here, &mut stream)).unwrap();
        assert_same(&pair.there, &here);
        rounds += 1;
    }
    assert!(
        rounds > 20 && unseen > 3,
        "{unseen} of {rounds} were killed early"
    );
}

/// All that is listed is as it was published.
fn check_whole(here: &Catalogue) {
    for image in here.list().unwrap() {
        assert!(image.damaged.is_empty(), "{:?}", image.damaged);
        for version in &image.versions {
            version.verify(&Quiet, &Cancel::new().unwrap()).unwrap();
        }
        let current = image.current.map(|number| {
            image
                .versions
                .iter()
                .any(|version| version.number() == number)
        });
        assert_ne!(current, Some(false), "current points to nothing");
    }
}
