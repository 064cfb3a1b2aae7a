//! `bootroom witness`: the third box of a pair.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context;
use clap::Args;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;

use super::Exit;
use crate::{
    mirror::witness::{Keeper, Pair, serve},
    service::tls::{TlsFiles, server_config},
};

/// Arguments of `witness`.
#[derive(Debug, Args)]
pub struct WitnessOptions {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Folder of the record
    #[arg(long, value_name = "DIR", default_value = "/var/lib/bootroom-witness")]
    state: PathBuf,
    /// Certificates, as `bootroom pki` makes them
    #[arg(long, value_name = "DIR", default_value = "/etc/bootroom/pki")]
    pki: PathBuf,
    /// Name in the certificate of server A
    #[arg(long, value_name = "NAME")]
    a: String,
    /// Name in the certificate of server B
    #[arg(long, value_name = "NAME")]
    b: String,
}

/// Keeps the record until it is stopped, or its disk fails.
pub fn run(options: &WitnessOptions) -> anyhow::Result<Exit> {
    super::serve::start_log();
    if options.a == options.b {
        anyhow::bail!(
            "--a and --b name the same certificate: each server of the pair needs its own"
        );
    }
    let tls = server_config(&TlsFiles::in_folder(&options.pki, true))?;
    super::block_on(keep(options, TlsAcceptor::from(Arc::new(tls))))
}

async fn keep(options: &WitnessOptions, tls: TlsAcceptor) -> anyhow::Result<Exit> {
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
    let pair = Pair {
        a: options.a.clone(),
        b: options.b.clone(),
    };
    tokio::select! {
        () = serve(listener, tls, pair, keeper) => Ok(Exit::Failed),
        error = failure.recv() => Err(error.unwrap_or_else(|| anyhow::anyhow!("the record is gone"))),
    }
}
