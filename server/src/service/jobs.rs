//! What the disk threads do for a connection, and how the results come back.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use nbd::{HeaderStyle, IoError, MetaContext, Operation, Request, reply};

use super::device::{DIRTY_BITMAP, Device, Extent, Fault};

/// Most extents in one answer to BLOCK_STATUS and context.
const MOST_EXTENTS: usize = 4096;

/// An extent in such an answer, in bytes.
const EXTENT: u64 = 16;

/// A finished job.
pub struct Finished {
    /// The whole reply, unless the connection has to close.
    pub reply: Result<Vec<u8>, Fault>,
    /// The error in the reply, for the log.
    pub error: Option<String>,
    /// What the job was counted for; see [`Job::weight`].
    pub weight: u64,
    /// How long it took, if it was a flush.
    pub flushed: Option<Duration>,
    /// Whether it was answered, and counted off in the pool.
    pub sent: bool,
}

impl Finished {
    /// The end of something that is answered without data. `weight` as [`Job::weight`]; `flushed` if it was a flush.
    pub fn without_data(
        (style, request): (HeaderStyle, &Request),
        result: Result<(), Fault>,
        weight: u64,
        flushed: Option<Duration>,
    ) -> Self {
        let reply = result.map(|()| reply::done(style, request).as_bytes().to_vec());
        Self::of((style, request), reply, weight, flushed)
    }

    fn of(
        (style, request): (HeaderStyle, &Request),
        reply: Result<Vec<u8>, Fault>,
        weight: u64,
        flushed: Option<Duration>,
    ) -> Self {
        let (reply, error) = match reply {
            Err(Fault::Request(error, text)) => {
                let head = reply::error(style, request, error);
                (Ok(head.as_bytes().to_vec()), Some(text))
            }
            reply => (reply, None),
        };
        Self {
            reply,
            error,
            weight,
            flushed,
            sent: false,
        }
    }
}

/// One request to be served where blocking does no harm.
pub struct Job {
    /// What it is served from.
    pub device: Arc<dyn Device>,
    /// The request.
    pub request: Request,
    /// What it asks for.
    pub operation: Operation,
    /// The agreed headers.
    pub style: HeaderStyle,
    /// The contexts that BLOCK_STATUS has to report.
    pub contexts: Arc<[MetaContext]>,
    /// A write's data.
    pub payload: Vec<u8>,
    /// The length that BLOCK_STATUS asks for; differs from the request's when it came as payload.
    pub span: u64,
}

impl Job {
    /// Bytes of memory that it holds while under way, its reply included.
    pub fn weight(&self) -> u64 {
        match self.operation {
            Operation::Read { .. } => self.request.length,
            Operation::BlockStatus { one, .. } => {
                self.contexts.len() as u64 * most(one) as u64 * EXTENT
            }
            _ => self.payload.len() as u64,
        }
    }

    /// Does it. A bug that panics is an error of this request: the connection waits for an answer to each job, and
    /// what the device holds is not half changed by any panic (its locks are of the kind that is not poisoned, and the
    /// disk is as after a kill at that moment, which it must stand anyway).
    pub fn run(self) -> Finished {
        let (weight, operation) = (self.weight(), self.operation);
        let (style, request) = (self.style, self.request);
        let start = Instant::now();
        let reply = catch_unwind(AssertUnwindSafe(|| self.reply()));
        let reply = reply.unwrap_or_else(|_| Err(panicked()));
        let flushed = (operation == Operation::Flush).then(|| start.elapsed());
        Finished::of((style, &request), reply, weight, flushed)
    }

    fn range(&self) -> Range<u64> {
        self.request.offset..self.request.offset + self.request.length
    }

