//! Every machine that was ever served, and its boots: in memory for answers, in [`Rows`] before they are given, so that a
//! token handed out, or a name given, outlives the server.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::{Mutex, RwLock};
use pxe::Mac;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::boot::Boots;
use super::error::{Error, Result};
pub use super::rows::{RedbRows, Rows};
use crate::config::units::ClientName;

/// Machines that are remembered at most.
const MOST_CLIENTS: usize = 20_000;

/// What is known of one machine for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who it is.
    pub mac: Mac,
    /// Its name, which no other machine has.
    pub name: ClientName,
    /// The group that it was taken into, when no `[clients]` table names it.
    pub group: Option<String>,
    /// When it was first seen.
    pub first_seen: SystemTime,
    /// Its boots.
    pub boots: Boots,
    /// Title of the menu entry that was chosen last, where the menu remembers.
    #[serde(default)]
    pub choice: Option<String>,
}

impl Record {
    /// Whether nothing of it would be missed.
    fn is_passing(&self) -> bool {
        let Boots {
            active,
            fresh_next,
            making,
            ..
        } = &self.boots;
        active.is_none() && fresh_next.is_empty() && !making
    }
}

/// All records.
pub struct Registry {
    rows: Arc<dyn Rows>,
    records: RwLock<HashMap<Mac, Record>>,
    names: RwLock<HashMap<ClientName, Mac>>,
    /// The machines that never had a disk, the one that was seen first in front: they make room for others.
    passing: Mutex<BTreeSet<(SystemTime, Mac)>>,
    /// Held over read, decide, write: two new machines must not get one name.
    change: Mutex<()>,
}

impl Registry {
    /// Takes up what is in `rows`. `upgrade` brings records of earlier releases up to date, and must leave alone those that
    /// are.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn open(rows: Arc<dyn Rows>, upgrade: &dyn Fn(&mut Value)) -> Result<Self> {
        let records = decode(rows.load()?, upgrade)?;
        let names = records
            .values()
            .map(|record| (record.name.clone(), record.mac))
            .collect();
        let passing = records.values().filter(|record| record.is_passing());
        let passing = passing.map(|record| (record.first_seen, record.mac));
        Ok(Registry {
            rows,
            passing: Mutex::new(passing.collect()),
            records: RwLock::new(records),
            names: RwLock::new(names),
            change: Mutex::new(()),
        })
    }

    /// The record of a machine.
    pub fn get(&self, mac: Mac) -> Option<Record> {
        self.records.read().get(&mac).cloned()
    }

    /// The name of a machine.
    pub fn name_of(&self, mac: Mac) -> Option<ClientName> {
        let records = self.records.read();
        records.get(&mac).map(|record| record.name.clone())
    }

    /// Whether a machine has this name.
    pub fn has_name(&self, name: &ClientName) -> bool {
        self.names.read().contains_key(name)
    }

    /// The record of the machine that has this name.
    pub fn by_name(&self, name: &str) -> Option<Record> {
        let mac = *self.names.read().get(&name.parse::<ClientName>().ok()?)?;
        self.get(mac)
    }

    /// The record for which `search` finds something, with that.
    pub fn find_map<T>(&self, search: impl Fn(&Record) -> Option<T>) -> Option<(Record, T)> {
        let records = self.records.read();
        records
            .values()
            .find_map(|record| Some((record.clone(), search(record)?)))
    }

    /// Every record, in the order of names.
    pub fn all(&self) -> Vec<Record> {
        let mut all: Vec<_> = self.records.read().values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The record of `mac`; if there is none, `make` decides it, knowing which names are taken.
    ///
    /// It is in memory only until something is to be remembered ([`Registry::update`]): whoever sends DHCP packets
    /// from invented addresses costs no disk, and makes room for the next when there are too many.
    pub fn get_or_make(
        &self,
        mac: Mac,
        make: impl FnOnce(&dyn Fn(&ClientName) -> bool) -> Record,
    ) -> Result<Record> {
        if let Some(record) = self.get(mac) {
            return Ok(record);
        }
        let _change = self.change.lock();
        if let Some(record) = self.get(mac) {
            return Ok(record);
        }
        if self.records.read().len() >= MOST_CLIENTS {
            self.forget_one()?;
        }
        let record = make(&|name| self.has_name(name));
        self.keep(record.clone());
        Ok(record)
    }

    /// Makes room: of the machines that never had a disk, the one that was seen first goes.
    fn forget_one(&self) -> Result<()> {
        let oldest = self.passing.lock().first().copied();
        let record = oldest.and_then(|(_, mac)| self.get(mac));
        let record = record.ok_or_else(|| Error::full(MOST_CLIENTS))?;
        if record.boots != Boots::default() {
            self.rows.write(&record.mac, None)?;
        }
        self.drop_record(&record);
        Ok(())
    }

    fn drop_record(&self, record: &Record) {
        self.records.write().remove(&record.mac);
        self.names.write().remove(&record.name);
        let seen = (record.first_seen, record.mac);
        self.passing.lock().remove(&seen);
    }

    /// Forgets the machine of `mac`; its name is free when this returns, on disk too.
    ///
    /// # Errors
    /// When the database cannot be written; then nothing changed.
    pub fn remove(&self, mac: Mac) -> Result<()> {
        let _change = self.change.lock();
        let Some(record) = self.get(mac) else {
            return Ok(());
        };
        self.rows.write(&mac, None)?;
        self.drop_record(&record);
        Ok(())
    }

    /// Changes the record of `mac` and returns it as it is then; on disk when this returns.
    ///
    /// # Errors
    /// When there is none, or the database cannot be written; then nothing changed.
    pub fn update(&self, mac: Mac, change: impl FnOnce(&mut Record)) -> Result<Record> {
        let _change = self.change.lock();
        let mut record = self
            .get(mac)
            .ok_or_else(|| Error::unknown(&mac.to_string()))?;
        let before = record.clone();
        change(&mut record);
        if record == before {
            return Ok(record);
        }
        self.store(record)
    }

    fn store(&self, record: Record) -> Result<Record> {
        let row = serde_json::to_string(&record);
        let row = row.map_err(|error| Error::state("cannot encode a client", error))?;
        self.rows.write(&record.mac, Some(&row))?;
        self.keep(record.clone());
        Ok(record)
    }

    fn keep(&self, record: Record) {
        let (mac, name) = (record.mac, record.name.clone());
        let seen = (record.first_seen, mac);
        match record.is_passing() {
            true => self.passing.lock().insert(seen),
            false => self.passing.lock().remove(&seen),
        };
        let old = self.records.write().insert(mac, record);
        let mut names = self.names.write();
        let renamed = old.filter(|old| old.name != name && names.get(&old.name) == Some(&mac));
        renamed.and_then(|old| names.remove(&old.name));
        names.insert(name, mac);
    }
}

