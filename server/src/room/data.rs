//! What a room serves: the machines' records, leases and disks, of this server alone or of a pair.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use images::Catalogue;
use overlay::Store;
use pxe::dhcp::{LeaseLog, RedbLeases};

use super::low_water;
use crate::{
    clients::{
        overlays::Overlays,
        registry::{RedbRows, Rows},
        upgrade,
        versions::OpenVersions,
    },
    config::Config,
    mirror::{
        pair::Pair,
        served::{PairLeases, PairOverlays, PairRows},
    },
};

/// Where everything that lasts is written down.
pub struct Data {
    /// The machines' rows.
    pub rows: Arc<dyn Rows>,
    /// The leases.
    pub leases: Box<dyn LeaseLog>,
    /// The overlays.
    pub overlays: Arc<dyn Overlays>,
    /// The versions below them.
    pub versions: Arc<OpenVersions>,
}

impl Data {
    /// Of this server alone.
    ///
    /// # Errors
    /// What cannot be opened.
    pub fn alone(config: &Config) -> anyhow::Result<Self> {
        let data = &config.server.data.value;
        let leases = open_leases(data)?;
        let catalogue = Catalogue::open(config.server.images())?;
        let rows = RedbRows::open(&data.join("state.redb"))?;
        let options = overlay::Options {
            low_water: low_water(),
            ..Default::default()
        };
        let store = Store::open(&config.server.overlays(), options)?;
        upgrade::overlays(&store, &catalogue)?;
        Ok(Self {
            rows: Arc::new(rows),
            leases: Box::new(leases),
            overlays: Arc::new(store),
            versions: Arc::new(OpenVersions::of(catalogue)),
        })
    }

    /// Of a pair, through its primary, in one reign.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn of(pair: &Arc<Pair>, reign: u64) -> anyhow::Result<Self> {
        let mirror = pair.mirror.clone();
        Ok(Self {
            rows: Arc::new(PairRows {
                mirror: mirror.clone(),
                reign,
            }),
            leases: Box::new(PairLeases { mirror, reign }),
            overlays: Arc::new(PairOverlays::new(pair.clone(), reign)?),
            versions: pair.versions.clone(),
        })
    }
}

fn open_leases(data: &Path) -> anyhow::Result<RedbLeases> {
    let path = data.join("leases.redb");
    RedbLeases::open(&path).with_context(|| format!("cannot open {}", path.display()))
}
