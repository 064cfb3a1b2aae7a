//! Where the machines' records are written down: `state.redb`.
//!
//! One table, `clients`: MAC (12 hex digits) → JSON of [`super::registry::Record`]. redb commits with fsync.

use std::{
    fs::{OpenOptions, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use pxe::Mac;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::error::{Error, Result};
use crate::files::PRIVATE;

const CLIENTS: TableDefinition<&str, &[u8]> = TableDefinition::new("clients");

/// Where the machines' records are written down: one row each, JSON.
pub trait Rows: Send + Sync {
    /// All rows.
    ///
    /// # Errors
    /// When they cannot be read.
    fn load(&self) -> Result<Vec<(Mac, String)>>;

    /// Writes a row, or takes it away; durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written; then nothing changed.
    fn write(&self, mac: &Mac, row: Option<&str>) -> Result<()>;
}

/// The rows of one server's database.
pub struct RedbRows {
    database: Database,
}

impl RedbRows {
    /// Opens or makes the database at `path`.
    ///
    /// # Errors
    /// When it cannot be opened, or is held by another server.
    pub fn open(path: &Path) -> Result<Self> {
        let context = || format!("cannot open the state database {}", path.display());
        private(path).map_err(|error| Error::state(context(), error))?;
        let database = Database::create(path).map_err(|error| Error::state(context(), error))?;
        Ok(Self { database })
    }

    fn read(&self) -> std::result::Result<Vec<(String, Vec<u8>)>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let table = match transaction.open_table(CLIENTS) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            other => other?,
        };
        let mut rows = Vec::new();
        for entry in table.iter()? {
            let (mac, row) = entry?;
            rows.push((mac.value().to_owned(), row.value().to_vec()));
        }
        Ok(rows)
    }

    fn commit(&self, mac: &Mac, row: Option<&str>) -> std::result::Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        let mut table = transaction.open_table(CLIENTS)?;
        match row {
            Some(row) => drop(table.insert(mac.hex().as_str(), row.as_bytes())?),
            None => drop(table.remove(mac.hex().as_str())?),
        }
        drop(table);
        Ok(transaction.commit()?)
    }
}

impl Rows for RedbRows {
    fn load(&self) -> Result<Vec<(Mac, String)>> {
        let failed = |error: redb::Error| Error::state("cannot read the clients table", error);
        let rows = self.read().map_err(failed)?;
        let parsed = rows.into_iter().map(|(mac, row)| {
            let bad = |error| Error::state(format!("the row of {mac} is no record"), error);
            let row = String::from_utf8(row).map_err(bad)?;
            let mac = mac.parse().map_err(|error| {
                Error::state(format!("the clients table has a row of {mac:?}"), error)
            })?;
            Ok((mac, row))
        });
        parsed.collect()
    }

    fn write(&self, mac: &Mac, row: Option<&str>) -> Result<()> {
        let context = || format!("cannot record {mac} in the state database");
        let done = self.commit(mac, row);
        done.map_err(|error| Error::state(context(), error))
    }
}

/// Sees to it that nobody else on this host reads the tokens in it.
fn private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(true).open(path)?;
    file.set_permissions(Permissions::from_mode(PRIVATE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_servers_cannot_share_a_state_database() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let _first = RedbRows::open(&path).unwrap();
        assert!(RedbRows::open(&path).is_err());
    }
}
