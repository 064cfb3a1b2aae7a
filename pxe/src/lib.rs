//! DHCP, TFTP and HTTP: everything a machine asks the network between power-on and its kernel.
//!
//! The crate answers three protocols and decides nothing about machines by itself. A [`Policy`] says who a
//! machine is ([`Policy::identify`]), what it boots ([`Policy::boot`]) and what a path holds for it
//! ([`Policy::file`]); the crate knows firmware: option 93, iPXE's marks, packet layouts, windows and ranges.
//!
//! Three services, all alike: [`Dhcp`], [`Tftp`] and [`Http`] have `bind(config, …) -> Result<Self>`, which takes the
//! port or says why not, and `run(shutdown) -> Result<()>`, which serves until the future `shutdown` resolves and
//! then finishes what is in flight.
//!
//! ```text
//! Leases::open(Box::new(RedbLeases::open(path)?)) -> Result<Arc<Leases>>   // mac_of(ip), address_of(mac), list(), forget(mac)
//! Dhcp::bind(DhcpConfig, Arc<Leases>, Arc<dyn Policy>) -> Result<Dhcp>
//! Tftp::bind(TftpConfig, Arc<Leases>, Arc<dyn Policy>) -> Result<Tftp>
//! Http::bind(HttpConfig, Arc<Leases>, Arc<dyn Policy>) -> Result<Http>
//! service.run(async { signal }).await -> Result<()>
//! ```
//!
//! What it must never do:
//! - know the overlay store, the image catalogue or the NBD server;
//! - listen on an interface that its config does not name;
//! - acknowledge a lease that is not on disk, or give one address to two machines;
//! - follow a path out of the directories it was given, or write a file a client named;
//! - panic on, or allocate without bound for, anything that came from the wire.
//!
//! Protocol logic is free of sockets and clocks (`dhcp::engine`, `tftp::transfer`): packet and time in, packet out.
//! System calls that need `unsafe` live in one private module (`sys`).

mod error;
mod limit;
mod machine;
mod net;
mod policy;
mod stop;
mod sys;

pub mod dhcp;
pub mod files;
pub mod http;
pub mod menu;
pub mod quiet;
pub mod tftp;
pub mod trace;

pub use dhcp::{Dhcp, DhcpConfig, Leases, RedbLeases};
pub use error::{Error, ErrorKind, Result};
pub use http::{Http, HttpConfig};
pub use machine::{Arch, IpxeFeatures, Link, Mac, MacParseError, Machine, Stage, Uuid};
pub use policy::{
    BootAnswer, Content, DhcpOption, Event, FileRequest, Happening, Identity, Loader, Outcome,
    Policy, Protocol, Report,
};
pub use tftp::{Tftp, TftpConfig};
