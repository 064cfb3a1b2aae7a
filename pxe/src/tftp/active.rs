//! Who is being served.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Transfers of one address: more than a router in front of a room needs, fewer than would shut out the others.
const PER_PEER: usize = 256;

/// The clients of all transfers under way.
#[derive(Debug, Default)]
pub struct Active {
    clients: HashSet<SocketAddrV4>,
    peers: HashMap<Ipv4Addr, usize>,
}

impl Active {
    /// How many transfers there are.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether `client` is to be served: a request from there again is an impatient client's repetition, and an
    /// address that has too many transfers gets no further ones.
    pub fn admit(&mut self, client: SocketAddrV4) -> bool {
        let count = self.peers.get(client.ip()).copied().unwrap_or_default();
        if count >= PER_PEER || !self.clients.insert(client) {
            return false;
        }
        self.peers.insert(*client.ip(), count + 1);
        true
    }

    /// The transfer of an admitted client is over.
    pub fn leave(&mut self, client: SocketAddrV4) {
        if !self.clients.remove(&client) {
            return;
        }
        if let Some(count) = self.peers.get_mut(client.ip()) {
            *count -= 1;
            if *count == 0 {
                self.peers.remove(client.ip());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_shuts_out_the_others_and_nobody_is_served_twice() {
        let client = |host, port| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, host), port);
        let mut active = Active::default();
        let admitted = (1..=1000).filter(|port| active.admit(client(1, *port)));
        assert_eq!(admitted.count(), PER_PEER);
        assert!(active.admit(client(2, 1)) && !active.admit(client(2, 1)));
        active.leave(client(1, 1));
        active.leave(client(1, 1));
        assert!(active.admit(client(1, 999)) && !active.admit(client(1, 1000)));
        for port in 1..=1000 {
            active.leave(client(1, port));
        }
        active.leave(client(2, 1));
        assert_eq!((active.len(), active.peers.len()), (0, 0));
    }
}
