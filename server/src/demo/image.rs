//! The image of the demo: built once, checked and used again.
//!
//! A version's description says which client package went into it, so that an image with an older one is noticed.

use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::process::Command;

use super::outer::Signals;
use super::plan::{IMAGE, PASSWORD};
use super::storage::Storage;
use crate::cli::image::client_package;

/// An image as `bootroom image list --json` shows it.
#[derive(Deserialize)]
struct Image {
    name: String,
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    reference: String,
    current: bool,
    description: String,
}

/// Sees to it that the image is there and is what was built.
///
/// # Errors
/// The build fails, or a signal interrupts it; an interrupted build leaves no version behind.
pub async fn ensure(storage: &Storage, rebuild: bool, signals: &mut Signals) -> anyhow::Result<()> {
    let _lock = storage.lock_image()?;
    let mut tool = Tool {
        data: storage.root(),
        signals,
    };
    let wanted = description()?;
    let versions = tool.versions().await?;
    let usable = versions
        .iter()
        .any(|version| version.current && version.description == wanted);
    if usable && !rebuild && tool.verify().await? {
        return Ok(());
    }
    tell!("==> Building the image from Debian's packages (once; later runs use it again)");
    tool.build(&wanted).await?;
    // Who else is running a demo here may be using an old one.
    if storage.is_idle()? {
        tool.remove(&versions).await?;
    }
    Ok(())
}

/// What the version's description must be for the client package that is there now.
fn description() -> anyhow::Result<String> {
    let package = client_package::find()?;
    let bytes =
        std::fs::read(&package).with_context(|| format!("cannot read {}", package.display()))?;
    Ok(format!("demo, client package {}", blake3::hash(&bytes)))
}

/// `bootroom image` on the demo's catalogue. A signal that comes to us goes on to it.
struct Tool<'a> {
    data: &'a Path,
    signals: &'a mut Signals,
}

impl Tool<'_> {
    async fn versions(&mut self) -> anyhow::Result<Vec<Version>> {
        let output = self.run(&["list", "--json"], Stdio::piped()).await?;
        if !output.status.success() {
            bail!("the images cannot be listed ({})", output.status);
        }
        let images: Vec<Image> =
            serde_json::from_slice(&output.stdout).context("odd list of images")?;
        let demo = images.into_iter().find(|image| image.name == IMAGE);
        Ok(demo.map_or_else(Vec::new, |image| image.versions))
    }

    async fn verify(&mut self) -> anyhow::Result<bool> {
        tell!("==> Checking the image of an earlier run against its digest");
        Ok(self
            .run(&["verify", IMAGE], Stdio::null())
            .await?
            .status
            .success())
    }

    async fn build(&mut self, description: &str) -> anyhow::Result<()> {
        let image = ["build", "debian", "--name", IMAGE, "--kernel", "cloud"];
        let details = ["--root-password", PASSWORD, "--description", description];
        let output = self
            .run(&[&image[..], &details].concat(), Stdio::inherit())
            .await?;
        if !output.status.success() {
            bail!("the image cannot be built ({})", output.status);
        }
        Ok(())
    }

    /// Removes versions that a newer one has taken the place of. One that cannot be removed costs disk space only.
    async fn remove(&mut self, versions: &[Version]) -> anyhow::Result<()> {
        for version in versions {
            self.run(&["rm", &version.reference, "--yes"], Stdio::null())
                .await?;
        }
        Ok(())
    }

    async fn run(&mut self, arguments: &[&str], stdout: Stdio) -> anyhow::Result<Output> {
        let child = Command::new(std::env::current_exe()?)
            .arg("image")
            .args(arguments)
            .arg("--data")
            .arg(self.data)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::inherit())
            // Its own group: Ctrl-C comes to us, and from us to it, once.
            .process_group(0)
            .spawn()
            .context("cannot start bootroom image")?;
        let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let mut output = std::pin::pin!(child.wait_with_output());
        tokio::select! {
            output = &mut output => return Ok(output?),
            () = self.signals.next() => {}
        }
        if let Some(id) = id {
            kill_process(id, Signal::TERM)?;
        }
        output.await?;
        bail!("interrupted")
    }
}
