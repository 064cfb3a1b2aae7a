//! What the services of a primary see of the pair: the machines' rows, leases, overlays and disks, on both servers at once.

mod device;
mod keys;
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
pub struct PairRows {
    /// What makes changes.
    pub mirror: Arc<Mirror>,
    /// The reign that they belong to.
    pub reign: u64,
}

impl Rows for PairRows {
    fn load(&self) -> Result<Vec<(Mac, String)>> {
        self.mirror.store().rows.load()
    }

    fn write(&self, mac: &Mac, row: Option<&str>) -> Result<()> {
        let record = Record::Client {
            mac: *mac,
            row: row.map(str::to_owned),
        };
        let context = || format!("cannot record {mac} on both servers");
        let done = self.mirror.record(self.reign, None, &[record]);
        done.map_err(|error| Error::state(context(), error))
    }
}

/// The leases of a pair.
pub struct PairLeases {
    /// What makes changes.
    pub mirror: Arc<Mirror>,
    /// The reign that they belong to.
    pub reign: u64,
}

impl LeaseLog for PairLeases {
    fn load(&mut self) -> pxe::Result<Vec<Lease>> {
        self.mirror.store().leases.read()
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
        self.mirror
            .record(self.reign, None, &records)
            .map_err(failed)
    }
}
