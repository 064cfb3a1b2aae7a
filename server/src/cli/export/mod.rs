//! `bootroom export`: one file, device or image version over NBD, with no configuration.

mod source;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum};
use overlay::Overlay;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Exit;
use crate::{
    control::{self, ControlSocket},
    service::{
        Event, Exports, Limits, Listener, Service, ServiceOptions,
        devices::{OneExport, Wide, WithSnapshots},
        passed_sockets,
        tls::{Tls, TlsFiles, TlsState},
    },
};

/// How long connections may take to end after SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);

const EXAMPLES: &str = "\
Examples:
  bootroom export disk.img                            nbd://127.0.0.1:10809
  bootroom export disk.img --read-only --bind 10.0.0.1 --name disk
  bootroom export disk.img --cow                      every connection gets its own copy
  bootroom export disk.img --overlay /srv/changes     changes are kept apart from the file
  bootroom export /dev/vg0/vm7 --unix /run/vm7.sock
  bootroom export disk.img --bind 10.0.0.1 --bind ::1 --unix /run/disk.sock
  bootroom export debian@3 --data /var/lib/bootroom   an image version; writable with --cow or --overlay";

/// Arguments of `export`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ExportOptions {
    /// The file or block device; with --data the image, or its version
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// SOURCE is an image in this data directory: `debian`, or `debian@3`
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Refuse writes
    #[arg(long, short, conflicts_with_all = ["cow", "overlay"])]
    read_only: bool,
    /// Give every connection its own changes over SOURCE, thrown away at its end
    #[arg(long, conflicts_with = "overlay")]
    cow: bool,
    /// Keep changes in this folder and leave SOURCE as it is; it must not change as long as they are kept
    #[arg(long, value_name = "DIR")]
    overlay: Option<PathBuf>,
    /// Name of the export [default: any name opens it]
    #[arg(long, short = 'x')]
    name: Option<String>,
    /// Description for clients that ask
    #[arg(long, default_value = "bootroom export")]
    description: String,
    /// Address to listen on; may be given several times [default: 127.0.0.1]
    #[arg(long, short, value_name = "ADDRESS")]
    bind: Vec<IpAddr>,
    /// TCP port, of every address; may be given several times; 0 takes a free one and says which [default: 10809]
    #[arg(long, short)]
    port: Vec<u16>,
    /// Listen on a Unix socket; may be given several times; on it alone without --bind and --port
    #[arg(long, short, value_name = "PATH")]
    unix: Vec<PathBuf>,
    /// TLS
    #[arg(long, value_enum, default_value_t = TlsMode::Off, requires_if("on", "pki"), requires_if("required", "pki"))]
    tls: TlsMode,
    /// Folder with server.pem, server.key and ca.pem, as `bootroom pki` makes it
    #[arg(long, value_name = "DIR")]
    pki: Option<PathBuf>,
    /// Require a client certificate from the folder's CA
    #[arg(long, requires = "pki")]
    client_certificates: bool,
    /// Most connections from one address
    #[arg(long, default_value_t = 64, value_name = "N")]
    per_peer: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TlsMode {
    /// No TLS
    Off,
    /// For clients that ask for it
    On,
    /// For all
    Required,
}

/// Serves until SIGTERM or SIGINT; SIGHUP reads the certificates again.
pub fn run(options: &ExportOptions) -> anyhow::Result<Exit> {
    super::serve::start_log();
    super::serve::raise_file_limit();
    let opened = source::open(options)?;
    let tls = Arc::new(Tls::new(tls(options)?));
    let listeners: Vec<_> = listeners(options)?
        .into_iter()
        .map(|listener| (listener, tls.clone()))
        .collect();
    for (listener, _) in &listeners {
        tell!("listening on {}", listener.address());
    }
    let service = Service::start(ServiceOptions {
        listeners,
        exports: exports(options, &opened),
        limits: Limits {
            per_peer: options.per_peer,
            ..Limits::default()
        },
        events: Box::new(log),
    })?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    super::block_on(async {
        let stop = CancellationToken::new();
        let snapshots = tokio::spawn(serve_snapshots(opened.kept.clone(), stop.clone()));
        wait(&service).await?;
        stop.cancel();
        Ok(snapshots.await?)
    })?;
    service.drain(DRAIN);
    Ok(Exit::Ok)
}

