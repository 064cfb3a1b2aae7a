//! Looks after what nobody asks for: machines that get stuck, and other DHCP servers on the network.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pxe::dhcp::{FoundServer, OFFERS_WITHIN, find_servers};
use tokio::{task, time};
use tokio_util::sync::CancellationToken;

use crate::{clients::Clients, config::DhcpMode, trace::Step};

/// How often the machines are looked at.
const GLANCE: Duration = Duration::from_secs(2);
/// How often other DHCP servers are looked for. A machine that takes another's address is noticed at once.
const SEARCH: Duration = Duration::from_secs(600);

/// Looks until `stop`.
pub async fn run(clients: Arc<Clients>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut glances = time::interval(GLANCE);
    let mut searches = time::interval(SEARCH);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = glances.tick() => tell_stuck(&clients),
            _ = searches.tick() => {
                // Not waited for: the machines are looked at meanwhile.
                let clients = clients.clone();
                task::spawn_blocking(move || search(&clients));
            }
        }
    }
}

fn tell_stuck(clients: &Clients) {
    for (mac, stuck) in clients.trace().newly_stuck(Instant::now()) {
        let name = clients.name_of(mac);
        let (at, seconds) = (stuck.step, stuck.since.as_secs());
        let detail = format!("at {at} for {seconds} s: {}", stuck.advice);
        let step = Step::new(mac, name.as_ref(), Step::STUCK, &detail);
        clients.trace().add(step);
    }
}

/// Asks as a client would. Our own server does not hear it.
fn search(clients: &Clients) {
    let config = clients.config();
    let interface = &config.server.interface.value;
    if config.dhcp.mode == DhcpMode::Off {
        return;
    }
    let found = match find_servers(interface, rand::random(), OFFERS_WITHIN) {
        Ok(found) => found,
        Err(error) => return tracing::warn!("cannot look for other DHCP servers: {error}"),
    };
    let gives = |server: &&FoundServer| !server.offered.is_unspecified();
    match config.dhcp.mode {
        DhcpMode::Full => found.iter().for_each(|server| warn(clients, server)),
        _ if found.iter().any(|server| gives(&server)) => {}
        _ => tracing::warn!(
            "no DHCP server answers on {interface}, and in proxy mode this one gives no addresses: machines will not boot"
        ),
    }
}

fn warn(clients: &Clients, found: &FoundServer) {
    let FoundServer { server, offered } = found;
    if clients.trace().note_server(*server, Instant::now()) {
        tracing::warn!(
            "another DHCP server, {server}, answers on this network (it offers {offered}): stop it, or use mode = \"proxy\""
        );
    }
}
