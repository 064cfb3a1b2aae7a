//! Snapshots of overlays: read as they were taken, with what changed between them.

use std::{
    ops::{ControlFlow, Range},
    sync::Arc,
};

use nbd::{ExportInfo, IoError, Refusal, TransmissionFlags};
use overlay::{Attempt, Run, SnapshotId, SnapshotName, View};

use super::overlaid::{extent, fault, overlay_info};
use crate::service::{Device, Export, Extent, Fault, device::DIRTY_BITMAP};

/// A snapshot, for as many connections as come. Each sees it until it closes, also when it is dropped meanwhile.
pub struct SnapshotExport {
    view: Arc<View>,
    description: String,
    needs_tls: bool,
}

impl SnapshotExport {
    /// Gives out what `view` shows. Clients that ask are told `description`, and so is the log.
    pub fn new(view: View, description: String) -> Self {
        let view = Arc::new(view);
        Self {
            view,
            description,
            needs_tls: false,
        }
    }

    /// The same, for those who use TLS.
    pub fn over_tls_only(self) -> Self {
        let needs_tls = true;
        Self { needs_tls, ..self }
    }
}

impl Export for SnapshotExport {
    fn info(&self) -> Result<ExportInfo, Refusal> {
        use TransmissionFlags as F;
        let mut info = overlay_info(self.view.size());
        info.flags = F::READ_ONLY
            .with(F::SEND_FLUSH)
            .with(F::SEND_CACHE)
            .with(F::CAN_MULTI_CONN);
        info.description = Some(self.description.clone());
        info.contexts.extend(contexts(self.view.older()));
        Ok(info)
    }

    fn needs_tls(&self) -> bool {
        self.needs_tls
    }

    fn shown(&self) -> Option<String> {
        Some(self.description.clone())
    }

    fn open(&self) -> Result<Arc<dyn Device>, Refusal> {
        Ok(Arc::new(SnapshotDevice(self.view.clone())))
    }
}

/// Names of the contexts that tell what changed since each of `snapshots`.
pub(super) fn contexts(snapshots: &[(SnapshotName, SnapshotId)]) -> impl Iterator<Item = String> {
    snapshots
        .iter()
        .map(|(name, _)| format!("{DIRTY_BITMAP}{name}"))
}

/// The snapshot called `name`.
pub(super) fn find(
    snapshots: &[(SnapshotName, SnapshotId)],
    name: &str,
) -> Result<SnapshotId, Fault> {
    let known = snapshots.iter().find(|(known, _)| known.as_str() == name);
    let gone = || Fault::Request(IoError::Invalid, format!("no snapshot {name:?}"));
    known.map(|(_, id)| *id).ok_or_else(gone)
}

/// Hears the runs of a range and whether they changed.
type Hear<'a> = &'a mut dyn FnMut(Range<u64>, bool) -> ControlFlow<()>;

/// The first `most` runs that `tell` tells of, by their length.
pub(super) fn changed_runs(
    most: usize,
    tell: impl FnOnce(Hear<'_>) -> overlay::Result<()>,
) -> overlay::Result<Vec<(u64, bool)>> {
    let mut runs = Vec::new();
    tell(&mut |run, changed| push_up_to(most, &mut runs, (run.end - run.start, changed)))?;
    Ok(runs)
}

/// The first `most` extents that `tell` tells of.
pub(super) fn extents(
    most: usize,
    tell: impl FnOnce(&mut dyn FnMut(Run) -> ControlFlow<()>) -> overlay::Result<()>,
) -> overlay::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    tell(&mut |run| push_up_to(most, &mut extents, extent(&run)))?;
    Ok(extents)
}

/// Says when `most` have been taken.
fn push_up_to<T>(most: usize, taken: &mut Vec<T>, one: T) -> ControlFlow<()> {
    taken.push(one);
    match taken.len() < most {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    }
}

struct SnapshotDevice(Arc<View>);

impl Device for SnapshotDevice {
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Fault> {
        self.0.read(buf, offset).map_err(|error| fault(&error))
    }

    fn try_read(&self, buf: &mut [u8], offset: u64) -> Result<bool, Fault> {
        let attempt = self.0.try_read(buf, offset);
        Ok(attempt.map_err(|error| fault(&error))? == Attempt::Done)
    }

    fn flush(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn status(&self, range: Range<u64>, most: usize) -> Result<Vec<Extent>, Fault> {
        extents(most, |found| self.0.block_status(range, found)).map_err(|error| fault(&error))
    }

    fn changed(
        &self,
        snapshot: &str,
        range: Range<u64>,
        most: usize,
    ) -> Result<Vec<(u64, bool)>, Fault> {
        let since = find(self.0.older(), snapshot)?;
        changed_runs(most, |found| self.0.changed(since, range, found))
            .map_err(|error| fault(&error))
    }
}

#[cfg(test)]
mod tests {
    use nbd::{
        Command, CommandFlags, ContextId, Cookie, HeaderStyle, MetaContext, Operation, ReplyBody,
        ReplyDecoder, Request,
    };
    use overlay::{Durability, Overlay, Store};

