//! One disk: its link, the socket that the kernel uses, and the connection that is to replace it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;

use crate::cmdline::{DeviceIndex, Disk};
use crate::console::{Console, Level};
use crate::error::{Error, Kind, Result};
use crate::kernel::Kernel;
use crate::ktls;
use crate::link::{Action, Link, Now};
use crate::nag::Nag;
use crate::net::{self, Place};
use crate::netlink::Setup;
use crate::pulse::{Pulse, Verdict};
use crate::question::Question;
use crate::queue::{self, Inflight};
use crate::security::Security;
use crate::sys;
use crate::talk::Talk;
use crate::terms::Terms;
use crate::traffic::Traffic;
use crate::uri::Transport;

/// How long the kernel lets I/O wait without a socket: ten years. A teacher's patience ends earlier.
const DEAD_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 86400);

/// So often the kernel has to say that it knows no such attachment (any more) before the agent believes it.
const DISOWNED: u8 = 3;

/// How to attach.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Time after which silence while requests wait, or unacknowledged data, ends a connection.
    pub request_timeout: Duration,
    /// What TLS has to prove, for `nbds://`.
    pub security: Option<Security>,
}

/// What an attachment needs from around it.
pub struct Around<'a> {
    /// The kernel.
    pub kernel: &'a mut Kernel,
    /// The person in front of the machine.
    pub console: &'a mut Console,
    /// How to attach.
    pub settings: &'a Settings,
}

/// What the outside should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// Attached for the first time.
    Attached,
    /// Back, after having been away this long.
    Reconnected(Duration),
}

/// A connection under construction.
struct Candidate {
    fd: OwnedFd,
    talk: Talk,
    terms: Option<Terms>,
}

/// One disk.
pub struct Attachment {
    disk: Disk,
    places: Vec<Place>,
    identity: String,
    link: Link,
    /// What the kernel was told when the disk was first attached.
    agreed: Option<Terms>,
    serving: Option<OwnedFd>,
    candidate: Option<Candidate>,
    /// Asked of another server while the one in use is doubted.
    question: Option<Question>,
    nag: Nag,
    pulse: Pulse,
    /// Opened where there are others to ask.
    inflight: Option<Inflight>,
    /// The server that stopped answering, until the disk works again.
    silent: Option<usize>,
    /// How often in a row the kernel said that the device is not ours.
    disowned: u8,
}

impl Attachment {
    /// A disk to be attached; nothing happens before the first [`Attachment::tick`].
    pub fn new(disk: Disk, places: Vec<Place>, patience: Duration, seed: u64, now: Now) -> Self {
        let link = Link::new(places.len(), seed, now);
        let pulse = Pulse::new(patience, net::are_several(&places), now);
        let identity = identity(&disk);
        Self {
            disk,
            places,
            identity,
            link,
            agreed: None,
            serving: None,
            candidate: None,
            question: None,
            nag: Nag::new(now),
            pulse,
            inflight: None,
            silent: None,
            disowned: 0,
        }
    }

    /// The block device.
    pub fn device(&self) -> DeviceIndex {
        self.disk.device
    }

    /// Whether the disk works right now, as far as is known.
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// When [`Attachment::tick`] wants to be called.
    pub fn deadline(&self) -> Option<Now> {
        let look = self.link.is_up().then(|| self.pulse.deadline());
        [self.link.deadline(), self.nag.deadline(), look]
            .into_iter()
            .flatten()
            .min()
    }

    /// Why it is not attached, in one line.
    pub fn trouble(&self) -> String {
        format!(
            "/dev/{} from {}: {}",
            self.disk.device,
            self.place(),
            self.nag.trouble()
        )
    }

    /// The address of this machine that the connection in use comes from, if it is an IPv4 one.
    pub fn own_address(&self) -> Option<Ipv4Addr> {
        let own = rustix::net::getsockname(self.serving.as_ref()?).ok()?;
        match SocketAddr::try_from(own).ok()? {
            SocketAddr::V4(own) => Some(*own.ip()),
            SocketAddr::V6(_) => None,
        }
    }

