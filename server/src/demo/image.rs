//! The image of the demo: built once, checked and used again.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::outer::Signals;
use super::plan::{IMAGE, PASSWORD};
use super::storage::Storage;

/// Sees to it that the image is there and is what was built.
///
/// # Errors
/// The build fails, or a signal interrupts it; an interrupted build leaves no version behind.
pub async fn ensure(storage: &Storage, rebuild: bool, signals: &mut Signals) -> anyhow::Result<()> {
    let _lock = storage.lock_image()?;
    if !rebuild && is_built(storage.root()) {
        println!("==> Checking the image of an earlier run against its digest");
        if bootroom(&["image", "verify", IMAGE], storage.root(), signals)
            .await?
            .success()
        {
            return Ok(());
        }
        println!("    It is damaged: building it anew");
    }
    println!("==> Building the image from Debian's packages (once; later runs use it again)");
    let status = bootroom(&build(), storage.root(), signals).await?;
    if !status.success() {
        bail!("the image cannot be built ({status})");
    }
    Ok(())
}

fn build() -> [&'static str; 9] {
    [
        "image",
        "build",
        "debian",
        "--name",
        IMAGE,
        "--kernel",
        "cloud",
        "--root-password",
        PASSWORD,
    ]
}

fn is_built(root: &Path) -> bool {
    root.join("images").join(IMAGE).join("current").exists()
}

/// Runs this program with other arguments on the demo's catalogue, and passes a signal on to it.
async fn bootroom(
    arguments: &[&str],
    data: &Path,
    signals: &mut Signals,
) -> anyhow::Result<ExitStatus> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .arg("--data")
        .arg(data)
        .stdin(Stdio::null())
        // Its own group: Ctrl-C comes to us, and from us to it, once.
        .process_group(0)
        .spawn()
        .context("cannot start bootroom image")?;
    tokio::select! {
        status = child.wait() => return Ok(status?),
        () = signals.next() => {}
    }
    if let Some(id) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        kill_process(id, Signal::TERM)?;
    }
    child.wait().await?;
    bail!("interrupted")
}
