//! `bootroom witness`: the third box of a pair.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context;
use clap::Args;
use tokio::{net::TcpListener, sync::mpsc};

use super::Exit;
use crate::mirror::{
    secret::PairSecret,
    witness::{Keeper, serve},
};

const EXAMPLES: &str = "\
Examples:
  bootroom standby secret /etc/bootroom/pair.secret   once, on one box; the same file goes to all three
  bootroom witness --listen 10.12.0.9:7013
  bootroom witness --listen [fd00::9]:7013 --secret pair.secret --state /srv/witness

It may run on any box that is not one of the two servers, and needs next to nothing. Stopped or gone, it stops nobody:
it is asked only when one of the servers cannot reach the other. Its state must never be restored from a backup.";

/// Arguments of `witness`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct WitnessOptions {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// The secret of the pair, as `bootroom standby secret` makes it
    #[arg(long, value_name = "FILE", default_value = "/etc/bootroom/pair.secret")]
    secret: PathBuf,
    /// Folder of the record
    #[arg(long, value_name = "DIR", default_value = "/var/lib/bootroom-witness")]
    state: PathBuf,
}

/// Keeps the record until it is stopped, or its disk fails.
pub fn run(options: &WitnessOptions) -> anyhow::Result<Exit> {
    super::serve::start_log();
    let secret = PairSecret::read(&options.secret)?;
    super::block_on(keep(options, Arc::new(secret)))
}

async fn keep(options: &WitnessOptions, secret: Arc<PairSecret>) -> anyhow::Result<Exit> {
    let (failed, mut failure) = mpsc::channel(1);
    let keeper = Arc::new(Keeper::open(&options.state, failed)?);
    let listener = TcpListener::bind(options.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", options.listen))?;
    let state = keeper.state().await;
    tell!(
        "witness {:016x}, revision {}, listening on {}",
        state.id.0,
        state.revision.0,
        listener.local_addr()?
    );
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        () = serve(listener, secret, keeper) => Ok(Exit::Failed),
        error = failure.recv() => Err(error.unwrap_or_else(|| anyhow::anyhow!("the record is gone"))),
    }
}