    /// The address of the server in use.
    pub fn server_address(&self) -> Option<IpAddr> {
        let server = rustix::net::getpeername(self.serving.as_ref()?).ok()??;
        SocketAddr::try_from(server).ok().map(|server| server.ip())
    }

    /// Whether the disk's first server is at `address`.
    pub fn begins_at(&self, address: IpAddr) -> bool {
        let first = self.places.first();
        first.is_some_and(|place| place.address.ip() == address)
    }

    /// What to wait for; then comes [`Attachment::ready`].
    pub fn watch(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let up = self.link.is_up();
        // The kernel reads and writes this socket. We only look whether it has ended.
        let serving = self.serving.as_ref().filter(|_| up);
        let serving = serving.map(|fd| (fd.as_fd(), PollFlags::RDHUP));
        let question = self.question.as_ref().filter(|_| up);
        let question = question.map(Question::watch);
        let candidate = self.watch_candidate().filter(|_| !up);
        [serving, question, candidate].into_iter().flatten()
    }

    fn watch_candidate(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let candidate = self.candidate.as_ref()?;
        let flags = match (
            self.link.is_dialing(),
            self.link.is_agreeing(),
            candidate.talk.wants_to_write(),
        ) {
            (true, _, _) => PollFlags::OUT,
            (_, true, true) => PollFlags::OUT | PollFlags::IN,
            (_, true, false) => PollFlags::IN,
            _ => return None,
        };
        Some((candidate.fd.as_fd(), flags))
    }

    /// The awaited thing has come.
    pub fn ready(&mut self, around: &mut Around<'_>, now: Now) -> Result<Option<Happened>> {
        if self.link.is_up() {
            return self.ready_while_up(around, now);
        }
        let result = if self.link.is_dialing() {
            self.connected(around, now)
        } else if self.link.is_agreeing() {
            self.converse(now)
        } else {
            // What was waited for has been dealt with meanwhile.
            Ok(Action::None)
        };
        self.follow(result, around, now)
    }

    fn ready_while_up(&mut self, around: &mut Around<'_>, now: Now) -> Result<Option<Happened>> {
        if self.notice_end(around, now) {
            return Ok(None);
        }
        match self.question.take().filter(Question::has_greeted) {
            Some(question) => self.replace(question, around, now),
            None => Ok(None),
        }
    }

    /// Whether the connection in use has ended; then the link is lost.
    fn notice_end(&mut self, around: &mut Around<'_>, now: Now) -> bool {
        let ended = self.link.is_up() && self.serving.as_ref().is_some_and(net::has_ended);
        if ended {
            self.pulse.forgive();
            self.lost("connection lost", around, now);
            self.link.lost(now);
        }
        ended
    }

    /// Leaves the silent server for the one that was asked, which serves.
    fn replace(
        &mut self,
        answered: Question,
        around: &mut Around<'_>,
        now: Now,
    ) -> Result<Option<Happened>> {
        self.fell_silent(around, now);
        self.pulse.mistrust();
        self.link.moved(now);
        let result = self.begin(answered.into_connection(), around.settings);
        let result = result.and_then(|()| self.connected(around, now));
        self.follow(result, around, now)
    }

    /// A deadline has passed.
    pub fn tick(&mut self, around: &mut Around<'_>, now: Now) -> Result<Option<Happened>> {
        if let Some(line) = self.nag.due(now) {
            around.console.say(
                Level::Error,
                &format!("waiting for {}: {line}", self.place()),
            );
        }
        if self.link.is_up() && self.pulse.deadline() <= now {
            match self.look(now) {
                Verdict::Alive => self.question = None,
                Verdict::Doubtful => self.ask(now),
                Verdict::Dead => {
                    self.fell_silent(around, now);
                    self.link.silent(now);
                    return Ok(None);
                }
            }
        }
        let action = self.link.tick(now);
        self.follow(Ok(action), around, now)
    }

