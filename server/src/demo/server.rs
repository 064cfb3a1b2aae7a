//! The server of the room: `bootroom serve` as a child process.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::plan::{BRIDGE, Desk, IMAGE, Plan, SERVER};
use crate::control::client::Control;

/// How long the server may take until it answers.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long it may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// A running server.
pub struct Server {
    child: Child,
    log: std::path::PathBuf,
}

/// Memory a process has to itself, and file pages it shares with the page cache; both in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Pages without a file behind them.
    pub own: u64,
    /// Resident pages of mapped files, such as the base image.
    pub file: u64,
}

impl Server {
    /// Writes the configuration, starts the server and waits until it answers.
    ///
    /// # Errors
    /// It ends or does not answer in time; the error holds the end of its log.
    pub async fn start(plan: &Plan, control: &Control) -> anyhow::Result<Self> {
        std::fs::write(plan.config(), configuration(plan))
            .context("cannot write the configuration")?;
        let log = plan.logs.join("server.log");
        let output = std::fs::File::create(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(std::env::current_exe()?)
            .args(["serve", "--config"])
            .arg(plan.config())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the server")?;
        let mut server = Self { child, log };
        server.wait_until_it_answers(control).await?;
        Ok(server)
    }

    async fn wait_until_it_answers(&mut self, control: &Control) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let Err(error) = control.get("/v1/status").await else {
                return Ok(());
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended ({status}):\n{}", self.last_words());
            }
            if Instant::now() >= deadline {
                bail!(
                    "the server does not answer: {error:#}\n{}",
                    self.last_words()
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Comes back only if the server ends by itself, with the reason.
    pub async fn watch(&mut self) -> anyhow::Error {
        let status = self.child.wait().await;
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        anyhow::anyhow!("the server ended ({status}):\n{}", self.last_words())
    }

    /// What it uses of the computer's memory.
    ///
    /// # Errors
    /// The process is gone or the kernel does not say.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let id = self.child.id().context("the server is gone")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        memory(&status).context("the kernel does not say how much memory the server uses")
    }

    /// Asks it to stop, as `systemctl stop` does, and waits for it.
    ///
    /// # Errors
    /// It does not stop in time.
    pub async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        if let Some(id) = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
        {
            kill_process(id, Signal::TERM)?;
        }
        let ended = timeout(STOP_DEADLINE, self.child.wait()).await;
        Ok(ended.context("the server does not stop")??)
    }

    fn last_words(&self) -> String {
        tail(&self.log, 15)
    }
}

/// The last lines of a file, indented.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let kept = &all[all.len().saturating_sub(lines)..];
    kept.iter()
        .map(|line| format!("    {}", line.trim_end()))
        .collect::<Vec<_>>()
        .join("\n")
}

fn memory(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()
            .map(|kib| kib << 10)
    };
    Some(Memory {
        own: field("RssAnon:")? + field("RssShmem:")?,
        file: field("RssFile:")?,
    })
}

/// The configuration of the room, as an administrator would write it.
fn configuration(plan: &Plan) -> String {
    let desks: String = plan.desks.iter().map(section).collect();
    let data = toml::Value::String(plan.data.display().to_string());
    let control = toml::Value::String(plan.control().display().to_string());
    format!(
        "[server]\n\
         data = {data}\n\
         control = {control}\n\
         interface = \"{BRIDGE}\"\n\
         address = \"{SERVER}/24\"\n\
         \n\
         [dhcp]\n\
         mode = \"full\"\n\
         range = \"10.77.0.100-10.77.0.199\"\n\
         {desks}"
    )
}

fn section(desk: &Desk) -> String {
    let Desk {
        name,
        mac,
        retention,
        ..
    } = desk;
    let retention = retention.name();
    format!(
        "\n[clients.{name}]\nmac = \"{mac}\"\nimage = \"{IMAGE}\"\nretention = \"{retention}\"\n\
         kernel_args = \"console=ttyS0 quiet\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_counts_shared_memory_as_the_servers_own() {
        let status = "Name:\tbootroom\nVmRSS:\t   100 kB\nRssAnon:\t    40 kB\nRssFile:\t    50 kB\nRssShmem:\t    10 kB\n";
        assert_eq!(
            memory(status),
            Some(Memory {
                own: 50 << 10,
                file: 50 << 10
            })
        );
        assert_eq!(memory("Name:\tx\n"), None);
    }

    #[test]
    fn the_tail_of_a_file_is_its_last_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a\nb\nc\n").unwrap();
        assert_eq!(tail(file.path(), 2), "    b\n    c");
        assert_eq!(tail(Path::new("/does/not/exist"), 2), "");
    }
}
