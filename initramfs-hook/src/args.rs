//! The agent's own command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::cmdline::{DeviceIndex, Disk, Plan};
use crate::error::{Result, usage};
use crate::guard::Ending;
use crate::report::{Event, ReportUrl};
use crate::uri::{Target, parse_servers};

/// Shown by `--help`.
pub const HELP: &str = "\
bootroom-attach: attach network disks and keep them attached

  bootroom-attach [OPTIONS] nbd://HOST[:PORT]/EXPORT /dev/nbdN [URI DEVICE]...
  bootroom-attach [OPTIONS] --cmdline      what the kernel command line asks for
  bootroom-attach --wanted                 exit 0 if it asks for anything, 1 if not
  bootroom-attach --identity ROOT          put this machine's identity into its mounted root
  bootroom-attach --interface              which interface leads to the disk, and its address
  bootroom-attach --detach /dev/nbdN       take a disk down
  bootroom-attach --say EVENT              report attached, up, reconnected or shutdown
  bootroom-attach --guard poweroff|reboot  when terminated, tell the agent to see it through

  --server HOST[:PORT][,...]   further servers of the same exports, tried in turn
  --report URL                 report to http://HOST[:PORT]/PATH/EVENT
  --timeout SECONDS            give up if not attached by then (default 60; 0: never)
  --request-timeout SECONDS    no answer for so long ends a connection (default 10); other servers are
                               asked after a fifth of it whether they serve by now
  --tls DIRECTORY              server.pem, ca.pem, client.pem, client.key for nbds://
                               (default /etc/bootroom/tls)
  --foreground                 do not go into the background
  --version, --help
";

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Attach these disks and keep them.
    Attach(Attach),
    /// Tell by the exit code whether the kernel command line asks for a disk.
    Wanted,
    /// Print the interface by which the first disk of the kernel command line is reached, and its hardware address.
    Interface,
    /// Take a disk down.
    Detach(DeviceIndex),
    /// Send one report, to the given URL or to that of the kernel command line.
    Say(Event, Option<ReportUrl>),
    /// Wait for the end of the system; see [`crate::guard`].
    Guard(Ending),
    /// Put the machine's identity into the root mounted there; see [`crate::identity`].
    Identity(PathBuf),
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
}

/// How to attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// The disks given by hand; `None`: those of the kernel command line.
    pub plan: Option<Plan>,
    /// Overrides the kernel command line's.
    pub report: Option<ReportUrl>,
    /// How long to try; `None`: for ever.
    pub patience: Option<Duration>,
    /// See [`crate::attachment::Settings`].
    pub request_timeout: Option<Duration>,
    /// Where the files for TLS are; see [`crate::security`].
    pub tls: PathBuf,
    /// Stay in the foreground.
    pub foreground: bool,
}

/// All options, as they come.
#[derive(Default)]
struct Raw {
    places: Vec<String>,
    cmdline: bool,
    servers: Vec<crate::uri::Server>,
    report: Option<ReportUrl>,
    patience: Option<u64>,
    request_timeout: Option<u64>,
    tls: Option<PathBuf>,
    foreground: bool,
}

impl Command {
    /// Reads the arguments after the program's name.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut raw = Raw::default();
        let mut special = None;
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || {
                args.next()
                    .ok_or_else(|| usage(format!("{arg} needs a value")))
            };
            match arg.as_str() {
                "--help" | "-h" => return Ok(Self::Help),
                "--version" | "-V" => return Ok(Self::Version),
                "--wanted" => special = Some(Self::Wanted),
                "--interface" => special = Some(Self::Interface),
                "--identity" => special = Some(Self::Identity(value()?.into())),
                "--detach" => special = Some(Self::Detach(value()?.parse()?)),
                "--say" => special = Some(Self::Say(value()?.parse()?, None)),
                "--guard" => special = Some(Self::Guard(value()?.parse()?)),
                "--cmdline" => raw.cmdline = true,
                "--foreground" => raw.foreground = true,
                "--server" => raw.servers.extend(parse_servers(&value()?)?),
                "--report" => raw.report = Some(value()?.parse()?),
                "--timeout" => raw.patience = Some(seconds(&arg, &value()?)?),
                "--tls" => raw.tls = Some(value()?.into()),
                "--request-timeout" => raw.request_timeout = Some(seconds(&arg, &value()?)?),
                option if option.starts_with('-') => {
                    return Err(usage(format!("{option} is unknown; see --help")));
                }
                _ => raw.places.push(arg),
            }
        }
        match special {
            Some(Self::Say(event, _)) => Ok(Self::Say(event, raw.report)),
            Some(command) => Ok(command),
            None => raw.attach().map(Self::Attach),
        }
    }
}

