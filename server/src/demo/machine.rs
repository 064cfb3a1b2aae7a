//! One virtual machine without a disk.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::console::Console;
use super::plan::{Desk, Plan};

/// How long QEMU may take to open the console's socket.
const QEMU_DEADLINE: Duration = Duration::from_secs(30);

/// A machine that is switched on.
pub struct Machine {
    qemu: Child,
    socket: PathBuf,
    /// Its serial console.
    pub console: Console,
}

impl Machine {
    /// Switches the machine on. It executes its first instruction when its console is connected.
    ///
    /// # Errors
    /// QEMU cannot be started or ends at once; the error holds what it said.
    pub async fn power_on(plan: &Plan, desk: &Desk) -> anyhow::Result<Self> {
        let said = plan.logs.join(format!("{}.qemu.log", desk.name));
        let socket = plan.console(desk);
        let mut qemu = command(plan, desk, &socket, &said)?
            .spawn()
            .context("cannot run qemu-system-x86_64 (package qemu-system-x86)")?;
        let stream = connect(&mut qemu, &socket, &said).await?;
        let console = Console::new(
            stream,
            &plan.logs.join(format!("{}.console.log", desk.name)),
        )?;
        Ok(Self {
            qemu,
            socket,
            console,
        })
    }

    /// Lets go of the console, so that somebody else can connect to its socket, and leaves the machine running for as
    /// long as what is returned lives.
    ///
    /// # Errors
    /// The shell does not take its last line.
    pub async fn release(mut self) -> anyhow::Result<Child> {
        self.console.log_out().await?;
        Ok(self.qemu)
    }

    /// Pulls the plug: the machine stops between two instructions and nothing is written any more.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub async fn pull_plug(mut self) -> anyhow::Result<()> {
        self.qemu.kill().await.context("cannot stop QEMU")?;
        let _ = std::fs::remove_file(&self.socket);
        Ok(())
    }
}

fn command(plan: &Plan, desk: &Desk, socket: &Path, said: &Path) -> anyhow::Result<Command> {
    let log =
        std::fs::File::create(said).with_context(|| format!("cannot write {}", said.display()))?;
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-nographic",
        "-boot",
        "n",
        "-smp",
        "1",
    ])
    .args(["-name", &desk.name, "-accel", plan.accel.name()])
    .args(["-m", &plan.memory.to_string()])
    .args([
        "-chardev",
        &format!(
            "socket,id=console,path={},server=on,wait=on",
            escape(socket)
        ),
    ])
    .args(["-serial", "chardev:console"])
    .args([
        "-netdev",
        &format!("tap,id=lan,ifname={},script=no,downscript=no", desk.tap),
    ])
    .args([
        "-device",
        &format!("virtio-net-pci,netdev=lan,mac={}", desk.mac),
    ])
    .args(["-device", "virtio-rng-pci"]);
    qemu.stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true);
    Ok(qemu)
}

/// A path as QEMU's option syntax wants it: commas doubled.
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// Connects to the console as soon as QEMU offers it.
async fn connect(qemu: &mut Child, socket: &Path, said: &Path) -> anyhow::Result<UnixStream> {
    let deadline = Instant::now() + QEMU_DEADLINE;
    loop {
        if let Ok(stream) = UnixStream::connect(socket).await {
            return Ok(stream);
        }
        if let Some(status) = qemu.try_wait()? {
            let words = std::fs::read_to_string(said).unwrap_or_default();
            bail!("QEMU ended at once ({status}): {}", words.trim());
        }
        if Instant::now() >= deadline {
            bail!("QEMU does not open its console at {}", socket.display());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_paths_do_not_end_a_qemu_option() {
        assert_eq!(escape(Path::new("/a,b/c")), "/a,,b/c");
    }
}
