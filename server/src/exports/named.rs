//! What `[exports]` names: who may open what.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use arc_swap::ArcSwap;
use nbd::{ExportInfo, OptionError, Refusal, TransmissionFlags};

use super::source::Disk;
use crate::{
    config::exports::{Allowed, ExportSpec, Mode, Source, TlsMode},
    service::{Claim, Device, Export, Exports, Peer, PeerAddress},
};

/// The named exports as they are at a time.
pub(super) type Table = BTreeMap<String, Arc<NamedExport>>;

/// The named exports; a reload exchanges them.
#[derive(Default)]
pub struct NamedExports {
    pub(super) table: ArcSwap<Table>,
}

/// One export.
pub(super) struct NamedExport {
    pub name: String,
    hash: blake3::Hash,
    pub spec: ExportSpec,
    /// None while those are waited for who have what it was before.
    pub disk: Option<Arc<Disk>>,
    retired: AtomicBool,
}

impl NamedExport {
    pub fn new(name: &str, spec: ExportSpec, disk: Option<Arc<Disk>>) -> Self {
        Self {
            name: name.to_owned(),
            hash: blake3::hash(name.as_bytes()),
            spec,
            disk,
            retired: AtomicBool::new(false),
        }
    }

    /// Whoever opens it from now on is told to ask again.
    pub fn retire(&self) {
        self.retired.store(true, SeqCst);
    }

    /// Whether `peer` may open it as it is connected.
    pub fn admits(&self, peer: &Peer) -> bool {
        let fits = match self.spec.tls {
            TlsMode::Off => !peer.secure,
            TlsMode::On | TlsMode::Required => peer.secure || !self.spec.needs_tls(),
        };
        fits && self.is_for_place_of(peer) && self.is_for_name_of(peer)
    }

    /// Whether `peer` may open it, once it has shown a certificate if that is needed.
    fn may_admit(&self, peer: &Peer) -> bool {
        let later = self.spec.needs_tls() && !peer.secure;
        self.is_for_place_of(peer) && (later || self.is_for_name_of(peer))
    }

    fn is_for_place_of(&self, peer: &Peer) -> bool {
        let fits = |allowed: &Allowed| match (allowed, peer.address) {
            (Allowed::Anyone, _) | (Allowed::Unix, PeerAddress::Local) => true,
            (Allowed::Network(network), PeerAddress::Ip(address)) => network.contains(&address),
            _ => false,
        };
        // None are named where certificates say who may.
        self.spec.allow.is_empty() || self.spec.allow.iter().any(fits)
    }

    fn is_for_name_of(&self, peer: &Peer) -> bool {
        let wanted = &self.spec.certificates;
        wanted.is_empty() || wanted.iter().any(|name| peer.names.contains(name))
    }

    /// Whether what one connection does is there for all others, which is what lets a client open several. Not so
    /// for an image without a number: after a reload the next connection may get another version.
    pub fn is_one_for_all(&self) -> bool {
        match (&self.spec.source, self.spec.mode) {
            (_, Mode::CopyOnWrite) => false,
            (_, Mode::ReadWrite) => self.spec.shared,
            (Source::Image(image), Mode::ReadOnly) => image.number.is_some(),
            (Source::File(_) | Source::Device(_), Mode::ReadOnly) => true,
        }
    }

    fn disk(&self) -> Result<&Disk, Refusal> {
        let gone = self.disk.as_ref().filter(|_| !self.retired.load(SeqCst));
        gone.map(|disk| &**disk).ok_or_else(|| {
            let text = "this export is being changed: connect again";
            Refusal::new(OptionError::Policy, text)
        })
    }
}

impl Export for NamedExport {
    fn info(&self) -> Result<ExportInfo, Refusal> {
        let mut info = self.disk()?.export.info()?;
        info.description = self.spec.description.clone();
        if !self.is_one_for_all() {
            info.flags = info.flags.without(TransmissionFlags::CAN_MULTI_CONN);
        }
        Ok(info)
    }

    fn needs_tls(&self) -> bool {
        self.spec.needs_tls()
    }

    fn claim(&self) -> Option<Claim> {
        Some(Claim {
            export: self.name.clone(),
            alone: self.spec.mode == Mode::ReadWrite && !self.spec.shared,
        })
    }

    fn open(&self) -> Result<Arc<dyn Device>, Refusal> {
        self.disk()?.export.open()
    }
}

impl Exports for NamedExports {
    fn list(&self, peer: &Peer) -> Vec<(String, Option<String>)> {
        let table = self.table.load();
        let open = table.values().filter(|export| export.admits(peer));
        open.map(|export| (export.name.clone(), export.spec.description.clone()))
            .collect()
    }

    /// Looks at every export in full, whichever it is: how long that takes says nothing about which names there are.
    fn find(&self, name: &str, peer: &Peer) -> Result<Arc<dyn Export>, Refusal> {
        let hash = blake3::hash(name.as_bytes());
        let mut found = None;
        for export in self.table.load().values() {
            // Hashes are compared in constant time.
            if (export.hash == hash) & export.may_admit(peer) {
                found = Some(export.clone());
            }
        }
        let export = found.ok_or_else(Refusal::unknown)?;
        if export.spec.tls == TlsMode::Off && peer.secure {
            let text = "this export is given out without TLS only";
            return Err(Refusal::new(OptionError::Policy, text));
        }
        Ok(export)
    }
}

#[cfg(test)]
mod tests;
