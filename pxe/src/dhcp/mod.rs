//! The DHCP server: RFC 2131 and 2132, and what PXE adds.

mod boot;
mod config;
pub mod engine;
mod frame;
mod lease;
pub mod packet;
mod redb;
mod reply;
mod scribe;
mod search;
mod service;
mod sockets;
mod table;
mod worker;

pub use self::redb::RedbLeases;
pub use config::{DhcpConfig, Mode, Range, Subnet};
pub use lease::{Lease, LeaseChange, LeaseLog, Leases, NoLog, UnixTime};
pub use reply::{Destination, Reply};
pub use search::{FoundServer, OFFERS_WITHIN, find_servers};
pub use service::{Dhcp, DhcpControl};
