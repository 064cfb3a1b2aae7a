//! The command line: what can be asked, and with which exit code it ends.

mod ask;
mod check;
mod client;
mod doctor;
mod export;
pub(crate) mod image;
mod output;
mod overlay_check;
mod pki;
mod reload;
mod serve;
mod snapshot;
mod standby;
mod status;
mod witness;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    config::{self, Config, problem::Problems},
    control::client::{Control, Unreachable},
    demo::{self, DemoOptions},
};

/// How a verb ended (README.md lists them for scripts).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Tried, and failed.
    Failed = 1,
    /// The configuration cannot be used.
    Config = 3,
    /// The server does not answer.
    Unreachable = 4,
    /// What was looked at is not well.
    Unhealthy = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

const EXAMPLES: &str = "\
Examples:
  bootroom demo                                  two diskless machines, here and now
  bootroom image build debian --name debian      make the root image of a room
  bootroom check /etc/bootroom/bootroom.toml     is the configuration right?
  bootroom serve                                 serve the room
  bootroom status                                who is there
  bootroom client reset r12-07                   a fresh disk for one machine

Exit codes: 0 ok, 1 failed, 2 usage, 3 configuration, 4 server unreachable, 5 unhealthy.";

/// Boots a room of diskless machines: DHCP, TFTP, HTTP and NBD in one server, one image, an overlay for each.
#[derive(Debug, Parser)]
#[command(name = "bootroom", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Use colours
    #[arg(long, global = true, value_enum, default_value_t = Colour::Never, value_name = "WHEN")]
    color: Colour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Colour {
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the room: DHCP, TFTP, HTTP, NBD
    Serve(serve::ServeOptions),
    /// Let the running server read its configuration again
    Reload(reload::ReloadOptions),
    /// Say what is wrong with a configuration
    Check(check::CheckOptions),
    /// Look at this host: what would keep machines from booting, and how to mend it
    Doctor(doctor::DoctorOptions),
    /// Show the server as a whole
    Status(status::StatusOptions),
    /// Show and reset the machines
    #[command(subcommand)]
    Client(client::ClientCommand),
    /// Build, list, publish and remove images
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Serve one file, block device or image version over NBD, with no configuration
    Export(export::ExportOptions),
    /// Look at the machines' overlays
    #[command(subcommand)]
    Overlay(overlay_check::OverlayCommand),
    /// Take, list, read and drop snapshots of disks, for backups
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Make and withdraw certificates for TLS
    #[command(subcommand)]
    Pki(pki::PkiCommand),
    /// Keep the record by which a pair of servers decides who is primary, on a third box
    Witness(witness::WitnessOptions),
    /// Look after a pair of servers
    #[command(subcommand)]
    Standby(standby::StandbyCommand),
    /// Boot a room of virtual machines on this computer
    Demo(DemoOptions),
}

/// Which server to talk to.
#[derive(Debug, Clone, Args)]
struct Target {
    /// Configuration file of the server
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Control socket of the server [default: the one that the configuration names]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Target {
    fn control(&self) -> anyhow::Result<Control> {
        match &self.socket {
            Some(socket) => Ok(Control::at(socket)),
            None => Ok(Control::at(&load(&self.config)?.server.control)),
        }
    }
}

/// Loads a configuration; the error is [`Problems`].
fn load(path: &Path) -> anyhow::Result<Config> {
    Ok(config::load(path)?)
}

/// Does what the command line asks.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        Command::Serve(options) => serve::run(options),
        Command::Reload(options) => reload::run(options),
        Command::Check(options) => check::run(options, cli.color == Colour::Always),
        Command::Doctor(options) => doctor::run(options),
        Command::Status(options) => status::run(options),
        Command::Client(command) => client::run(command),
        Command::Image(command) => image::run(command),
        Command::Pki(command) => pki::run(command),
        Command::Export(options) => export::run(options),
        Command::Snapshot(command) => snapshot::run(command),
        Command::Overlay(command) => overlay_check::run(command),
        Command::Witness(options) => witness::run(options),
        Command::Standby(command) => standby::run(command),
        Command::Demo(options) => return finish_demo(demo::run(options)),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => explain(&error, cli.color == Colour::Always).into(),
    }
}

fn finish_demo(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| explain(&error, false).into())
}

/// Says what went wrong, on stderr, and which exit code that is.
fn explain(error: &anyhow::Error, colour: bool) -> Exit {
    if let Some(problems) = error.downcast_ref::<Problems>() {
        eprintln!("{}", problems.render(colour));
        return Exit::Config;
    }
    eprintln!("bootroom: {error:#}");
    match error.downcast_ref::<Unreachable>() {
        Some(_) => Exit::Unreachable,
        None => Exit::Failed,
    }
}

/// A runtime for verbs that ask the server something.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}
