//! What the services of a primary see of the pair: the machines' rows, leases, overlays and disks, on both servers at once.

mod device;
mod overlays;

use std::sync::Arc;

use pxe::{
    Mac,
    dhcp::{Lease, LeaseChange, LeaseLog},
};

use super::{driver::Mirror, store::record::Record};
use crate::clients::{
    error::{Error, Result},
    registry::Rows,
};

pub use overlays::PairOverlays;

/// The machines' rows of a pair.
pub struct PairRows(pub Arc<Mirror>);

impl Rows for PairRows {
    fn load(&self) -> Result<Vec<(Mac, String)>> {
        self.0.store().rows.load()
    }

    fn write(&self, mac: &Mac, row: Option<&str>) -> Result<()> {
        let record = Record::Client {
            mac: *mac,
            row: row.map(str::to_owned),
        };
        let context = || format!("cannot record {mac} on both servers");
        let done = self.0.record(None, &[record]);
        done.map_err(|error| Error::state(context(), error))
    }
}

/// The leases of a pair.
pub struct PairLeases(pub Arc<Mirror>);

impl LeaseLog for PairLeases {
    fn load(&mut self) -> pxe::Result<Vec<Lease>> {
        self.0.store().leases.read()
    }

    fn commit(&mut self, changes: &[LeaseChange]) -> pxe::Result<()> {
        let records: Vec<_> = changes.iter().map(Record::from).collect();
        let failed = |error| {
            pxe::Error::with_source(
                pxe::ErrorKind::Leases,
                "cannot write a lease down on both servers",
                error,
            )
        };
        self.0.record(None, &records).map_err(failed)
    }
}
