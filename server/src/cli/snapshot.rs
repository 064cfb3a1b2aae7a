//! `bootroom snapshot`: a disk as it was at one moment, for backups.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, Subcommand};
use overlay::SnapshotName;

use super::{Exit, Target, ask, block_on, image::date, output};
use crate::{
    config::units::ClientName,
    control::{
        client::{Control, Unreachable},
        model::{OpenedSnapshot, SnapshotView},
    },
};

const EXAMPLES: &str = "\
Examples:
  bootroom snapshot take monday --client teacher           also while the machine runs
  bootroom snapshot open monday --client teacher           prints where it can be read: nbdcopy $(…) copy.raw
  bootroom snapshot take monday --overlay /srv/changes     of `bootroom export FILE --overlay /srv/changes`;
                                                           read it as the export snapshot/monday
  bootroom snapshot drop monday --overlay /srv/changes --yes";

/// What can be done with snapshots.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum SnapshotCommand {
    /// Take one, of the disk as it is now
    Take(Named),
    /// List them, oldest first
    List(Whose),
    /// Say where one can be read over NBD, until the server stops
    Open(Named),
    /// Drop one; what the disk holds stays as it is
    Drop(DropOptions),
}

/// Whose disk it is.
#[derive(Debug, Args)]
pub struct Whose {
    /// A machine of the room
    #[arg(long, value_name = "NAME", required_unless_present = "overlay")]
    client: Option<ClientName>,
    /// The folder that a running `bootroom export --overlay` was given
    #[arg(long, value_name = "DIR", conflicts_with = "client")]
    overlay: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

/// One snapshot.
#[derive(Debug, Args)]
pub struct Named {
    /// Its name: 1 to 64 of a-z, 0-9 and -
    #[arg(value_parser = |name: &str| SnapshotName::new(name))]
    name: SnapshotName,
    #[command(flatten)]
    whose: Whose,
}

/// Arguments of `snapshot drop`.
#[derive(Debug, Args)]
pub struct DropOptions {
    #[command(flatten)]
    named: Named,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Does it.
pub fn run(command: &SnapshotCommand) -> anyhow::Result<Exit> {
    block_on(async {
        match command {
            SnapshotCommand::Take(named) => take(named).await,
            SnapshotCommand::List(whose) => list(whose).await,
            SnapshotCommand::Open(named) => open(named).await,
            SnapshotCommand::Drop(options) => drop_one(options).await,
        }
    })
}

/// The control socket of an overlay that is being served.
pub fn socket_in(folder: &Path) -> PathBuf {
    folder.join(".control")
}

/// Who answers, and where its snapshots are.
struct Place {
    control: Control,
    path: String,
    /// What is wrong when nobody answers.
    nobody: String,
}

impl Whose {
    fn place(&self) -> anyhow::Result<Place> {
        match (&self.client, &self.overlay) {
            (_, Some(folder)) => Ok(Place {
                control: Control::at(&socket_in(folder)),
                path: "/v1/snapshots".into(),
                nobody: format!(
                    "no `bootroom export --overlay {0}` is running",
                    folder.display()
                ),
            }),
            (Some(client), None) => Ok(Place {
                control: self.target.control()?,
                path: format!("/v1/clients/{client}/snapshots"),
                nobody: format!("nobody can be asked about the disk of {client}"),
            }),
            (None, None) => bail!("say whose disk: --client NAME or --overlay DIR"),
        }
    }
}

impl Place {
    async fn list(&self) -> anyhow::Result<serde_json::Value> {
        let answer = self.control.get(&self.path).await;
        answer.map_err(|error| self.explained(error))
    }

    async fn post(&self, what: &str) -> anyhow::Result<serde_json::Value> {
        let path = format!("{}/{what}", self.path);
        let answer = self.control.post(&path).await;
        answer.map_err(|error| self.explained(error))
    }

    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        match error.is::<Unreachable>() {
            true => error.context(self.nobody.clone()),
            false => error,
        }
    }
}

async fn take(named: &Named) -> anyhow::Result<Exit> {
    let answer = named.whose.place()?.post(named.name.as_str()).await?;
    said(&named.whose, &answer, || {
        format!("snapshot {} was taken", named.name)
    })
}

fn said(
    whose: &Whose,
    answer: &serde_json::Value,
    text: impl Fn() -> String,
) -> anyhow::Result<Exit> {
    match whose.target.json {
        true => output::json(answer)?,
        false => say!("{}", text()),
    }
    Ok(Exit::Ok)
}

async fn list(whose: &Whose) -> anyhow::Result<Exit> {
    let answer = whose.place()?.list().await?;
    if whose.target.json {
        output::json(&answer)?;
        return Ok(Exit::Ok);
    }
    let snapshots: Vec<SnapshotView> = serde_json::from_value(answer)?;
    let row = |one: &SnapshotView| {
        [
            one.name.to_string(),
            output::or_dash(one.taken.map(date::text)),
        ]
    };
    let rows: Vec<_> = snapshots.iter().map(row).collect();
    say!("{}", output::table(["NAME", "TAKEN (UTC)"], &rows));
    Ok(Exit::Ok)
}

async fn open(named: &Named) -> anyhow::Result<Exit> {
    if named.whose.overlay.is_some() {
        bail!(
            "`bootroom export --overlay` gives it out as the export snapshot/{}",
            named.name
        );
    }
    let answer = named
        .whose
        .place()?
        .post(&format!("{}/open", named.name))
        .await?;
    let opened: OpenedSnapshot = serde_json::from_value(answer.clone())?;
    said(&named.whose, &answer, || opened.uri.clone())
}

async fn drop_one(options: &DropOptions) -> anyhow::Result<Exit> {
    let Named { name, whose } = &options.named;
    let question =
        format!("Drop snapshot {name}? Backups can no longer be made from it or since it.");
    if !options.yes && !ask::confirm(&question, "a snapshot cannot be brought back")? {
        bail!("nothing was done");
    }
    let answer = whose.place()?.post(&format!("{name}/drop")).await?;
    said(whose, &answer, || format!("snapshot {name} is gone"))
}
