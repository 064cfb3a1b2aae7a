//! One server: its services, wired together, from start to a stop that loses nothing.

use std::{
    collections::HashSet,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use images::Catalogue;
use overlay::Store;
use parking_lot::Mutex;
use pxe::{
    Leases, Policy,
    dhcp::{Dhcp, DhcpConfig, RedbLeases, Subnet},
    files::Roots,
    http::{Http, HttpConfig},
    quiet::Quiet,
    tftp::{Tftp, TftpConfig},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clients::{
        BootPolicy, Clients,
        disks::Disks,
        identity::SiteTls,
        registry::{RedbRows, Registry},
        upgrade,
        versions::OpenVersions,
    },
    config::{Config, DhcpMode},
    control::{self, ControlSocket},
    exports::{ClientExports, NamedExports, RoomExports},
    service::{self, Limits, Listener, Service, ServiceOptions, tls::Tls},
    trace::Trace,
    watch,
};

mod exports;
mod listeners;
mod reload;

use listeners::Listeners;
pub use listeners::tls_states;
pub use reload::{Reloaded, Reloader};

/// Everything that serves a room, bound and ready.
pub struct Room {
    clients: Arc<Clients>,
    leases: Arc<Leases>,
    dhcp: Option<Dhcp>,
    tftp: Tftp,
    http: Http,
    quiet: Option<Quiet>,
    control: ControlSocket,
    disks: Listeners,
    named: Arc<NamedExports>,
}

impl Room {
    /// Opens the data directory and takes every port.
    ///
    /// # Errors
    /// What cannot be opened or taken, and why.
    pub fn open(config: Config) -> anyhow::Result<Self> {
        let control = ControlSocket::bind(&config.server.control)?;
        let leases = open_leases(&config.server.data.value)?;
        let clients = Arc::new(open_clients(config)?);
        let config = clients.config();
        let policy: Arc<dyn Policy> = Arc::new(BootPolicy::new(clients.clone()));
        let dhcp = match config.dhcp.mode {
            DhcpMode::Off => None,
            _ => Some(Dhcp::bind(
                dhcp_config(&config),
                leases.clone(),
                policy.clone(),
            )?),
        };
        let interface = &config.server.interface.value;
        let mut tftp = TftpConfig::new(interface, config.server.ip());
        tftp.roots = roots(&config);
        let mut http = HttpConfig::new(interface, config.server.ip());
        http.port = config.server.http_port;
        if let Some(site) = SiteTls::of(&config) {
            site.prepare()?;
        }
        http.roots = roots(&config);
        let quiet = config.server.quiet_ipv6.then(|| Quiet::bind(interface));
        Ok(Room {
            disks: Listeners::bind(&config)?,
            named: exports::begin(&clients)?,
            quiet: quiet.transpose()?,
            tftp: Tftp::bind(tftp, leases.clone(), policy.clone())?,
            http: Http::bind(http, leases.clone(), policy)?,
            clients,
            leases,
            dhcp,
            control,
        })
    }

    /// Serves until SIGTERM or SIGINT, then stops in order: no new boots and no control, then the disks, whose last answers are flushed.
    ///
    /// # Errors
    /// When a service fails while it should serve.
    pub async fn serve(self) -> anyhow::Result<()> {
        let stop = CancellationToken::new();
        let mut services = JoinSet::new();
        let control = self.dhcp.as_ref().map(Dhcp::control);
        if let Some(dhcp) = self.dhcp {
            services.spawn(named("DHCP", dhcp.run(stop.clone().cancelled_owned())));
        }
        services.spawn(named("TFTP", self.tftp.run(stop.clone().cancelled_owned())));
        services.spawn(named("HTTP", self.http.run(stop.clone().cancelled_owned())));
        let exports = RoomExports {
            clients: ClientExports::new(self.clients.clone()),
            named: self.named.clone(),
        };
        let disks = serve_disks(self.disks.sockets, exports)?;
        let reloader = Arc::new(Reloader {
            clients: self.clients.clone(),
            named: self.named,
            tls: self.disks.tls,
            dhcp: control,
            disks: disks.clone(),
            one_at_a_time: Mutex::default(),
        });
        let sources = control::Sources {
            clients: self.clients.clone(),
            leases: self.leases,
            disks: disks.clone(),
            reloader: reloader.clone(),
            started: Instant::now(),
        };
        services.spawn(control::serve(self.control, sources, stop.clone()));
        if let Some(quiet) = self.quiet {
            services.spawn(named("IPv6", quiet.run(stop.clone().cancelled_owned())));
        }
        services.spawn(watch::run(self.clients.clone(), stop.clone()));
        let signals = Signals::register()?;
        announce(&self.clients.config());
        let outcome = signals.wait(&mut services, &reloader).await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        stop.cancel();
        while services.join_next().await.is_some() {}
        if !tokio::task::spawn_blocking(move || disks.drain(DRAIN)).await? {
            tracing::warn!("some clients did not take their answers in {DRAIN:?} and were cut off");
        }
        outcome
    }
}

/// How long clients have to take the answers to what they have asked before the server stops.
const DRAIN: Duration = Duration::from_secs(10);

fn serve_disks(
    listeners: Vec<(Listener, Arc<Tls>)>,
    exports: RoomExports,
) -> anyhow::Result<Service> {
    let said = Said::default();
    let service = Service::start(ServiceOptions {
        listeners,
        exports: Arc::new(exports),
        limits: Limits::default(),
        events: Box::new(move |event| log_disk_event(&said, event)),
    });
    service.context("cannot start the NBD service")
}

/// What was logged of peers that are turned away: once is enough for each, however often it tries.
#[derive(Default)]
struct Said(Mutex<HashSet<(service::PeerAddress, String)>>);

impl Said {
    fn first(&self, peer: &service::PeerAddress, reason: &str) -> bool {
        let mut said = self.0.lock();
        if said.len() >= MOST_SAID {
            said.clear();
        }
        said.insert((*peer, reason.to_owned()))
    }
}

/// Peers and reasons that are remembered.
const MOST_SAID: usize = 1024;

/// The boot trace has a client's own steps already; the log gets what only the connection knows.
fn log_disk_event(said: &Said, event: service::Event) {
    use service::Event::{Attached, Detached, Evicted, Failed, Refused};
    match event {
        Attached {
            peer,
            owner,
            export,
            ..
        } => tracing::info!("{peer} attached {}", what(owner, &export)),
        Detached {
            peer,
            owner,
            export,
            reason,
        } => tracing::info!("{peer} let go of {}: {reason}", what(owner, &export)),
        Evicted { peer, owner } => {
            tracing::warn!("{peer} lost the disk of {owner} to a newer connection");
        }
        Refused { peer, reason } if said.first(&peer, &reason) => {
            tracing::warn!("{peer} was turned away: {reason}");
        }
        Refused { .. } => {}
        Failed { peer, error, .. } => tracing::error!("a request of {peer} failed: {error}"),
    }
}

/// A machine's disk has an owner, and a secret in its name.
fn what(owner: Option<String>, export: &str) -> String {
    match owner {
        Some(owner) => format!("the disk of {owner}"),
        None => format!("the export {export}"),
    }
}

async fn named(
    name: &'static str,
    service: impl Future<Output = pxe::Result<()>>,
) -> anyhow::Result<()> {
    service
        .await
        .with_context(|| format!("the {name} service failed"))
}

fn announce(config: &Config) {
    let server = &config.server;
    tracing::info!(
        "bootroom {} serves {} on {}",
        env!("CARGO_PKG_VERSION"),
        server.address.value,
        server.interface.value
    );
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// What a server is told. Registered before anyone is told that it is ready.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn register() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        Ok(Signals {
            terminate,
            interrupt,
            hangup,
        })
    }

    /// A signal ends it well; a service that ends by itself does not.
    async fn wait(
        mut self,
        services: &mut JoinSet<anyhow::Result<()>>,
        reloader: &Arc<Reloader>,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {
                    tracing::info!("SIGTERM: stopping");
                    return Ok(());
                }
                _ = self.interrupt.recv() => {
                    tracing::info!("SIGINT: stopping");
                    return Ok(());
                }
                _ = self.hangup.recv() => reload::on_signal(reloader.clone()),
                Some(ended) = services.join_next() => {
                    ended??;
                    anyhow::bail!("a service ended by itself");
                }
            }
        }
    }
}

