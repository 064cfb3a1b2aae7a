//! `bootroom image`: the catalogue of images and their versions.
//!
//! These verbs work on the catalogue's directory themselves, whether a server runs or not; the catalogue's own locks
//! keep them apart.

pub(crate) mod client_package;
pub(crate) mod date;
mod make;
pub(crate) mod progress;
mod remove;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use images::{Cancel, Catalogue, Image, ImageName, ImageRef, Version};
use serde::Serialize;

use super::{Exit, load, output};
use crate::config::{self, Config};
use progress::{Shown, cancellable};

/// Where the data is when nothing else is said.
const DEFAULT_DATA: &str = "/var/lib/bootroom";
/// Hexadecimal digits of a digest that tell versions apart for a person.
const DIGEST_SHOWN: usize = 12;

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List all images and their versions
    List(ListOptions),
    /// Build a version from a distribution's packages, and make it current
    Build(make::BuildOptions),
    /// Take over a disk that was made elsewhere, and make it current
    Import(make::ImportOptions),
    /// Make a version the current one of its image
    Publish(PublishOptions),
    /// Make the version before the current one current again
    Rollback(RollbackOptions),
    /// Compare versions with the digests they were published with
    Verify(VerifyOptions),
    /// Remove a version that nothing needs any more
    Rm(remove::RemoveOptions),
}

/// Which catalogue.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// Configuration file of the server, which names the data directory
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory of the server
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data: Option<PathBuf>,
}

/// Arguments of `image list`.
#[derive(Debug, Args)]
pub struct ListOptions {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `image publish`.
#[derive(Debug, Args)]
pub struct PublishOptions {
    /// The version, such as debian@3
    version: ImageRef,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `image rollback`.
#[derive(Debug, Args)]
pub struct RollbackOptions {
    /// The image
    image: ImageName,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `image verify`.
#[derive(Debug, Args)]
pub struct VerifyOptions {
    /// Images (their current versions) or versions [default: every version there is]
    versions: Vec<ImageRef>,
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Place {
    /// The configuration, if there is one to go by.
    fn config(&self) -> anyhow::Result<Option<Config>> {
        match (&self.data, &self.config) {
            (Some(_), _) => Ok(None),
            (None, Some(path)) => load(path).map(Some),
            // An image may well be built before the configuration is written.
            (None, None) if !Path::new(config::DEFAULT_PATH).exists() => Ok(None),
            (None, None) => load(Path::new(config::DEFAULT_PATH)).map(Some),
        }
    }

    /// The data directory that `config` names, or `--data`, or the usual one.
    fn data(&self, config: Option<&Config>) -> PathBuf {
        let configured = config.map(|config| config.server.data.value.clone());
        let data = self.data.clone().or(configured);
        data.unwrap_or_else(|| DEFAULT_DATA.into())
    }

    fn catalogue(&self) -> anyhow::Result<Catalogue> {
        self.catalogue_in(&self.data(self.config()?.as_ref()))
    }

    fn catalogue_in(&self, data: &Path) -> anyhow::Result<Catalogue> {
        let place = || format!("cannot open the image catalogue in {}", data.display());
        Catalogue::open(data.join("images")).with_context(place)
    }
}

/// Does it.
pub fn run(command: &ImageCommand) -> anyhow::Result<Exit> {
    match command {
        ImageCommand::List(options) => list(options),
        ImageCommand::Build(options) => make::build(options),
        ImageCommand::Import(options) => make::import(options),
        ImageCommand::Publish(options) => publish(options),
        ImageCommand::Rollback(options) => rollback(options),
        ImageCommand::Verify(options) => verify(options),
        ImageCommand::Rm(options) => remove::run(options),
    }
}

/// A version as `--json` prints it.
#[derive(Debug, Serialize)]
struct VersionView {
    reference: String,
    id: String,
    current: bool,
    size_bytes: u64,
    stored_bytes: u64,
    digest: String,
    created_unix: u64,
    description: String,
    cmdline: String,
    kernel: PathBuf,
    initrd: PathBuf,
}

/// An image as `--json` prints it.
#[derive(Debug, Serialize)]
struct ImageView {
    name: String,
    versions: Vec<VersionView>,
    damaged: Vec<DamagedView>,
}

/// A version that cannot be read.
#[derive(Debug, Serialize)]
struct DamagedView {
    reference: String,
    error: String,
}

impl ImageView {
    fn of(image: &Image) -> Self {
        let versions = image.versions.iter();
        let damaged = image.damaged.iter().map(|damaged| DamagedView {
            reference: format!("{}@{}", image.name, damaged.number),
            error: chain(&damaged.error),
        });
        Self {
            name: image.name.to_string(),
            versions: versions
                .map(|version| VersionView::of(version, image))
                .collect(),
            damaged: damaged.collect(),
        }
    }
}

impl VersionView {
    fn of(version: &Version, image: &Image) -> Self {
        Self {
            reference: version.to_string(),
            id: version.id().to_string(),
            current: image.current == Some(version.number()),
            size_bytes: version.size().get(),
            stored_bytes: stored(version),
            digest: version.digest().to_string(),
            created_unix: date::seconds(version.created()),
            description: version.description().to_owned(),
            cmdline: version.cmdline().to_owned(),
            kernel: version.kernel().path,
            initrd: version.initrd().path,
        }
    }

