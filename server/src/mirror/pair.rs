//! One server of a pair, from its configuration to a running half: everything opened, joined and set going.

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use ::images::{Cancel, Catalogue, VersionId};
use anyhow::Context;
use mirror::{Durable, Incarnation, Message, Node};
use overlay::{Base, BaseId, OverlayInfo, Store};
use parking_lot::Mutex;
use pxe::RedbLeases;

use super::{
    asking::WitnessClient,
    clock,
    driver::{Mirror, Persister},
    images,
    late_base::LateBase,
    link::{self, Doors, Ends, Outgoing, Taken},
    secret::PairSecret,
    state::{Found, StateFile},
    store::{
        PairStore, damaged,
        kept::Kept,
        volumes::{Amiss, Lost, Volumes},
    },
    supplies::{Supplies, SuppliesView},
};
use crate::{
    clients::{registry::RedbRows, upgrade, versions::OpenVersions},
    config::{Config, standby::Standby},
};

/// This server's half.
pub struct Pair {
    /// What runs it.
    pub mirror: Arc<Mirror>,
    /// The overlays.
    pub overlays: Arc<Store>,
    /// The versions below them.
    pub versions: Arc<OpenVersions>,
    /// The other half, and who decides.
    pub settings: Standby,
    /// What there is to say of image versions on their way.
    pub supplies: Mutex<SuppliesView>,
    /// Stops the copy that is under way.
    pub(super) fetching: Mutex<Option<Cancel>>,
    /// Versions that the other server has, as it said last.
    held_there: Mutex<Option<HashSet<VersionId>>>,
}

impl Pair {
    /// Opens the data directory and joins the other server.
    ///
    /// # Errors
    /// What cannot be opened or taken, and why.
    pub fn open(config: &Config, settings: &Standby, low_water: u64) -> anyhow::Result<Arc<Self>> {
        let secret = Arc::new(PairSecret::read(&settings.secret)?);
        let data = &config.server.data.value;
        let folder = data.join("mirror");
        let (state, mut found) = StateFile::of_this_host(&folder)?;
        let overlays = Arc::new(open_overlays(config, low_water)?);
        let versions = Arc::new(OpenVersions::of(Catalogue::open(config.server.images())?));
        upgrade::overlays(&overlays, versions.catalogue())?;
        let (volumes, amiss) = open_volumes(&folder, overlays.clone(), &versions)?;
        if found.durable.history.is_empty() {
            volumes.forget(&amiss.lost)?;
            volumes.adopt_all(&|info| base_size(&versions, info))?;
        } else {
            let missing = missing(&found.durable, &amiss);
            note_lost(&mut found.durable, &missing, &state)?;
            volumes.forget(&amiss.lost)?;
            clear_strangers(&volumes, &overlays)?;
        }
        let leases = data.join("leases.redb");
        let store = PairStore {
            data: data.clone(),
            rows: Arc::new(RedbRows::open(&data.join("state.redb"))?),
            leases: RedbLeases::open(&leases)
                .with_context(|| format!("cannot open {}", leases.display()))?,
            volumes,
            half_old: AtomicBool::new(found.durable.inconsistent),
            left_out: Mutex::default(),
            kept: open_kept(&folder, &mut found.durable, &state)?,
        };
        let store = Arc::new(store);
        if found.durable.kept.is_none()
            && let Err(error) = store.forget_kept()
        {
            tracing::warn!("what was kept from before a resync takes up space still: {error:#}");
        }
        let node = start_node(settings, found)?;
        let mirror = Mirror::new(node, store, Persister::new(state));
        let pair = Arc::new(Self {
            mirror,
            overlays,
            versions,
            settings: settings.clone(),
            supplies: Mutex::default(),
            fetching: Mutex::default(),
            held_there: Mutex::default(),
        });
        pair.join(secret)?;
        Ok(pair)
    }

    /// Disks that this server has from the time when it was alone. To become a standby would delete them, so that is not
    /// done before a person says `discard`.
    pub fn own_disks(&self) -> usize {
        match self.mirror.is_new() {
            true => self.mirror.store().volumes.specs().len(),
            false => 0,
        }
    }

    /// Whether a machine may boot a version: a standby that could take over must have it, too.
    pub fn may_boot(&self, version: VersionId) -> bool {
        let held = self.held_there.lock();
        let status = self.mirror.status();
        !(status.paired || status.resync.is_some())
            || held.as_ref().is_none_or(|held| held.contains(&version))
    }

    /// This server is primary: its versions and pointers are its own from now on.
    pub fn stop_fetching(&self) {
        if let Some(cancel) = self.fetching.lock().as_ref() {
            cancel.cancel();
        }
    }

    fn join(self: &Arc<Self>, secret: Arc<PairSecret>) -> anyhow::Result<()> {
        let ends = Ends {
            me: self.settings.me(),
            secret: secret.clone(),
            peer: self.settings.peer.value,
            settings: self.settings.digest(),
        };
        // Not before it has the image versions.
        self.mirror.prepare(false);
        link::listen(self.settings.listen, ends.clone(), self.clone())?;
        let own = self.mirror.clone();
        let outgoing = Outgoing::start(ends.clone(), move |up| {
            if !up {
                own.link_down();
            }
        })?;
        let answered = self.mirror.clone();
        let witness = self.settings.witness.clone().map(|place| {
            let answered = Box::new(move |answer| answered.witnessed(answer));
            WitnessClient::start(place, secret, self.settings.me(), answered)
        });
        self.mirror.begin(outgoing, witness.transpose()?)?;
        Supplies::start(self.clone(), ends)
    }
}