    fn look(&mut self, now: Now) -> Verdict {
        let Some(fd) = &self.serving else {
            return Verdict::Alive;
        };
        let traffic = self.traffic(fd.as_fd());
        // A socket that cannot be asked has ended, which is noticed on its own.
        let Ok(traffic) = traffic.or_else(|_| sys::tcp_traffic(fd.as_fd())) else {
            return Verdict::Alive;
        };
        let pending = self.inflight.as_ref().is_some_and(Inflight::any);
        self.pulse.look(traffic, pending, now)
    }

    /// What a connection has carried, without what TLS adds; an error also where the kernel does not tell how much that is.
    fn traffic(&self, fd: BorrowedFd<'_>) -> io::Result<Traffic> {
        let traffic = sys::tcp_traffic(fd)?;
        match self.disk.target.transport {
            Transport::Plain => Ok(traffic),
            Transport::Tls => Ok(traffic.without(ktls::added(fd)?)),
        }
    }

    /// Asks another server whether it serves by now, unless one that was asked may still answer.
    fn ask(&mut self, now: Now) {
        let asked = self.question.as_ref();
        if asked.is_none_or(|question| !question.is_open(now)) {
            // Another address of the one in use says nothing about others.
            let other = self.link.ask().map(|server| &self.places[server]);
            let other = other.filter(|place| place.name != self.place());
            self.question = other.and_then(|place| Question::new(place.address, now).ok());
        }
    }

    fn fell_silent(&mut self, around: &mut Around<'_>, now: Now) {
        self.lost("no answer", around, now);
        self.silent = Some(self.link.server());
    }

    /// The kernel says that it has given up the socket.
    pub fn kernel_let_go(&mut self, around: &mut Around<'_>, now: Now) -> Result<Option<Happened>> {
        // It may say so before the end itself was noticed here. The link would pass over that while it counts as up.
        self.notice_end(around, now);
        let action = self.link.kernel_let_go();
        self.follow(Ok(action), around, now)
    }

    fn place(&self) -> &str {
        &self.places[self.link.server()].name
    }

    fn lost(&mut self, why: &str, around: &mut Around<'_>, now: Now) {
        around.console.say(
            Level::Warning,
            &format!(
                "lost server {} ({why}); this machine waits and goes on by itself",
                self.place()
            ),
        );
        self.nag.begin(now, why);
        self.question = None;
        if let Some(fd) = &self.serving {
            net::shut(fd);
        }
    }

    fn connected(&mut self, around: &Around<'_>, now: Now) -> Result<Action> {
        let candidate = self.candidate.as_mut().ok_or_else(vanished)?;
        let unreachable = |e| Error::with(Kind::Network, "no connection", e);
        net::finished(&candidate.fd).map_err(unreachable)?;
        net::prepare(&candidate.fd, around.settings.request_timeout).map_err(unreachable)?;
        self.link.connected(now);
        Ok(Action::None)
    }

    fn converse(&mut self, now: Now) -> Result<Action> {
        let candidate = self.candidate.as_mut().ok_or_else(vanished)?;
        let Some(terms) = candidate.talk.proceed(&candidate.fd)? else {
            return Ok(Action::None);
        };
        terms.block()?;
        if let Some(agreed) = &self.agreed {
            agreed.check_same(&terms)?;
        }
        candidate.terms = Some(terms);
        Ok(self.link.agreed(now))
    }

    /// Does what the link wants, until it wants nothing more; keeps what went wrong.
    fn follow(
        &mut self,
        what: Result<Action>,
        around: &mut Around<'_>,
        now: Now,
    ) -> Result<Option<Happened>> {
        let result = what.and_then(|action| match action {
            Action::None => Ok(None),
            Action::Dial(server) => self.dial(server, around.settings).map(|()| None),
            Action::Abandon => {
                self.candidate = None;
                self.nag.note("no answer");
                Ok(None)
            }
            Action::Install => self.install(around, now),
        });
        result.or_else(|error| self.went_wrong(error, around, now))
    }