fn decode(rows: Vec<(Mac, String)>, upgrade: &dyn Fn(&mut Value)) -> Result<HashMap<Mac, Record>> {
    let mut records = HashMap::new();
    for (_, row) in rows {
        let undecodable = |error| Error::state("a client's record does not decode", error);
        let mut row: Value = serde_json::from_str(&row).map_err(undecodable)?;
        upgrade(&mut row);
        let record: Record = serde_json::from_value(row).map_err(undecodable)?;
        records.insert(record.mac, record);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn open(path: &Path) -> Registry {
        Registry::open(Arc::new(RedbRows::open(path).unwrap()), &|_| {}).unwrap()
    }

    fn record(last: u8) -> Record {
        Record {
            mac: Mac([2, 0, 0, 0, 0, last]),
            name: format!("pc-{last}").parse().unwrap(),
            group: None,
            first_seen: SystemTime::UNIX_EPOCH,
            boots: Boots::default(),
            choice: None,
        }
    }

    #[test]
    fn records_outlive_the_registry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let mac = record(1).mac;
        {
            let registry = open(&path);
            registry.get_or_make(mac, |_| record(1)).unwrap();
            registry
                .update(mac, |record| record.boots.making = true)
                .unwrap();
        }
        let registry = open(&path);
        assert!(registry.get(mac).unwrap().boots.making);
        assert_eq!(registry.by_name("pc-1").unwrap().mac, mac);
    }

    #[test]
    fn a_flood_of_addresses_costs_no_disk_and_locks_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let registry = open(&path);
        registry.get_or_make(record(1).mac, |_| record(1)).unwrap();
        registry
            .update(record(1).mac, |record| record.boots.making = true)
            .unwrap();
        for number in 0..MOST_CLIENTS as u32 + 5 {
            let [a, b, c, d] = number.to_be_bytes();
            let mac = Mac([6, 0, a, b, c, d]);
            let name = format!("flood-{number}").parse().unwrap();
            registry
                .get_or_make(mac, |_| Record {
                    mac,
                    name,
                    ..record(2)
                })
                .unwrap();
        }
        assert!(registry.get(record(1).mac).is_some());
        drop(registry);
        assert_eq!(open(&path).all().len(), 1);
    }

    #[test]
    fn a_new_machine_learns_which_names_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let registry = open(&dir.path().join("state.redb"));
        registry.get_or_make(record(1).mac, |_| record(1)).unwrap();
        let second = registry.get_or_make(record(2).mac, |taken| {
            assert!(taken(&record(1).name) && !taken(&record(2).name));
            record(2)
        });
        assert_eq!(second.unwrap().name.as_str(), "pc-2");
    }
}
