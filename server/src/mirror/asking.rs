//! Asking the witness: a thread of its own, so that one that is away or frozen holds up nobody.
//!
//! A request that is not answered in time is given up: the machine asks again, and what the first one changed is seen in
//! the answer to the second. Must never block who asks, and never give an answer to another request than it was for.

mod dialled;
mod endpoint;
mod etcd;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use mirror::{NodeId, WitnessAnswer, WitnessRequest};
use parking_lot::{Condvar, Mutex};

pub use endpoint::Endpoint;

use super::secret::PairSecret;
use dialled::Dialled;
use etcd::Etcd;

/// Until when an answer must be there. The machine asks every 500 ms; one that came later than that would meet a newer
/// question.
const DEADLINE: Duration = Duration::from_millis(450);

/// Where the record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WitnessPlace {
    /// `bootroom witness` listens there.
    Bootroom(SocketAddr),
    /// An etcd has it.
    Etcd {
        /// Its members, or some of them; asked in turn until one answers.
        endpoints: Vec<Endpoint>,
        /// Whom its certificates come from, PEM; needed for https.
        ca: Option<PathBuf>,
    },
}

impl WitnessPlace {
    /// Reads the record, on a connection of its own. Blocks for less than half a second.
    ///
    /// # Errors
    /// Why the witness does not answer.
    pub fn look(&self, secret: &PairSecret, me: NodeId) -> anyhow::Result<WitnessAnswer> {
        let request = WitnessRequest {
            number: 0,
            from: me,
            swap: None,
        };
        let mut way = self.clone().way(secret, me)?;
        way.ask(&request, Instant::now() + DEADLINE)
    }

    fn way(self, secret: &PairSecret, me: NodeId) -> anyhow::Result<Box<dyn Way>> {
        Ok(match self {
            Self::Bootroom(address) => Box::new(Dialled::new(address, secret, me)),
            Self::Etcd { endpoints, ca } => Box::new(Etcd::new(endpoints, ca.as_deref(), secret)?),
        })
    }
}

impl fmt::Display for WitnessPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bootroom(address) => address.fmt(f),
            Self::Etcd { endpoints, .. } => {
                let all: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
                write!(f, "etcd at {}", all.join(", "))
            }
        }
    }
}

/// What gets an answer from a witness of some kind.
trait Way: Send {
    /// Asks, and waits for the answer until the deadline.
    fn ask(&mut self, request: &WitnessRequest, deadline: Instant)
    -> anyhow::Result<WitnessAnswer>;
}

/// The witness, as one server of the pair asks it.
pub struct WitnessClient {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    slot: Mutex<Slot>,
    wake: Condvar,
}

#[derive(Default)]
struct Slot {
    next: Option<WitnessRequest>,
    over: bool,
    trouble: Option<String>,
}

impl WitnessClient {
    /// Begins to serve [`WitnessClient::ask`]. Answers go to `answered`, on a thread that does nothing else.
    ///
    /// # Errors
    /// The CA's certificate cannot be used; no thread can be had. A witness that is away is none.
    pub fn start(
        place: WitnessPlace,
        secret: Arc<PairSecret>,
        me: NodeId,
        answered: Box<dyn Fn(WitnessAnswer) + Send + Sync>,
    ) -> anyhow::Result<Self> {
        let way = place.way(&secret, me)?;
        let shared = Arc::<Shared>::default();
        let client = Self {
            shared: shared.clone(),
        };
        thread::Builder::new()
            .name("witness".into())
            .spawn(move || shared.work(way, &*answered))?;
        Ok(client)
    }

    /// Asks, and returns at once. What was to be asked and has not left yet is forgotten.
    pub fn ask(&self, request: WitnessRequest) {
        self.shared.slot.lock().next = Some(request);
        self.shared.wake.notify_one();
    }

    /// Why the witness did not answer when it was asked last; `None` if it did.
    pub fn trouble(&self) -> Option<String> {
        self.shared.slot.lock().trouble.clone()
    }
}

impl Drop for WitnessClient {
    /// Asks nothing any more. One answer may still come.
    fn drop(&mut self) {
        self.shared.slot.lock().over = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn work(&self, mut way: Box<dyn Way>, answered: &dyn Fn(WitnessAnswer)) {
        while let Some(request) = self.next() {
            let outcome = way.ask(&request, Instant::now() + DEADLINE);
            self.note(outcome.as_ref().err());
            if let Ok(answer) = outcome {
                answered(answer);
            }
        }
    }

    /// What is to be asked next; `None` at the end.
    fn next(&self) -> Option<WitnessRequest> {
        let mut slot = self.slot.lock();
        loop {
            if slot.over {
                return None;
            }
            if let Some(request) = slot.next.take() {
                return Some(request);
            }
            self.wake.wait(&mut slot);
        }
    }

    /// Keeps what went wrong, and logs it when it is new: the same may happen twice a second.
    fn note(&self, error: Option<&anyhow::Error>) {
        let trouble = error.map(|error| format!("{error:#}"));
        let before = std::mem::replace(&mut self.slot.lock().trouble, trouble.clone());
        match (before, trouble) {
            (Some(_), None) => tracing::info!("the witness answers again"),
            (before, Some(now)) if before.as_ref() != Some(&now) => {
                tracing::warn!("the witness does not answer: {now}");
            }
            _ => {}
        }
    }
}
