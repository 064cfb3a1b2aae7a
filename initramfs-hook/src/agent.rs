//! The loop that keeps all disks attached: one thread, one `poll`, no allocation that the outage could block.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::attachment::{Around, Attachment, Happened, Settings};
use crate::clock;
use crate::cmdline::DeviceIndex;
use crate::console::{Console, Level};
use crate::error::{Error, Kind, Result};
use crate::guard::{Countdown, Ear};
use crate::kernel::Kernel;
use crate::link::Now;
use crate::post::{Post, Progress};
use crate::renewal::Renewal;
use crate::report::{Event, ReportUrl};

/// Where reports go: the URL and its address, looked up beforehand.
pub type Reporting = (ReportUrl, SocketAddr);

/// Everything the agent holds.
pub struct Agent {
    kernel: Kernel,
    console: Console,
    settings: Settings,
    attachments: Vec<Attachment>,
    reporting: Option<Reporting>,
    post: Option<Post>,
    ear: Option<Ear>,
    countdown: Countdown,
    renewal: Option<Renewal>,
    /// Announcements of the kernel, kept here so that reading them needs no memory.
    dead: Vec<DeviceIndex>,
}

impl Agent {
    /// An agent for these disks. Nothing is attached yet.
    pub fn new(
        kernel: Kernel,
        console: Console,
        settings: Settings,
        attachments: Vec<Attachment>,
        reporting: Option<Reporting>,
    ) -> Self {
        Self {
            kernel,
            console,
            settings,
            attachments,
            reporting,
            post: None,
            ear: Ear::open(),
            countdown: Countdown::default(),
            renewal: None,
            dead: Vec::with_capacity(64),
        }
    }

    /// Works until every disk is attached, or until `patience` is over.
    pub fn attach(&mut self, patience: Option<Duration>) -> Result<()> {
        let deadline = patience.map(|patience| clock::now().after(patience));
        while let Some(missing) = self.attachments.iter().find(|a| !a.is_up()) {
            if deadline.is_some_and(|at| clock::now() >= at) {
                return Err(Error::new(Kind::Network, missing.trouble()));
            }
            self.turn(deadline)?;
        }
        for attachment in &mut self.attachments {
            if let Err(error) = attachment.tune() {
                // Without it an interrupted request waits for up to 30 s, and a frozen server is noticed late.
                let line = format!("/dev/{} cannot be tuned: {error}", attachment.device());
                self.console.say(Level::Warning, &line);
            }
        }
        Ok(())
    }

    /// The person at the machine.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    /// From now on has the lease of the address extended that the first disk's connection comes from.
    pub fn hold_lease(&mut self, seed: u64) {
        let address = self.attachments.first().and_then(Attachment::own_address);
        self.renewal = address.and_then(|address| Renewal::new(address, seed, clock::now()));
    }

    /// Keeps the disks attached. Returns when there are none left.
    pub fn run(mut self) {
        while !self.attachments.is_empty() {
            if let Err(error) = self.turn(None) {
                self.console.say(Level::Error, &error.to_string());
            }
        }
    }

    /// Waits for the next thing to happen, and deals with it.
    fn turn(&mut self, limit: Option<Now>) -> Result<()> {
        let ready = self.wait(limit);
        let now = clock::now();
        self.hear_kernel(now)?;
        for at in (0..self.attachments.len()).rev() {
            let readied = ready & 1 << (at + 2).min(63) != 0;
            self.serve(at, readied, now)?;
        }
        self.send_report(now);
        self.keep_lease(now);
        self.watch_over_shutdown(now);
        Ok(())
    }

    fn keep_lease(&mut self, now: Now) {
        if let Some((level, line)) = self.renewal.as_mut().and_then(|r| r.proceed(now)) {
            self.console.say(level, &line);
        }
    }

