//! A machine's serial console: what it says, and commands run on it.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// How much unread output is kept; a machine that prints without end loses the oldest.
const BACKLOG: usize = 1 << 20;
/// What a machine that will not come up any more says: firmware, kernel, initramfs.
const GIVEN_UP: &[&str] = &["No bootable device", "Kernel panic", "(initramfs)"];
/// The end of the prompt of root's shell in Debian.
const PROMPT: &str = ":~# ";
/// How long a command on the console may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// What the machine has said and nobody has read yet.
#[derive(Default)]
struct Backlog {
    bytes: Vec<u8>,
    closed: bool,
}

impl Backlog {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let excess = self.bytes.len().saturating_sub(BACKLOG);
        self.bytes.drain(..excess);
    }

    /// What of `words` has been said.
    fn mentions<'a>(&self, words: &[&'a str]) -> Option<&'a str> {
        words
            .iter()
            .copied()
            .find(|word| find(&self.bytes, word.as_bytes()).is_some())
    }

    /// Takes everything up to and with the first `needle`; returns what stood before it.
    fn take_until(&mut self, needle: &str) -> Option<String> {
        let at = find(&self.bytes, needle.as_bytes())?;
        let taken: Vec<u8> = self.bytes.drain(..at + needle.len()).collect();
        Some(String::from_utf8_lossy(&taken[..at]).into_owned())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[derive(Default)]
struct Shared {
    backlog: Mutex<Backlog>,
    news: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The console of a running machine. It is read all the time, since a machine whose console nobody reads stands still.
pub struct Console {
    shared: Arc<Shared>,
    input: OwnedWriteHalf,
    reader: JoinHandle<()>,
    commands: u32,
}

/// What a command on the console came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The command's exit code.
    pub status: i32,
    /// What it printed, without the blank at either end.
    pub text: String,
}

impl Console {
    /// Takes over a console whose socket is connected, and writes all it says to a file as well.
    ///
    /// # Errors
    /// The transcript cannot be created.
    pub fn new(socket: UnixStream, transcript: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::create(transcript)
            .with_context(|| format!("cannot write {}", transcript.display()))?;
        let (output, input) = socket.into_split();
        let shared = Arc::<Shared>::default();
        let reader = tokio::spawn(listen(output, Arc::clone(&shared), file.into()));
        Ok(Self {
            shared,
            input,
            reader,
            commands: 0,
        })
    }

    /// Waits for the login prompt of a machine that boots.
    ///
    /// # Errors
    /// The machine gave up, is gone, or the deadline passed.
    pub async fn expect_login(&self, hostname: &str, deadline: Instant) -> anyhow::Result<()> {
        self.expect_unless(&format!("{hostname} login: "), GIVEN_UP, deadline)
            .await
            .map(drop)
    }

    /// Waits until the machine prints `needle`; returns what it printed before.
    ///
    /// # Errors
    /// The deadline passed or the machine is gone.
    pub async fn expect(&self, needle: &str, deadline: Instant) -> anyhow::Result<String> {
        self.expect_unless(needle, &[], deadline).await
    }

    async fn expect_unless(
        &self,
        needle: &str,
        fatal: &[&str],
        deadline: Instant,
    ) -> anyhow::Result<String> {
        loop {
            let news = self.shared.news.notified();
            {
                let mut backlog = self.shared.lock();
                if let Some(before) = backlog.take_until(needle) {
                    return Ok(before);
                }
                if let Some(word) = backlog.mentions(fatal) {
                    bail!("the machine gave up: {word:?}");
                }
                if backlog.closed {
                    bail!("the machine ended while waiting for {needle:?} on its console");
                }
            }
            if timeout_at(deadline, news).await.is_err() {
                bail!("no {needle:?} on the console in time");
            }
        }
    }

    /// Logs in as root at a login prompt that has been seen, and makes the shell quiet.
    ///
    /// # Errors
    /// The machine refuses the password or does not answer.
    pub async fn log_in(&mut self, password: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + COMMAND_DEADLINE;
        self.type_line("root").await?;
        self.expect("Password: ", deadline).await?;
        self.type_line(password).await?;
        // `login` throws away what is typed before the shell is there.
        self.expect_unless(PROMPT, &["Login incorrect"], deadline)
            .await
            .context("root cannot log in")?;
        // The quotes keep the echo of the typed line from passing for the command's output.
        self.type_line("stty -echo; PS1=; dmesg -n 1; echo shell''-ready")
            .await?;
        self.expect("shell-ready\r\n", deadline).await.map(drop)
    }

    /// Runs a shell command on the machine.
    ///
    /// # Errors
    /// The machine does not answer in time.
    pub async fn run(&mut self, command: &str) -> anyhow::Result<Answer> {
        self.commands += 1;
        let n = self.commands;
        let deadline = Instant::now() + COMMAND_DEADLINE;
        self.type_line(&format!(
            "echo be''gin-{n}; {{ {command}; }} 2>&1; echo en''d-{n}=$?"
        ))
        .await?;
        self.expect(&format!("begin-{n}\r\n"), deadline).await?;
        let text = self.expect(&format!("end-{n}="), deadline).await?;
        let status = self.expect("\r\n", deadline).await?;
        let status = status
            .trim()
            .parse()
            .with_context(|| format!("odd exit code {status:?}"))?;
        Ok(Answer {
            status,
            text: text.trim().to_owned(),
        })
    }

    /// Ends the shell, so that the console asks for a login again.
    ///
    /// # Errors
    /// The machine is gone.
    pub async fn log_out(&mut self) -> anyhow::Result<()> {
        self.type_line("exit").await
    }

    async fn type_line(&mut self, line: &str) -> anyhow::Result<()> {
        let line = format!("{line}\n");
        self.input
            .write_all(line.as_bytes())
            .await
            .context("the machine's console is gone")
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Moves everything the machine says into the backlog and the transcript, until it ends.
async fn listen(mut output: OwnedReadHalf, shared: Arc<Shared>, file: tokio::fs::File) {
    let mut transcript = tokio::io::BufWriter::new(file);
    let mut chunk = vec![0; 16 << 10];
    while let Ok(n @ 1..) = output.read(&mut chunk).await {
        shared.lock().push(&chunk[..n]);
        shared.news.notify_one();
        // The transcript is a convenience: a full disk must not stop the machine.
        let _ = transcript.write_all(&chunk[..n]).await;
        let _ = transcript.flush().await;
    }
    shared.lock().closed = true;
    shared.news.notify_one();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncBufReadExt;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn console() -> (Console, UnixStream, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let (ours, machine) = UnixStream::pair().unwrap();
        (
            Console::new(ours, &dir.path().join("log")).unwrap(),
            machine,
            dir,
        )
    }

    #[tokio::test]
    async fn expect_takes_what_stood_before_and_leaves_the_rest() {
        let (console, mut machine, _dir) = console();
        machine.write_all(b"one two three").await.unwrap();
        assert_eq!(console.expect("two", soon()).await.unwrap(), "one ");
        assert_eq!(console.expect("ee", soon()).await.unwrap(), " thr");
    }

    #[tokio::test]
    async fn a_needle_in_two_pieces_is_found() {
        let (console, mut machine, _dir) = console();
        machine.write_all(b"desk-1 log").await.unwrap();
        let waiting = console.expect("login: ", soon());
        let typing = async { machine.write_all(b"in: ").await.unwrap() };
        let (found, ()) = tokio::join!(waiting, typing);
        assert_eq!(found.unwrap(), "desk-1 ");
    }

    #[tokio::test]
    async fn a_machine_that_ends_is_noticed_at_once() {
        let (console, machine, _dir) = console();
        drop(machine);
        let error = console.expect("login: ", soon()).await.unwrap_err();
        assert!(error.to_string().contains("ended"), "{error}");
    }

    #[tokio::test]
    async fn a_silent_machine_runs_into_the_deadline() {
        let (console, _machine, _dir) = console();
        let error = console.expect("login: ", Instant::now()).await.unwrap_err();
        assert!(error.to_string().contains("in time"), "{error}");
    }

    /// A machine that echoes what is typed, as terminals do, and answers as a real shell does.
    #[tokio::test]
    async fn a_commands_echo_does_not_pass_for_its_output() {
        let (mut console, machine, _dir) = console();
        let shell = async {
            let (read, mut write) = machine.into_split();
            let mut lines = tokio::io::BufReader::new(read).lines();
            let line = lines.next_line().await.unwrap().unwrap();
            write
                .write_all(format!("{line}\r\n").as_bytes())
                .await
                .unwrap();
            let output = std::process::Command::new("sh")
                .arg("-c")
                .arg(&line)
                .output()
                .unwrap()
                .stdout;
            let text = String::from_utf8(output).unwrap().replace('\n', "\r\n");
            write.write_all(text.as_bytes()).await.unwrap();
            (lines, write)
        };
        let (answer, _open) = tokio::join!(console.run("echo hello; false"), shell);
        assert_eq!(
            answer.unwrap(),
            Answer {
                status: 1,
                text: "hello".to_owned()
            }
        );
    }

    #[tokio::test]
    async fn a_machine_that_gives_up_is_not_waited_for() {
        let (console, mut machine, _dir) = console();
        machine.write_all(b"No bootable device.\r\n").await.unwrap();
        let error = console.expect_login("desk-1", soon()).await.unwrap_err();
        assert!(error.to_string().contains("No bootable device"), "{error}");
    }

    #[test]
    fn the_backlog_is_bounded() {
        let mut backlog = Backlog::default();
        for _ in 0..3 {
            backlog.push(&vec![b'x'; BACKLOG]);
        }
        backlog.push(b"end");
        assert_eq!(backlog.bytes.len(), BACKLOG);
        assert!(backlog.take_until("end").is_some());
    }
}