fn open_leases(data: &Path) -> anyhow::Result<Arc<Leases>> {
    let path = data.join("leases.redb");
    let log = RedbLeases::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let leases = Leases::open(Box::new(log));
    leases.with_context(|| format!("cannot read the leases in {}", path.display()))
}

fn open_clients(config: Config) -> anyhow::Result<Clients> {
    let catalogue = Catalogue::open(config.server.images())?;
    let state = config.server.data.value.join("state.redb");
    let rows = Arc::new(RedbRows::open(&state)?);
    let registry = Registry::open(rows, &|row| upgrade::record(row, &catalogue))?;
    let options = overlay::Options {
        low_water: low_water(),
        ..Default::default()
    };
    let store = Store::open(&config.server.overlays(), options)?;
    upgrade::overlays(&store, &catalogue)?;
    let versions = OpenVersions::of(catalogue);
    let disks = Disks::new(Arc::new(store), Arc::new(versions));
    Ok(Clients::new(
        config,
        registry,
        disks,
        Arc::new(Trace::default()),
    )?)
}

/// Below this much free space no new overlay is made and only lasting ones grow.
fn low_water() -> u64 {
    1 << 30
}

fn dhcp_config(config: &Config) -> DhcpConfig {
    let server = &config.server;
    let interface = server.interface.value.clone();
    let mut dhcp = DhcpConfig::proxy(interface, server.ip());
    if config.dhcp.mode == DhcpMode::Full {
        dhcp = DhcpConfig::full(
            dhcp.interface,
            server.ip(),
            Subnet::new(server.address.value),
        );
        dhcp.subnets = config.pxe_subnets();
    }
    dhcp.http_base = format!("http://{}:{}/", server.ip(), server.http_port);
    dhcp
}

/// The boot loaders of Debian's packages, and what the configuration adds.
fn roots(config: &Config) -> Roots {
    let loaders = Roots::loaders();
    match &config.server.files {
        Some(files) => loaders.with_dir("", &files.value),
        None => loaders,
    }
}
