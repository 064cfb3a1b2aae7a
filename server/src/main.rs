//! The `bootroom` binary: a network-boot and diskless-client appliance.
//!
//! Must never serve an interface that the configuration does not name, or answer a write that P1-P6 of the
//! design do not hold for.

#[macro_use]
mod say;

mod cli;
mod clients;
mod config;
mod control;
mod demo;
mod doctor;
mod exports;
mod files;
mod mirror;
mod pki;
mod room;
mod service;
mod trace;
mod watch;

fn main() -> std::process::ExitCode {
    cli::run()
}
