//! Reads: sent from mapped files or copied when short, gathered from files in memory and from holes when long, handed to
//! a disk thread when neither can be done without waiting.

use std::ops::Range;

use nbd::{HeaderStyle, Operation, Request, reply};

use super::{End, LOOKED_UP, Next, Transmission};
use crate::service::{
    device::{Fault, Segment, Source},
    output::{self, FilePart},
    transport::Transport,
};

impl Transmission<'_, '_> {
    pub(super) fn read(
        &mut self,
        request: &Request,
        whole: bool,
        transport: &mut Transport<'_>,
    ) -> Result<Next, End> {
        let copied = request.length.min(output::LARGEST_COPY) as usize;
        if self.output.is_full(copied) {
            self.send(transport)?;
        }
        let mark = self.output.mark();
        let answered = match request.length {
            0 if self.rules.style != HeaderStyle::Simple => self.read_nothing(request),
            length if length >= LOOKED_UP => self.read_pieces(request, whole),
            _ => self.read_short(request),
        };
        match answered {
            Ok(true) => self.count(&self.engine.live.counters.read, request.length),
            Ok(false) => {
                self.output.back_to(mark);
                self.submit(*request, Operation::Read { whole }, Vec::new(), 0);
            }
            Err(fault) => {
                self.output.back_to(mark);
                self.fail(request, fault)?;
            }
        }
        Ok(Next::Request)
    }

    /// A chunk of data holds at least one byte.
    fn read_nothing(&mut self, request: &Request) -> Result<bool, Fault> {
        self.output.head(&reply::end(self.rules.style, request))?;
        Ok(true)
    }

    /// Sends a short read from a mapped file if one holds all of it, or else a copy.
    fn read_short(&mut self, request: &Request) -> Result<bool, Fault> {
        let range = request.offset..request.offset + request.length;
        let mapped = match self.plain {
            true => self.device.mapped(range)?,
            false => None,
        };
        let length = request.length as u32;
        self.output.head(&reply::data(
            self.rules.style,
            request,
            request.offset,
            length,
            true,
        ))?;
        if let Some(bytes) = mapped {
            self.output.mapped(bytes);
            return Ok(true);
        }
        let space = self.output.space(length as usize)?;
        self.device.try_read(space, request.offset)
    }

    /// Answers from the page cache where the data lies in it, with holes where there is none; false if a part would
    /// have to wait for a disk.
    fn read_pieces(&mut self, request: &Request, whole: bool) -> Result<bool, Fault> {
        let style = self.rules.style;
        let end = request.offset + request.length;
        let mut segments = std::mem::take(&mut self.segments);
        segments.clear();
        self.device.segments(request.offset..end, &mut segments)?;
        let chunked = style != HeaderStyle::Simple && !whole;
        if !chunked {
            self.output.head(&reply::data(
                style,
                request,
                request.offset,
                request.length as u32,
                true,
            ))?;
        }
        let mut done = true;
        for segment in &segments {
            done = done && self.read_segment(request, segment, chunked, end)?;
        }
        self.segments = segments;
        Ok(done)
    }

    fn read_segment(
        &mut self,
        request: &Request,
        segment: &Segment,
        chunked: bool,
        end: u64,
    ) -> Result<bool, Fault> {
        let style = self.rules.style;
        let range = &segment.range;
        let length = range.end - range.start;
        let last = range.end == end;
        if chunked && segment.source == Source::Zero {
            self.output.head(&reply::hole(
                style,
                request,
                range.start,
                length as u32,
                last,
            ))?;
            return Ok(true);
        }
        if chunked {
            self.output.head(&reply::data(
                style,
                request,
                range.start,
                length as u32,
                last,
            ))?;
        }
        match segment.source {
            Source::Zero => {
                self.output.zeros(length);
                Ok(!self.output.is_full(0))
            }
            Source::File => self.read_file(range.clone()),
            Source::Stored if self.plain => self.read_mapped(range.clone()),
            Source::Stored => self.read_stored(range.clone()),
        }
    }

    /// A page that is dropped before it is sent is read again then, while this connection alone waits.
    fn read_file(&mut self, range: Range<u64>) -> Result<bool, Fault> {
        let Some(file) = self.device.resident(range.clone()) else {
            return self.read_stored(range);
        };
        if self.output.is_full(0) {
            return Ok(false);
        }
        self.output.file(FilePart { file, range });
        Ok(true)
    }

    fn read_mapped(&mut self, range: Range<u64>) -> Result<bool, Fault> {
        if self.output.is_full(0) {
            return Ok(false);
        }
        match self.device.mapped(range.clone())? {
            Some(bytes) => self.output.mapped(bytes),
            None => return self.read_stored(range),
        }
        Ok(true)
    }

    fn read_stored(&mut self, range: Range<u64>) -> Result<bool, Fault> {
        let length = (range.end - range.start) as usize;
        if self.output.is_full(length) {
            return Ok(false);
        }
        self.device
            .try_read(self.output.space(length)?, range.start)
    }
}
