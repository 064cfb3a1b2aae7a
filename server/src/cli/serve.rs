//! `bootroom serve`: all services of a room in one process.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, load};
use crate::{
    config::{self, host, problem::Problems},
    room::Room,
};

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeOptions {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

/// Serves until SIGTERM or SIGINT.
pub fn run(options: &ServeOptions) -> anyhow::Result<Exit> {
    start_log();
    let config = load(&options.config)?;
    let list = host::check(&config, true);
    if !list.is_empty() {
        let source = std::fs::read_to_string(&options.config).unwrap_or_default();
        return Err(Problems {
            path: options.config.clone(),
            source,
            list,
        }
        .into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async { Room::open(config)?.serve().await });
    // Only an answer to a client that no longer listens can still be under way.
    runtime.shutdown_background();
    outcome.map(|()| Exit::Ok)
}

/// Logs to stderr; BOOTROOM_LOG has the filter (`info`, `debug`, `pxe=debug`).
pub(super) fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BOOTROOM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
}
