//! What the HTTP service is told.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::files::Roots;

/// What [`super::Http::bind`] is told.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// The one interface to listen on; none: whatever routes to `address` (tests on loopback).
    pub interface: Option<String>,
    /// The address to listen on.
    pub address: Ipv4Addr,
    /// The port; zero: any (see [`super::Http::port`]).
    pub port: u16,
    /// Directories served when the policy has no answer.
    pub roots: Roots,
    /// Upper bound of connections at once; further ones wait in the listen queue.
    pub max_connections: usize,
    /// Time for a request to arrive whole, and for an idle connection to say something.
    pub read_timeout: Duration,
    /// A client that takes nothing for so long is hung up on.
    pub write_timeout: Duration,
}

impl HttpConfig {
    /// Port 80 of `address` on `interface`, with the distribution's boot loaders, for 2048 clients at once.
    pub fn new(interface: impl Into<String>, address: Ipv4Addr) -> Self {
        Self {
            interface: Some(interface.into()),
            address,
            port: 80,
            roots: Roots::loaders(),
            max_connections: 2048,
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
        }
    }
}
