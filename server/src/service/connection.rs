//! The transmission phase of one connection.

mod arena;
mod deferred;
mod finish;
mod flushes;
pub mod patience;
mod reads;
mod receive;
mod writes;

use std::{
    io,
    net::Shutdown,
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use nbd::{IoError, MetaContext, Operation, Request, Rules, Session, Verdict, reply};

use self::{arena::Arena, patience::Patience};
use super::{
    device::{Change, Device, Ended, Fault, PeerAddress, Segment},
    input::Input,
    jobs::Job,
    mailbox::{Mailbox, Shortcut},
    output::Output,
    pool::{Lane, Pool},
    registry::{Ending, Live},
    transport::{Transport, Unsent},
};

/// After so long without a request the buffers are given back.
const IDLE: Duration = Duration::from_secs(2);
/// Reads of at least this length are looked up piece by piece: parts that lie in memory are sent from the page cache,
/// and zeros as holes. Shorter ones are copied, which costs less than asking. Bytes.
const LOOKED_UP: u64 = 32 << 10;
/// After so many requests that came one at a time, the client is taken to have one under way at a time.
const ALONE: u32 = 16;
/// Jobs that a connection may have under way.
const MOST_JOBS: usize = 128;

/// Why a connection ended.
pub enum End {
    /// The client said goodbye or closed.
    Closed,
    /// It was evicted, or its export is gone.
    Gone,
    /// It was asked to end.
    Drained,
    /// It broke the protocol, or the socket failed.
    Failed(String),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        End::Failed(error.to_string())
    }
}

/// What a connection serves, and with what.
pub struct Engine<'a> {
    /// The connection as others see it.
    pub live: &'a Arc<Live>,
    /// The disk.
    pub device: &'a Arc<dyn Device>,
    /// Threads for what blocks.
    pub pool: &'a Arc<Pool>,
    /// Bytes that requests under way may hold.
    pub most_in_flight: u64,
    /// Whether the client comes back by itself, and must not be told ESHUTDOWN.
    pub returns: bool,
    /// Told of the first failed request.
    pub on_error: &'a dyn Fn(&str),
}

/// A write whose payload comes in pieces, or one that is thrown away.
struct Partial {
    request: Request,
    at: u64,
    left: u64,
    fua: bool,
    result: Result<(), Fault>,
}

struct Transmission<'a, 'd> {
    engine: &'a Engine<'a>,
    device: &'d dyn Device,
    rules: Rules,
    /// Without TLS. With it this process looks at what it sends, so that it takes nothing from a mapping.
    plain: bool,
    contexts: Arc<[MetaContext]>,
    input: Input,
    output: Output<'d>,
    partial: Option<Partial>,
    segments: Vec<Segment>,
    /// Taken on and not begun.
    deferred: Vec<(Change, Ended)>,
    /// Where their payloads are put.
    arena: Arena,
    mailbox: Arc<Mailbox>,
    lane: Arc<Lane>,
    jobs: usize,
    in_flight: u64,
    /// The part of `in_flight` that is finished and waits in the output.
    unsent: u64,
    told_error: bool,
    /// Whether the last flush took no longer than handing it to another thread is worth.
    flushes_quickly: bool,
    /// How often in a row exactly one request had come.
    single: u32,
    patience: Patience,
}

/// Serves requests until the connection ends. When it returns nothing of this connection is under way any more.
pub fn serve(
    engine: &Engine<'_>,
    transport: &mut Transport<'_>,
    session: &Session,
    early: &[u8],
) -> End {
    match Transmission::new(engine, session, early, !transport.is_secure()) {
        Ok(mut transmission) => {
            let end = transmission.run(transport);
            transmission.finish(transport, end)
        }
        Err(error) => error.into(),
    }
}

/// The lane of whoever is there: the owner of an export, or else all connections from an address. Local clients may
/// be anybody and have one each.
fn lane(engine: &Engine<'_>) -> Arc<Lane> {
    match (engine.live.holds().1, engine.live.peer) {
        (Some(owner), _) => engine.pool.lane(&format!("owner {owner}")),
        (None, PeerAddress::Ip(ip)) => engine.pool.lane(&format!("address {ip}")),
        (None, PeerAddress::Local) => Arc::new(Lane::default()),
    }
}

/// The way around this connection's thread for what its device ends elsewhere; not with TLS, which has a state of its own.
fn shortcut(engine: &Engine<'_>, plain: bool) -> Option<Shortcut> {
    engine.device.deferred().filter(|_| plain)?;
    Some(Shortcut {
        live: engine.live.clone(),
        device: engine.device.clone(),
        pool: engine.pool.clone(),
    })
}

fn rules(session: &Session) -> Rules {
    Rules {
        size: session.info.size,
        flags: session.info.flags,
        minimum_block: session.info.block_sizes.minimum(),
        max_payload: session.info.block_sizes.maximum(),
        style: session.style,
        has_contexts: !session.contexts.is_empty(),
    }
}

/// Whether parsing goes on.
enum Next {
    /// With the next request.
    Request,
    /// When more has come.
    Receive,
    /// When jobs have ended.
    Jobs,
}

