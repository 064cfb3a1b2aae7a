//! `bootroom reload`: a running server reads its configuration again.

use clap::Args;

use super::{Exit, Target, block_on, output};
use crate::{control::model::ReloadAnswer, room::Reloaded};

/// Arguments of `reload`.
#[derive(Debug, Args)]
pub struct ReloadOptions {
    #[command(flatten)]
    target: Target,
}

/// Returns when the new configuration is in force, or says why it is not.
pub fn run(options: &ReloadOptions) -> anyhow::Result<Exit> {
    let answer = block_on(async {
        let control = options.target.control()?;
        control.post("/v1/reload").await
    })?;
    if options.target.json {
        output::json(&answer)?;
    }
    match (serde_json::from_value(answer)?, options.target.json) {
        (ReloadAnswer::Refused(why), json) => {
            if !json {
                eprintln!("{why}\nThe server goes on with the configuration that it has.");
            }
            Ok(Exit::Config)
        }
        (ReloadAnswer::Done(_), true) => Ok(Exit::Ok),
        (ReloadAnswer::Done(done), false) => {
            print(&done);
            Ok(Exit::Ok)
        }
    }
}

fn print(done: &Reloaded) {
    let Reloaded {
        exports,
        clients,
        groups,
    } = done;
    say!("in force: {groups} groups, {clients} clients of their own");
    for (what, names) in [
        ("added", &exports.added),
        ("changed", &exports.changed),
        ("removed", &exports.removed),
    ] {
        if !names.is_empty() {
            say!("exports {what}: {}", names.join(", "));
        }
    }
    if exports.connections_ended > 0 {
        say!("connections ended: {}", exports.connections_ended);
    }
    if exports.cut_off {
        say!("some of them did not take their answers in time and were cut off");
    }
}
