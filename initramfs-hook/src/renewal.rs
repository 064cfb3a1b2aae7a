//! Asks for the lease of the root disk's address to be extended; see [`crate::lease`] for what and when.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, sockopt,
};

use crate::console::Level;
use crate::lease::{self, Answer, CLIENT_PORT, Holder, LARGEST, SERVER_PORT, Schedule, Worry};
use crate::link::Now;
use crate::sys;

/// A request whose answer has not come yet.
#[derive(Debug)]
struct Exchange {
    socket: OwnedFd,
    xid: u32,
    deadline: Now,
}

/// The lease of one address.
#[derive(Debug)]
pub struct Renewal {
    holder: Holder,
    interface: String,
    schedule: Schedule,
    exchange: Option<Exchange>,
    xid: u32,
}

impl Renewal {
    /// For the interface that holds `address`. `None`: no Ethernet interface does.
    pub fn new(address: Ipv4Addr, seed: u64, now: Now) -> Option<Self> {
        let (interface, mac) = sys::interface_of(address.into()).ok().flatten()?;
        let holder = Holder { mac, address };
        Some(Self {
            holder,
            interface,
            schedule: Schedule::new(seed, now),
            exchange: None,
            xid: (seed >> 16) as u32,
        })
    }

    /// What to wait for.
    pub fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.exchange
            .as_ref()
            .map(|exchange| exchange.socket.as_fd())
    }

    /// When to call [`Renewal::proceed`].
    pub fn deadline(&self) -> Now {
        self.exchange
            .as_ref()
            .map_or(self.schedule.next(), |exchange| exchange.deadline)
    }

    /// Does what is due. What the person at the machine should read, if anything.
    pub fn proceed(&mut self, now: Now) -> Option<(Level, String)> {
        match &self.exchange {
            None if now < self.schedule.next() => None,
            None => self.begin(now),
            Some(exchange) => {
                let answer = hear(exchange, &self.holder);
                if answer.is_none() && now < exchange.deadline {
                    return None;
                }
                self.exchange = None;
                self.conclude(answer, now)
            }
        }
    }

    /// A socket for this exchange alone: a DHCP client that the system runs for another interface finds the port free.
    fn begin(&mut self, now: Now) -> Option<(Level, String)> {
        self.xid = self.xid.wrapping_add(1);
        // It may have been renamed since.
        if let Ok(Some((name, _))) = sys::interface_of(self.holder.address.into()) {
            self.interface = name;
        }
        let (server, naming) = self.schedule.ask();
        let request = lease::request(&self.holder, self.xid, naming);
        let sent = open(&self.interface).and_then(|socket| {
            let to = SocketAddr::from((server, SERVER_PORT));
            sendto(&socket, &request, SendFlags::empty(), &to)?;
            Ok(socket)
        });
        match sent {
            Ok(socket) => {
                self.exchange = Some(Exchange {
                    socket,
                    xid: self.xid,
                    deadline: self.schedule.patience(now),
                });
                None
            }
            // No route, no link: the same as no answer.
            Err(_) => self.conclude(None, now),
        }
    }

    fn conclude(&mut self, answer: Option<Answer>, now: Now) -> Option<(Level, String)> {
        match answer {
            Some(Answer::Extended {
                time,
                renew,
                server,
            }) => {
                self.schedule.extended(time, renew, server, now);
                None
            }
            other => self
                .schedule
                .failed(other.is_some(), now)
                .map(|worry| words(worry, &self.holder)),
        }
    }
}

fn words(worry: Worry, holder: &Holder) -> (Level, String) {
    let address = holder.address;
    match worry {
        Worry::RanOut => (
            Level::Warning,
            format!("nobody renews the lease of {address}: is the DHCP server running?"),
        ),
        Worry::Denied => (
            Level::Error,
            format!(
                "the DHCP server says that {address} is not this machine's: two machines may end up with it. \
                 Restart this machine, and look for a second DHCP server"
            ),
        ),
    }
}

fn open(interface: &str) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_broadcast(&socket, true)?;
    sys::bind_to_device(socket.as_fd(), interface)?;
    bind(
        &socket,
        &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT),
    )?;
    Ok(socket)
}

/// The first answer that has come; anything else that came is dropped.
fn hear(exchange: &Exchange, holder: &Holder) -> Option<Answer> {
    let mut buffer = [0; LARGEST];
    loop {
        match recv(&exchange.socket, buffer.as_mut_slice(), RecvFlags::empty()) {
            Ok((length, _)) => {
                let answer = lease::parse(&buffer[..length], holder, exchange.xid);
                if answer.is_some() {
                    return answer;
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}
