//! The other server of the pair, and the witness: can they be reached, and is the pair well?

use std::{net::TcpStream, time::Duration};

use super::{Finding, Running};
use crate::{
    config::{Config, standby::Standby},
    control::standby::model::PairView,
    mirror::secret::PairSecret,
};

/// How long the other server may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// What there is to say of the pair; nothing if the server is alone.
pub fn check(config: &Config, running: &Running) -> Vec<Finding> {
    match (&config.standby, &running.pair) {
        (None, _) => Vec::new(),
        (Some(_), Some(view)) => told(view),
        // The server does not run: is there anything that would keep it from being one of two?
        (Some(standby), None) => [peer(standby)]
            .into_iter()
            .chain(witness(standby))
            .collect(),
    }
}

/// What the running server says of itself.
fn told(view: &PairView) -> Vec<Finding> {
    let look = "bootroom standby status";
    let bad = view.problems.iter();
    let mut findings: Vec<_> = bad
        .map(|problem| Finding::bad("pair", problem, look))
        .collect();
    let warnings = view.warnings.iter();
    findings.extend(warnings.map(|text| Finding::warning("witness", text, look)));
    if findings.is_empty() {
        findings.push(Finding::ok("pair", "both servers hold the same"));
    }
    findings
}

fn peer(standby: &Standby) -> Finding {
    let peer = standby.peer.value;
    match TcpStream::connect_timeout(&peer, PATIENCE) {
        Ok(_) => Finding::ok("pair", format!("the other server, {peer}, can be reached")),
        Err(error) => Finding::warning(
            "pair",
            format!("the other server, {peer}, cannot be reached: {error}"),
            "is bootroom serve running there, and does its firewall let this server in?",
        ),
    }
}

fn witness(standby: &Standby) -> Option<Finding> {
    let place = standby.witness.as_ref()?;
    // What is wrong with the secret is said with the configuration.
    let secret = PairSecret::read(&standby.secret).ok()?;
    Some(match place.look(&secret, standby.me()) {
        Ok(_) => Finding::ok("witness", format!("the witness, {place}, answers")),
        Err(error) => Finding::warning(
            "witness",
            format!("the witness, {place}, does not answer: {error:#}"),
            "is bootroom witness (or etcd) running there, with the same secret?",
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::doctor::Level;

    fn standby(peer: &str) -> Standby {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bootroom.toml");
        let text = format!(
            "[server]\ndata = \"/d\"\ninterface = \"e\"\naddress = \"10.0.0.1/24\"\n[dhcp]\nmode = \"off\"\n[standby]\npeer = \
             \"{peer}\"\n"
        );
        std::fs::write(&file, text).unwrap();
        let config = crate::config::load(&file).unwrap();
        config.standby.unwrap()
    }

    #[test]
    fn a_server_that_accepts_is_reached_and_one_that_does_not_is_a_warning() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        assert_eq!(peer(&standby(&place.to_string())).level, Level::Ok);
        drop(listener);
        let gone = peer(&standby(&place.to_string()));
        assert_eq!(gone.level, Level::Warning);
        assert!(
            gone.message.contains(&place.to_string()),
            "{}",
            gone.message
        );
    }
}
