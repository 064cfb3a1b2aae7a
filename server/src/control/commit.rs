//! Runs a commit on a thread of its own and tells how far it is; who asked may hang up, which stops it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use images::{Cancel, Progress};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task,
};
use tokio_util::sync::CancellationToken;

use super::model::{CommitRequest, CommitStep};
use crate::clients::Clients;

/// Starts it; the steps end with [`CommitStep::Published`] or [`CommitStep::Failed`].
pub fn start(
    clients: Arc<Clients>,
    name: String,
    request: CommitRequest,
    stop: CancellationToken,
) -> UnboundedReceiver<CommitStep> {
    let (steps, received) = unbounded_channel();
    task::spawn(async move {
        let last = match run(clients, name, request, &steps, stop).await {
            Ok(version) => CommitStep::Published(version),
            Err(reason) => CommitStep::Failed(reason),
        };
        let _ = steps.send(last);
    });
    received
}

async fn run(
    clients: Arc<Clients>,
    name: String,
    request: CommitRequest,
    steps: &UnboundedSender<CommitStep>,
    stop: CancellationToken,
) -> Result<String, String> {
    let cancel = Cancel::new().map_err(|error| error.to_string())?;
    let progress = Told {
        steps: steps.clone(),
        cancel: cancel.clone(),
        percent: AtomicU64::new(0),
    };
    let switch = cancel.clone();
    let mut work = task::spawn_blocking(move || {
        let CommitRequest { image, description } = request;
        clients.commit(&name, image, description, &progress, &cancel)
    });
    let published = tokio::select! {
        published = &mut work => published,
        () = stop.cancelled() => {
            switch.cancel();
            work.await
        }
    };
    let published = published.map_err(|_| "the commit failed; see the log".to_owned())?;
    published
        .map(|version| version.to_string())
        .map_err(|error| error.with_causes())
}

/// Sends each phase, and each whole percent of it.
struct Told {
    steps: UnboundedSender<CommitStep>,
    cancel: Cancel,
    percent: AtomicU64,
}

impl Told {
    fn send(&self, step: CommitStep) {
        if self.steps.send(step).is_err() {
            self.cancel.cancel();
        }
    }
}

impl Progress for Told {
    fn phase(&self, name: &str) {
        self.percent.store(0, Relaxed);
        self.send(CommitStep::Phase(name.to_owned()));
    }

    fn fraction(&self, fraction: f64) {
        let percent = (fraction * 100.0) as u64;
        if self.percent.swap(percent, Relaxed) != percent {
            self.send(CommitStep::Fraction(fraction));
        }
    }

    fn detail(&self, _line: &str) {}
}
