//! `bootroom standby`: the pair of servers.

mod act;
mod leave;
mod outcome;
mod status;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Exit, Target, block_on};
use crate::mirror::secret::PairSecret;

/// What to do with the pair.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum StandbyCommand {
    /// Make the secret that both servers and their witness know each other by
    Secret(SecretOptions),
    /// Show this server's half of the pair
    Status(status::StatusOptions),
    /// Make this server the primary
    Promote(PromoteOptions),
    /// Let the standby take over from this server
    Handover(HandOverOptions),
    /// Compare both servers' disks while they are in use, and mend what differs
    Verify(verify::VerifyOptions),
    /// Give up this server's own changes after a split brain, and take the other's data
    Discard(AskedOptions),
    /// Make this server, which is stopped, a single one again
    Leave(leave::LeaveOptions),
    /// Take the witness that answers for the one that counts, though it is another than the agreed one
    AcceptWitness(AskedOptions),
}

const EXAMPLES: &str = "\
Examples:
  bootroom standby secret /etc/bootroom/pair.secret   once; copy the file to the other server and the witness
  bootroom standby promote                            once, on the server that has the data
  bootroom standby status                             how is the pair? exit code 5 when something is wrong
  bootroom standby status -w                          what happens to it
  bootroom standby verify                             do both servers hold the same?
  bootroom standby handover                           before this server is shut down for maintenance

All but `secret` and `leave` ask the server on this box.";

/// Arguments of `standby secret`.
#[derive(Debug, Args)]
pub struct SecretOptions {
    /// File to make; the same goes to all three
    #[arg(value_name = "FILE", default_value = "/etc/bootroom/pair.secret")]
    file: PathBuf,
}

/// Arguments of `standby promote`.
#[derive(Debug, Args)]
#[command(after_help = PROMOTE)]
pub struct PromoteOptions {
    #[command(flatten)]
    target: Target,
    /// Although the other server may have what this one lacks: that is lost then
    #[arg(long)]
    force: bool,
    /// With what this server held before the resync that the other one did not finish: all that came since is lost
    #[arg(long, requires = "force")]
    before_resync: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

const PROMOTE: &str = "\
Without --force only a server that holds everything becomes primary. When there is no witness, nobody but you can know
whether the other server still serves the machines: make sure that it does not, or both have changes of their own after.";

/// Arguments of `standby handover`.
#[derive(Debug, Args)]
#[command(
    after_help = "To be said on the primary. Stopping it (SIGTERM, systemctl stop) does the same."
)]
pub struct HandOverOptions {
    #[command(flatten)]
    target: Target,
}

/// Arguments of what asks first.
#[derive(Debug, Args)]
pub struct AskedOptions {
    #[command(flatten)]
    target: Target,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Does it.
pub fn run(command: &StandbyCommand) -> anyhow::Result<Exit> {
    match command {
        StandbyCommand::Secret(options) => secret(options),
        StandbyCommand::Status(options) => status::run(options),
        StandbyCommand::Promote(options) => block_on(act::promote(options)),
        StandbyCommand::Handover(options) => block_on(act::hand_over(options)),
        StandbyCommand::Verify(options) => block_on(verify::run(options)),
        StandbyCommand::Discard(options) => block_on(act::discard(options)),
        StandbyCommand::Leave(options) => leave::run(options),
        StandbyCommand::AcceptWitness(options) => block_on(act::accept_witness(options)),
    }
}

fn secret(options: &SecretOptions) -> anyhow::Result<Exit> {
    PairSecret::make(&options.file)?;
    let file = options.file.display();
    say!("{file}: copy it to the other server and to the witness, readable by root only");
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests;
