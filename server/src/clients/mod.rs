//! Clients: who a machine is, what it boots, and which disk is its own.
//!
//! [`Clients`] is where the configuration, the registry of machines seen and their disks meet. Identity runs the
//! whole way: MAC → [`directory::Profile`] and [`registry::Record`] → script with token → export → overlay. An
//! overlay is filed under its MAC, and only a token made for that MAC opens it.

pub mod boot;
mod commit;
pub mod directory;
pub mod disks;
pub mod error;
mod policy;
pub mod registry;
pub mod script;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use overlay::Attachment;
use parking_lot::Mutex;
use pxe::Mac;

use crate::{
    config::{
        Config,
        units::{ClientName, Retention},
    },
    trace::{Step, Trace},
};
use boot::{Admission, Boot, Token};
use directory::Profile;
use disks::Disks;
use error::{Error, ErrorKind, Result};
use registry::{Record, Registry};
use script::{Place, Script};

pub use policy::BootPolicy;

/// The clients of one server.
pub struct Clients {
    config: ArcSwap<Config>,
    registry: Registry,
    disks: Disks,
    trace: Arc<Trace>,
    /// One boot of a machine is decided at a time.
    locks: Mutex<HashMap<Mac, Arc<Mutex<()>>>>,
    committing: Mutex<HashSet<Mac>>,
}

/// What `client reset` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reset {
    /// The overlay is gone; the next boot makes a fresh one.
    Done,
    /// The machine runs: its disk stays until its next boot, which is fresh.
    AtNextBoot,
}

impl Clients {
    /// Serves the machines of `config`.
    ///
    /// # Errors
    /// When names that the configuration gives cannot be recorded.
    pub fn new(
        config: Config,
        registry: Registry,
        disks: Disks,
        trace: Arc<Trace>,
    ) -> Result<Self> {
        let config = ArcSwap::from_pointee(config);
        let clients = Clients {
            config,
            registry,
            disks,
            trace,
            locks: Mutex::default(),
            committing: Mutex::default(),
        };
        clients.apply_names()?;
        Ok(clients)
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Overlays and versions.
    pub fn disks(&self) -> &Disks {
        &self.disks
    }

    /// Every machine that was ever served.
    pub fn records(&self) -> Vec<Record> {
        self.registry.all()
    }

    /// The machine of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name: &str) -> Result<Record> {
        self.registry
            .by_name(name)
            .ok_or_else(|| Error::unknown(name))
    }

    /// What the machine of this address is called, if it was ever served.
    pub fn name_of(&self, mac: Mac) -> Option<ClientName> {
        self.registry.get(mac).map(|record| record.name)
    }

    /// The machine of this address, as the configuration has it; nothing if it is not to be served.
    ///
    /// # Errors
    /// When a machine seen for the first time cannot be recorded.
    pub fn identify(&self, mac: Mac) -> Result<Option<(Record, Profile)>> {
        let config = self.config();
        let Some(profile) = directory::profile(&config, mac) else {
            return Ok(None);
        };
        let record = self.registry.get_or_make(mac, |taken| {
            directory::first_record(&config, mac, &profile, taken, SystemTime::now())
        })?;
        Ok(Some((record, profile)))
    }

    /// What the configuration says of a machine that was served before.
    pub fn profile(&self, mac: Mac) -> Option<Profile> {
        directory::profile(&self.config(), mac)
    }

    /// Names in `[clients]` win over names that were invented: whoever has such a name by invention gets another.
    fn apply_names(&self) -> Result<()> {
        let config = self.config();
        for (name, client) in &config.clients {
            let holder = self.registry.by_name(name.as_str());
            if let Some(holder) = holder.filter(|holder| holder.mac != client.mac.value) {
                self.rename(&config, &holder)?;
            }
            if self.registry.get(client.mac.value).is_some() {
                self.registry
                    .update(client.mac.value, |record| record.name = name.clone())?;
            }
        }
        Ok(())
    }

    fn rename(&self, config: &Config, holder: &Record) -> Result<()> {
        let taken = |name: &str| self.registry.by_name(name).is_some();
        let now = SystemTime::now();
        let name = match directory::profile(config, holder.mac) {
            Some(profile) => {
                directory::first_record(config, holder.mac, &profile, &taken, now).name
            }
            None => directory::name_by_mac(holder.mac),
        };
        tracing::warn!(
            "client {} ({}) is now called {name}: the configuration gives its name to another machine",
            holder.name,
            holder.mac
        );
        self.registry
            .update(holder.mac, |record| record.name = name)
            .map(drop)
    }

