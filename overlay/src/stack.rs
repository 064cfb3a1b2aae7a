//! Layers over a base, and which of them a byte comes from.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use crate::base::Base;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::BLOCK;
use crate::layer::{Around, BlockBuf, Layer, blocks_in, blocks_of, bytes_of};
use crate::map::{State, descend};
use crate::space::Space;
use crate::storage::Attempt;

/// Where a stretch of the disk comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The data file of the layer of that number.
    Layer(usize),
    Base,
    Zero,
}

/// Goes on, or stops with a result.
pub(crate) type Flow = ControlFlow<Result<()>>;

pub(crate) fn finish(flow: Flow) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(result) => result,
    }
}

fn goes_on(result: Result<()>) -> Flow {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(e) => ControlFlow::Break(Err(e)),
    }
}

/// What a disk reads, made of layers over a base.
#[derive(Clone)]
pub(crate) struct Stack {
    pub base: Arc<dyn Base>,
    /// Oldest first.
    pub layers: Vec<Arc<Layer>>,
    /// Bytes.
    pub size: u64,
}

impl Stack {
    pub(crate) fn check(&self, range: &Range<u64>) -> Result<()> {
        if range.start <= range.end && range.end <= self.size {
            return Ok(());
        }
        let text = format!("bytes {range:?} of a disk of {}", self.size);
        Err(Error::new(ErrorKind::OutOfRange, text))
    }

    /// Calls `found` for the stretches of `range` (bytes), in order, as the lowest `level` layers have them.
    pub(crate) fn resolve(
        &self,
        range: Range<u64>,
        level: usize,
        found: &mut dyn FnMut(Source, Range<u64>) -> Flow,
    ) -> Flow {
        let map = |layer: usize| &self.layers[layer].map;
        descend(map, level, blocks_of(&range), |holder, blocks| {
            let run = bytes_of(&blocks);
            let run = run.start.max(range.start)..run.end.min(range.end);
            match holder {
                Some((layer, State::Data)) => found(Source::Layer(layer), run),
                Some(_) => found(Source::Zero, run),
                None => self.resolve_base(run, found),
            }
        })
    }

    fn resolve_base(
        &self,
        range: Range<u64>,
        found: &mut dyn FnMut(Source, Range<u64>) -> Flow,
    ) -> Flow {
        let end = self.base.size().clamp(range.start, range.end);
        if range.start < end {
            found(Source::Base, range.start..end)?;
        }
        if end < range.end {
            found(Source::Zero, end..range.end)?;
        }
        ControlFlow::Continue(())
    }

    fn resolve_all(
        &self,
        range: Range<u64>,
        found: &mut dyn FnMut(Source, Range<u64>) -> Flow,
    ) -> Result<()> {
        self.check(&range)?;
        finish(self.resolve(range, self.layers.len(), found))
    }

    fn read_source(&self, source: Source, buf: &mut [u8], at: u64) -> Result<()> {
        match source {
            Source::Layer(layer) => self.layers[layer].read_data(buf, at),
            Source::Base => self.base.read_at(buf, at).map_err(Error::of_base),
            Source::Zero => {
                buf.fill(0);
                Ok(())
            }
        }
    }

    fn try_read_source(&self, source: Source, buf: &mut [u8], at: u64) -> Result<Attempt> {
        match source {
            Source::Layer(layer) => self.layers[layer].try_read_data(buf, at),
            Source::Base => self.base.try_read_at(buf, at).map_err(Error::of_base),
            Source::Zero => {
                buf.fill(0);
                Ok(Attempt::Done)
            }
        }
    }

