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
pub mod identity;
mod menus;
pub mod overlays;
mod policy;
pub mod registry;
mod rows;
pub mod script;
pub mod snapshots;
pub mod upgrade;
pub mod versions;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use images::ImageName;
use overlay::{OverlayId, OverlayInfo};
use parking_lot::Mutex;
use pxe::Mac;

use crate::{
    config::{
        Config,
        exports::TlsMode,
        units::{ClientName, Retention},
    },
    trace::{Step, Trace},
};
use boot::{Admission, Boot, Token};
use directory::{Numbers, Profile};
use disks::{Disks, overlay_id};
use error::{Error, ErrorKind, Result};
use identity::Identities;
use overlays::{Held, Whose};
use registry::{Record, Registry};
use script::{Place, Script};

pub use policy::BootPolicy;

/// The clients of one server.
pub struct Clients {
    config: ArcSwap<Config>,
    registry: Registry,
    disks: Disks,
    identities: Identities,
    trace: Arc<Trace>,
    numbers: Numbers,
    /// One boot of a machine is decided at a time.
    locks: Mutex<HashMap<Mac, Arc<Mutex<()>>>>,
    committing: Mutex<HashSet<Mac>>,
    /// Snapshots that were opened for reading.
    tickets: Mutex<Vec<snapshots::Ticket>>,
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
        let identities = Identities::at(config.server.identities());
        let clients = Clients {
            config: ArcSwap::from_pointee(config),
            registry,
            disks,
            identities,
            trace,
            numbers: Numbers::default(),
            locks: Mutex::default(),
            committing: Mutex::default(),
            tickets: Mutex::default(),
        };
        clients.apply_names(&clients.config())?;
        Ok(clients)
    }

    /// Serves the machines of `config` from now on. Those that run keep their disks, also if it does not name them.
    ///
    /// # Errors
    /// When names that it gives cannot be recorded; the configuration stays as it was then.
    pub fn reconfigure(&self, config: Config) -> Result<()> {
        self.numbers.reset();
        self.apply_names(&config)?;
        self.config.store(Arc::new(config));
        Ok(())
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
        self.registry.name_of(mac)
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
            let names = (&self.numbers, taken);
            directory::first_record(&config, mac, &profile, names, SystemTime::now())
        })?;
        Ok(Some((record, profile)))
    }

    /// What the configuration says of a machine that was served before.
    pub fn profile(&self, mac: Mac) -> Option<Profile> {
        directory::profile(&self.config(), mac)
    }

    /// Whether the disk of a machine is encrypted on the wire.
    pub fn tls_of(&self, mac: Mac) -> TlsMode {
        let by_default = || self.config().server.tls.mode();
        self.profile(mac)
            .map_or_else(by_default, |profile| profile.tls)
    }

    /// Names in `[clients]` win over names that were invented: whoever has such a name by invention gets another.
    fn apply_names(&self, config: &Config) -> Result<()> {
        for record in self.registry.all() {
            let owner = config.clients.get(&record.name);
            if owner.is_some_and(|owner| owner.mac.value != record.mac) {
                self.rename(config, &record)?;
            }
        }
        for (name, client) in &config.clients {
            if self.registry.get(client.mac.value).is_some() {
                self.registry
                    .update(client.mac.value, |record| record.name = name.clone())?;
            }
        }
        Ok(())
    }

    fn rename(&self, config: &Config, holder: &Record) -> Result<()> {
        let taken = |name: &ClientName| self.registry.has_name(name);
        let profile = directory::profile(config, holder.mac);
        let names = (&self.numbers, &taken as &dyn Fn(&ClientName) -> bool);
        let name = directory::invent_name(config, holder.mac, profile.as_ref(), names);
        let (mac, old) = (holder.mac, &holder.name);
        tracing::warn!(
            "client {old} ({mac}) is now called {name}: the configuration gives its name away"
        );
        self.registry
            .update(mac, |record| record.name = name)
            .map(drop)
    }

    /// Makes the script of a boot of this machine, with a fresh token. Disturbs nothing that runs.
    ///
    /// # Errors
    /// When what it should boot is not there; the message is fit for its screen.
    pub fn script(&self, record: &Record, profile: &Profile, place: Place) -> Result<Script> {
        let image = profile.image.as_ref().ok_or_else(no_image)?;
        let fresh = record.boots.owes_fresh(&image.image);
        let version = self
            .disks
            .version_to_boot(record.mac, image, profile.retention, fresh)?;
        let now = SystemTime::now();
        if let Some(boot) = record.boots.just_fetched(version.id(), now) {
            return Ok(Script::new(record, profile, &version, boot.token, place));
        }
        let token = fresh_token()?;
        let boot = Boot {
            token,
            image: image.image.clone(),
            version: version.id(),
            fetched: now,
            name: record.name.clone(),
        };
        self.registry
            .update(record.mac, |record| record.boots.expect(boot))?;
        Ok(Script::new(record, profile, &version, token, place))
    }

    /// The disk that is meant when nobody says of which image: that of the configured one, the same whatever the machine
    /// booted last; or, where it has none of that, that of its last boot.
    ///
    /// # Errors
    /// When there is neither.
    pub fn main_disk(&self, record: &Record) -> Result<OverlayId> {
        let configured = self.profile(record.mac).and_then(|profile| profile.image);
        let main = configured.map(|image| overlay_id(record.mac, &image.image));
        match main.filter(|id| !matches!(self.disks.info(id), Ok(None))) {
            Some(id) => Ok(id),
            None => Ok(overlay_id(record.mac, &self.current_image(record)?)),
        }
    }

    /// The image of the machine's last boot, or the one that is configured.
    ///
    /// # Errors
    /// When there is neither.
    pub fn current_image(&self, record: &Record) -> Result<ImageName> {
        let booted = record.boots.active.as_ref().map(|boot| &boot.image);
        let configured = || Some(self.profile(record.mac)?.image?.image);
        booted.cloned().or_else(configured).ok_or_else(no_image)
    }

    /// Notes which entry of its menu was chosen at a machine.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub fn remember(&self, mac: Mac, title: &str) -> Result<()> {
        let choice = Some(title.to_owned());
        self.registry
            .update(mac, |record| record.choice = choice)
            .map(drop)
    }

    /// The second initrd of the boot that `token` stands for, and whose boot that is. Only until the boot's first
    /// attach: from then on every program on the machine can read the token.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when no boot waits for it; [`ErrorKind::Identity`] when it cannot be made.
    pub fn identity(&self, token: &str) -> Result<(Mac, Vec<u8>)> {
        let (record, profile) = self.waiting(token)?;
        let initrd = self.identities.initrd(&self.config(), &record, &profile)?;
        self.keep_keys(&record)?;
        Ok((record.mac, initrd))
    }

    /// The private ssh host key of the boot `identity/NAME/TOKEN`, where it is not in the initrd. As long as that.
    ///
    /// # Errors
    /// As [`Clients::identity`].
    pub fn secret(&self, name: &str, token: &str) -> Result<String> {
        let (record, profile) = self.waiting(token)?;
        match profile.has_secret() && record.name.as_str() == name {
            true => {
                let secret = self.identities.secret(&record)?;
                self.keep_keys(&record)?;
                Ok(secret)
            }
            false => Err(Error::new(ErrorKind::Refused, "no such secret")),
        }
    }

    /// Those of others are not looked at: a whole room boots at once.
    fn keep_keys(&self, record: &Record) -> Result<()> {
        let (mac, name) = (record.mac, record.name.as_str());
        let whose = Whose::Machine { mac, name };
        self.disks.overlays().keep_keys(whose)
    }

    /// The machine whose boot `token` has not attached its disk yet, by the name that its disk has.
    fn waiting(&self, token: &str) -> Result<(Record, Profile)> {
        let refused = || Error::new(ErrorKind::Refused, "no boot waits for this identity");
        let (record, admission) = self.admit(token).map_err(|_| refused())?;
        let Admission::NewBoot(boot) = admission else {
            return Err(refused());
        };
        let profile = self.profile(record.mac).ok_or_else(refused)?;
        let name = boot.name;
        Ok((Record { name, ..record }, profile))
    }

    /// Whose disk `client/NAME/TOKEN` is, and how large. Changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when it is none.
    pub fn disk_of(&self, name: &str, token: &str) -> Result<(Mac, u64)> {
        let (record, admission) = self.admit_as(name, token)?;
        let profile = self.profile(record.mac);
        let (boot, fresh) = match admission {
            Admission::Reconnect(boot) => (boot, record.boots.making),
            Admission::NewBoot(boot) => {
                let fresh = self.begins_fresh(&record, &boot, profile.as_ref());
                (boot, fresh)
            }
        };
        let id = overlay_id(record.mac, &boot.image);
        let size = self
            .disks
            .size(&id, profile.as_ref(), boot.version, fresh)?;
        Ok((record.mac, size))
    }

    /// The name must be the one that the boot began with: a machine that is given another while it runs still comes
    /// back with the old one.
    fn admit_as(&self, name: &str, token: &str) -> Result<(Record, Admission)> {
        let found = self.admit(token)?;
        match found.1.boot().name.as_str() == name {
            true => Ok(found),
            false => Err(Error::new(ErrorKind::Refused, "no such export")),
        }
    }

    fn admit(&self, token: &str) -> Result<(Record, Admission)> {
        let refused = || Error::new(ErrorKind::Refused, "no such export");
        let token: Token = token.parse().map_err(|_| refused())?;
        self.registry
            .find_map(|record| record.boots.admit(&token))
            .ok_or_else(refused)
    }

    fn begins_fresh(&self, record: &Record, boot: &Boot, profile: Option<&Profile>) -> bool {
        let at_every_boot = profile.is_some_and(|p| p.retention == Retention::Boot);
        let none_yet = || {
            let id = overlay_id(record.mac, &boot.image);
            matches!(self.disks.info(&id), Ok(None))
        };
        record.boots.owes_fresh(&boot.image) || at_every_boot || none_yet()
    }

    /// Opens the disk of the boot that name and token stand for, to be served to a connection ([`Disks::overlays`]).
    ///
    /// The first attach of a boot makes it the active one. That is on disk before a `boot` client's overlay is
    /// made afresh, and the overlay before the first answer: a crash in between is made good at the next attach.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when they open nothing; [`ErrorKind::Disk`] when the overlay cannot be made or
    /// opened.
    pub fn attach(&self, name: &str, token: &str) -> Result<Arc<Held>> {
        let mac = self.admit_as(name, token)?.0.mac;
        let lock = self.lock_of(mac);
        let _deciding = lock.lock();
        let (record, admission) = self.admit_as(name, token)?;
        let profile = self.profile(mac);
        let (record, boot, detail) = match admission {
            Admission::Reconnect(boot) => (record, boot, "reconnected"),
            Admission::NewBoot(boot) => {
                let fresh = self.begins_fresh(&record, &boot, profile.as_ref());
                let begun = self
                    .registry
                    .update(mac, |r| r.boots.activate(boot.clone(), fresh))?;
                self.leave_other_disks(mac, &boot, profile.as_ref());
                (begun, boot, "new boot")
            }
        };
        let id = overlay_id(mac, &boot.image);
        let overlay = match record.boots.making {
            true => self.disks.make(&id, profile.as_ref(), boot.version)?,
            false => self.disks.open_existing(&id)?,
        };
        if let Some(profile) = &profile {
            self.disks.apply_limits(&overlay, profile);
        }
        self.registry
            .update(mac, |record| record.boots.making = false)?;
        self.trace
            .add(Step::new(mac, Some(&record.name), "attached", detail));
        Ok(overlay)
    }

    /// A boot of one image ends what the machine did with its disks of others. Those that would be made afresh at
    /// their next boot anyway are not kept till then; those that last stay as they are.
    fn leave_other_disks(&self, mac: Mac, boot: &Boot, profile: Option<&Profile>) {
        let kept = overlay_id(mac, &boot.image);
        self.disks.evict_others(mac, &kept);
        let fresh_each = profile.is_some_and(|p| p.retention == Retention::Boot);
        if !fresh_each || self.committing.lock().contains(&mac) {
            return;
        }
        let passing = |info: &OverlayInfo| info.retention == overlay::Retention::Discard;
        for (id, info) in self.disks.of_machine(mac).unwrap_or_default() {
            if id == kept || !info.as_ref().is_ok_and(passing) {
                continue;
            }
            if let Err(error) = self.disks.delete(&id) {
                tracing::warn!(
                    "a disk that is no longer needed stays: {}",
                    error.with_causes()
                );
            }
        }
    }

    /// Gives a machine a fresh disk: at its next boot if it may be running, else at once. `now` does not wait for a
    /// machine that is not connected: if it runs after all, it has lost its disk. `image` says which disk; without it
    /// the current one is meant, and the machine's disks of other images stay.
    ///
    /// # Errors
    /// When there is no such machine, its disk is being committed, or cannot be thrown away.
    pub fn reset(&self, name: &str, image: Option<ImageName>, now: bool) -> Result<Reset> {
        let mac = self.find(name)?.mac;
        let lock = self.lock_of(mac);
        let _deciding = lock.lock();
        let record = self.find(name)?;
        let named = image.is_some();
        let image = image.map_or_else(|| self.current_image(&record), Ok)?;
        let id = overlay_id(mac, &image);
        if named && matches!(self.disks.info(&id), Ok(None)) {
            let context = format!("{name} has no disk of image {}", image.as_str());
            return Err(Error::new(ErrorKind::Unknown, context));
        }
        let active = record.boots.active.as_ref();
        let booted = active.is_some_and(|boot| boot.image == image);
        let may_run = booted && !record.boots.shut_down && !now;
        if may_run || self.disks.in_use(&id) {
            self.registry.update(mac, |record| {
                record.boots.fresh_next.insert(image);
            })?;
            return Ok(Reset::AtNextBoot);
        }
        self.not_committing(name, mac)?;
        // First the token, on disk: a machine that lost its connection must not come back to another disk.
        self.registry.update(mac, |record| {
            record.boots.pending.retain(|boot| boot.image != image);
            record.boots.fresh_next.insert(image);
            if booted {
                record.boots.active = None;
                record.boots.making = false;
            }
        })?;
        self.disks.delete(&id)?;
        Ok(Reset::Done)
    }

    fn not_committing(&self, name: &str, mac: Mac) -> Result<()> {
        if !self.committing.lock().contains(&mac) {
            return Ok(());
        }
        let context = format!("the disk of {name} is being committed: wait until that is done");
        Err(Error::new(ErrorKind::NotBootable, context))
    }

    /// Forgets a machine: its tokens, its disks, its name. Should it come again, it is a new one. What a crash in
    /// between leaves is still known by its name, and can be forgotten again.
    ///
    /// # Errors
    /// When there is no such machine, it has its disk attached or is being committed, or its disks cannot be deleted.
    pub fn forget(&self, name: &str) -> Result<Mac> {
        let mac = self.find(name)?.mac;
        let lock = self.lock_of(mac);
        let _deciding = lock.lock();
        self.not_committing(name, mac)?;
        if self.disks.machine_in_use(mac) {
            let context = format!("{name} has its disk attached: shut it down first");
            return Err(Error::new(ErrorKind::NotBootable, context));
        }
        self.registry
            .update(mac, |record| record.boots = boot::Boots::default())?;
        for (id, _) in self.disks.of_machine(mac)? {
            self.disks.delete(&id)?;
        }
        self.identities.forget(&self.config(), mac, name)?;
        self.disks.overlays().keep_keys(Whose::All)?;
        self.registry.remove(mac)?;
        self.numbers.reset();
        self.trace.forget(mac);
        Ok(mac)
    }

    /// Notes what a machine reports of itself; nothing if nobody has such a token.
    ///
    /// # Errors
    /// When a shutdown cannot be recorded.
    pub fn reported(&self, token: &str, event: &str) -> Result<Option<Record>> {
        let Ok((record, admission)) = self.admit(token) else {
            return Ok(None);
        };
        if event == "shutdown" && matches!(admission, Admission::Reconnect(_)) {
            self.registry
                .update(record.mac, |record| record.boots.shut_down = true)?;
        }
        Ok(Some(record))
    }

    /// The boot trace.
    pub fn trace(&self) -> &Arc<Trace> {
        &self.trace
    }

    fn lock_of(&self, mac: Mac) -> Arc<Mutex<()>> {
        self.locks.lock().entry(mac).or_default().clone()
    }
}

fn no_image() -> Error {
    let context = "no image is configured for it: add image = \"…\" to its group";
    Error::new(ErrorKind::NotBootable, context)
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
