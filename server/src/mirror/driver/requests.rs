//! What the services of a primary ask of the pair.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use mirror::{Ask, ConnectionId, Event, Op, Reply, Request, RequestId, VolumeId};
use nbd::IoError;

use super::{Deposed, Mirror};
use crate::{
    mirror::store::record::{Record, encode},
    service::{Ended, Fault},
};

/// How long a record may take: longer than a standby is waited for. Threads that wait are few.
const RECORD: Duration = Duration::from_secs(15);

/// A connection that has a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// The volume.
    pub volume: VolumeId,
    /// The connection.
    pub connection: ConnectionId,
    /// The reign in which it was attached: it does not outlive it.
    pub reign: u64,
}

/// A change or flush of an attached volume, and what is to be called when it has ended.
pub struct Change {
    /// What is asked.
    pub ask: Ask,
    /// Called when it has ended.
    pub done: Ended,
}

/// Why the pair did not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unmade {
    /// No space on this server's disk.
    #[error("no space is left on this server's disk")]
    NoSpace,
    /// It failed here; the log says why.
    #[error("this server's disk failed; see the log")]
    Failed,
    /// This server is no longer primary, or a newer connection has the volume.
    #[error("this server is not the primary")]
    NotPrimary,
    /// The pair cannot answer now: no witness and no standby are reached.
    #[error(
        "neither the other server nor the witness answers: nothing may be changed until one of them does"
    )]
    Suspended,
}

impl From<Fault> for Unmade {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Request(IoError::NoSpace, _) => Self::NoSpace,
            Fault::Request(..) => Self::Failed,
            Fault::Gone => Self::NotPrimary,
        }
    }
}

/// How a request ended, as its client is told.
pub(super) fn outcome(reply: Reply) -> Result<(), Fault> {
    let fault = |error, text: &str| Err(Fault::Request(error, text.into()));
    match reply {
        Reply::Done => Ok(()),
        Reply::NoSpace => fault(IoError::NoSpace, "no space for it on this server"),
        Reply::Failed => fault(IoError::Io, "this server's disk failed; see the log"),
        Reply::NotPrimary | Reply::Evicted => Err(Fault::Gone),
    }
}

impl Mirror {
    /// Attaches a volume to a new connection; whoever had it is out when this returns.
    ///
    /// # Errors
    /// It is not done within `limit`.
    pub fn attach(self: &Arc<Self>, volume: VolumeId, limit: Duration) -> Result<Attached, Unmade> {
        let connection = self.new_connection();
        let reign = self.gate.reign();
        let from = Some((volume, connection));
        self.wait(from, Ask::Attach, limit)?;
        Ok(Attached {
            volume,
            connection,
            reign,
        })
    }

    fn new_connection(&self) -> ConnectionId {
        let mut core = self.core.lock();
        core.last_connection += 1;
        ConnectionId(core.last_connection)
    }

    /// Makes records so on both servers, in the reign in which they were drawn up; durable when this returns. `volume` is
    /// the one that they are about, if they are.
    ///
    /// # Errors
    /// It cannot be done, or not now: then it may still be done later.
    pub fn record(
        self: &Arc<Self>,
        reign: u64,
        volume: Option<VolumeId>,
        records: &[Record],
    ) -> Result<(), Unmade> {
        if self.gate.reign() != reign {
            return Err(Unmade::NotPrimary);
        }
        let record = encode(records).map_err(|_| Unmade::Failed)?;
        let op = Op::Meta { volume, record };
        self.wait(None, Ask::Change(op), RECORD)
    }

    fn wait(
        self: &Arc<Self>,
        from: Option<(VolumeId, ConnectionId)>,
        ask: Ask,
        limit: Duration,
    ) -> Result<(), Unmade> {
        let (tell, told) = mpsc::sync_channel(1);
        let done: Ended = Box::new(move |result| {
            let _ = tell.send(result);
            None
        });
        self.submit(from, vec![Change { ask, done }]);
        let result = told.recv_timeout(limit).map_err(|_| Unmade::Suspended)?;
        Ok(result?)
    }

    /// Asks for changes in their order, and does not wait for them.
    pub fn submit(self: &Arc<Self>, from: Option<(VolumeId, ConnectionId)>, changes: Vec<Change>) {
        let events = self.admit(from, changes);
        self.feed(events);
    }

    fn admit(&self, from: Option<(VolumeId, ConnectionId)>, changes: Vec<Change>) -> Vec<Event> {
        let mut core = self.core.lock();
        let mut events = Vec::with_capacity(changes.len());
        for Change { ask, done } in changes {
            core.last_request.0 += 1;
            let id = RequestId(core.last_request.0);
            core.waiting.insert(id, done);
            events.push(Event::Request(Request { id, from, ask }));
        }
        events
    }

    /// Returns when what was read in `reign` may be answered.
    ///
    /// # Errors
    /// [`Deposed`] when it never may.
    pub fn may_answer(&self, reign: u64) -> Result<(), Deposed> {
        self.gate.pass(reign)
    }

    /// Whether that would be at once.
    pub fn may_answer_now(&self, reign: u64) -> bool {
        self.gate.is_passable(reign)
    }
}