    /// Makes the script of a machine's next boot, with a fresh token. Disturbs nothing that runs.
    ///
    /// # Errors
    /// When the machine is not served, or what it should boot is not there; the message is fit for its screen.
    pub fn script(&self, mac: Mac, place: Place) -> Result<Script> {
        let (record, profile) = self.identify(mac)?.ok_or_else(|| {
            let context =
                format!("{mac} matches no [clients] or [groups] table of the configuration");
            Error::new(ErrorKind::Unknown, context)
        })?;
        let version = self
            .disks
            .version_to_boot(mac, &profile, record.boots.fresh)?;
        let token = fresh_token()?;
        let boot = Boot {
            token,
            version: version.id(),
            fetched: SystemTime::now(),
        };
        self.registry
            .update(mac, |record| record.boots.expect(boot))?;
        Ok(Script::new(&record, &profile, &version, token, place))
    }

    /// Whose disk name and token open, and how large it is. Changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when they do not belong together.
    pub fn disk_of(&self, name: &str, token: &str) -> Result<(Mac, u64)> {
        let (record, profile, admission) = self.admit(name, token)?;
        let (boot, new_boot) = match admission {
            Admission::Reconnect(boot) => (boot, false),
            Admission::NewBoot(boot) => (boot, true),
        };
        let fresh = record.boots.fresh || (new_boot && profile.retention == Retention::Boot);
        let size = self.disks.size(record.mac, &profile, boot.version, fresh)?;
        Ok((record.mac, size))
    }

    fn admit(&self, name: &str, token: &str) -> Result<(Record, Profile, Admission)> {
        let refused = || Error::new(ErrorKind::Refused, "no such export");
        let token: Token = token.parse().map_err(|_| refused())?;
        let record = self.registry.by_name(name).ok_or_else(refused)?;
        let profile = self.profile(record.mac).ok_or_else(refused)?;
        let admission = record.boots.admit(&token).ok_or_else(refused)?;
        Ok((record, profile, admission))
    }

    /// Opens the disk of the boot that `token` stands for, and evicts whoever had it.
    ///
    /// The first attach of a boot makes it the active one. That is on disk before a `boot` client's overlay is
    /// made afresh, and the overlay before the first answer: a crash in between is made good at the next attach.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when name and token do not belong together.
    pub fn attach(&self, name: &str, token: &str) -> Result<Attachment> {
        let (record, ..) = self.admit(name, token)?;
        let mac = record.mac;
        let lock = self.lock_of(mac);
        let _deciding = lock.lock();
        let (record, profile, admission) = self.admit(name, token)?;
        let (record, boot, detail) = match admission {
            Admission::Reconnect(boot) => (record, boot, "reconnected"),
            Admission::NewBoot(boot) => {
                (self.begin(mac, &profile, boot.clone())?, boot, "new boot")
            }
        };
        let attachment = self
            .disks
            .attach(mac, &profile, boot.version, record.boots.fresh)?;
        self.registry
            .update(mac, |record| record.boots.fresh = false)?;
        self.trace
            .add(Step::new(mac, Some(&record.name), "attached", detail));
        Ok(attachment)
    }

    fn begin(&self, mac: Mac, profile: &Profile, boot: Boot) -> Result<Record> {
        let fresh = profile.retention == Retention::Boot;
        self.registry
            .update(mac, |record| record.boots.activate(boot, fresh))
    }

    /// Gives a machine a fresh disk: now if nothing has it attached, else at its next boot.
    ///
    /// # Errors
    /// When there is no such machine, or its disk cannot be thrown away.
    pub fn reset(&self, name: &str) -> Result<Reset> {
        let mac = self.find(name)?.mac;
        let lock = self.lock_of(mac);
        let _deciding = lock.lock();
        if self.disks.attached(mac) {
            self.registry
                .update(mac, |record| record.boots.fresh = true)?;
            return Ok(Reset::AtNextBoot);
        }
        // First the token, on disk: a machine that lost its connection must not come back to another disk.
        self.registry.update(mac, |record| {
            record.boots = boot::Boots {
                fresh: true,
                ..Default::default()
            }
        })?;
        self.disks.delete(mac)?;
        Ok(Reset::Done)
    }

    /// The machine that reports with this token.
    pub fn reporting(&self, token: &str) -> Option<Record> {
        let token: Token = token.parse().ok()?;
        let mut found = None;
        for record in self.registry.all() {
            if record.boots.admit(&token).is_some() {
                found = Some(record);
            }
        }
        found
    }

    /// The boot trace.
    pub fn trace(&self) -> &Arc<Trace> {
        &self.trace
    }

    fn lock_of(&self, mac: Mac) -> Arc<Mutex<()>> {
        self.locks.lock().entry(mac).or_default().clone()
    }
}

fn fresh_token() -> Result<Token> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| {
        Error::new(
            ErrorKind::State,
            format!("no randomness for a token: {error}"),
        )
    })?;
    Ok(Token::new(random))
}

#[cfg(test)]
mod tests;