fn exports(options: &ExportOptions, opened: &source::Opened) -> Arc<dyn Exports> {
    let name = options.name.clone().map_or(Wide::AnyName, Wide::Named);
    let one = OneExport::new(name, options.description.clone(), opened.export.clone());
    match &opened.kept {
        Some((overlay, _)) => Arc::new(WithSnapshots::new(one, overlay.clone())),
        None => Arc::new(one),
    }
}

/// Answers `bootroom snapshot --overlay`. Where that is not possible the disk is served all the same.
async fn serve_snapshots(kept: Option<(Arc<Overlay>, PathBuf)>, stop: CancellationToken) {
    let Some((overlay, folder)) = kept else {
        return;
    };
    let served = match ControlSocket::bind(&super::snapshot::socket_in(&folder)) {
        Ok(socket) => control::serve_overlay(socket, overlay, stop).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::warn!("snapshots can be neither taken nor dropped: {error:#}");
    }
}

async fn wait(service: &Service) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut reload = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = reload.recv() => match service.reload_tls() {
                Ok(()) => tracing::info!("certificates read again"),
                Err(error) => tracing::error!("the old certificates stay: {error:#}"),
            },
        }
    }
}

fn log(event: Event) {
    match event {
        Event::Attached {
            peer,
            export,
            secure,
            ..
        } => {
            tracing::info!(
                "{peer} opened {export:?}{}",
                if secure { " over TLS" } else { "" }
            );
        }
        Event::Detached {
            peer,
            export,
            reason,
            ..
        } => tracing::info!("{peer} left {export:?}: {reason}"),
        Event::Evicted { peer, owner } => {
            tracing::info!("{peer} lost {owner:?} to a newer connection")
        }
        Event::Refused { peer, reason } => tracing::debug!("{peer} turned away: {reason}"),
        Event::Failed {
            peer,
            export,
            error,
        } => tracing::error!("{peer}, {export:?}: {error}"),
    }
}

fn tls(options: &ExportOptions) -> anyhow::Result<TlsState> {
    let Some(pki) = options
        .pki
        .as_deref()
        .filter(|_| options.tls != TlsMode::Off)
    else {
        return Ok(TlsState::off());
    };
    let files = TlsFiles::in_folder(pki, options.client_certificates);
    TlsState::load(files, options.tls == TlsMode::Required)
}

fn listeners(options: &ExportOptions) -> anyhow::Result<Vec<Listener>> {
    let passed = passed_sockets()?;
    if !passed.is_empty() {
        return Ok(passed);
    }
    let unix = options.unix.iter().map(|path| Listener::unix(path));
    let tcp = addresses(options).into_iter().map(Listener::tcp);
    tcp.chain(unix).collect()
}

/// Every address with every port.
fn addresses(options: &ExportOptions) -> Vec<SocketAddr> {
    let (mut bind, mut ports) = (options.bind.clone(), options.port.clone());
    if bind.is_empty() && ports.is_empty() && !options.unix.is_empty() {
        return Vec::new();
    }
    if bind.is_empty() {
        bind.push(Ipv4Addr::LOCALHOST.into());
    }
    if ports.is_empty() {
        ports.push(nbd::DEFAULT_PORT);
    }
    let with_ports = |address: &IpAddr| {
        let address = *address;
        let ports = ports.iter();
        ports.map(move |port| SocketAddr::new(address, *port))
    };
    bind.iter().flat_map(with_ports).collect()
}
