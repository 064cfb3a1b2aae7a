//! `bootroom pki`: certificates for a site without a CA of its own.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Exit;
use crate::pki::Pki;

/// What to do with the site's certificates.
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make a CA and the server's certificate
    Init(InitOptions),
    /// Make a certificate for a client, by its name
    Issue(ClientOptions),
    /// Withdraw a client's certificate; takes effect at the next reload
    Revoke(ClientOptions),
}

/// Arguments of `pki init`.
#[derive(Debug, Args)]
pub struct InitOptions {
    /// Where the certificates are
    #[arg(long, value_name = "DIR", default_value = "/etc/bootroom/pki")]
    dir: PathBuf,
    /// Names and addresses of the server that clients use
    #[arg(long = "host", value_name = "NAME", required = true)]
    hosts: Vec<String>,
}

/// Arguments of `pki issue` and `pki revoke`.
#[derive(Debug, Args)]
pub struct ClientOptions {
    /// The client's name
    #[arg(value_name = "NAME")]
    name: String,
    /// Where the certificates are
    #[arg(long, value_name = "DIR", default_value = "/etc/bootroom/pki")]
    dir: PathBuf,
}

/// Does it.
pub fn run(command: &PkiCommand) -> anyhow::Result<Exit> {
    match command {
        PkiCommand::Init(options) => init(options)?,
        PkiCommand::Issue(ClientOptions { name, dir }) => {
            say!("{}", Pki::at(dir).issue(name)?.display());
        }
        PkiCommand::Revoke(ClientOptions { name, dir }) => {
            Pki::at(dir).revoke(name)?;
            say!(
                "{name} is revoked; `bootroom reload`, or SIGHUP to `bootroom export`, makes it count"
            );
        }
    }
    Ok(Exit::Ok)
}

fn init(options: &InitOptions) -> anyhow::Result<()> {
    Pki::at(&options.dir).init(&options.hosts)?;
    say!(
        "{}: CA and server certificate for {}",
        options.dir.display(),
        options.hosts.join(", ")
    );
    Ok(())
}
