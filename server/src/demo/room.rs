//! The inner process: the network, the server and the machines, from power-on to the summary.

use std::io::stdin;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinSet;
use tokio::time::interval;

use super::boot::{self, Seat};
use super::checks;
use super::network;
use super::plan::{PASSWORD, Plan};
use super::proof::Proofs;
use super::server::Server;
use super::summary::Summary;
use super::timeline::{Board, Step};
use crate::control::client::{Control, Events};

/// Runs the room as the plan at `path` says. The exit code is 0 only if every check held.
///
/// # Errors
/// As [`super::run`].
pub async fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let plan = Arc::new(Plan::load(path)?);
    let stopped = lifeline()?;
    tokio::select! {
        held = host(plan) => Ok(if held? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        () = stopped => Ok(ExitCode::FAILURE),
    }
}

/// Comes back when the outer process closes our standard input, be it because it is gone.
fn lifeline() -> anyhow::Result<impl Future<Output = ()>> {
    let mut outer = pipe::Receiver::from_owned_fd(stdin().as_fd().try_clone_to_owned()?)
        .context("standard input is not the outer process's pipe")?;
    Ok(async move {
        let mut byte = [0];
        while let Ok(1..) = outer.read(&mut byte).await {}
    })
}

/// Brings up network and server, and runs the room for as long as the server does.
async fn host(plan: Arc<Plan>) -> anyhow::Result<bool> {
    network::raise(&plan.desks)?;
    let control = Control::at(&plan.control());
    let mut server = Server::start(&plan, &control).await?;
    let board = Board::default();
    let events = control.events().await?;
    let _beside = Beside::start(events, Arc::clone(&plan), board.clone());
    let mut room = Room {
        plan,
        control,
        board,
        proofs: Proofs::default(),
        summary: Summary::default(),
    };
    let seats = tokio::select! {
        seats = room.first_boot() => seats?,
        reason = server.watch() => return Err(reason),
    };
    room.weigh(&server)?;
    let seats = tokio::select! {
        seats = room.power_cycle(seats) => seats?,
        reason = server.watch() => return Err(reason),
    };
    if room.plan.keep_running {
        return Err(room.stay(seats, &mut server).await?);
    }
    room.close(seats, server).await
}

/// What runs beside the room; ends with it.
struct Beside(JoinSet<()>);

impl Beside {
    fn start(events: Events, plan: Arc<Plan>, board: Board) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(events, plan, board.clone()));
        tasks.spawn(async move {
            let mut clock = interval(Duration::from_millis(500));
            loop {
                clock.tick().await;
                board.tick();
            }
        });
        Self(tasks)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.abort_all();
    }
}

/// Puts the server's boot trace on the board. If the trace ends early the board shows less, which is all it can do.
async fn follow(mut events: Events, plan: Arc<Plan>, board: Board) {
    while let Ok(Some(event)) = events.next().await {
        let desk = plan
            .desks
            .iter()
            .find(|desk| desk.mac == event.mac.to_string());
        if let (Some(desk), Some(step)) = (desk, Step::named(&event.step)) {
            board.record(&desk.name, step, &event.detail);
        }
    }
}

struct Room {
    plan: Arc<Plan>,
    control: Control,
    board: Board,
    proofs: Proofs,
    summary: Summary,
}

impl Room {
    /// Boots every machine and makes the claims that hold from the first login on.
    async fn first_boot(&mut self) -> anyhow::Result<Vec<Seat>> {
        let count = self.plan.desks.len();
        tell!(
            "==> Switching on {count} machine{} without a disk",
            if count == 1 { "" } else { "s" }
        );
        let mut seats = boot::all(&self.plan, self.plan.desks.clone(), &self.board).await?;
        tell!("==> Checking what the machines have");
        let disks = checks::own_root(&mut seats, &self.plan, &mut self.proofs).await?;
        self.summary.first_boot(&seats, disks);
        checks::isolated(&mut seats, &mut self.proofs).await?;
        checks::own_exports(&self.control, &self.plan.desks, &mut self.proofs).await?;
        Ok(seats)
    }

    /// Claims that the server is small.
    fn weigh(&mut self, server: &Server) -> anyhow::Result<()> {
        let memory = server.memory()?;
        checks::small_server(memory, &mut self.proofs);
        self.summary.server(memory);
        Ok(())
    }

    /// Pulls every plug, boots again, and looks which files are still there.
    async fn power_cycle(&mut self, seats: Vec<Seat>) -> anyhow::Result<Vec<Seat>> {
        tell!("==> Pulling the plugs and switching on again");
        let mut desks = Vec::new();
        for seat in seats {
            seat.machine.pull_plug().await?;
            desks.push(seat.desk);
        }
        let mut seats = boot::all(&self.plan, desks, &self.board).await?;
        self.summary.second_boot(&seats);
        tell!("==> Checking what the power cycle left");
        checks::retention(&mut seats, &mut self.proofs).await?;
        checks::base_intact(&self.plan, &mut self.proofs).await?;
        Ok(seats)
    }

    /// Switches everything off in order. Says whether every claim held.
    async fn close(mut self, seats: Vec<Seat>, server: Server) -> anyhow::Result<bool> {
        for seat in seats {
            seat.machine.pull_plug().await?;
        }
        let status = server.stop().await?;
        self.proofs.claim(
            status.success(),
            "the server stops in good order",
            status.to_string(),
        );
        self.conclude();
        Ok(self.proofs.all_held())
    }

    fn conclude(&self) {
        tell!("==> Summary");
        self.summary.lines().iter().for_each(|line| tell!("{line}"));
        tell!("==> {}", self.proofs.verdict());
    }

    /// Leaves the room to the user. Comes back only when the server ends by itself, with the reason.
    async fn stay(&self, seats: Vec<Seat>, server: &mut Server) -> anyhow::Result<anyhow::Error> {
        self.conclude();
        tell!(
            "==> The room stays up until Ctrl-C. Log in as root, password {PASSWORD}; Ctrl-] leaves a console."
        );
        let mut running = Vec::new();
        for seat in seats {
            let socket = self.plan.console(&seat.desk);
            tell!(
                "    {}:  socat -,rawer,escape=0x1d UNIX-CONNECT:{}",
                seat.desk.name,
                socket.display()
            );
            running.push(seat.machine.release().await?);
        }
        tell!(
            "    server:  bootroom status --socket {}",
            self.plan.control().display()
        );
        Ok(server.watch().await)
    }
}