    /// Bit 0: the kernel, a guard or a DHCP server, bit 1: the report, then the attachments.
    fn wait(&self, limit: Option<Now>) -> u64 {
        let mut fds = vec![(
            0,
            PollFd::from_borrowed_fd(self.kernel.events(), PollFlags::IN),
        )];
        let ear = self
            .ear
            .as_ref()
            .map(|ear| (0, PollFd::new(ear.socket(), PollFlags::IN)));
        fds.extend(ear);
        let lease = self.renewal.as_ref().and_then(Renewal::watch);
        fds.extend(lease.map(|fd| (0, PollFd::from_borrowed_fd(fd, PollFlags::IN))));
        fds.extend(
            self.post
                .iter()
                .map(|post| post.watch())
                .map(|(fd, flags)| (1, PollFd::from_borrowed_fd(fd, flags))),
        );
        for (at, attachment) in self.attachments.iter().enumerate() {
            fds.extend(
                attachment
                    .watch()
                    .map(|(fd, flags)| (at + 2, PollFd::from_borrowed_fd(fd, flags))),
            );
        }
        let (numbers, mut fds): (Vec<usize>, Vec<PollFd<'_>>) = fds.into_iter().unzip();
        clock::wait(&mut fds, self.deadline().into_iter().chain(limit).min());
        let ready = numbers
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty());
        ready.fold(0, |bits, (number, _)| bits | 1 << number)
    }

    /// A system that goes down without its disk is ended, not left hanging.
    fn watch_over_shutdown(&mut self, now: Now) {
        if let Some(ending) = self.ear.as_ref().and_then(Ear::hear) {
            self.countdown.begin(ending, now);
        }
        if self.attachments.iter().all(Attachment::is_up) {
            self.countdown.disks_are_up(now);
        }
        if let Some(ending) = self.countdown.due(now) {
            let line = "the system goes down and its disk does not come back: ending it now";
            self.console.say(Level::Error, line);
            if let Err(error) = ending.enforce() {
                self.console
                    .say(Level::Error, &format!("cannot end it: {error}"));
            }
        }
    }

    fn deadline(&self) -> Option<Now> {
        self.attachments
            .iter()
            .filter_map(Attachment::deadline)
            .chain(self.post.as_ref().map(Post::deadline))
            .chain(self.countdown.deadline())
            .chain(self.renewal.as_ref().map(Renewal::deadline))
            .min()
    }

    fn hear_kernel(&mut self, now: Now) -> Result<()> {
        self.dead.clear();
        let dead = &mut self.dead;
        self.kernel.drain(|device| dead.push(device));
        while let Some(device) = self.dead.pop() {
            let at = self.attachments.iter().position(|a| a.device() == device);
            let Some(at) = at else { continue };
            let happened = self.with(at, |attachment, around| {
                attachment.kernel_let_go(around, now)
            })?;
            self.report(at, happened, now);
        }
        Ok(())
    }

    fn serve(&mut self, at: usize, ready: bool, now: Now) -> Result<()> {
        if ready {
            let happened = self.with(at, |attachment, around| attachment.ready(around, now))?;
            self.report(at, happened, now);
        }
        let due = self
            .attachments
            .get(at)
            .and_then(Attachment::deadline)
            .is_some_and(|deadline| deadline <= now);
        if due {
            let happened = self.with(at, |attachment, around| attachment.tick(around, now))?;
            self.report(at, happened, now);
        }
        Ok(())
    }

    /// Runs one step of one attachment. One that cannot go on is given up: the kernel has no such device any more.
    fn with(
        &mut self,
        at: usize,
        step: impl FnOnce(&mut Attachment, &mut Around<'_>) -> Result<Option<Happened>>,
    ) -> Result<Option<Happened>> {
        let Self {
            kernel,
            console,
            settings,
            attachments,
            ..
        } = self;
        let mut around = Around {
            kernel,
            console,
            settings,
        };
        step(&mut attachments[at], &mut around).inspect_err(|_| drop(attachments.remove(at)))
    }

    /// Reports what happened to the root disk, which is the first one.
    fn report(&mut self, at: usize, happened: Option<Happened>, now: Now) {
        let (event, away) = match happened {
            None => return,
            Some(Happened::Attached) => (Event::Attached, None),
            Some(Happened::Reconnected(away)) => (Event::Reconnected, Some(away)),
        };
        if let Some((url, address)) = self.reporting.as_ref().filter(|_| at == 0) {
            let address = self.present(*address);
            self.post = Post::begin(address, url.request(event, clock::uptime(), away), now).ok();
        }
    }

    /// Where the disk's first server has given way to another one, that one hears reports, too.
    fn present(&self, first: SocketAddr) -> SocketAddr {
        let root = self.attachments.first();
        let moved = root.filter(|root| root.begins_at(first.ip()));
        let server = moved.and_then(Attachment::server_address);
        server.map_or(first, |ip| SocketAddr::new(ip, first.port()))
    }

    fn send_report(&mut self, now: Now) {
        if self
            .post
            .as_mut()
            .is_some_and(|post| post.proceed(now) != Progress::Underway)
        {
            self.post = None;
        }
    }
}