    fn row(&self) -> [String; 7] {
        [
            self.reference.clone(),
            if self.current { "current" } else { "" }.into(),
            images::Bytes::new(self.size_bytes).to_string(),
            images::Bytes::new(self.stored_bytes).to_string(),
            date::text(self.created_unix),
            self.digest[..DIGEST_SHOWN].to_owned(),
            self.description.clone(),
        ]
    }
}

/// Bytes that the disk takes on the server: it is thin.
fn stored(version: &Version) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(version.disk_path()).map_or(0, |metadata| metadata.blocks() * 512)
}

fn list(options: &ListOptions) -> anyhow::Result<Exit> {
    let images = options.place.catalogue()?.list()?;
    let views: Vec<_> = images.iter().map(ImageView::of).collect();
    if options.json {
        output::json(&views)?;
        return Ok(Exit::Ok);
    }
    if views.is_empty() {
        say!("no image yet: run `bootroom image build debian`");
        return Ok(Exit::Ok);
    }
    let versions = views.iter().flat_map(|image| &image.versions);
    let rows: Vec<_> = versions.map(VersionView::row).collect();
    let heading = [
        "VERSION",
        "",
        "SIZE",
        "STORED",
        "MADE (UTC)",
        "DIGEST",
        "DESCRIPTION",
    ];
    say!("{}", output::table(heading, &rows));
    for damaged in views.iter().flat_map(|image| &image.damaged) {
        say!("{} is unusable: {}", damaged.reference, damaged.error);
    }
    Ok(Exit::Ok)
}

fn publish(options: &PublishOptions) -> anyhow::Result<Exit> {
    let version = options.place.catalogue()?.set_current(&options.version)?;
    say_current(&version);
    Ok(Exit::Ok)
}

fn rollback(options: &RollbackOptions) -> anyhow::Result<Exit> {
    let version = options.place.catalogue()?.rollback(&options.image)?;
    say_current(&version);
    Ok(Exit::Ok)
}

fn say_current(version: &Version) {
    let image = version.image();
    say!(
        "{version} is now the current version of {image}; machines get it when they next begin a fresh disk"
    );
}

/// The outcome for one version as `--json` prints it.
#[derive(Debug, Serialize)]
struct Verified {
    reference: String,
    /// None if not even the version's description can be read.
    digest: Option<String>,
    ok: bool,
    error: Option<String>,
}

fn verify(options: &VerifyOptions) -> anyhow::Result<Exit> {
    let catalogue = options.place.catalogue()?;
    let (versions, mut outcomes) = to_verify(&catalogue, &options.versions)?;
    let shown = Shown::new();
    let verified: Vec<_> = cancellable(|cancel| {
        versions
            .iter()
            .map(|version| verify_one(version, &shown, cancel))
            .collect::<Result<_, _>>()
    })?;
    outcomes.extend(verified);
    shown.clear();
    if options.json {
        output::json(&outcomes)?;
    } else {
        outcomes.iter().for_each(say_verified);
    }
    let good = outcomes.iter().all(|outcome| outcome.ok);
    Ok(if good { Exit::Ok } else { Exit::Unhealthy })
}

/// What was asked for, or everything; of that, what cannot even be opened is an outcome already.
fn to_verify(
    catalogue: &Catalogue,
    wanted: &[ImageRef],
) -> anyhow::Result<(Vec<Version>, Vec<Verified>)> {
    if !wanted.is_empty() {
        let versions = wanted.iter().map(|wanted| catalogue.resolve(wanted));
        return Ok((versions.collect::<Result<_, _>>()?, Vec::new()));
    }
    let (mut versions, mut unreadable) = (Vec::new(), Vec::new());
    for image in catalogue.list()? {
        unreadable.extend(image.damaged.iter().map(|damaged| Verified {
            reference: format!("{}@{}", image.name, damaged.number),
            digest: None,
            ok: false,
            error: Some(chain(&damaged.error)),
        }));
        versions.extend(image.versions);
    }
    Ok((versions, unreadable))
}

fn verify_one(version: &Version, shown: &Shown, cancel: &Cancel) -> images::Result<Verified> {
    let error = match version.verify(shown, cancel) {
        Err(error) if error.kind() == images::ErrorKind::Cancelled => return Err(error),
        outcome => outcome.err(),
    };
    Ok(Verified {
        reference: version.to_string(),
        digest: Some(version.digest().to_string()),
        ok: error.is_none(),
        error: error.as_ref().map(chain),
    })
}

/// An error with its causes, on one line.
fn chain(error: &images::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let causes = causes.map(ToString::to_string);
    std::iter::once(error.to_string())
        .chain(causes)
        .collect::<Vec<_>>()
        .join(": ")
}

fn say_verified(outcome: &Verified) {
    let digest = outcome.digest.as_deref().unwrap_or("-");
    match &outcome.error {
        None => say!("{}  unchanged  {digest}", outcome.reference),
        Some(error) => say!("{}  DAMAGED  {error}", outcome.reference),
    }
}
