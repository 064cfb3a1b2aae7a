//! `[standby]`: the other server of the pair, and who decides between the two.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use mirror::{Alone, Mode, NodeId};

use super::{
    Config, Server,
    problem::Problem,
    reader::{Located, Section},
    units::BadValue,
};
use crate::mirror::asking::{Endpoint, WitnessPlace};

/// Where the secret is if nothing else is said.
pub const DEFAULT_SECRET: &str = "/etc/bootroom/pair.secret";
/// Changes that a standby in mode `async` may be behind.
const LAG: usize = 4096;

/// The pair, as one server sees it.
#[derive(Debug, Clone)]
pub struct Standby {
    /// Where the other server listens for this one.
    pub peer: Located<SocketAddr>,
    /// The other server's address as the machines reach it.
    pub address: IpAddr,
    /// Where this server listens for the other one.
    pub listen: SocketAddr,
    /// The file by which the servers and the witness know each other.
    pub secret: PathBuf,
    /// When a write is answered.
    pub mode: Mode,
    /// What a primary does without a standby.
    pub alone: Alone,
    /// Who decides; a person if none.
    pub witness: Option<WitnessPlace>,
}

impl Standby {
    /// Which server of the pair this is: the one with the lower address is A.
    pub fn me(&self) -> NodeId {
        match self.listen < self.peer.value {
            true => NodeId::A,
            false => NodeId::B,
        }
    }

    /// A digest of what must be the same on both servers: each counts on it that the other one does alike.
    pub fn digest(&self) -> u64 {
        let text = format!(
            "{:?} {:?} {}",
            self.mode,
            self.alone,
            self.witness.is_some()
        );
        let hash = blake3::hash(text.as_bytes());
        let first = hash.as_bytes().first_chunk::<8>().copied();
        u64::from_le_bytes(first.unwrap_or_default())
    }

    /// Whether a running server can take over `new` in its place.
    pub fn is_same(&self, new: &Self) -> bool {
        let plain = |one: &Self| {
            let Standby {
                peer,
                address,
                listen,
                secret,
                mode,
                alone,
                witness,
            } = one.clone();
            (peer.value, address, listen, secret, mode, alone, witness)
        };
        plain(self) == plain(new)
    }
}

/// Reads the table.
pub fn read(
    mut section: Section<'_>,
    server: Option<&Server>,
    problems: &mut Vec<Problem>,
) -> Option<Standby> {
    let peer: Option<Located<SocketAddr>> =
        section.required("peer", "\"10.12.0.2:7012\"", problems);
    let address = section.optional::<IpAddr>("address", problems);
    let listen = section.optional::<SocketAddr>("listen", problems);
    let secret = section.optional::<PathBuf>("secret", problems);
    let mode = section.optional::<ModeName>("mode", problems);
    let lag = section.integer("lag", 1..=1_000_000, problems);
    let alone = section.optional::<AloneName>("alone", problems);
    let witness = read_witness(&mut section, problems);
    section.finish(problems);
    let (peer, server) = (peer?, server?);
    let own = SocketAddr::from((server.ip(), peer.value.port()));
    let lag = lag.and_then(|lag| usize::try_from(lag).ok()).unwrap_or(LAG);
    Some(Standby {
        address: address.map_or(peer.value.ip(), |address| address.value),
        listen: listen.map_or(own, |listen| listen.value),
        secret: secret.map_or_else(|| DEFAULT_SECRET.into(), |secret| secret.value),
        mode: match mode.map(|mode| mode.value) {
            Some(ModeName::Async) => Mode::Async { lag },
            Some(ModeName::Sync) | None => Mode::Sync,
        },
        alone: alone.map_or(Alone::Continue, |alone| alone.value.0),
        peer,
        witness,
    })
}

fn read_witness(section: &mut Section<'_>, problems: &mut Vec<Problem>) -> Option<WitnessPlace> {
    let witness = section.optional::<SocketAddr>("witness", problems);
    let etcd: Vec<Located<Endpoint>> = section.some("etcd", problems);
    let ca = section.optional::<PathBuf>("etcd_ca", problems);
    match (witness, etcd.is_empty()) {
        (Some(witness), true) => Some(WitnessPlace::Bootroom(witness.value)),
        (Some(witness), false) => {
            let message = "[standby] has a witness and an etcd: only one of them can decide";
            problems.push(Problem::at(witness.span, message).fix("remove one of the two"));
            None
        }
        (None, true) => None,
        (None, false) => Some(WitnessPlace::Etcd {
            endpoints: etcd.into_iter().map(|one| one.value).collect(),
            ca: ca.map(|ca| ca.value),
        }),
    }
}

/// Adds what contradicts itself to `problems`.
pub fn check(config: &Config, problems: &mut Vec<Problem>) {
    let Some(standby) = &config.standby else {
        return;
    };
    let peer = &standby.peer;
    if peer.value == standby.listen {
        let message = format!("peer is {}, which is this server itself", peer.value);
        let fix = "write the other server's address; each server names the other one";
        problems.push(Problem::at(peer.span.clone(), message).fix(fix));
    }
    if let Some(WitnessPlace::Bootroom(witness)) = &standby.witness
        && [peer.value.ip(), standby.listen.ip()].contains(&witness.ip())
    {
        let message = format!("the witness, {witness}, is on one of the two servers");
        let fix = "let it run on a third box: it is asked when one of the two is dead";
        problems.push(Problem::at(peer.span.clone(), message).fix(fix));
    }
    if standby.listen.ip().is_unspecified() || peer.value.ip().is_unspecified() {
        let message =
            "peer and listen must be addresses of one server each: the lower one is server A";
        problems.push(Problem::at(peer.span.clone(), message).fix("write the addresses out"));
    }
    if peer.value.is_ipv4() != standby.listen.is_ipv4() {
        let message = "peer and listen are addresses of different kinds";
        problems.push(Problem::at(peer.span.clone(), message).fix("use two of the same kind"));
    }
}

/// What is wrong with the secret on this machine, if anything.
pub fn check_secret(standby: &Standby) -> Option<Problem> {
    let error = crate::mirror::secret::PairSecret::read(&standby.secret).err()?;
    let make = |path: &Path| {
        format!(
            "on one box: bootroom standby secret {}; then copy it to the other server and the witness",
            path.display()
        )
    };
    let problem = Problem::at(standby.peer.span.clone(), format!("{error:#}"));
    Some(match standby.secret.exists() {
        true => problem,
        false => problem.fix(make(&standby.secret)),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModeName {
    Sync,
    Async,
}

impl FromStr for ModeName {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        match text {
            "sync" => Ok(ModeName::Sync),
            "async" => Ok(ModeName::Async),
            _ => Err(BadValue(format!("`{text}`: use \"sync\" or \"async\""))),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct AloneName(Alone);

impl FromStr for AloneName {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        match text {
            "continue" => Ok(AloneName(Alone::Continue)),
            "suspend" => Ok(AloneName(Alone::Suspend)),
            _ => Err(BadValue(format!(
                "`{text}`: use \"continue\" or \"suspend\""
            ))),
        }
    }
}

impl fmt::Display for Standby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "server {:?} of a pair with {}",
            self.me(),
            self.peer.value
        )
    }
}

#[cfg(test)]
mod tests;
