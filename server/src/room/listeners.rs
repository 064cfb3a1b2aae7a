//! Where a room's NBD service listens, and with which TLS: its own address, and what `[listeners]` adds.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    config::{
        Config,
        exports::{ClientCertificates, ListenPlace, ListenerTls, TlsMode},
    },
    service::{
        Listener,
        tls::{ClientCa, Tls, TlsFiles, TlsState},
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
    let own = (OWN.to_owned(), &config.server.tls);
    let others = config.listeners.iter();
    let others = others.map(|(name, one)| (format!("listeners.{name}"), &one.tls));
    let all = [own].into_iter().chain(others);
    all.map(|(table, tls)| Ok((table, tls_state(config, tls)?)))
        .collect()
}

fn tls_state(config: &Config, tls: &ListenerTls) -> anyhow::Result<TlsState> {
    match files(config, tls) {
        Some(files) => TlsState::load(files, tls.mode() == TlsMode::Required),
        None => Ok(TlsState::off()),
    }
}

fn files(config: &Config, tls: &ListenerTls) -> Option<TlsFiles> {
    let settings = config.tls.as_ref()?;
    if tls.mode() == TlsMode::Off {
        return None;
    }
    let clients = settings.client_ca.as_ref().map(|ca| ClientCa {
        ca: ca.clone(),
        revoked: settings.revoked.clone(),
        required: tls.client_certificates() == ClientCertificates::Required,
    });
    Some(TlsFiles {
        certificate: settings.certificate.clone(),
        key: settings.key.clone(),
        clients,
    })
}
