//! A new configuration for a room that runs: all of it, or nothing.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use pxe::dhcp::DhcpControl;
use serde::{Deserialize, Serialize};

use super::{dhcp_config, exports::opener, listeners::tls_states};
use crate::{
    clients::{Clients, identity::SiteTls, overlays::Whose},
    config::{self, Config, host, problem::Problems, restart},
    exports::{Changes, NamedExports},
    service::{
        Service,
        tls::{Tls, TlsState, revoked_serials},
    },
};

/// How long clients of a changed or removed export have to take the answers to what they have asked.
const DRAIN: Duration = Duration::from_secs(10);

/// What is exchanged at a reload.
pub struct Reloader {
    /// The machines, and the configuration in force.
    pub clients: Arc<Clients>,
    /// The named exports.
    pub named: Arc<NamedExports>,
    /// TLS of every listener, by its table.
    pub tls: BTreeMap<String, Arc<Tls>>,
    /// What gives out addresses, if anything does.
    pub dhcp: Option<DhcpControl>,
    /// The connections.
    pub disks: Service,
    /// Reloads do not overlap.
    pub one_at_a_time: Mutex<()>,
}

/// What a reload did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// To the named exports.
    pub exports: Changes,
    /// Machines in `[clients]` and patterns in `[groups]`, now.
    pub clients: usize,
    /// Groups, now.
    pub groups: usize,
}

impl Reloader {
    /// Reads the configuration again and puts it in force. Blocks until connections that are concerned have ended.
    ///
    /// # Errors
    /// [`Problems`] when the new configuration cannot be used, else what failed; the old one stays in force.
    pub fn reload(&self) -> anyhow::Result<Reloaded> {
        let _alone = self.one_at_a_time.lock();
        let old = self.clients.config();
        let new = config::load(&old.sources.path())?;
        check(&old, &new)?;
        if let Some(site) = SiteTls::of(&new) {
            site.prepare()?;
            self.clients.disks().overlays().keep_keys(Whose::All)?;
        }
        let mut tls = tls_states(&new)?;
        let revoked = revoked(&new)?;
        let plan = self.named.plan(&new, &opener(&self.clients));
        let plan = plan.map_err(|list| new.refuse(list))?;
        let (clients, groups) = (new.clients.len(), new.groups.len());
        let addresses = dhcp_config(&new);
        addresses.check()?;
        self.clients.reconfigure(new)?;
        if let Some(dhcp) = &self.dhcp {
            dhcp.reconfigure(addresses)?;
        }
        for (table, listener) in &self.tls {
            listener.replace(tls.remove(table).unwrap_or_else(TlsState::off));
        }
        Ok(Reloaded {
            exports: self.named.apply(plan, &self.disks, &revoked, DRAIN),
            clients,
            groups,
        })
    }
}

/// Serial numbers of certificates that count no longer.
fn revoked(config: &Config) -> anyhow::Result<HashSet<Vec<u8>>> {
    let list = config.tls.as_ref().and_then(|tls| tls.revoked.as_ref());
    match list.filter(|_| SiteTls::of(config).is_some()) {
        Some(list) => revoked_serials(list),
        None => Ok(HashSet::new()),
    }
}

fn check(old: &Config, new: &Config) -> Result<(), Problems> {
    let mut problems = restart::needs(old, new);
    problems.extend(host::check(new));
    match problems.is_empty() {
        true => Ok(()),
        false => Err(new.refuse(problems)),
    }
}

/// SIGHUP: the outcome goes to the log.
pub(super) fn on_signal(reloader: Arc<Reloader>) {
    let announce = |state| {
        let _ = sd_notify::notify(&[state]);
    };
    tokio::task::spawn_blocking(move || {
        announce(sd_notify::NotifyState::Reloading);
        match reloader.reload() {
            Ok(done) => tracing::info!("configuration read again: {done:?}"),
            Err(error) => tracing::error!("the old configuration stays in force: {error:#}"),
        }
        announce(sd_notify::NotifyState::Ready);
    });
}