impl<'a> Transmission<'a, 'a> {
    fn new(
        engine: &'a Engine<'a>,
        session: &Session,
        early: &[u8],
        plain: bool,
    ) -> io::Result<Self> {
        Ok(Self {
            engine,
            device: &**engine.device,
            rules: rules(session),
            plain,
            contexts: session.contexts.clone().into(),
            input: Input::with(early, Request::header_len(session.style))?,
            output: Output::default(),
            partial: None,
            segments: Vec::new(),
            deferred: Vec::new(),
            arena: Arena::default(),
            mailbox: Arc::new(Mailbox::new(shortcut(engine, plain))?),
            lane: lane(engine),
            jobs: 0,
            in_flight: 0,
            unsent: 0,
            told_error: false,
            flushes_quickly: false,
            single: 0,
            patience: Patience::default(),
        })
    }
}

impl<'d> Transmission<'_, 'd> {
    fn run(&mut self, transport: &mut Transport<'_>) -> End {
        let (Ok(end) | Err(end)) = self.rounds(transport);
        if self.engine.live.is_evicted() {
            End::Gone
        } else {
            end
        }
    }

    fn rounds(&mut self, transport: &mut Transport<'_>) -> Result<End, End> {
        transport.socket().set_read_timeout(Some(IDLE))?;
        loop {
            self.collect()?;
            let crowded = self.serve_received(transport)?;
            self.begin_deferred();
            self.send(transport)?;
            self.linger(transport);
            let readable = match (self.jobs, crowded) {
                (0, crowded) => !crowded,
                (_, true) => wait_for_bell(&self.mailbox.bell()).map(|()| false)?,
                (_, false) => self.wait(transport)?,
            };
            if readable && let Some(end) = self.receive(transport)? {
                return Ok(end);
            }
        }
    }

    /// Why a connection ends over which not everything could be sent.
    fn broken(&mut self, unsent: Unsent) -> End {
        match unsent {
            Unsent::Socket(error) => error.into(),
            // The client asks again on a new connection, and is then served by reading, which can report the error.
            Unsent::File(error) => {
                self.device.distrust();
                let text = format!("cannot read what was being sent: {error}");
                self.count_error(&text);
                End::Failed(text)
            }
        }
    }

    fn send(&mut self, transport: &mut Transport<'_>) -> Result<(), End> {
        let mailbox = self.mailbox.clone();
        let mut begun = mailbox.wire();
        if self.output.is_empty() && begun.is_empty() {
            return Ok(());
        }
        if self.engine.live.is_evicted() {
            return Err(End::Gone);
        }
        self.device.before_replies().map_err(|_| End::Gone)?;
        if let Err(unsent) = transport.send_after(&std::mem::take(&mut *begun), &self.output) {
            // A part of a reply may be out. Nobody may write another one behind it.
            self.engine.live.socket.shut(Shutdown::Both);
            return Err(self.broken(unsent));
        }
        self.output.clear();
        let sent = std::mem::take(&mut self.unsent);
        self.in_flight -= sent;
        self.engine.pool.give_back(sent);
        Ok(())
    }

    /// Serves what was received; true if it stopped because too much is under way.
    fn serve_received(&mut self, transport: &mut Transport<'_>) -> Result<bool, End> {
        let mut served = 0;
        let crowded = loop {
            if self.output.is_full(0) {
                self.send(transport)?;
            }
            let next = match self.partial.take() {
                Some(partial) => self.go_on(partial)?,
                None => self.next_request(transport)?,
            };
            match next {
                Next::Request => served += 1,
                Next::Receive => break false,
                Next::Jobs => break true,
            }
        };
        self.single = match served {
            0 => self.single,
            1 => self.single.saturating_add(1),
            _ => 0,
        };
        Ok(crowded)
    }

    fn next_request(&mut self, transport: &mut Transport<'_>) -> Result<Next, End> {
        let style = self.rules.style;
        let request = match Request::decode(style, self.input.bytes()) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(Next::Receive),
            Err(error) => return Err(End::Failed(error.to_string())),
        };
        if self.is_crowded() {
            return Ok(Next::Jobs);
        }
        let header = Request::header_len(style);
        let operation = match self.rules.judge(&request) {
            Verdict::Serve(operation) => operation,
            Verdict::Refuse(error) => {
                self.input.consume(header);
                return self.refuse(request, error, "the request breaks the protocol's rules");
            }
            Verdict::Disconnect => return Err(End::Closed),
            Verdict::Drop => {
                return Err(End::Failed(format!(
                    "a payload of {} bytes",
                    request.length
                )));
            }
        };
        if self.engine.live.is_draining() {
            return self.turn_away(request, header);
        }
        match operation {
            Operation::Write { fua } => self.begin_write(request, fua, header),
            Operation::Read { whole } => {
                self.input.consume(header);
                self.read(&request, whole, transport)
            }
            Operation::BlockStatus { payload: true, .. } => {
                self.filtered_status(request, operation, header)
            }
            Operation::Flush => {
                self.input.consume(header);
                self.flush(request).map(|()| Next::Request)
            }
            _ if self.defers(operation) => {
                self.input.consume(header);
                self.defer(request, operation, Bytes::new())
                    .map(|()| Next::Request)
            }
            _ => {
                self.input.consume(header);
                self.submit(request, operation, Vec::new(), request.length);
                Ok(Next::Request)
            }
        }
    }

    /// Whether enough is under way: here, or in all connections together. One job at a time is always let in, so that
    /// nobody waits for others.
    fn is_crowded(&self) -> bool {
        self.jobs >= MOST_JOBS
            || self.in_flight > self.engine.most_in_flight
            || (self.jobs > 0 && self.engine.pool.is_full())
    }

    /// The connection ends: clients that come back by themselves, or for what the export is now, are cut off; others
    /// are told.
    fn turn_away(&mut self, request: Request, header: usize) -> Result<Next, End> {
        let changed = self.engine.live.ending() == Some(Ending::Changed);
        if self.engine.returns || changed {
            return Err(End::Drained);
        }
        self.input.consume(header);
        // Not worth a line in the log: that it ends is told anyway.
        self.told_error = true;
        self.refuse(request, IoError::Shutdown, "the export is being withdrawn")
    }

    /// Answers with `error` after skipping the payload.
    fn refuse(&mut self, request: Request, error: IoError, text: &str) -> Result<Next, End> {
        let left = request.payload_len(self.rules.style);
        let result = Err(Fault::Request(error, text.to_owned()));
        self.go_on(Partial {
            request,
            at: 0,
            left,
            fua: false,
            result,
        })
    }

    fn fail(&mut self, request: &Request, fault: Fault) -> Result<(), End> {
        let Fault::Request(error, text) = fault else {
            return Err(End::Gone);
        };
        self.count_error(&text);
        self.output
            .head(&reply::error(self.rules.style, request, error))?;
        Ok(())
    }

    fn count(&self, bytes: &std::sync::atomic::AtomicU64, length: u64) {
        // Only this thread writes them, so that a plain add will do.
        bytes.store(bytes.load(Relaxed) + length, Relaxed);
        let requests = &self.engine.live.counters.requests;
        requests.store(requests.load(Relaxed) + 1, Relaxed);
    }

    fn count_error(&mut self, text: &str) {
        self.engine.live.counters.errors.fetch_add(1, Relaxed);
        if !self.told_error {
            self.told_error = true;
            (self.engine.on_error)(text);
        }
    }

    fn filtered_status(
        &mut self,
        request: Request,
        operation: Operation,
        header: usize,
    ) -> Result<Next, End> {
        // Eight bytes, and each context at most once; what is longer is skipped.
        if request.length > 8 + 4 * self.contexts.len() as u64 {
            self.input.consume(header);
            return self.refuse(
                request,
                IoError::Invalid,
                "a block status filter that is too long",
            );
        }
        let length = request.length as usize;
        let Some(payload) = self.input.bytes().get(header..header + length) else {
            return Ok(Next::Receive);
        };
        let wanted = nbd::status_filter(payload, &self.contexts);
        self.input.consume(header + length);
        let span = wanted.as_ref().map(|(span, _)| *span).unwrap_or(0);
        let fits = span > 0
            && request
                .offset
                .checked_add(span)
                .is_some_and(|end| end <= self.rules.size);
        let Some((_, contexts)) = wanted.filter(|_| fits) else {
            let head = reply::error(self.rules.style, &request, IoError::Invalid);
            self.output.head(&head)?;
            return Ok(Next::Request);
        };
        let all = std::mem::replace(&mut self.contexts, contexts.into());
        self.submit(request, operation, Vec::new(), span);
        self.contexts = all;
        Ok(Next::Request)
    }

    fn job(&self, request: Request, operation: Operation, payload: Vec<u8>, span: u64) -> Job {
        Job {
            device: self.engine.device.clone(),
            request,
            operation,
            style: self.rules.style,
            contexts: self.contexts.clone(),
            payload,
            span,
        }
    }

    /// Hands a request to the disk threads.
    fn submit(&mut self, request: Request, operation: Operation, payload: Vec<u8>, span: u64) {
        let job = self.job(request, operation, payload, span);
        let weight = job.weight();
        let read = if matches!(operation, Operation::Read { .. }) {
            request.length
        } else {
            0
        };
        self.count(&self.engine.live.counters.read, read);
        let mailbox = self.mailbox.clone();
        self.engine.pool.submit(
            &self.lane,
            self.engine.live.id,
            Box::new(move || mailbox.put(job.run())),
        );
        // Counted when it is certain to come back.
        self.jobs += 1;
        self.in_flight += weight;
        self.engine.pool.take(weight);
    }
}

fn wait_for_bell(bell: &impl AsFd) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    loop {
        match poll(&mut [PollFd::new(bell, PollFlags::IN)], None) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result.map(drop)?),
        }
    }
}

#[cfg(test)]
mod musts;
#[cfg(test)]
mod shortcut_tests;
#[cfg(test)]
mod tests;
