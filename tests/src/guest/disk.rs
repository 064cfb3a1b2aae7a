//! The server side of a scenario: one disk image, served by `bootroom export`, which can be killed and frozen.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::binary;
use crate::deadline::wait_for;

/// A port of this host that nothing listens on.
///
/// # Panics
/// When there is none left.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// Makes an empty ext4 filesystem of `megabytes` at `path`.
///
/// # Panics
/// When that fails.
pub fn make_ext4(path: &Path, megabytes: u64) {
    let file = std::fs::File::create(path).expect("the image can be made");
    file.set_len(megabytes << 20)
        .expect("the image can be sized");
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(path)
        .status();
    assert!(made.expect("mkfs.ext4 runs").success());
}

/// Asserts that the filesystem at `path` is clean, by e2fsck's own judgement.
///
/// # Panics
/// When it is not.
pub fn assert_clean(path: &Path) {
    let checked = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(path)
        .output()
        .expect("e2fsck runs");
    let text = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "e2fsck: {text}");
}

/// A served disk image.
pub struct DiskServer {
    image: PathBuf,
    port: u16,
    options: Vec<String>,
    child: Option<Child>,
}

impl DiskServer {
    /// Serves `image` on `port` of the loopback address, with further options of `bootroom export`.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(image: &Path, port: u16, options: &[&str]) -> Self {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let mut server = Self {
            image: image.to_owned(),
            port,
            options,
            child: None,
        };
        server.up();
        server
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The further options.
    pub fn options(&self) -> Vec<String> {
        self.options.clone()
    }

    /// Starts it (again) and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub fn up(&mut self) {
        let child = Command::new(binary::bootroom())
            .args([
                "export",
                "--bind",
                "127.0.0.1",
                "--port",
                &self.port.to_string(),
            ])
            .args(&self.options)
            .arg(&self.image)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.expect("bootroom export starts"));
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        wait_for("the disk server to listen", Duration::from_secs(10), || {
            TcpStream::connect(address).ok()
        });
    }

    /// Stops it in an orderly way. Not for the middle of a scene: `bootroom export` then answers ESHUTDOWN to a request
    /// that comes while it stops, which a kernel takes for an I/O error. (`bootroom serve` cuts its rooms' clients off.)
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.wait();
    }

    /// Kills it.
    ///
    /// # Panics
    /// When it is not running.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it is not running.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server is running");
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a pid");
        kill_process(pid, signal).expect("the server is running");
    }

    fn wait(&mut self) {
        let mut child = self.child.take().expect("the server is running");
        let begun = Instant::now();
        wait_for("the disk server to end", Duration::from_secs(20), || {
            child.try_wait().expect("can be waited for")
        });
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}

impl Drop for DiskServer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
