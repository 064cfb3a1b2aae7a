//! What the control API is answered from, which comes and goes with the role of the server.

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwapOption;

use super::views::Sources;
use crate::{
    clients::error::{Error, ErrorKind, Result},
    mirror::pair::Pair,
};

/// Where requests find what they are about.
pub struct Desk {
    sources: ArcSwapOption<Sources>,
    pair: Option<Arc<Pair>>,
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
    pub fn of(pair: Arc<Pair>) -> Self {
        Self {
            pair: Some(pair),
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
                Some(pair) => format!(
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
        self.pair.as_ref().ok_or_else(|| {
            let text = "this server is alone: there is no [standby] in its configuration";
            Error::new(ErrorKind::Standby, text)
        })
    }
}
