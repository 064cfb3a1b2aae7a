//! The inner process: the network, the server and the machines, from power-on to the summary.

use std::io::stdin;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use super::checks::{self, Disk};
use crate::control::client::{Control, Events};
use super::machine::Machine;
use super::network;
use super::plan::{Desk, PASSWORD, Plan};
use super::proof::Proofs;
use super::server::{Server, tail};
use super::timeline::{Board, Step};

/// How long one or two machines may take from power-on to login; each further one gets half of it on top.
const BOOT_DEADLINE: Duration = Duration::from_secs(300);

/// A machine somebody is logged in at.
pub struct Seat {
    /// Which machine.
    pub desk: Desk,
    /// The running machine, with root's shell on its console.
    pub machine: Machine,
}

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
    let board = Board::new(Vec::new());
    let events = control.events().await?;
    let _follow = Tasks::follow(events, board.clone());
    let mut room = Room {
        plan,
        control,
        board,
        proofs: Proofs::default(),
    };
    let (seats, first) = tokio::select! {
        seats = room.first_boot() => seats?,
        reason = server.watch() => return Err(reason),
    };
    room.weigh(&server)?;
    let seats = tokio::select! {
        seats = room.power_cycle(seats, &first) => seats?,
        reason = server.watch() => return Err(reason),
    };
    if room.plan.keep_running {
        room.stay(seats, &mut server).await?;
        return Ok(room.proofs.all_held());
    }
    room.close(seats, server).await
}

/// What runs beside the room; ends with it.
struct Tasks(JoinSet<()>);

impl Tasks {
    fn follow(events: Events, board: Board) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(events, board.clone()));
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

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.abort_all();
    }
}

/// Puts the server's boot trace on the board. If the trace ends early the board shows less, which is all it can do.
async fn follow(mut events: Events, board: Board) {
    while let Ok(Some(event)) = events.next().await {
        if let Some(step) = Step::named(&event.step) {
            board.record(&event.client, step, &event.detail);
        }
    }
}

struct Room {
    plan: Arc<Plan>,
    control: Control,
    board: Board,
    proofs: Proofs,
}

/// What is known of a machine after its first boot.
pub struct First {
    desk: Desk,
    login: Duration,
    disk: Disk,
}

impl Room {
    /// Boots every machine and makes the claims that hold from the first login on.
    async fn first_boot(&mut self) -> anyhow::Result<(Vec<Seat>, Vec<First>)> {
        let count = self.plan.desks.len();
        println!(
            "==> Switching on {count} machine{} without a disk",
            if count == 1 { "" } else { "s" }
        );
        let desks = self.plan.desks.clone();
        let mut seats = self.boot(desks).await?;
        let logins = self.logins(&seats);
        println!("==> Checking what the machines have");
        let disks = checks::own_root(&mut seats, &self.plan, &mut self.proofs).await?;
        checks::isolated(&mut seats, &mut self.proofs).await?;
        checks::own_exports(&self.control, &self.plan.desks, &mut self.proofs).await?;
        let facts = seats.iter().zip(logins).zip(disks);
        let first = facts
            .map(|((seat, login), disk)| First {
                desk: seat.desk.clone(),
                login,
                disk,
            })
            .collect();
        Ok((seats, first))
    }

    /// Pulls every plug, boots again, and looks which files are still there.
    async fn power_cycle(
        &mut self,
        seats: Vec<Seat>,
        first: &[First],
    ) -> anyhow::Result<Vec<Seat>> {
        println!("==> Pulling the plugs and switching on again");
        let mut desks = Vec::new();
        for Seat { desk, machine } in seats {
            machine.pull_plug().await?;
            desks.push(desk);
        }
        let mut seats = self.boot(desks).await?;
        println!("==> Checking what the power cycle left");
        checks::retention(&mut seats, &mut self.proofs).await?;
        checks::base_intact(&self.plan, &mut self.proofs).await?;
        self.summary(first, &self.logins(&seats));
        Ok(seats)
    }

