//! `bootroom standby leave`: this server is no longer one of a pair. Works on the data directory, with no server running.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use serde_json::json;

use crate::{
    cli::{Exit, load, output},
    config,
    mirror::leaving::{INCOMPLETE, Part, leave, part},
};

/// Arguments of `standby leave`.
#[derive(Debug, Args)]
#[command(after_help = LEAVE)]
pub struct LeaveOptions {
    /// Configuration file of the server, with or without [standby]
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const LEAVE: &str = "\
The server must not run. It keeps its machines, leases, images and disks, and forgets what the other server has of them; then take
[standby] out of its configuration and start it. Without this it refuses to start there, since the other server may be serving
the same disks. To end a pair: stop the standby for good (`systemctl disable --now bootroom`), stop the primary, and say this on it.

Examples:
  systemctl stop bootroom && bootroom standby leave";

/// Does it.
pub fn run(options: &LeaveOptions) -> anyhow::Result<Exit> {
    let config = load(&options.config)?;
    let cost = match part(&config.server.data.value)? {
        Part::None => {
            leave(&config)?; // The rest, if it was cut off.
            return report(options, false, "this server is not one of a pair");
        }
        Part::Incomplete => bail!(INCOMPLETE),
        Part::Primary => {
            "This server was the primary when it stopped. If the other one has taken over since, what that one has answered is not \
             here: then this is the wrong one. It must not serve these machines any more: `systemctl disable --now bootroom` \
             there. If it is to join again some day, it begins with an empty data directory."
        }
        Part::Follower => {
            "This server was not the primary last: what the other one has answered since they were last connected is not here. If \
             that one still serves, machines change their disks there and here from now on, and nobody can put that together \
             again. Make sure that it is off, and stays so."
        }
        Part::Unknown => {
            "What this server was last is not known any more: the file that says so is damaged. If it was being brought up as the \
             standby, its disks are half old and half new. Make sure that the other one is off, and stays so."
        }
    };
    eprintln!("{cost}");
    super::act::agreed(options.yes, "Leave the pair?")?;
    for remark in leave(&config)? {
        eprintln!("{remark}");
    }
    let text = format!(
        "this server is no longer one of a pair: take [standby] out of {} and start it",
        options.config.display()
    );
    report(options, true, &text)
}

fn report(options: &LeaveOptions, left: bool, text: &str) -> anyhow::Result<Exit> {
    match options.json {
        true => output::json(&json!({ "left": left, "text": text }))?,
        false => say!("{text}"),
    }
    Ok(Exit::Ok)
}
