//! From the power switch to root's shell, several machines side by side.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::machine::Machine;
use super::plan::{Desk, PASSWORD, Plan};
use super::server::tail;
use super::timeline::{Board, Step};

/// How long one or two machines may take from power-on to login; each further one gets half of it on top.
const BOOT_DEADLINE: Duration = Duration::from_secs(300);

/// A machine somebody is logged in at.
pub struct Seat {
    /// Which machine.
    pub desk: Desk,
    /// The running machine, with root's shell on its console.
    pub machine: Machine,
    /// How long it took from power-on to the login prompt.
    pub login: Duration,
}

/// Switches these machines on and logs in at each; the board shows how far they are.
///
/// # Errors
/// A machine does not come to its login; the error names it and ends with its console's last words.
pub async fn all(plan: &Arc<Plan>, desks: Vec<Desk>, board: &Board) -> anyhow::Result<Vec<Seat>> {
    board.restart(desks.iter().map(|desk| desk.name.clone()));
    let further = u32::try_from(desks.len().saturating_sub(2)).unwrap_or(u32::MAX);
    let deadline = Instant::now() + BOOT_DEADLINE + further * BOOT_DEADLINE / 2;
    let mut booting = JoinSet::new();
    for desk in desks {
        booting.spawn(one(Arc::clone(plan), desk, board.clone(), deadline));
    }
    let mut seats = Vec::new();
    while let Some(seat) = booting.join_next().await {
        seats.push(seat.context("a machine's task ended badly")??);
    }
    board.finish();
    seats.sort_by(|a, b| a.desk.mac.cmp(&b.desk.mac));
    Ok(seats)
}

async fn one(plan: Arc<Plan>, desk: Desk, board: Board, deadline: Instant) -> anyhow::Result<Seat> {
    let mut machine = Machine::power_on(&plan, &desk).await?;
    board.power_on(&desk.name);
    let outcome = log_in(&mut machine, &desk, &board, deadline).await;
    let login = outcome.with_context(|| last_words(&plan, &desk))?;
    Ok(Seat {
        desk,
        machine,
        login,
    })
}

/// Waits for the login prompt and logs in; returns when the prompt came.
async fn log_in(
    machine: &mut Machine,
    desk: &Desk,
    board: &Board,
    deadline: Instant,
) -> anyhow::Result<Duration> {
    machine.console.expect_login(&desk.name, deadline).await?;
    board.record(&desk.name, Step::Login, "");
    let login = board.at(&desk.name, Step::Login).unwrap_or_default();
    machine.console.log_in(PASSWORD).await?;
    Ok(login)
}

fn last_words(plan: &Plan, desk: &Desk) -> String {
    let log = plan.logs.join(format!("{}.console.log", desk.name));
    let words = tail(&log, 12);
    format!(
        "{}, whose console ends with\n{words}\n    (all of it: {})",
        desk.name,
        log.display()
    )
}
