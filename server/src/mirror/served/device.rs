//! A machine's disk, whose changes are made on both servers.

use std::{ops::Range, os::fd::BorrowedFd, sync::Arc, sync::mpsc};

use mirror::{Ask, Op};

use crate::{
    mirror::driver::{Attached, Change as Asked, Mirror},
    service::{
        Change, Deferred, Device, Ended, Extent, Fault, Segment, deliver_all,
        devices::OverlayDevice,
    },
};

/// One connection's use of a volume.
pub struct PairDevice {
    disk: OverlayDevice,
    mirror: Arc<Mirror>,
    attached: Attached,
}

impl PairDevice {
    /// Serves what `attached` has; reads come from `disk`.
    pub fn new(disk: OverlayDevice, mirror: Arc<Mirror>, attached: Attached) -> Self {
        Self {
            disk,
            mirror,
            attached,
        }
    }

    fn ask(&self, change: Change, ended: Ended) -> Asked {
        let volume = self.attached.volume;
        let (op, fua) = match change {
            Change::Flush => return asked(Ask::Flush, ended),
            Change::Write { offset, data, fua } => {
                let length = data.len() as u64;
                let write = Op::Write {
                    volume,
                    offset,
                    length,
                    data,
                };
                (write, fua)
            }
            Change::Zero {
                range,
                may_hole,
                fua,
            } => {
                let zero = Op::Zero {
                    volume,
                    offset: range.start,
                    length: range.end - range.start,
                    trim: may_hole,
                };
                (zero, fua)
            }
        };
        let ended = match fua {
            true => self.flush_after(ended),
            false => ended,
        };
        asked(Ask::Change(op), ended)
    }

    /// Refuses what there is no room for before the other server is asked, which takes whatever is sent to it.
    fn admit(&self, change: &Change) -> Result<(), Fault> {
        match change {
            Change::Write { offset, data, .. } => {
                let range = *offset..*offset + data.len() as u64;
                self.disk.require_room(&range)
            }
            Change::Zero { .. } | Change::Flush => Ok(()),
        }
    }

    /// Ends with a flush, if what is before it went well.
    fn flush_after(&self, ended: Ended) -> Ended {
        let (mirror, attached) = (self.mirror.clone(), self.attached);
        Box::new(move |result| match result {
            Ok(()) => {
                let from = Some((attached.volume, attached.connection));
                mirror.submit(from, vec![asked(Ask::Flush, ended)]);
                None
            }
            failed => ended(failed),
        })
    }

    /// Makes a change and waits for its end.
    fn make(&self, change: Change) -> Result<(), Fault> {
        let (tell, told) = mpsc::sync_channel(1);
        self.begin(vec![(
            change,
            Box::new(move |result| {
                let _ = tell.send(result);
                None
            }),
        )]);
        told.recv().unwrap_or(Err(Fault::Gone))
    }
}

fn asked(ask: Ask, ended: Ended) -> Asked {
    Asked { ask, done: ended }
}

impl Deferred for PairDevice {
    fn begin(&self, changes: Vec<(Change, Ended)>) {
        let (mut asked, mut refused) = (Vec::with_capacity(changes.len()), Vec::new());
        for (change, ended) in changes {
            match self.admit(&change) {
                Ok(()) => asked.push(self.ask(change, ended)),
                Err(fault) => refused.push((ended, fault)),
            }
        }
        let from = Some((self.attached.volume, self.attached.connection));
        self.mirror.submit(from, asked);
        let refused = refused.into_iter();
        deliver_all(refused.map(|(ended, fault): (Ended, Fault)| ended(Err(fault))));
    }
}

impl Device for PairDevice {
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Fault> {
        self.disk.read(buf, offset)
    }

    fn try_read(&self, buf: &mut [u8], offset: u64) -> Result<bool, Fault> {
        self.disk.try_read(buf, offset)
    }

    fn segments(&self, range: Range<u64>, out: &mut Vec<Segment>) -> Result<(), Fault> {
        self.disk.segments(range, out)
    }

    fn resident(&self, range: Range<u64>) -> Option<BorrowedFd<'_>> {
        self.disk.resident(range)
    }

    fn distrust(&self) {
        self.disk.distrust();
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<(), Fault> {
        self.make(Change::Write {
            offset,
            data: bytes::Bytes::copy_from_slice(data),
            fua: false,
        })
    }

    fn flush(&self) -> Result<(), Fault> {
        self.make(Change::Flush)
    }

    fn trim(&self, range: Range<u64>) -> Result<(), Fault> {
        self.zero(range, true, false)
    }

    fn zero(&self, range: Range<u64>, may_hole: bool, _only_fast: bool) -> Result<(), Fault> {
        self.make(Change::Zero {
            range,
            may_hole,
            fua: false,
        })
    }

    fn cache(&self, range: Range<u64>) -> Result<(), Fault> {
        self.disk.cache(range)
    }

    fn status(&self, range: Range<u64>, most: usize) -> Result<Vec<Extent>, Fault> {
        self.disk.status(range, most)
    }

    fn changed(
        &self,
        snapshot: &str,
        range: Range<u64>,
        most: usize,
    ) -> Result<Vec<(u64, bool)>, Fault> {
        self.disk.changed(snapshot, range, most)
    }

    fn deferred(&self) -> Option<&dyn Deferred> {
        Some(self)
    }

    fn before_replies(&self) -> Result<(), Fault> {
        let may = self.mirror.may_answer(self.attached.reign);
        may.map_err(|_| Fault::Gone)
    }

    fn may_reply_now(&self) -> bool {
        self.mirror.may_answer_now(self.attached.reign)
    }
}
