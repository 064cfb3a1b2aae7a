//! Leases in a redb file: one table from the address to `mac(6) expires(8, big endian) hostname(rest, UTF-8)`.
//!
//! redb replaces its root by a checksummed two-slot write, so a torn write leaves the last commit in force; a commit
//! returns after fdatasync.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::lease::{Lease, LeaseChange, LeaseLog, UnixTime};
use crate::error::{Error, ErrorKind, Result};
use crate::machine::Mac;

const LEASES: TableDefinition<'static, u32, &[u8]> = TableDefinition::new("leases");

/// A lease file.
#[derive(Debug)]
pub struct RedbLeases {
    database: Database,
    path: PathBuf,
}

impl RedbLeases {
    /// Opens the file at `path`, or makes it. Fails if another process has it open.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        match Database::create(&path) {
            Ok(database) => Ok(Self { database, path }),
            Err(error) => Err(failed("open", &path, error)),
        }
    }

    /// All that was written.
    pub fn read(&self) -> Result<Vec<Lease>> {
        self.rows().map_err(|e| failed("read", &self.path, e))
    }

    /// Writes `changes`, in order, all or none of them, and returns once a power cut cannot undo them.
    pub fn write(&self, changes: &[LeaseChange]) -> Result<()> {
        self.put(changes)
            .map_err(|e| failed("write", &self.path, e))
    }

    fn rows(&self) -> std::result::Result<Vec<Lease>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let table = match transaction.open_table(LEASES) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut leases = Vec::new();
        for row in table.iter()? {
            let (address, value) = row?;
            leases.extend(decode(address.value().into(), value.value()));
        }
        Ok(leases)
    }

    fn put(&self, changes: &[LeaseChange]) -> std::result::Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(LEASES)?;
            for change in changes {
                match change {
                    LeaseChange::Put(lease) => {
                        table.insert(u32::from(lease.address), encode(lease).as_slice())?
                    }
                    LeaseChange::Remove(address) => table.remove(u32::from(*address))?,
                };
            }
        }
        Ok(transaction.commit()?)
    }
}

impl LeaseLog for RedbLeases {
    fn load(&mut self) -> Result<Vec<Lease>> {
        self.read()
    }

    fn commit(&mut self, changes: &[LeaseChange]) -> Result<()> {
        self.write(changes)
    }
}

fn failed(
    verb: &str,
    path: &Path,
    source: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::with_source(
        ErrorKind::Leases,
        format!("cannot {verb} the lease file {}", path.display()),
        source,
    )
}

fn encode(lease: &Lease) -> Vec<u8> {
    let mut value = lease.mac.0.to_vec();
    value.extend(lease.expires.0.to_be_bytes());
    value.extend(lease.hostname.as_deref().unwrap_or_default().as_bytes());
    value
}

fn decode(address: Ipv4Addr, value: &[u8]) -> Option<Lease> {
    let (mac, rest) = value.split_first_chunk::<6>()?;
    let (expires, name) = rest.split_first_chunk::<8>()?;
    let hostname = std::str::from_utf8(name)
        .ok()
        .filter(|n| !n.is_empty())
        .map(str::to_owned);
    Some(Lease {
        mac: Mac(*mac),
        address,
        expires: UnixTime(u64::from_be_bytes(*expires)),
        hostname,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(n: u8, hostname: Option<&str>) -> Lease {
        let mac = Mac([2, 0, 0, 0, 0, n]);
        Lease {
            mac,
            address: Ipv4Addr::new(10, 0, 0, n),
            expires: UnixTime(77),
            hostname: hostname.map(str::to_owned),
        }
    }

    #[test]
    fn leases_survive_closing_and_a_second_opener_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.redb");
        let mut log = RedbLeases::open(&path).unwrap();
        assert_eq!(log.load().unwrap(), []);
        let puts = [lease(1, None), lease(2, Some("r12-02")), lease(3, None)].map(LeaseChange::Put);
        log.commit(&puts).unwrap();
        log.commit(&[LeaseChange::Remove(Ipv4Addr::new(10, 0, 0, 1))])
            .unwrap();
        let error = RedbLeases::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Leases);
        assert!(error.to_string().contains("leases.redb"));
        drop(log);
        let leases = RedbLeases::open(&path).unwrap().load().unwrap();
        assert_eq!(leases, [lease(2, Some("r12-02")), lease(3, None)]);
    }
}
