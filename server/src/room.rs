//! One server: its services, wired together, from start to a stop that loses nothing.

use std::{collections::HashSet, sync::Arc, time::Duration};

use anyhow::Context;
use parking_lot::Mutex;
use pxe::{
    Leases, Policy,
    dhcp::{Dhcp, DhcpConfig, Subnet},
    files::Roots,
    http::{Http, HttpConfig},
    quiet::Quiet,
    tftp::{Tftp, TftpConfig},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    clients::{
        BootPolicy, Clients, disks::Disks, identity::SiteTls, overlays::Whose, registry::Registry,
        upgrade,
    },
    config::{Config, DhcpMode},
    control::{Desk, Sources},
    exports::{ClientExports, NamedExports, RoomExports},
    service::{self, Limits, Listener, Service, ServiceOptions, tls::Tls},
    trace::Trace,
    watch,
};

mod data;
mod exports;
mod listeners;
mod reload;
mod roles;
mod signals;

pub use data::Data;
use listeners::Listeners;
pub use listeners::tls_states;
pub use reload::{Reloaded, Reloader};
pub use roles::serve;

/// Everything that serves a room, bound and ready.
pub struct Room {
    clients: Arc<Clients>,
    leases: Arc<Leases>,
    dhcp: Option<Dhcp>,
    tftp: Tftp,
    http: Http,
    quiet: Option<Quiet>,
    disks: Listeners,
    named: Arc<NamedExports>,
}

/// How a room ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// What was asked is answered and flushed.
    Orderly,
    /// Another server answers: nobody is told anything.
    AtOnce,
}

impl Room {
    /// Takes every port, for the machines whose `data` are.
    ///
    /// # Errors
    /// What cannot be opened or taken, and why.
    pub fn open(config: Config, data: Data) -> anyhow::Result<Self> {
        let leases = Leases::open(data.leases).context("cannot read the leases")?;
        let registry = Registry::open(data.rows, &|row| {
            upgrade::record(row, data.versions.catalogue());
        })?;
        let disks = Disks::new(data.overlays, data.versions);
        let clients = Clients::new(config, registry, disks, Arc::new(Trace::default()))?;
        let clients = Arc::new(clients);
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
            clients.disks().overlays().keep_keys(Whose::All)?;
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
        })
    }

    /// Serves until `farewell` says how to stop: no new boots and no control, then the disks.
    ///
    /// # Errors
    /// When a service fails while it should serve.
    pub async fn serve(
        self,
        desk: &Desk,
        farewell: impl Future<Output = Farewell>,
    ) -> anyhow::Result<()> {
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
        if let Some(quiet) = self.quiet {
            services.spawn(named("IPv6", quiet.run(stop.clone().cancelled_owned())));
        }
        services.spawn(watch::run(self.clients.clone(), stop.clone()));
        announce(&self.clients.config());
        desk.open(Sources {
            clients: self.clients,
            leases: self.leases,
            disks: disks.clone(),
            reloader,
            started: desk.started(),
        });
        let outcome = tokio::select! {
            farewell = farewell => Ok(farewell),
            Some(ended) = services.join_next() => Err(ended_early(ended)),
        };
        desk.close();
        stop.cancel();
        let at_once = matches!(outcome, Ok(Farewell::AtOnce));
        let disks = tokio::task::spawn_blocking(move || match at_once {
            true => disks.abandon(DRAIN),
            false => drain(&disks),
        });
        while services.join_next().await.is_some() {}
        disks.await?;
        outcome.map(drop)
    }
}

fn ended_early(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow::anyhow!("a service ended by itself"),
        Ok(Err(error)) => error,
        Err(error) => error.into(),
    }
}

fn drain(disks: &Service) {
    if !disks.drain(DRAIN) {
        tracing::warn!("some clients did not take their answers in {DRAIN:?} and were cut off");
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
