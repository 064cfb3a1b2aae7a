//! Leases that outlive the process: the table in memory, and the log that it is written to before a client hears of it.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::table::{Ask, Choice, Table};
use crate::error::Result;
use crate::machine::Mac;

/// How many addresses of other servers are remembered, and for how long: while a machine boots.
const MOST_FOREIGN: usize = 4096;
const FOREIGN: Duration = Duration::from_secs(900);

/// Seconds since 1970 on the wall clock: what leases count in, since they outlive a boot of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The moment `seconds` later; the end of time stays the end of time.
    pub fn after(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

impl From<SystemTime> for UnixTime {
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }
}

/// One address given to one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The machine.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
    /// Until when.
    pub expires: UnixTime,
    /// The name it was given.
    pub hostname: Option<String>,
}

/// One change to what is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseChange {
    /// This lease holds now, instead of any other of its address.
    Put(Lease),
    /// Nobody has the address.
    Remove(Ipv4Addr),
}

/// Where leases are written down.
pub trait LeaseLog: Send {
    /// All that was written.
    fn load(&mut self) -> Result<Vec<Lease>>;

    /// Writes `changes`, in order, all or none of them, and returns once a power cut cannot undo them.
    fn commit(&mut self, changes: &[LeaseChange]) -> Result<()>;
}

/// The leases of one server, shared by its services.
pub struct Leases {
    table: Mutex<Table>,
    log: Mutex<Box<dyn LeaseLog>>,
    /// Addresses that another server gave, as seen in proxy mode.
    foreign: Mutex<HashMap<Ipv4Addr, (Mac, Instant)>>,
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leases")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl Leases {
    /// Takes up where the log ends.
    pub fn open(mut log: Box<dyn LeaseLog>) -> Result<Arc<Self>> {
        let mut table = Table::default();
        table.restore(log.load()?);
        let foreign = Mutex::default();
        Ok(Arc::new(Self {
            table: Mutex::new(table),
            log: Mutex::new(log),
            foreign,
        }))
    }

    /// The machine that holds `address` now, by our lease or, in proxy mode, by what it was seen asking for.
    pub fn mac_of(&self, address: Ipv4Addr) -> Option<Mac> {
        let own = self.table.lock().owner(address, SystemTime::now().into());
        own.or_else(|| {
            let (mac, seen) = self.foreign.lock().get(&address).copied()?;
            (seen.elapsed() < FOREIGN).then_some(mac)
        })
    }

    /// The address of a machine, if it ever had one that nobody took since.
    pub fn address_of(&self, mac: Mac) -> Option<Ipv4Addr> {
        self.table.lock().address(mac)
    }

    /// All leases by address, run out or not.
    pub fn list(&self) -> Vec<Lease> {
        self.table.lock().leases()
    }

    /// Forgets a machine's address; blocks until that is on disk.
    pub fn forget(&self, mac: Mac) -> Result<()> {
        let change = self.table.lock().forget(mac);
        self.commit(change.as_slice())
    }

    /// Writes changes down; blocks until they are on disk.
    pub(crate) fn commit(&self, changes: &[LeaseChange]) -> Result<()> {
        if changes.is_empty() {
            Ok(())
        } else {
            self.log.lock().commit(changes)
        }
    }

    /// A machine asks another server for `address`, and most likely gets it.
    pub(crate) fn learn(&self, mac: Mac, address: Ipv4Addr, now: Instant) {
        let mut foreign = self.foreign.lock();
        foreign.retain(|_, (holder, seen)| {
            *holder != mac && now.saturating_duration_since(*seen) < FOREIGN
        });
        if foreign.len() < MOST_FOREIGN {
            foreign.insert(address, (mac, now));
        }
    }

    pub(crate) fn offer(&self, ask: &Ask<'_>, now: UnixTime) -> Option<Choice> {
        self.table.lock().offer(ask, now)
    }

    pub(crate) fn confirm(
        &self,
        ask: &Ask<'_>,
        lease: Lease,
        now: UnixTime,
    ) -> Option<Vec<LeaseChange>> {
        self.table.lock().confirm(ask, lease, now)
    }

    pub(crate) fn release(
        &self,
        mac: Mac,
        address: Ipv4Addr,
        now: UnixTime,
    ) -> Option<LeaseChange> {
        self.table.lock().release(mac, address, now)
    }

    pub(crate) fn quarantine(
        &self,
        mac: Mac,
        address: Ipv4Addr,
        now: UnixTime,
    ) -> Option<LeaseChange> {
        self.table.lock().quarantine(mac, address, now)
    }

    pub(crate) fn withdraw(&self, mac: Mac) {
        self.table.lock().withdraw(mac);
    }
}

/// Leases that live as long as the process: for proxy mode, which gives none, and for tests.
#[derive(Debug, Default)]
pub struct NoLog;

impl LeaseLog for NoLog {
    fn load(&mut self) -> Result<Vec<Lease>> {
        Ok(Vec::new())
    }

    fn commit(&mut self, _: &[LeaseChange]) -> Result<()> {
        Ok(())
    }
}
