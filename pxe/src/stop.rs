//! Telling the tasks of a service that it stops.

use tokio::sync::watch;

/// Held by the service; dropping it counts as stopping.
pub struct Stopper(watch::Sender<bool>);

/// Held by each task.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// A connected pair.
pub fn pair() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Tells all tasks.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Resolves when the service stops.
    pub async fn stopped(&mut self) {
        // An error means that the service is gone, which stops its tasks as well.
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }
}
