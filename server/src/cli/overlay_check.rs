//! `bootroom overlay check`: are the machines' overlays sound? Works on the data directory, with no server running.

use std::{path::PathBuf, sync::Arc};

use clap::{Args, Subcommand};
use images::{Catalogue, VersionId};
use overlay::{Base, BaseId, HostDisk, OverlayId, Report, Severity, check};

use super::{Exit, load, output};
use crate::config;

/// What can be asked about overlays.
#[derive(Debug, Subcommand)]
pub enum OverlayCommand {
    /// Hold overlays against their own maps, sizes and image versions; the server must not run
    Check(CheckOptions),
}

/// Arguments of `overlay check`.
#[derive(Debug, Args)]
pub struct CheckOptions {
    /// One overlay, named as its directory: the machine's address in hex [default: all]
    overlay: Option<OverlayId>,
    /// Mend what can be mended without guessing
    #[arg(long)]
    repair: bool,
    /// Configuration file of the server, which names the data directory
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Data directory of the server
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Checks; the exit code says whether every overlay is sound.
pub fn run(command: &OverlayCommand) -> anyhow::Result<Exit> {
    let OverlayCommand::Check(options) = command;
    let data = match &options.data {
        Some(data) => data.clone(),
        None => load(&options.config)?.server.data.value,
    };
    let catalogue = Catalogue::open(data.join("images"))?;
    let resolve = |base: &BaseId| find_base(&catalogue, base);
    let dir = data.join("overlays");
    let reports = check(
        &HostDisk,
        &dir,
        options.overlay.as_ref(),
        options.repair,
        Some(&resolve),
    )?;
    match options.json {
        true => output::json(&reports)?,
        false => reports.iter().for_each(print),
    }
    let sound = reports.iter().all(Report::is_sound);
    Ok(if sound { Exit::Ok } else { Exit::Unhealthy })
}

fn find_base(catalogue: &Catalogue, base: &BaseId) -> Option<Arc<dyn Base>> {
    let version = catalogue.find(VersionId::from_uuid(base.version)).ok()??;
    Some(Arc::new(version.open().ok()?))
}

fn print(report: &Report) {
    let verdict = if report.is_sound() {
        "sound"
    } else {
        "NOT SOUND"
    };
    say!("{}  {verdict}", report.id);
    for finding in &report.findings {
        let kind = match finding.severity {
            Severity::Note => "note",
            Severity::Waste => "waste",
            Severity::Problem => "problem",
        };
        let mended = if finding.repaired { " (mended)" } else { "" };
        say!("  {kind}: {}{mended}", finding.text);
    }
}