impl Doors for Pair {
    fn messages(&self, messages: Vec<Message>) {
        self.mirror.receive(messages);
    }

    fn silent(&self) {
        self.mirror.link_down();
    }

    fn images(&self, mut stream: Taken) -> anyhow::Result<()> {
        stream.socket().set_read_timeout(Some(SLOW))?;
        stream.socket().set_write_timeout(Some(SLOW))?;
        let holds = |held: Vec<VersionId>| {
            *self.held_there.lock() = Some(held.into_iter().collect());
        };
        images::serve(self.versions.catalogue(), &mut stream, &|| false, &holds)
    }
}

/// How long the other server may be silent while it copies images.
const SLOW: std::time::Duration = std::time::Duration::from_secs(60);

pub(super) fn open_overlays(config: &Config, low_water: u64) -> overlay::Result<Store> {
    let options = overlay::Options {
        low_water,
        ..Default::default()
    };
    Store::open(&config.server.overlays(), options)
}

pub(super) fn open_volumes(
    folder: &Path,
    overlays: Arc<Store>,
    versions: &Arc<OpenVersions>,
) -> anyhow::Result<(Volumes, Amiss)> {
    let versions = versions.clone();
    let bases = move |id: BaseId, size| base(&versions, id, size);
    Volumes::open(&folder.join("volumes.redb"), overlays, Box::new(bases))
}

/// What is kept from before a resync that has not ended. Without the metadata of that time it is of no use.
fn open_kept(folder: &Path, durable: &mut Durable, state: &StateFile) -> anyhow::Result<Kept> {
    let Some(name) = durable.kept else {
        return Ok(Kept::nothing(folder));
    };
    if let Some(kept) =
        Kept::open(folder, name).context("cannot read what is kept from before a resync")?
    {
        return Ok(kept);
    }
    tracing::error!("what was kept from before the resync is damaged, and not kept any more");
    durable.kept = None;
    state
        .save(durable)
        .context("cannot write the state of the pair")?;
    Ok(Kept::nothing(folder))
}

/// The version below an overlay; it may still be on its way from the other server.
fn base(versions: &Arc<OpenVersions>, id: BaseId, size: u64) -> Arc<dyn Base> {
    let version = VersionId::from_uuid(id.version);
    if let Ok(disk) = versions.open(version) {
        return disk;
    }
    let versions = versions.clone();
    let find = move || {
        let found = versions.open(version).ok();
        found.map(|disk| disk as Arc<dyn Base>)
    };
    Arc::new(LateBase::new(id, size, Box::new(find)))
}

/// What this server has to get from the other one before it may lead. That one has whole what cannot be read here, if both
/// were in step; if not, this server is all there is, and what it cannot read is its machine's trouble alone.
fn missing(durable: &Durable, amiss: &Amiss) -> Lost {
    let mut missing = amiss.lost.clone();
    if durable.paired {
        missing.extend(&amiss.unreadable);
    }
    missing
}

/// What is not here any more differs from what the other server has, and this server must not lead before it has it again:
/// its word would make the other one delete its copy.
fn note_lost(durable: &mut Durable, lost: &Lost, state: &StateFile) -> anyhow::Result<()> {
    if lost.is_empty() {
        return Ok(());
    }
    durable.marks.merge(&damaged::blocks_of(lost));
    durable.inconsistent = true;
    state
        .save(durable)
        .context("cannot write the state of the pair")
}

/// Overlays that no volume is: left by a crash between two steps of making or deleting one, which nobody was told of.
fn clear_strangers(volumes: &Volumes, overlays: &Store) -> anyhow::Result<()> {
    for (id, stranger) in volumes.strangers()? {
        // One that cannot be read may be anything; it is left where it is.
        if stranger.is_ok() {
            tracing::info!("overlay {id}: left by a crash, removed");
            overlays.delete(&id)?;
        }
    }
    Ok(())
}

fn base_size(versions: &OpenVersions, info: &OverlayInfo) -> Option<u64> {
    let version = versions
        .find(VersionId::from_uuid(info.base.version))
        .ok()?;
    Some(version.size().get())
}

fn start_node(settings: &Standby, found: Found) -> anyhow::Result<Node> {
    let config = mirror::Config {
        mode: settings.mode,
        alone: settings.alone,
        witness: settings.witness.is_some(),
        ..mirror::Config::default()
    };
    config.check().map_err(anyhow::Error::msg)?;
    let run = getrandom::u64().context("no random number to be had")?;
    Ok(Node::start(
        settings.me(),
        config,
        found.durable,
        found.power_lost,
        Incarnation(run),
        clock::now(),
    ))
}

#[cfg(test)]
mod tests {
    use mirror::VolumeId;

    use super::*;

    #[test]
    fn a_damaged_disk_keeps_a_server_from_leading_only_while_the_other_one_has_it() {
        let (gone, damaged) = ((VolumeId(1), 4096), (VolumeId(2), 8192));
        let amiss = Amiss {
            lost: vec![gone],
            unreadable: vec![damaged],
        };
        let durable = |paired| Durable {
            paired,
            ..Durable::default()
        };
        assert_eq!(missing(&durable(true), &amiss), [gone, damaged]);
        assert_eq!(missing(&durable(false), &amiss), [gone]);
    }
}
