//! The exports of a room: every machine's disk and its snapshots, under names that are secrets, and what `[exports]`
//! names for other uses.

mod clients;
mod named;
mod reload;
pub mod source;

use std::sync::Arc;

use nbd::Refusal;

use crate::service::{Export, Exports, Peer};

pub use clients::{ClientExports, is_reserved};
pub use named::NamedExports;
pub use reload::Changes;

/// All that a room serves over NBD.
pub struct RoomExports {
    /// The machines' disks.
    pub clients: ClientExports,
    /// What the configuration names.
    pub named: Arc<NamedExports>,
}

impl Exports for RoomExports {
    fn list(&self, peer: &Peer) -> Vec<(String, Option<String>)> {
        let mut list = self.clients.list(peer);
        list.extend(self.named.list(peer));
        list
    }

    fn find(&self, name: &str, peer: &Peer) -> Result<Arc<dyn Export>, Refusal> {
        match is_reserved(name) {
            true => self.clients.find(name, peer),
            false => self.named.find(name, peer),
        }
    }
}
