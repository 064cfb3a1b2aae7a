//! The TFTP server: RFC 1350 with the options of RFC 2347, 2348, 2349 and 7440. Read-only.

mod active;
mod blocks;
mod config;
pub mod packet;
mod patience;
mod service;
mod session;
pub mod transfer;

pub use config::TftpConfig;
pub use service::Tftp;
