//! The DHCP server: RFC 2131 and 2132, and what PXE adds.

mod config;

pub use config::{DhcpConfig, Mode, Range, Subnet};
