//! NBD servers side by side: bootroom, its peers from Debian, and a bare server as the limit.
//!
//! `bench_nbd [--quick] [ROW…]` prints one line for each row of the benchmark, when it is done, with the medians of several
//! rounds in which the servers take turns. All get the same lean load from this program, which runs on one processor while
//! the server runs on another; processor time is what the server's own threads have run. `--before` compares two builds of
//! bootroom, the other one named in BOOTROOM_BEFORE; `--tls`, `--clients`, `--idle` and `--cycles` are tables of their own.

mod bare;
mod client;
mod interrupt;
mod load;
mod memory;
mod report;
mod servers;
mod tls;

use std::{path::PathBuf, process::ExitCode};

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // The bare server is a server: it just ends.
    if arguments.first().is_none_or(|first| first != "--bare") {
        interrupt::heed()?;
    }
    match arguments.first().map(String::as_str) {
        Some("--bare") => {
            let file = PathBuf::from(arguments.get(1).expect("--bare FILE PORT"));
            bare::serve(&file, arguments.get(2).expect("--bare FILE PORT").parse()?)?;
        }
        Some("--idle") => memory::idle_clients()?,
        Some("--cycles") => memory::cycles()?,
        Some("--tls") => tls::tables(&arguments[1..])?,
        Some("--clients") => report::eight_clients()?,
        _ => report::all(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}