    /// Fills `buf` from `offset`, as the lowest `level` layers have it.
    fn read_level(&self, buf: &mut [u8], offset: u64, level: usize) -> Flow {
        let range = offset..offset + buf.len() as u64;
        self.resolve(range, level, &mut |source, run| {
            goes_on(self.read_source(source, part(buf, offset, &run), run.start))
        })
    }

    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check(&(offset..offset.saturating_add(buf.len() as u64)))?;
        finish(self.read_level(buf, offset, self.layers.len()))
    }

    pub(crate) fn try_read(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        let mut attempt = Attempt::Done;
        let range = offset..offset.saturating_add(buf.len() as u64);
        self.resolve_all(range, &mut |source, run| match self.try_read_source(
            source,
            part(buf, offset, &run),
            run.start,
        ) {
            Ok(Attempt::Done) => ControlFlow::Continue(()),
            Ok(Attempt::WouldBlock) => {
                attempt = Attempt::WouldBlock;
                ControlFlow::Break(Ok(()))
            }
            Err(e) => ControlFlow::Break(Err(e)),
        })?;
        Ok(attempt)
    }

    /// Calls `found` for maximal runs of equal kind in `range`.
    pub(crate) fn status(
        &self,
        range: Range<u64>,
        found: &mut dyn FnMut(Run) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut merge = Merge { last: None, found };
        self.resolve_all(range, &mut |source, range| {
            let kind = match source {
                Source::Layer(_) => RunKind::Data,
                Source::Zero => RunKind::Zero,
                Source::Base => return self.base_status(range, &mut merge),
            };
            stop(merge.add(Run { range, kind }))
        })?;
        let _ = merge.end();
        Ok(())
    }

    fn base_status(&self, range: Range<u64>, merge: &mut Merge<'_>) -> Flow {
        let mut flow = ControlFlow::Continue(());
        let result = self.base.extents(range, &mut |extent| {
            let kind = if extent.hole {
                RunKind::Zero
            } else {
                RunKind::Base
            };
            let range = extent.range;
            flow = merge.add(Run { range, kind });
            flow
        });
        goes_on(result)?;
        stop(flow)
    }

    /// Calls `found` for the stretches of `range` by where they are stored; neighbours may be of equal kind.
    pub(crate) fn segments(&self, range: Range<u64>, found: &mut dyn FnMut(Run)) -> Result<()> {
        self.resolve_all(range, &mut |source, range| {
            let kind = match source {
                Source::Layer(_) => RunKind::Data,
                Source::Zero => RunKind::Zero,
                Source::Base => RunKind::Base,
            };
            found(Run { range, kind });
            ControlFlow::Continue(())
        })
    }

    /// Whether all of `range` (bytes, not empty) is the base's own.
    pub(crate) fn is_base(&self, range: &Range<u64>) -> bool {
        let blocks = blocks_of(range);
        let below = |layer: &Arc<Layer>| layer.map.all(&blocks, State::Below);
        // From the top down, as everywhere: a fold gives blocks to the older layer before the newer one lets go of them.
        range.end <= self.size.min(self.base.size()) && self.layers.iter().rev().all(below)
    }

    /// The layer whose data all of `range` (bytes, not empty) is.
    pub(crate) fn holder(&self, range: &Range<u64>) -> Option<&Layer> {
        let blocks = blocks_of(range);
        for layer in self.layers.iter().rev() {
            if layer.map.all(&blocks, State::Data) {
                return Some(layer);
            }
            if !layer.map.all(&blocks, State::Below) {
                return None;
            }
        }
        None
    }

    /// Whether a sync of any layer failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.layers.iter().any(|layer| layer.has_failed())
    }

    pub(crate) fn top(&self) -> &Arc<Layer> {
        // A stack is never made without a layer.
        &self.layers[self.layers.len() - 1]
    }
}

fn stop(flow: ControlFlow<()>) -> Flow {
    flow.map_break(Ok)
}

/// The part of `buf`, which stands for the disk from `offset` on, that `run` covers.
fn part<'a>(buf: &'a mut [u8], offset: u64, run: &Range<u64>) -> &'a mut [u8] {
    &mut buf[(run.start - offset) as usize..(run.end - offset) as usize]
}

/// What a stretch of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// The base's content.
    Base,
    /// The client's own.
    Data,
    /// Reads as zeros and is stored nowhere.
    Zero,
}

/// A stretch of the disk of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Bytes from the start of the disk.
    pub range: Range<u64>,
    /// What it is.
    pub kind: RunKind,
}

/// Joins neighbours of equal kind.
struct Merge<'a> {
    last: Option<Run>,
    found: &'a mut dyn FnMut(Run) -> ControlFlow<()>,
}

impl Merge<'_> {
    fn add(&mut self, run: Run) -> ControlFlow<()> {
        match &mut self.last {
            Some(last) if last.kind == run.kind => {
                last.range.end = run.range.end;
                ControlFlow::Continue(())
            }
            last => match last.replace(run) {
                Some(done) => (self.found)(done).map_break(|()| self.last = None),
                None => ControlFlow::Continue(()),
            },
        }
    }

    fn end(mut self) -> ControlFlow<()> {
        match self.last.take() {
            Some(last) => (self.found)(last),
            None => ControlFlow::Continue(()),
        }
    }
}

/// A layer's view of what lies around it in its stack.
pub(crate) struct Surroundings<'a> {
    pub stack: &'a Stack,
    /// Number of the layer.
    pub layer: usize,
    pub space: &'a Space,
    /// Room is taken without asking the quota.
    pub anyway: bool,
}

impl Around for Surroundings<'_> {
    fn read_below(&self, block: u64, buf: &mut BlockBuf) -> Result<()> {
        finish(self.stack.read_level(buf, block * BLOCK, self.layer))
    }

    fn blank_from(&self) -> u64 {
        if self.layer > 0 {
            return u64::MAX;
        }
        blocks_in(self.stack.base.size())
    }

    fn reserve(&self, blocks: u64) -> Result<()> {
        if self.anyway {
            self.space.reserve_anyway(blocks);
            return Ok(());
        }
        self.space.reserve(blocks)
    }

    fn release(&self, blocks: u64) {
        self.space.release(blocks);
    }
}
