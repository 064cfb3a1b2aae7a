//! The outer process: packages, image, files, signals.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::process::Child;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use super::plan::{Desk, Plan};
use super::storage::{Run, Storage};
use super::{DemoOptions, image, prerequisites, sandbox};

/// How long the room may take to clear itself away before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// The exit code shells give to what an interrupt ended.
const INTERRUPTED: u8 = 130;

/// The signals that end the demo.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one of them.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Prepares the room, lets it run, and clears it away.
///
/// # Errors
/// As [`super::run`].
pub async fn run(options: &DemoOptions) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    prerequisites::ensure()?;
    sandbox::probe().await?;
    let storage = Storage::open(options.data.as_deref())?;
    image::ensure(&storage, options.rebuild_image, &mut signals).await?;
    let run = storage.begin_run()?;
    let room = sandbox::start(&plan(options, &storage, &run).save()?)?;
    attend(room, &mut signals).await
    // The run's directory goes here, after everything in the namespaces has ended.
}

fn plan(options: &DemoOptions, storage: &Storage, run: &Run) -> Plan {
    Plan {
        desks: (1..=options.machines).map(Desk::number).collect(),
        memory: options.memory,
        accel: options.accel,
        keep_running: options.keep_running,
        data: run.data.clone(),
        run: run.dir.path().to_owned(),
        logs: storage.logs(),
    }
}

/// Waits for the room to end, and ends it when a signal says so.
async fn attend(mut room: Child, signals: &mut Signals) -> anyhow::Result<ExitCode> {
    // Taken out, because waiting for a child would close it at once.
    let lifeline = room.stdin.take();
    tokio::select! {
        status = room.wait() => {
            let code = status.context("cannot wait for the room")?.code();
            return Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from));
        }
        () = signals.next() => {}
    }
    tell!("\n==> Interrupted: clearing the room away");
    drop(lifeline);
    if timeout(STOP_DEADLINE, room.wait()).await.is_err() {
        // `unshare --kill-child` takes the room's process 1 with it, and that everything else.
        room.kill().await.context("cannot stop the room")?;
    }
    Ok(ExitCode::from(INTERRUPTED))
}