    fn dial(&mut self, server: usize, settings: &Settings) -> Result<()> {
        let address = self.places[server].address;
        let fd = net::dial(address).map_err(|e| Error::with(Kind::Network, "no connection", e))?;
        self.begin(fd, settings)
    }

    /// Begins to talk over a connection to the link's server.
    fn begin(&mut self, fd: OwnedFd, settings: &Settings) -> Result<()> {
        let place = &self.places[self.link.server()];
        let talk = Talk::new(&self.disk.target, &place.host, settings.security.as_ref())?;
        self.candidate = Some(Candidate {
            fd,
            talk,
            terms: None,
        });
        Ok(())
    }

    fn install(&mut self, around: &mut Around<'_>, now: Now) -> Result<Option<Happened>> {
        let Some(Candidate {
            fd,
            talk,
            terms: Some(terms),
        }) = self.candidate.take()
        else {
            return self.assert_again(around).map(|()| None);
        };
        talk.seal(&fd)?;
        let begun = self.traffic(fd.as_fd()).ok();
        net::set_blocking(&fd).map_err(|e| Error::with(Kind::Network, "no connection", e))?;
        let first = self.agreed.is_none();
        let terms = self.agreed.get_or_insert(terms);
        let setup = setup(self.disk.device, terms, &self.identity)?;
        let given = match first {
            true => around.kernel.connect(&setup, fd.as_fd()),
            false => around.kernel.reconfigure(&setup, fd.as_fd()),
        };
        given.inspect_err(|_| {
            if first {
                self.agreed = None
            }
        })?;
        self.serving = Some(fd);
        self.disowned = 0;
        let silent = self.silent.take();
        let replaced = silent.is_some_and(|silent| silent != self.link.server());
        self.pulse.begin(begun, replaced, now);
        let away = self.link.installed(now);
        Ok(Some(self.announce(away, around)))
    }

    fn announce(&mut self, away: Option<Duration>, around: &mut Around<'_>) -> Happened {
        self.nag.end();
        let place = self.place();
        let Some(away) = away else {
            around.console.say(
                Level::Info,
                &format!("/dev/{} attached from {place}", self.disk.device),
            );
            return Happened::Attached;
        };
        let line = format!(
            "server {place} is back after {:.1} s; all goes on",
            away.as_secs_f64()
        );
        around.console.say(Level::Warning, &line);
        Happened::Reconnected(away)
    }

    /// Hands over the socket in use once more: a no-op, unless the kernel had ignored it the first time.
    fn assert_again(&mut self, around: &mut Around<'_>) -> Result<()> {
        let (Some(fd), Some(terms)) = (&self.serving, &self.agreed) else {
            return Ok(());
        };
        let setup = setup(self.disk.device, terms, &self.identity)?;
        around.kernel.reconfigure(&setup, fd.as_fd())
    }

    fn went_wrong(
        &mut self,
        error: Error,
        around: &mut Around<'_>,
        now: Now,
    ) -> Result<Option<Happened>> {
        self.candidate = None;
        match error.kind() {
            Kind::Network => self.link.failed(now),
            Kind::Refused => {
                if self.nag.is_new(&error.to_string()) {
                    around
                        .console
                        .say(Level::Error, &format!("{} REFUSED: {error}", self.place()));
                }
                self.link.refused(now);
            }
            // Before the first success there is somebody to tell; afterwards the disk is never given up lightly.
            _ if self.agreed.is_none() => return Err(error),
            Kind::Device if self.disowned >= DISOWNED => return Err(error),
            Kind::Device => {
                self.disowned += 1;
                self.link.failed(now);
            }
            Kind::Usage | Kind::Kernel | Kind::Root => self.link.failed(now),
        }
        self.nag.note(&error.to_string());
        Ok(None)
    }
}

