//! Snapshots for backups: a machine's disk as it was at one moment, to be read while the machine goes on.
//!
//! A snapshot lasts as long as the disk that it is of: a fresh disk begins without any. Who may use the control API
//! opens one for reading by a token, as a boot has for its disk; tokens are kept in memory and die with the server.

use std::time::{SystemTime, UNIX_EPOCH};

use overlay::{
    ErrorKind as OverlayError, Overlay, OverlayId, Snapshot, SnapshotId, SnapshotName, View,
};
use pxe::Mac;

use super::{Clients, Error, ErrorKind, Result, boot::Token, commit, fresh_token};
use crate::config::exports::TlsMode;

/// Opened snapshots that are remembered; the oldest gives way.
const MOST_TICKETS: usize = 256;

/// What a token for reading stands for.
pub(super) struct Ticket {
    token: Token,
    mac: Mac,
    disk: OverlayId,
    name: SnapshotName,
    /// Another snapshot that gets its name later is not opened by this token.
    id: SnapshotId,
}

/// A snapshot for reading, and whose it is.
pub struct Opened {
    /// The machine's name.
    pub client: String,
    /// Whether it may be read over TLS only, as the machine's disk.
    pub needs_tls: bool,
    /// The snapshot's name.
    pub name: SnapshotName,
    /// The disk as it was.
    pub view: View,
}

impl Clients {
    /// The snapshots of a machine's disk, oldest first.
    ///
    /// # Errors
    /// When there is no such machine, or its overlay cannot be read.
    pub fn snapshots(&self, client: &str) -> Result<Vec<Snapshot>> {
        let (_, disk) = self.main_disk_of(client)?;
        let info = self.disks.info(&disk)?;
        Ok(info.map(|info| info.snapshots).unwrap_or_default())
    }

    /// Takes a snapshot of a machine's disk as it is now, also while it runs.
    ///
    /// # Errors
    /// When there is no such machine, it has no disk, or that name is taken.
    pub fn take_snapshot(&self, client: &str, name: &SnapshotName) -> Result<Snapshot> {
        if commit::is_own(name) {
            let text = format!("{name} is a name that the server needs itself: choose another");
            return Err(Error::new(ErrorKind::Refused, text));
        }
        let overlays = self.disks.overlays();
        self.with_disk(client, |_, overlay| {
            let taken = overlays.snapshot(overlay, name, seconds_now());
            taken.map_err(|error| failed(name, error))
        })
    }

    /// Drops a snapshot. May take as long as copying what only it holds.
    ///
    /// # Errors
    /// When there is no such machine or snapshot, or no room for the copies.
    pub fn drop_snapshot(&self, client: &str, name: &SnapshotName) -> Result<()> {
        let overlays = self.disks.overlays();
        self.with_disk(client, |_, overlay| {
            let dropped = overlays.drop_snapshot(overlay, name);
            dropped.map_err(|error| failed(name, error))
        })
    }

    /// Makes a name under which [`Clients::opened_snapshot`] finds the snapshot, until the server stops; says where
    /// that is.
    ///
    /// # Errors
    /// When there is no such machine or snapshot.
    pub fn open_snapshot(&self, client: &str, name: &SnapshotName) -> Result<String> {
        let token = self.admit_reader(client, name)?;
        let config = self.config();
        let (address, port) = (config.server.ip(), config.server.nbd_port);
        let scheme = match self.tls_of(self.find(client)?.mac) {
            TlsMode::Off => "nbd",
            TlsMode::On | TlsMode::Required => "nbds",
        };
        Ok(format!("{scheme}://{address}:{port}/snapshot/{token}"))
    }

    fn admit_reader(&self, client: &str, name: &SnapshotName) -> Result<Token> {
        let token = fresh_token()?;
        let ticket = self.with_disk(client, |mac, overlay| {
            let (name, id) = (name.clone(), find(overlay, name)?);
            Ok(Ticket {
                token,
                mac,
                disk: overlay.id().clone(),
                name,
                id,
            })
        })?;
        let mut tickets = self.tickets.lock();
        if tickets.len() >= MOST_TICKETS {
            tickets.remove(0);
        }
        tickets.push(ticket);
        Ok(token)
    }

    /// The snapshot that a token was made for.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when it was made for none, or that one is gone.
    pub fn opened_snapshot(&self, token: &str) -> Result<Opened> {
        let refused = || Error::new(ErrorKind::Refused, "no such export");
        let token: Token = token.parse().map_err(|_| refused())?;
        let (mac, disk, name, id) = {
            let tickets = self.tickets.lock();
            // All are compared, each in constant time.
            let found = tickets.iter().fold(None, |found, ticket| {
                let is = ticket.token.equals(&token);
                if is { Some(ticket) } else { found }
            });
            let ticket = found.ok_or_else(refused)?;
            let Ticket {
                mac,
                disk,
                name,
                id,
                ..
            } = ticket;
            (*mac, disk.clone(), name.clone(), *id)
        };
        let record = self.registry.get(mac).ok_or_else(refused)?;
        let overlay = self.disks.open_existing(&disk)?;
        if find(&overlay, &name)? != id {
            return Err(refused());
        }
        let view = overlay.snapshot_view(&name);
        Ok(Opened {
            client: record.name.to_string(),
            needs_tls: self.tls_of(mac) == TlsMode::Required,
            view: view.map_err(|error| failed(&name, error))?,
            name,
        })
    }

    /// Does something with a machine's disk. No boot waits for it: one that makes the disk afresh takes the snapshots away
    /// with all the rest.
    fn with_disk<T>(
        &self,
        client: &str,
        work: impl FnOnce(Mac, &Overlay) -> Result<T>,
    ) -> Result<T> {
        let (mac, disk) = self.main_disk_of(client)?;
        work(mac, &*self.disks.open_existing(&disk)?)
    }

    fn main_disk_of(&self, client: &str) -> Result<(Mac, OverlayId)> {
        let record = self.find(client)?;
        Ok((record.mac, self.main_disk(&record)?))
    }
}

/// Takes a snapshot of `overlay` now.
///
/// # Errors
/// When that name is taken, there are too many, or the disk cannot be synced.
pub fn take(overlay: &Overlay, name: &SnapshotName) -> Result<Snapshot> {
    let taken = overlay.snapshot(name, seconds_now());
    taken.map_err(|error| failed(name, error))
}

/// The time, as snapshots have it.
pub(super) fn seconds_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// Drops a snapshot of `overlay`.
///
/// # Errors
/// When there is none of that name, or no room for what moves out of it.
pub fn drop_one(overlay: &Overlay, name: &SnapshotName) -> Result<()> {
    overlay
        .drop_snapshot(name)
        .map_err(|error| failed(name, error))
}

fn find(overlay: &Overlay, name: &SnapshotName) -> Result<SnapshotId> {
    let ids = overlay.snapshot_ids();
    let id = ids
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, id)| *id);
    id.ok_or_else(|| Error::new(ErrorKind::Unknown, format!("there is no snapshot {name}")))
}

fn failed(name: &SnapshotName, error: overlay::Error) -> Error {
    match error.kind() {
        OverlayError::NotFound => {
            Error::new(ErrorKind::Unknown, format!("there is no snapshot {name}"))
        }
        OverlayError::Exists => Error::new(
            ErrorKind::Refused,
            format!("there is a snapshot {name} already: drop it first, or choose another name"),
        ),
        OverlayError::Invalid => Error::new(ErrorKind::Refused, error.to_string()),
        _ => Error::disk(format!("snapshot {name}"), error),
    }
}
