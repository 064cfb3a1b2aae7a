//! What the NBD scenarios share: a served image, and the foreign tools that judge it.
#![allow(dead_code)] // Each scenario uses a part.

pub mod site;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bootroom_tests::{binary, noise::noise};

pub const DEADLINE: Duration = Duration::from_secs(20);
pub const SIZE: u64 = 64 << 20;
const DATA: usize = 16 << 20;

/// A folder with a sparse image: 16 MiB of noise, then a hole.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir_in("/var/tmp").unwrap(),
        };
        let mut file = fs::File::create(place.image()).unwrap();
        file.write_all(&noise(DATA)).unwrap();
        file.set_len(SIZE).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn image(&self) -> PathBuf {
        self.path("disk.img")
    }
}

/// A running `bootroom export`; killed when dropped.
pub struct Export {
    child: Child,
    pub port: u16,
}

impl Export {
    /// Serves `file` on a free port.
    pub fn start(file: &Path, arguments: &[&str]) -> Self {
        let mut command = binary::command(&["export", file.to_str().unwrap(), "--port", "0"]);
        command
            .args(arguments)
            .stdout(Stdio::piped())
            .stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let port = line
            .trim()
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .unwrap_or(0);
        assert!(
            line.starts_with("listening on"),
            "bootroom export said {line:?}"
        );
        Self { child, port }
    }

    pub fn uri(&self) -> String {
        format!("nbd://127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        run(Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]));
    }

    /// Waits for its end; true if it ended well.
    pub fn ended(&mut self) -> bool {
        wait_for("the server's end", || self.child.try_wait().unwrap()).success()
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again and again until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// Runs a tool to its end, which has to be a good one; gives what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Runs a script in libnbd's shell, with `uri` as its first argument.
pub fn nbdsh(uri: &str, script: &str) -> String {
    let program = format!("import sys, nbd\nuri = sys.argv[1]\n{script}");
    run(Command::new("/usr/bin/python3").args(["-c", &program, uri]))
}

/// A raw connection past the greeting, with fixed newstyle and no zeroes agreed on.
pub fn raw(port: u16) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\0\x03");
    socket.write_all(&[0, 0, 0, 3]).unwrap();
    socket
}

/// An option as it is on the wire.
pub fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// A request as it is on the wire.
pub fn request(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend([0, 0]);
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// A raw connection in the transmission phase.
pub fn transmitting(port: u16) -> TcpStream {
    let mut socket = raw(port);
    socket.write_all(&option(1, b"")).unwrap();
    let mut answer = [0; 10];
    socket.read_exact(&mut answer).unwrap();
    socket
}

/// Reads until the other side closes; fails if it does not.
pub fn read_to_close(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection was not closed: {error}"),
    }
    bytes
}
