//! What the TFTP service is told.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::files::Roots;

/// What [`super::Tftp::bind`] is told.
#[derive(Debug, Clone)]
pub struct TftpConfig {
    /// The one interface to listen on; none: whatever routes to `address` (tests on loopback).
    pub interface: Option<String>,
    /// The address to listen on; 0.0.0.0: every address of the interface, and answers leave from the one asked.
    pub address: Ipv4Addr,
    /// The port, 69; zero: any (see [`super::Tftp::port`]).
    pub port: u16,
    /// Directories served when the policy has no answer.
    pub roots: Roots,
    /// Upper bound of transfers at once; further requests are dropped and will be asked again.
    pub max_transfers: usize,
    /// How long a silent client is kept, in all.
    pub give_up: Duration,
}

impl TftpConfig {
    /// Port 69 of `address` on `interface`, with the distribution's boot loaders, for 4096 clients at once.
    pub fn new(interface: impl Into<String>, address: Ipv4Addr) -> Self {
        Self {
            interface: Some(interface.into()),
            address,
            port: 69,
            roots: Roots::loaders(),
            max_transfers: 4096,
            give_up: Duration::from_secs(30),
        }
    }
}