    use super::*;
    use crate::service::{
        devices::{OverlayExport, fixture::overlay_over_zeros},
        jobs::Job,
    };

    const SIZE: u64 = 1 << 20;

    /// A disk of which the second block changed since `monday`; the changes are the device's to tell.
    fn disk() -> (tempfile::TempDir, Store, Arc<Overlay>) {
        let (dir, store, overlay) = overlay_over_zeros(SIZE);
        let monday = SnapshotName::new("monday").unwrap();
        overlay.snapshot(&monday, 0).unwrap();
        let written = overlay.attach().write(&[1; 512], 4096, Durability::Process);
        written.unwrap();
        (dir, store, overlay)
    }

    fn job(device: Arc<dyn Device>, style: HeaderStyle, one: bool) -> Job {
        let names = ["base:allocation", "qemu:dirty-bitmap:monday"];
        let contexts = (1..).zip(names).map(|(id, name)| MetaContext {
            id: ContextId(id),
            name: name.into(),
        });
        let request = Request {
            flags: CommandFlags::from_bits(0),
            command: Command::BlockStatus,
            cookie: Cookie(9),
            offset: 0,
            length: SIZE,
        };
        Job {
            device,
            request,
            operation: Operation::BlockStatus {
                one,
                payload: false,
            },
            style,
            contexts: contexts.collect(),
            payload: Vec::new(),
            span: SIZE,
        }
    }

    /// What BLOCK_STATUS answers for each of the contexts, in a style of headers.
    fn ask(device: Arc<dyn Device>, style: HeaderStyle, one: bool) -> Vec<(u32, Vec<(u64, u64)>)> {
        let bytes = job(device, style, one).run().reply.unwrap();
        let (mut rest, mut answers) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let decoded = ReplyDecoder::new(style, 1 << 20).decode(rest, |_| Some(0));
            let (reply, used) = decoded.unwrap().unwrap();
            let ReplyBody::Status { context, extents } = reply.body else {
                panic!("{:?}", reply.body)
            };
            answers.push((context.0, extents));
            rest = &rest[used..];
            assert_eq!(reply.last, rest.is_empty());
        }
        answers
    }

    #[test]
    fn changes_are_told_beside_allocation_in_both_styles() {
        let (_dir, _store, overlay) = disk();
        let device = OverlayExport::new(overlay, SIZE).open().unwrap();
        for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
            let answers = ask(device.clone(), style, false);
            let changes = vec![(4096, 0), (4096, 1), (SIZE - 8192, 0)];
            let allocation = vec![(4096, 3), (4096, 0), (SIZE - 8192, 3)];
            assert_eq!(answers, [(1, allocation), (2, changes)], "{style:?}");
            let one = ask(device.clone(), style, true);
            assert_eq!(one, [(1, vec![(4096, 3)]), (2, vec![(4096, 0)])]);
        }
    }

    #[test]
    fn a_snapshot_tells_what_changed_before_it_and_not_after() {
        let (_dir, _store, overlay) = disk();
        let tuesday = SnapshotName::new("tuesday").unwrap();
        overlay.snapshot(&tuesday, 0).unwrap();
        let written = overlay
            .attach()
            .write(&[1; 512], 40_960, Durability::Process);
        written.unwrap();
        let export = SnapshotExport::new(overlay.snapshot_view(&tuesday).unwrap(), String::new());
        let info = export.info().unwrap();
        assert!(info.flags.contains(TransmissionFlags::READ_ONLY));
        assert_eq!(info.contexts.last().unwrap(), "qemu:dirty-bitmap:monday");
        let answers = ask(export.open().unwrap(), HeaderStyle::Extended, false);
        let changes = vec![(4096, 0), (4096, 1), (SIZE - 8192, 0)];
        assert_eq!(answers[1], (2, changes));
    }

    /// A client that asks for much and reads none of it is held up by what it is counted for.
    #[test]
    fn what_a_status_takes_is_counted_before_it_is_taken() {
        let (_dir, _store, overlay) = disk();
        let attachment = overlay.attach();
        for at in (0..SIZE).step_by(8192) {
            let written = attachment.write(&[1; 512], at, Durability::Process);
            written.unwrap();
        }
        let device = OverlayExport::new(overlay, SIZE).open().unwrap();
        for one in [false, true] {
            let job = job(device.clone(), HeaderStyle::Extended, one);
            let weight = job.weight();
            let reply = job.run().reply.unwrap();
            let heads = 2 * 48;
            assert!(
                (reply.len() as u64) < weight + heads,
                "{} of {weight}",
                reply.len()
            );
            assert!(one || reply.len() > 2 * 128 * 16, "{} bytes", reply.len());
        }
    }
}
