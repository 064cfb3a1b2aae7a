//! A machine's serial console: what it says, and commands run on it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long a command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Unread output that is kept.
const BACKLOG: usize = 1 << 20;
/// Said by a machine that will not come up any more.
const GIVEN_UP: [&str; 3] = ["No bootable device", "Kernel panic", "(initramfs)"];

#[derive(Default)]
struct Heard {
    unread: Vec<u8>,
    ended: bool,
}

#[derive(Default)]
struct Ear {
    heard: Mutex<Heard>,
    news: Condvar,
}

/// The console of a running machine.
pub struct Console {
    ear: Arc<Ear>,
    keyboard: UnixStream,
    commands: u32,
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its exit code.
    pub status: i32,
    /// What it printed, trimmed.
    pub text: String,
}

impl Console {
    /// Takes over a connected console. What it says also goes to the file `transcript`.
    ///
    /// # Panics
    /// When the file cannot be made.
    pub fn new(socket: UnixStream, transcript: &Path) -> Self {
        let file = File::create(transcript).expect("the transcript can be written");
        let ear = Arc::<Ear>::default();
        let screen = socket.try_clone().expect("a socket can be cloned");
        let listener = Arc::clone(&ear);
        // Ends when the machine does: its end of the socket closes.
        std::thread::spawn(move || listen(screen, file, &listener));
        Self {
            ear,
            keyboard: socket,
            commands: 0,
        }
    }

    /// Waits until the machine prints `needle`; returns what stood before it.
    ///
    /// # Panics
    /// When it does not within `limit`, gives up booting, or ends.
    pub fn expect(&self, needle: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        let mut heard = self.ear.heard.lock().expect("no listener panicked");
        loop {
            if let Some(before) = take_until(&mut heard.unread, needle) {
                return before;
            }
            let tail = || {
                String::from_utf8_lossy(&heard.unread[heard.unread.len().saturating_sub(1500)..])
                    .into_owned()
            };
            let gave_up = GIVEN_UP
                .iter()
                .find(|word| find(&heard.unread, word.as_bytes()).is_some());
            assert!(
                gave_up.is_none(),
                "the machine gave up; its console ends with:\n{}",
                tail()
            );
            assert!(
                !heard.ended,
                "the machine ended; its console ends with:\n{}",
                tail()
            );
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "no {needle:?} within {limit:?}; the console ends with:\n{}",
                tail()
            );
            heard = self
                .ear
                .news
                .wait_timeout(heard, left)
                .expect("no listener panicked")
                .0;
        }
    }

    /// Logs in as root at the prompt, once it comes.
    ///
    /// # Panics
    /// As [`Console::expect`].
    pub fn log_in(&mut self, hostname: &str, password: &str, limit: Duration) {
        self.expect(&format!("{hostname} login: "), limit);
        self.type_line("root");
        self.expect("Password: ", COMMAND_LIMIT);
        self.type_line(password);
        self.expect(":~# ", COMMAND_LIMIT);
        self.type_line("stty -echo; PS1=; dmesg -n 1; echo shell''-ready");
        self.expect("shell-ready\r\n", COMMAND_LIMIT);
    }

    /// Takes over the shell that was booted in place of a system (`init=/bin/bash`).
    ///
    /// # Panics
    /// As [`Console::expect`].
    pub fn take_shell(&mut self, limit: Duration) {
        self.expect(":/# ", limit);
        self.type_line("stty -echo; PS1=; echo shell''-ready");
        self.expect("shell-ready\r\n", COMMAND_LIMIT);
    }

    /// Runs a shell command, whatever it comes to.
    ///
    /// # Panics
    /// When the machine does not answer.
    pub fn try_run(&mut self, command: &str) -> Answer {
        self.commands += 1;
        let n = self.commands;
        self.type_line(&format!(
            "echo be''gin-{n}; {{ {command}; }} 2>&1; echo en''d-{n}=$?"
        ));
        self.expect(&format!("begin-{n}\r\n"), COMMAND_LIMIT);
        let text = self
            .expect(&format!("end-{n}="), COMMAND_LIMIT)
            .trim()
            .to_owned();
        let status = self
            .expect("\r\n", COMMAND_LIMIT)
            .trim()
            .parse()
            .expect("the shell prints the exit code");
        Answer { status, text }
    }

    /// Runs a shell command that must succeed; returns what it printed.
    ///
    /// # Panics
    /// When it fails or the machine does not answer.
    pub fn run(&mut self, command: &str) -> String {
        let answer = self.try_run(command);
        assert_eq!(
            answer.status, 0,
            "`{command}` on the machine: {}",
            answer.text
        );
        answer.text
    }

    /// Types a line without waiting for what it comes to.
    ///
    /// # Panics
    /// When the machine takes no input.
    pub fn type_line(&mut self, line: &str) {
        writeln!(self.keyboard, "{line}").expect("the machine's console takes input");
    }
}

fn listen(mut screen: UnixStream, mut transcript: File, ear: &Ear) {
    let mut chunk = vec![0; 16 << 10];
    while let Ok(count @ 1..) = screen.read(&mut chunk) {
        transcript
            .write_all(&chunk[..count])
            .expect("the transcript can be written");
        let mut heard = ear.heard.lock().expect("no reader panicked with the lock");
        heard.unread.extend_from_slice(&chunk[..count]);
        let excess = heard.unread.len().saturating_sub(BACKLOG);
        heard.unread.drain(..excess);
        ear.news.notify_all();
    }
    ear.heard
        .lock()
        .expect("no reader panicked with the lock")
        .ended = true;
    ear.news.notify_all();
}

fn take_until(unread: &mut Vec<u8>, needle: &str) -> Option<String> {
    let at = find(unread, needle.as_bytes())?;
    let taken: Vec<u8> = unread.drain(..at + needle.len()).collect();
    Some(String::from_utf8_lossy(&taken[..at]).into_owned())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