impl Raw {
    fn attach(self) -> Result<Attach> {
        let plan = match (self.cmdline, self.places.len()) {
            (true, 0) => None,
            (false, n) if n > 0 && n % 2 == 0 => Some(Plan {
                disks: self.disks()?,
                report: None,
                // The running system's own DHCP client does.
                secret: None,
                hold_lease: false,
            }),
            _ => {
                return Err(usage(
                    "give pairs of URI and device, like nbd://10.0.0.1/disk /dev/nbd0; see --help",
                ));
            }
        };
        if let Some(plan) = &plan {
            plan.check()?;
        }
        let patience = self.patience.unwrap_or(60);
        Ok(Attach {
            plan,
            report: self.report,
            patience: (patience > 0).then(|| Duration::from_secs(patience)),
            request_timeout: self
                .request_timeout
                .map(|seconds| Duration::from_secs(seconds.max(1))),
            tls: self.tls.unwrap_or_else(|| "/etc/bootroom/tls".into()),
            foreground: self.foreground,
        })
    }

    fn disks(&self) -> Result<Vec<Disk>> {
        let disk = |pair: &[String]| {
            let mut target = Target::from_uri(&pair[0])?;
            target.add_servers(self.servers.iter().cloned());
            Ok(Disk {
                target,
                device: pair[1].parse()?,
            })
        };
        self.places.chunks_exact(2).map(disk).collect()
    }
}

fn seconds(option: &str, text: &str) -> Result<u64> {
    let number = text.parse().ok().filter(|&n: &u64| n <= 86400);
    number.ok_or_else(|| {
        usage(format!(
            "{option} {text}: give whole seconds, at most 86400"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command> {
        Command::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn attaches_by_hand() {
        let Command::Attach(attach) =
            parse("nbd://a/x /dev/nbd0 nbd://a/y nbd1 --server b:2 --timeout 0").unwrap()
        else {
            panic!()
        };
        let disks = attach.plan.unwrap().disks;
        assert_eq!(disks.len(), 2);
        assert_eq!(disks[1].target.servers[1].port, 2);
        assert_eq!((attach.patience, attach.request_timeout), (None, None));
    }

    #[test]
    fn other_commands() {
        assert_eq!(
            parse("--detach /dev/nbd2").unwrap(),
            Command::Detach(DeviceIndex(2))
        );
        assert_eq!(parse("--say up").unwrap(), Command::Say(Event::Up, None));
        assert_eq!(parse("--wanted").unwrap(), Command::Wanted);
        assert_eq!(parse("--interface").unwrap(), Command::Interface);
        assert_eq!(
            parse("--identity /root").unwrap(),
            Command::Identity("/root".into())
        );
        assert!(matches!(
            parse("--cmdline").unwrap(),
            Command::Attach(Attach { plan: None, .. })
        ));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, part) in [
            ("", "pairs of URI and device"),
            ("nbd://a/x", "pairs of URI and device"),
            ("nbd://a/x /dev/sda", "not an NBD device"),
            ("--cmdline nbd://a/x /dev/nbd0", "pairs"),
            ("--frobnicate", "--frobnicate is unknown"),
            ("--timeout", "needs a value"),
            ("--timeout 1.5", "whole seconds"),
            ("--say hello", "known are attached"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