    /// Boots these machines side by side, to a shell on each.
    async fn boot(&self, desks: Vec<Desk>) -> anyhow::Result<Vec<Seat>> {
        self.board
            .restart(desks.iter().map(|desk| desk.name.clone()));
        let further = u32::try_from(desks.len().saturating_sub(2)).unwrap_or(u32::MAX);
        let deadline = Instant::now() + BOOT_DEADLINE + further * BOOT_DEADLINE / 2;
        let mut booting = JoinSet::new();
        for desk in desks {
            booting.spawn(boot(
                Arc::clone(&self.plan),
                desk,
                self.board.clone(),
                deadline,
            ));
        }
        let mut seats = Vec::new();
        while let Some(seat) = booting.join_next().await {
            seats.push(seat.context("a machine's task ended badly")??);
        }
        seats.sort_by(|a, b| a.desk.mac.cmp(&b.desk.mac));
        Ok(seats)
    }

    /// When each machine came to its login.
    fn logins(&self, seats: &[Seat]) -> Vec<Duration> {
        let login = |seat: &Seat| {
            self.board
                .at(&seat.desk.name, Step::Login)
                .unwrap_or_default()
        };
        seats.iter().map(login).collect()
    }

    /// Claims that the server is small.
    fn weigh(&mut self, server: &Server) -> anyhow::Result<()> {
        let memory = server.memory()?;
        checks::small_server(memory, &mut self.proofs);
        Ok(())
    }

    fn summary(&self, first: &[First], again: &[Duration]) {
        println!("==> Summary");
        println!(
            "  {:<10}{:>10}{:>12}{:>18}{:>14}{:>16}",
            "machine", "retention", "login", "overlay on disk", "guest wrote", "login again"
        );
        for (machine, again) in first.iter().zip(again) {
            println!(
                "  {:<10}{:>10}{:>10.1} s{:>18}{:>14}{:>14.1} s",
                machine.desk.name,
                machine.desk.retention.name(),
                machine.login.as_secs_f64(),
                checks::mebibytes(machine.disk.overlay),
                checks::mebibytes(machine.disk.written),
                again.as_secs_f64(),
            );
        }
    }

    /// Switches everything off in order.
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
        println!("==> {}", self.proofs.verdict());
        Ok(self.proofs.all_held())
    }

    /// Leaves the room to the user until the outer process ends it.
    async fn stay(&self, seats: Vec<Seat>, server: &mut Server) -> anyhow::Result<()> {
        println!("==> {}", self.proofs.verdict());
        println!(
            "==> The room stays up until Ctrl-C. Consoles (root, password {PASSWORD}; leave with Ctrl-]):"
        );
        let mut running = Vec::new();
        for Seat { desk, machine } in seats {
            let socket = self.plan.console(&desk);
            println!(
                "    {:<10} socat -,rawer,escape=0x1d UNIX-CONNECT:{}",
                desk.name,
                socket.display()
            );
            running.push(machine.release().await?);
        }
        println!(
            "    The server: bootroom status --socket {}",
            self.plan.control().display()
        );
        bail!(server.watch().await)
    }
}

/// Boots one machine to a shell.
async fn boot(
    plan: Arc<Plan>,
    desk: Desk,
    board: Board,
    deadline: Instant,
) -> anyhow::Result<Seat> {
    let mut machine = Machine::power_on(&plan, &desk).await?;
    board.power_on(&desk.name);
    let log_in = async {
        machine.console.expect_login(&desk.name, deadline).await?;
        board.record(&desk.name, Step::Login, "");
        machine.console.log_in(PASSWORD).await
    };
    let outcome: anyhow::Result<()> = log_in.await;
    outcome.with_context(|| {
        format!(
            "{}, whose console ends with\n{}",
            desk.name,
            last_words(&plan, &desk)
        )
    })?;
    Ok(Seat { desk, machine })
}

fn last_words(plan: &Plan, desk: &Desk) -> String {
    tail(&plan.logs.join(format!("{}.console.log", desk.name)), 12)
}
