//! `bootroom demo`: a room of diskless machines on this computer, started, checked and cleared away.
//!
//! The demo is a client of the same interface that users have: it runs `bootroom image build`, `bootroom serve` and
//! `bootroom image verify` as child processes and boots real virtual machines over a network that exists only inside
//! its own network namespace. It never touches the host's network, and never a data directory that it did not make.
//!
//! It runs in two processes. The outer one ([`outer`]) answers signals, sees to the packages and the image and owns
//! the files of this run. The inner one ([`room`]) is process 1 of a PID namespace: when it ends, for whatever
//! reason, the kernel ends the server and every machine with it.

mod boot;
mod checks;
mod console;

mod image;
mod machine;
mod network;
mod outer;
mod plan;
mod prerequisites;
mod proof;
mod room;
mod sandbox;
mod server;
mod storage;
mod summary;
mod timeline;

use std::path::PathBuf;
use std::process::ExitCode;

/// What `bootroom demo` can be asked.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// How many machines to boot
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub machines: u8,

    /// Leave the room running after the checks, until Ctrl-C
    #[arg(long)]
    pub keep_running: bool,

    /// Where the image is kept between runs [default: /var/cache/bootroom/demo, or ~/.cache/bootroom/demo]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Memory of each machine, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u32).range(256..=65536))]
    pub memory: u32,

    /// Build the image anew even if an earlier run left one
    #[arg(long)]
    pub rebuild_image: bool,

    /// How the machines are run: by emulation, which works anywhere, or by the processor's own virtualisation
    #[arg(long, value_enum, default_value_t = plan::Accel::Tcg)]
    pub accel: plan::Accel,

    /// The plan of a run whose namespaces are already made (how the demo starts its inner process)
    #[arg(long, hide = true, value_name = "FILE")]
    pub inside: Option<PathBuf>,
}

/// Runs the demo. The exit code is 0 only if every machine came to its login and every check held.
///
/// Must not be called from inside an async runtime: it makes its own.
///
/// # Errors
/// Everything that keeps the room from booting: a missing package, an image that cannot be built, a namespace the
/// kernel refuses, a machine that does not reach its login in time.
pub fn run(options: &DemoOptions) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = match &options.inside {
        Some(plan) => runtime.block_on(room::run(plan)),
        None => runtime.block_on(outer::run(options)),
    };
    // A read of standard input may still be pending on a helper thread; it must not hold up the exit.
    runtime.shutdown_background();
    outcome
}
