//! Where a room's NBD service listens, and with which TLS: its own address, and what `[listeners]` adds.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    clients::identity::SiteTls,
    config::{Config, exports::ListenPlace, units::TlsMode},
    service::{
        Listener,
        tls::{Tls, TlsState},
    },
};

/// Listening sockets, and the TLS of each by the table that it is configured in.
pub struct Listeners {
    /// What the service accepts connections on.
    pub sockets: Vec<(Listener, Arc<Tls>)>,
    /// The same TLS, to be exchanged at a reload.
    pub tls: BTreeMap<String, Arc<Tls>>,
}

/// `[server]`, beside `listeners.NAME`.
const OWN: &str = "server";

impl Listeners {
    /// Reads the certificates and takes every port.
    ///
    /// # Errors
    /// A certificate that cannot be used, or a port that cannot be taken.
    pub fn bind(config: &Config) -> anyhow::Result<Self> {
        make_certificates(config)?;
        let mut states = tls_states(config)?;
        let mut sockets = Vec::new();
        let mut by_table = BTreeMap::new();
        for (table, place) in places(config) {
            let tls = Arc::new(Tls::new(
                states.remove(&table).unwrap_or_else(TlsState::off),
            ));
            sockets.push((listen(&place)?, tls.clone()));
            by_table.insert(table, tls);
        }
        Ok(Self {
            sockets,
            tls: by_table,
        })
    }
}

/// Every place that is listened at, by its table.
fn places(config: &Config) -> Vec<(String, ListenPlace)> {
    let server = &config.server;
    let address = (server.ip(), server.nbd_port).into();
    let own = ListenPlace::Tcp(address, Some(server.interface.value.clone()));
    let others = config.listeners.iter();
    let others = others.map(|(name, one)| (format!("listeners.{name}"), one.place.value.clone()));
    [(OWN.to_owned(), own)].into_iter().chain(others).collect()
}

fn listen(place: &ListenPlace) -> anyhow::Result<Listener> {
    match place {
        ListenPlace::Tcp(address, interface) => Listener::tcp_on(interface.as_deref(), *address),
        ListenPlace::Unix(path) => Listener::unix_for_group(path),
    }
}

/// TLS of every listener as `config` has it, with all certificates read, by table.
///
/// # Errors
/// A file that cannot be read or used, by name.
pub fn tls_states(config: &Config) -> anyhow::Result<BTreeMap<String, TlsState>> {
    let Some(site) = SiteTls::of(config) else {
        return Ok(BTreeMap::new());
    };
    let mut states = BTreeMap::new();
    // Machines whose group has another mode than the room's come in by the same port.
    if config.machines_use_tls() {
        let state = TlsState::load(site.files(), config.only_tls())?;
        states.insert(OWN.to_owned(), state);
    }
    for (name, listener) in &config.listeners {
        if listener.tls != TlsMode::Off {
            let files = site.listener_files(listener.client_certificates);
            let state = TlsState::load(files, listener.tls == TlsMode::Required)?;
            states.insert(format!("listeners.{name}"), state);
        }
    }
    Ok(states)
}

/// Makes the certificates that are needed and not there yet.
///
/// # Errors
/// What cannot be made.
pub fn make_certificates(config: &Config) -> anyhow::Result<()> {
    match SiteTls::of(config) {
        Some(site) => Ok(site.prepare()?),
        None => Ok(()),
    }
}
