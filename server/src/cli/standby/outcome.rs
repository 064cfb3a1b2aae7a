//! Waiting for what comes of a demand: by the events, and by how the server is now and then.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, timeout, timeout_at};

use crate::control::{
    client::{Control, JsonLines},
    standby::model::{EventView, PairView},
};

/// How long a server may take to do what it was told: its promises to the other one end, and the witness answers.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How often it is looked at without an event.
const LOOK: Duration = Duration::from_millis(500);

/// The events since before the demand, and the way to ask.
pub struct Outcome<'a> {
    control: &'a Control,
    events: JsonLines<EventView>,
}

impl<'a> Outcome<'a> {
    /// Begins to listen; to be followed by the demand.
    pub async fn listen(control: &'a Control) -> anyhow::Result<Self> {
        let events = control.lines("/v1/standby/events").await?;
        Ok(Self { control, events })
    }

    /// The first thing that `of_event` or `of_view` says, or `None` if there is nothing in time.
    pub async fn wait<T>(
        &mut self,
        of_event: impl Fn(&EventView) -> Option<T>,
        of_view: impl Fn(&PairView) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        self.until(Instant::now() + PATIENCE, of_event, of_view)
            .await
    }

    /// The same for what may take as long as it takes.
    pub async fn watch<T>(
        &mut self,
        of_event: impl Fn(&EventView) -> Option<T>,
        of_view: impl Fn(&PairView) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        self.until(Instant::now() + YEAR, of_event, of_view).await
    }

    async fn until<T>(
        &mut self,
        end: Instant,
        of_event: impl Fn(&EventView) -> Option<T>,
        of_view: impl Fn(&PairView) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        let mut look_at = Instant::now() + LOOK;
        while Instant::now() < end {
            match timeout_at(look_at.min(end), self.events.next()).await {
                Ok(Ok(Some(event))) => {
                    if let Some(found) = of_event(&event) {
                        return Ok(Some(found));
                    }
                }
                Ok(Ok(None)) => bail!("the server stopped meanwhile"),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    if let Some(found) = of_view(&view(self.control).await?) {
                        return Ok(Some(found));
                    }
                    look_at = Instant::now() + LOOK;
                }
            }
        }
        Ok(None)
    }
}

/// How the server is.
pub async fn view(control: &Control) -> anyhow::Result<PairView> {
    let answer = timeout(PATIENCE, control.get("/v1/standby")).await;
    match answer {
        Ok(answer) => Ok(serde_json::from_value(answer?)?),
        Err(_) => bail!("the server does not answer on its control socket"),
    }
}
