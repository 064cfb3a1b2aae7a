//! Going down while the server is away. Nothing that needs the root disk can finish then, not even the programs that
//! would switch the machine off; so the agent, which needs no disk, ends the machine itself once it has waited long
//! enough.
//!
//! It cannot see by itself that the system is going down. A guard, started with the system and resident in memory, is
//! terminated by systemd when that begins, and tells the agent over a socket in the abstract namespace, one byte long.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use crate::error::{Error, Kind, Result, usage};
use crate::link::Now;
use crate::sys;

/// How long the disk may be away during a shutdown before the machine is ended.
const GRACE: Duration = Duration::from_secs(30);
/// How long a guard that has connected may take to say its byte.
const HEARING: Duration = Duration::from_millis(200);
const NAME: &[u8] = b"bootroom-attach";

/// How the machine is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Switched off.
    PowerOff,
    /// Started again.
    Reboot,
}

impl std::str::FromStr for Ending {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "poweroff" => Ok(Self::PowerOff),
            "reboot" => Ok(Self::Reboot),
            _ => Err(usage(format!("--guard {text}: give poweroff or reboot"))),
        }
    }
}

impl Ending {
    fn byte(self) -> u8 {
        match self {
            Self::PowerOff => b'p',
            Self::Reboot => b'r',
        }
    }

    /// Ends the machine, now, with nothing written back: there is nowhere to write it to.
    pub fn enforce(self) -> std::io::Result<()> {
        sys::end_machine(self == Self::PowerOff)
    }
}

/// The agent's ear.
#[derive(Debug)]
pub struct Ear(UnixListener);

impl Ear {
    /// Listens. `None`: another agent of this machine does already.
    pub fn open() -> Option<Self> {
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(NAME).ok()?).ok()?;
        listener.set_nonblocking(true).ok()?;
        Some(Self(listener))
    }

    /// The socket to wait for.
    pub fn socket(&self) -> &UnixListener {
        &self.0
    }

    /// What a guard says, if one has come. Only root is believed.
    pub fn hear(&self) -> Option<Ending> {
        let (mut guard, _) = self.0.accept().ok()?;
        let peer = rustix::net::sockopt::socket_peercred(&guard).ok()?;
        guard.set_nonblocking(false).ok()?;
        guard.set_read_timeout(Some(HEARING)).ok()?;
        let mut byte = [0];
        guard
            .read_exact(&mut byte)
            .ok()
            .filter(|()| peer.uid.is_root())?;
        [Ending::PowerOff, Ending::Reboot]
            .into_iter()
            .find(|ending| ending.byte() == byte[0])
    }
}

/// Waits for SIGTERM, then tells the agent.
pub fn stand(ending: Ending) -> Result<()> {
    let failed = |e| Error::with(Kind::Kernel, "the guard cannot stand", e);
    sys::wait_for_termination().map_err(failed)?;
    let address = SocketAddr::from_abstract_name(NAME).map_err(failed)?;
    let mut agent = UnixStream::connect_addr(&address).map_err(failed)?;
    agent.write_all(&[ending.byte()]).map_err(failed)
}

/// When to end the machine.
#[derive(Debug, Default)]
pub struct Countdown(Option<(Ending, Now)>);

impl Countdown {
    /// The system has begun to go down.
    pub fn begin(&mut self, ending: Ending, now: Now) {
        self.0.get_or_insert((ending, now.after(GRACE)));
    }

    /// While the disks are there, an orderly shutdown has all the time it needs.
    pub fn disks_are_up(&mut self, now: Now) {
        if let Some((_, deadline)) = &mut self.0 {
            *deadline = now.after(GRACE);
        }
    }

    /// When to look again.
    pub fn deadline(&self) -> Option<Now> {
        self.0.map(|(_, deadline)| deadline)
    }

    /// How to end the machine, if its time has come.
    pub fn due(&self, now: Now) -> Option<Ending> {
        self.0
            .filter(|&(_, deadline)| deadline <= now)
            .map(|(ending, _)| ending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_the_machine_only_after_the_disk_was_away_for_long_enough() {
        let at = |s| Now(Duration::from_secs(s));
        let mut countdown = Countdown::default();
        assert_eq!(countdown.due(at(1000)), None, "no shutdown, no end");
        countdown.begin(Ending::Reboot, at(1000));
        countdown.disks_are_up(at(1020));
        assert_eq!(countdown.due(at(1049)), None);
        assert_eq!(countdown.due(at(1050)), Some(Ending::Reboot));
        countdown.begin(Ending::PowerOff, at(1051));
        assert_eq!(
            countdown.due(at(1052)),
            Some(Ending::Reboot),
            "the first word counts"
        );
    }
}
