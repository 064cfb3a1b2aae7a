//! `bootroom serve`: all services of a room in one process.

use std::path::PathBuf;

use clap::Args;
use rustix::process::{Resource, getrlimit, setrlimit};

use super::{Exit, load};
use crate::{
    config::{self, host},
    room,
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
    raise_file_limit();
    let config = load(&options.config)?;
    let refuse = |list| anyhow::Error::from(config.refuse(list));
    let problems = host::check(&config);
    if !problems.is_empty() {
        return Err(refuse(problems));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        room::serve(config.clone()).await.map_err(|error| {
            let problem = host::port_problem(&config, &error);
            problem.map_or(error, |problem| refuse(vec![problem]))
        })
    });
    // Only an answer to a client that no longer listens can still be under way.
    runtime.shutdown_background();
    outcome.map(|()| Exit::Ok)
}

/// As many files as this process may have open: what a shell gives is meant for programs that use `select`.
pub(super) fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}

/// rustls warns of every client that gives an address where a name belongs, as GnuTLS does.
const LOG: &str = "info,rustls=error";

/// Logs to stderr; BOOTROOM_LOG has the filter (`info`, `debug`, `pxe=debug`).
pub(super) fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BOOTROOM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
}
