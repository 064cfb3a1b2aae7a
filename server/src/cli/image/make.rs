//! `image build` and `image import`: new versions.

use std::fs;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use images::build::{Kernel, Password, Recipe};
use images::import::{BootFiles, Import};
use images::{Bytes, Cancel, Catalogue, ImageName, Staged, Staging, Version, VersionId};

use super::progress::{Shown, cancellable};
use super::{Exit, Place, client_package};

/// Distributions that can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Distribution {
    Debian,
}

/// Arguments of `image build`.
#[derive(Debug, Args)]
pub struct BuildOptions {
    /// What to build
    #[arg(value_enum)]
    distribution: Distribution,
    /// Name of the image
    #[arg(long, default_value = "debian")]
    name: ImageName,
    /// Debian's release
    #[arg(long, default_value = "bookworm")]
    suite: String,
    /// A package to install as well; may be given several times
    #[arg(long = "package", value_name = "PACKAGE")]
    packages: Vec<String>,
    /// Kernel: generic for real machines, cloud for virtual ones (virtio only; smaller, boots sooner)
    #[arg(long, default_value = "generic", value_name = "generic|cloud")]
    kernel: Kernel,
    /// Size of the disk; it is thin, so room costs nothing until it is used
    #[arg(long, default_value = "8GiB")]
    size: Bytes,
    /// Where to fetch packages [default: where this machine gets its own]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Root's password; without one the account is locked
    #[arg(long, value_name = "PASSWORD")]
    root_password: Option<Password>,
    /// A file whose first line is root's password
    #[arg(long, value_name = "FILE", conflicts_with = "root_password")]
    root_password_file: Option<PathBuf>,
    /// The bootroom-client package [default: beside this program, or in /usr/share/bootroom]
    #[arg(long, value_name = "DEB")]
    client_package: Option<PathBuf>,
    /// What to remember about this version
    #[arg(long, default_value = "")]
    description: String,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `image import`.
#[derive(Debug, Args)]
pub struct ImportOptions {
    /// The disk: a raw or qcow2 file that holds one filesystem, without a partition table
    disk: PathBuf,
    /// Name of the image
    #[arg(long)]
    name: ImageName,
    /// Its kernel [default: the newest in /boot of the disk, if that is ext4]
    #[arg(long, requires = "initrd", value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Its initrd, which must have been made with the bootroom-client package installed
    #[arg(long, requires = "kernel", value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Words for the kernel command line [default: those of built images]
    #[arg(long, value_name = "WORDS")]
    cmdline: Option<String>,
    /// What to remember about this version
    #[arg(long, default_value = "")]
    description: String,
    #[command(flatten)]
    place: Place,
}

/// Builds and publishes.
pub fn build(options: &BuildOptions) -> anyhow::Result<Exit> {
    let Distribution::Debian = options.distribution;
    let recipe = recipe(options)?;
    make(&options.place, |staging, shown, cancel| {
        images::build::debian(staging, &recipe, SystemTime::now(), shown, cancel)
    })
}

/// Imports and publishes.
pub fn import(options: &ImportOptions) -> anyhow::Result<Exit> {
    let files = options.kernel.clone().zip(options.initrd.clone());
    let what = Import {
        image: options.name.clone(),
        disk: options.disk.clone(),
        boot_files: files.map(|(kernel, initrd)| BootFiles { kernel, initrd }),
        cmdline: options.cmdline.clone(),
        description: options.description.clone(),
    };
    make(&options.place, |staging, shown, cancel| {
        images::import::import(staging, &what, SystemTime::now(), shown, cancel)
    })
}

fn recipe(options: &BuildOptions) -> anyhow::Result<Recipe> {
    let client_package = match &options.client_package {
        Some(path) => path.clone(),
        None => client_package::find()?,
    };
    Ok(Recipe {
        suite: options.suite.clone(),
        kernel: options.kernel,
        packages: options.packages.clone(),
        size: options.size,
        mirror: options.mirror.clone(),
        client_package: Some(client_package),
        root_password: root_password(options)?,
        description: options.description.clone(),
        ..Recipe::new(options.name.clone())
    })
}

fn root_password(options: &BuildOptions) -> anyhow::Result<Option<Password>> {
    let Some(path) = &options.root_password_file else {
        return Ok(options.root_password.clone());
    };
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let Some(line) = text.lines().next() else {
        bail!(
            "{} is empty: its first line should be root's password",
            path.display()
        );
    };
    Ok(Some(line.parse()?))
}

/// Makes a version by `work` and publishes it.
fn make(
    place: &Place,
    work: impl Fn(Staging, &Shown, &Cancel) -> images::Result<Staged> + Sync,
) -> anyhow::Result<Exit> {
    let catalogue = place.catalogue()?;
    let (start, shown) = (Instant::now(), Shown::new());
    let version = cancellable(|cancel| make_one(&catalogue, &shown, cancel, &work));
    shown.clear();
    let version = version?;
    say!(
        "{version} is ready and current: {}, digest {}, made in {:.0} s",
        version.size(),
        version.digest(),
        start.elapsed().as_secs_f64()
    );
    Ok(Exit::Ok)
}

fn make_one(
    catalogue: &Catalogue,
    shown: &Shown,
    cancel: &Cancel,
    work: &(impl Fn(Staging, &Shown, &Cancel) -> images::Result<Staged> + Sync),
) -> images::Result<Version> {
    let staging = catalogue.stage(VersionId::random())?;
    catalogue.publish(work(staging, shown, cancel)?)
}
