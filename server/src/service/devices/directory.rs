//! A directory with one export, for `bootroom export`, and the snapshots of an overlay beside it.

use std::sync::Arc;

use nbd::Refusal;
use overlay::{Overlay, SnapshotName};

use super::SnapshotExport;
use crate::service::{Export, Exports, Peer};

/// Which names open the export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wide {
    /// Any, as with a server that has but one disk.
    AnyName,
    /// This one, and the empty name, which means the default.
    Named(String),
}

/// One export for everybody.
pub struct OneExport {
    name: Wide,
    description: String,
    export: Arc<dyn Export>,
}

impl OneExport {
    /// Gives `export` out by `name`.
    pub fn new(name: Wide, description: String, export: Arc<dyn Export>) -> Self {
        Self {
            name,
            description,
            export,
        }
    }
}

impl Exports for OneExport {
    fn list(&self, _peer: &Peer) -> Vec<(String, Option<String>)> {
        let name = match &self.name {
            Wide::AnyName => String::new(),
            Wide::Named(name) => name.clone(),
        };
        vec![(name, Some(self.description.clone()))]
    }

    fn find(&self, name: &str, _peer: &Peer) -> Result<Arc<dyn Export>, Refusal> {
        match &self.name {
            Wide::Named(own) if !name.is_empty() && own != name => Err(Refusal::unknown()),
            _ => Ok(self.export.clone()),
        }
    }
}

/// An overlay, and each of its snapshots as `snapshot/NAME`.
pub struct WithSnapshots {
    one: OneExport,
    overlay: Arc<Overlay>,
}

/// Begins the name of an export that is a snapshot.
const SNAPSHOT: &str = "snapshot/";

impl WithSnapshots {
    /// Gives out `one`, which is `overlay`, and its snapshots.
    pub fn new(one: OneExport, overlay: Arc<Overlay>) -> Self {
        Self { one, overlay }
    }
}

impl Exports for WithSnapshots {
    fn list(&self, peer: &Peer) -> Vec<(String, Option<String>)> {
        let mut names = self.one.list(peer);
        let snapshots = self.overlay.snapshots().into_iter();
        names.extend(snapshots.map(|snapshot| (format!("{SNAPSHOT}{}", snapshot.name), None)));
        names
    }

    fn find(&self, name: &str, peer: &Peer) -> Result<Arc<dyn Export>, Refusal> {
        let Some(snapshot) = name.strip_prefix(SNAPSHOT) else {
            return self.one.find(name, peer);
        };
        let snapshot = SnapshotName::new(snapshot).map_err(|_| Refusal::unknown())?;
        let view = self.overlay.snapshot_view(&snapshot);
        let view = view.map_err(|_| Refusal::unknown())?;
        Ok(Arc::new(SnapshotExport::new(view, name.to_owned())))
    }
}
