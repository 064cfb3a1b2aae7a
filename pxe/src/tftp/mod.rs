//! The TFTP server: RFC 1350 with the options of RFC 2347, 2348, 2349 and 7440. Read-only.

mod config;

pub use config::TftpConfig;