fn setup<'a>(device: DeviceIndex, terms: &Terms, identity: &'a str) -> Result<Setup<'a>> {
    Ok(Setup {
        device,
        size: terms.size,
        block: terms.block()?,
        flags: terms.flags,
        dead_timeout: DEAD_TIMEOUT.as_secs(),
        identity,
    })
}

/// Binds the device to the export without telling the token: everybody can read this in sysfs. FNV-1a, 64 bits.
fn identity(disk: &Disk) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = disk
        .target
        .export
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, step);
    format!("bootroom-{hash:016x}")
}

fn vanished() -> Error {
    Error::new(Kind::Network, "no connection")
}

impl Attachment {
    /// What goes through files, while those can still be used: settings of the kernel, and the way to its count of
    /// requests where that is of use.
    pub fn tune(&mut self) -> io::Result<()> {
        let device = self.disk.device;
        queue::tune(device, self.agreed.as_ref().and_then(Terms::max_sectors_kb))?;
        if net::are_several(&self.places) {
            self.inflight = Some(Inflight::open(device)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uri::Target;
    use std::net::{TcpListener, TcpStream};

    const NOW: Now = Now(Duration::from_secs(7));

    /// A disk that works, and the server's end of its connection.
    fn attached() -> (Attachment, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connection = TcpStream::connect(address).unwrap();
        let place = Place {
            name: address.to_string(),
            host: address.ip().to_string(),
            address,
        };
        let disk = Disk {
            target: Target::from_uri("nbd://127.0.0.1/disk").unwrap(),
            device: DeviceIndex(0),
        };
        let mut attachment = Attachment::new(disk, vec![place], DEAD_TIMEOUT, 7, NOW);
        assert_eq!(agree(&mut attachment.link), Action::Install);
        attachment.link.installed(NOW);
        attachment.serving = Some(connection.into());
        (attachment, listener.accept().unwrap().0)
    }

    /// Dials and comes to an agreement at once.
    fn agree(link: &mut Link) -> Action {
        let then = link.deadline().unwrap();
        assert_eq!(link.tick(then), Action::Dial(0));
        link.connected(then);
        link.agreed(then)
    }

    fn ends(connection: TcpStream, attachment: &Attachment) {
        drop(connection);
        let fd = attachment.serving.as_ref().unwrap();
        while !net::has_ended(fd) {
            std::thread::yield_now();
        }
    }

    /// Lets `happen` be with nothing around but a socket.
    fn let_happen(happen: impl FnOnce(&mut Around<'_>) -> Result<Option<Happened>>) {
        let settings = Settings {
            request_timeout: Duration::from_secs(10),
            security: None,
        };
        let mut around = Around {
            kernel: &mut Kernel::without_nbd(),
            console: &mut Console::unseen(),
            settings: &settings,
        };
        assert_eq!(happen(&mut around).unwrap(), None);
    }

    #[test]
    fn the_kernels_word_counts_also_if_it_is_heard_before_the_end_of_the_connection() {
        let (mut attachment, server) = attached();
        ends(server, &attachment);
        let_happen(|around| attachment.kernel_let_go(around, NOW));
        assert!(!attachment.is_up());
        // Both came in the same moment.
        let_happen(|around| attachment.ready(around, NOW));
        assert_eq!(agree(&mut attachment.link), Action::Install, "no wait");
    }

    #[test]
    fn the_kernels_word_of_an_older_connection_ends_nothing() {
        let (mut attachment, server) = attached();
        let_happen(|around| attachment.kernel_let_go(around, NOW));
        assert!(attachment.is_up());
        ends(server, &attachment);
        let_happen(|around| attachment.ready(around, NOW));
        assert_eq!(agree(&mut attachment.link), Action::None, "not yet");
    }
}
