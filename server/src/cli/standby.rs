//! `bootroom standby`: the pair of servers.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Exit;
use crate::mirror::secret::PairSecret;

/// What to do with the pair.
#[derive(Debug, Subcommand)]
pub enum StandbyCommand {
    /// Make the secret that both servers and their witness know each other by
    Secret(SecretOptions),
}

/// Arguments of `standby secret`.
#[derive(Debug, Args)]
pub struct SecretOptions {
    /// File to make; the same goes to all three
    #[arg(value_name = "FILE", default_value = "/etc/bootroom/pair.secret")]
    file: PathBuf,
}

/// Does it.
pub fn run(command: &StandbyCommand) -> anyhow::Result<Exit> {
    match command {
        StandbyCommand::Secret(SecretOptions { file }) => {
            PairSecret::make(file)?;
            say!("{}", file.display());
        }
    }
    Ok(Exit::Ok)
}