    fn reply(&self) -> Result<Vec<u8>, Fault> {
        let device = &*self.device;
        match self.operation {
            Operation::Read { .. } => return self.read(),
            Operation::BlockStatus { one, .. } => return self.status(one),
            Operation::Write { fua } => {
                device.write(&self.payload, self.request.offset)?;
                self.settle(fua)?;
            }
            Operation::Flush => device.flush()?,
            Operation::Trim { fua } => {
                device.trim(self.range())?;
                self.settle(fua)?;
            }
            Operation::WriteZeroes {
                fua,
                may_hole,
                only_fast,
            } => {
                device.zero(self.range(), may_hole, only_fast)?;
                self.settle(fua)?;
            }
            Operation::Cache => device.cache(self.range())?,
        }
        Ok(reply::done(self.style, &self.request).as_bytes().to_vec())
    }

    fn settle(&self, fua: bool) -> Result<(), Fault> {
        if fua { self.device.flush() } else { Ok(()) }
    }

    fn read(&self) -> Result<Vec<u8>, Fault> {
        let length = self.request.length as u32;
        let head = reply::data(self.style, &self.request, self.request.offset, length, true);
        let head = head.as_bytes();
        let mut whole = vec![0; head.len() + length as usize];
        whole[..head.len()].copy_from_slice(head);
        self.device
            .read(&mut whole[head.len()..], self.request.offset)?;
        Ok(whole)
    }

    fn status(&self, one: bool) -> Result<Vec<u8>, Fault> {
        let mut extents = None;
        let mut out = Vec::new();
        for (number, context) in self.contexts.iter().enumerate() {
            let last = number + 1 == self.contexts.len();
            let list = match context.name.strip_prefix(DIRTY_BITMAP) {
                Some(snapshot) => self.changed(snapshot, one)?,
                None => encode(&context.name, self.extents(&mut extents, one)?, one),
            };
            if list.is_empty() {
                return Err(Fault::Request(IoError::Io, "no block status".into()));
            }
            out.extend(reply::block_status(
                self.style,
                &self.request,
                context.id,
                &list,
                last,
            ));
        }
        Ok(out)
    }

    fn asked(&self) -> Range<u64> {
        self.request.offset..self.request.offset + self.span
    }

    /// What the contexts about allocation are made from: looked up once, for whichever comes first.
    fn extents<'e>(
        &self,
        known: &'e mut Option<Vec<Extent>>,
        one: bool,
    ) -> Result<&'e [Extent], Fault> {
        let found = match known.take() {
            Some(extents) => extents,
            None => self.device.status(self.asked(), most(one))?,
        };
        Ok(known.insert(found))
    }

    fn changed(&self, snapshot: &str, one: bool) -> Result<Vec<(u64, u64)>, Fault> {
        let runs = self.device.changed(snapshot, self.asked(), most(one))?;
        let status = |(length, changed)| (length, u64::from(changed) * DIRTY);
        Ok(runs.into_iter().map(status).collect())
    }
}

/// The bit of `qemu:dirty-bitmap:` that says that a stretch changed.
const DIRTY: u64 = 1;

/// Most extents that are looked up.
fn most(one: bool) -> usize {
    if one { 1 } else { MOST_EXTENTS }
}

/// What a request is told whose serving panicked; the panic itself stands in the log.
fn panicked() -> Fault {
    let text = "a bug in the server (see its log for the panic)";
    Fault::Request(IoError::Io, text.into())
}

/// The extents as `context` sees them, equal neighbours joined.
fn encode(context: &str, extents: &[Extent], one: bool) -> Vec<(u64, u64)> {
    let mut list: Vec<(u64, u64)> = Vec::new();
    for extent in extents {
        let status = match context {
            "qemu:allocation-depth" => u64::from(extent.depth),
            _ => {
                u64::from(extent.hole) * u64::from(nbd::block_state::HOLE)
                    + u64::from(extent.zero) * u64::from(nbd::block_state::ZERO)
            }
        };
        match list.last_mut() {
            Some(last) if last.1 == status => last.0 += extent.length,
            Some(_) if one => break,
            _ => list.push((extent.length, status)),
        }
    }
    list
}
