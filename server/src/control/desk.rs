//! What the control API is answered from, which comes and goes with the role of the server.

use std::{net::Ipv4Addr, sync::Arc, time::Instant};

use arc_swap::ArcSwapOption;

use super::views::Sources;
use crate::{
    clients::error::{Error, ErrorKind, Result},
    config::Server,
    mirror::pair::Pair,
};

/// Where the room is, for a server that does not serve it at the moment.
#[derive(Debug, Clone)]
pub struct Place {
    /// The server's own address.
    pub address: Ipv4Addr,
    /// The interface.
    pub interface: String,
}

impl From<&Server> for Place {
    fn from(server: &Server) -> Self {
        Self {
            address: server.ip(),
            interface: server.interface.value.clone(),
        }
    }
}

/// Where requests find what they are about.
pub struct Desk {
    sources: ArcSwapOption<Sources>,
    pair: Option<(Arc<Pair>, Place)>,
    started: Instant,
}

impl Desk {
    /// Of a server that is alone.
    pub fn alone() -> Self {
        Self {
            sources: ArcSwapOption::empty(),
            pair: None,
            started: Instant::now(),
        }
    }

    /// Of one of a pair.
    pub fn of(pair: Arc<Pair>, place: Place) -> Self {
        Self {
            pair: Some((pair, place)),
            ..Self::alone()
        }
    }

    /// When the server started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The room is served from now on.
    pub fn open(&self, sources: Sources) {
        self.sources.store(Some(Arc::new(sources)));
    }

    /// It is not, from now on.
    pub fn close(&self) {
        self.sources.store(None);
    }

    /// What is served, if anything is.
    pub fn sources(&self) -> Option<Arc<Sources>> {
        self.sources.load_full()
    }

    /// What is served.
    ///
    /// # Errors
    /// [`ErrorKind::Standby`] when nothing is.
    pub fn served(&self) -> Result<Arc<Sources>> {
        self.sources().ok_or_else(|| {
            let text = match &self.pair {
                Some((pair, _)) => format!(
                    "this server does not serve the room now: ask the other one of the pair, {}",
                    pair.settings.peer.value.ip()
                ),
                None => "the server is starting or stopping".to_owned(),
            };
            Error::new(ErrorKind::Standby, text)
        })
    }

    /// The pair that this server is one of.
    ///
    /// # Errors
    /// When it is alone.
    pub fn pair(&self) -> Result<&Arc<Pair>> {
        self.pair.as_ref().map(|(pair, _)| pair).ok_or_else(|| {
            let text = "this server is alone: there is no [standby] in its configuration";
            Error::new(ErrorKind::Standby, text)
        })
    }

    /// The pair, if this server is one of one, and where its room is.
    pub fn of_pair(&self) -> Option<&(Arc<Pair>, Place)> {
        self.pair.as_ref()
    }
}
