//! Metadata that both servers of a pair hold alike, as records: what `mirror::Op::Meta` and `mirror::Item::Metadata` carry.
//!
//! A change is a list of records, made in their order; the whole is all records there are. Both travel as JSON. A
//! record with nothing in it takes away what has its key. Kinds that a newer release adds are refused by an older one, so
//! both servers are upgraded before they are used.

use std::net::Ipv4Addr;

use bytes::Bytes;
use mirror::VolumeId;
use overlay::{BaseId, OverlayId, Retention, SnapshotName};
use pxe::{
    Mac,
    dhcp::{Lease, LeaseChange, UnixTime},
};
use serde::{Deserialize, Serialize};

/// One row of the metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Record {
    /// A machine: its row in the state database.
    Client {
        /// Who it is.
        mac: Mac,
        /// JSON.
        row: Option<String>,
    },
    /// An address that was given out.
    Lease {
        /// The address.
        address: Ipv4Addr,
        /// Who has it.
        lease: Option<LeaseRow>,
    },
    /// A disk.
    Volume {
        /// Its number, which no other disk ever has.
        volume: Number,
        /// What it is.
        spec: Option<VolumeSpec>,
    },
    /// A snapshot of a disk.
    Snapshot {
        /// The disk.
        volume: Number,
        /// Its name.
        name: SnapshotName,
        /// When it was taken, in seconds since 1970.
        taken: Option<u64>,
    },
    /// A file of keys or certificates.
    File {
        /// Below the data directory.
        path: String,
        /// What is in it.
        file: Option<PrivateFile>,
    },
}

/// A volume's number as JSON has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Number(pub u64);

impl From<VolumeId> for Number {
    fn from(volume: VolumeId) -> Self {
        Number(volume.0)
    }
}

impl From<Number> for VolumeId {
    fn from(number: Number) -> Self {
        VolumeId(number.0)
    }
}

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    /// The machine.
    pub mac: Mac,
    /// Until when, in seconds since 1970.
    pub expires: u64,
    /// The name that it was given.
    pub hostname: Option<String>,
}

/// What a disk is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// The overlay that holds it.
    pub overlay: OverlayId,
    /// The image version below.
    pub base: BaseId,
    /// Bytes of that version's disk.
    pub base_size: u64,
    /// Bytes of this disk.
    pub size: u64,
    /// Most bytes that it may take.
    pub quota: Option<u64>,
    /// Whether it lasts.
    pub retention: Retention,
}

/// A small file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateFile {
    /// Its permissions.
    pub mode: u32,
    /// What is in it: keys and certificates are text.
    pub text: String,
}

/// What a record is about: no two of the whole have the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A machine.
    Client(Mac),
    /// An address.
    Lease(Ipv4Addr),
    /// A disk.
    Volume(Number),
    /// A snapshot.
    Snapshot(Number, SnapshotName),
    /// A file.
    File(String),
}

impl Record {
    /// What it is about.
    pub fn key(&self) -> Key {
        match self {
            Self::Client { mac, .. } => Key::Client(*mac),
            Self::Lease { address, .. } => Key::Lease(*address),
            Self::Volume { volume, .. } => Key::Volume(*volume),
            Self::Snapshot { volume, name, .. } => Key::Snapshot(*volume, name.clone()),
            Self::File { path, .. } => Key::File(path.clone()),
        }
    }

    /// The record that takes away what has this key.
    pub fn absence(key: Key) -> Self {
        match key {
            Key::Client(mac) => Self::Client { mac, row: None },
            Key::Lease(address) => Self::Lease {
                address,
                lease: None,
            },
            Key::Volume(volume) => Self::Volume { volume, spec: None },
            Key::Snapshot(volume, name) => Self::Snapshot {
                volume,
                name,
                taken: None,
            },
            Key::File(path) => Self::File { path, file: None },
        }
    }
}

impl From<&LeaseChange> for Record {
    fn from(change: &LeaseChange) -> Self {
        match change {
            LeaseChange::Put(lease) => lease.clone().into(),
            LeaseChange::Remove(address) => Self::absence(Key::Lease(*address)),
        }
    }
}

impl From<Lease> for Record {
    fn from(lease: Lease) -> Self {
        let row = LeaseRow {
            mac: lease.mac,
            expires: lease.expires.0,
            hostname: lease.hostname,
        };
        Self::Lease {
            address: lease.address,
            lease: Some(row),
        }
    }
}

/// The change of the lease file that a lease's record stands for.
pub fn lease_change(address: Ipv4Addr, lease: Option<&LeaseRow>) -> LeaseChange {
    match lease {
        None => LeaseChange::Remove(address),
        Some(row) => LeaseChange::Put(Lease {
            mac: row.mac,
            address,
            expires: UnixTime(row.expires),
            hostname: row.hostname.clone(),
        }),
    }
}

/// Records as bytes.
pub fn encode(records: &[Record]) -> serde_json::Result<Bytes> {
    serde_json::to_vec(records).map(Bytes::from)
}

/// Bytes as records.
pub fn decode(bytes: &[u8]) -> serde_json::Result<Vec<Record>> {
    serde_json::from_slice(bytes)
}

/// What turns `old` into `new`: first what comes or changes, then what goes.
pub fn difference(old: &[Record], new: &[Record]) -> Vec<Record> {
    let known: std::collections::HashSet<Key> = new.iter().map(Record::key).collect();
    let coming = new.iter().filter(|record| !old.contains(record)).cloned();
    let gone = old
        .iter()
        .map(Record::key)
        .filter(|key| !known.contains(key));
    coming.chain(gone.map(Record::absence)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(last: u8, name: &str) -> Record {
        Lease {
            mac: Mac([2, 0, 0, 0, 0, last]),
            address: [10, 0, 0, last].into(),
            expires: UnixTime(7),
            hostname: Some(name.into()),
        }
        .into()
    }

    #[test]
    fn records_survive_the_way_and_what_is_unknown_is_refused() {
        let records = [
            lease(1, "a"),
            Record::absence(Key::File("identity/x".into())),
            Record::absence(Key::Volume(Number(u64::MAX))),
        ];
        assert_eq!(decode(&encode(&records).unwrap()).unwrap(), records);
        assert!(decode(br#"[{"printer":{"name":"x"}}]"#).is_err());
        assert!(decode(b"[").is_err());
    }

    #[test]
    fn the_difference_brings_what_is_new_and_takes_what_is_not() {
        let old = [lease(1, "a"), lease(2, "b"), lease(3, "c")];
        let new = [lease(1, "a"), lease(2, "other"), lease(4, "d")];
        let gone = Record::absence(old[2].key());
        let steps = difference(&old, &new);
        assert_eq!(steps, [lease(2, "other"), lease(4, "d"), gone]);
        assert_eq!(difference(&new, &new), []);
    }
}
