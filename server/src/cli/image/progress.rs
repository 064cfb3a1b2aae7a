//! Showing a long job, and stopping it by a signal.

use std::io::{IsTerminal, stderr};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use images::{Cancel, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::cli::block_on;

/// Steps of a bar.
const STEPS: u64 = 1000;
/// Exit code of a program that was interrupted.
const INTERRUPTED: i32 = 130;

/// A moving line on a terminal; elsewhere a line for each phase.
pub struct Shown {
    bar: ProgressBar,
    moving: bool,
}

impl Shown {
    /// Shows on standard error.
    pub fn new() -> Self {
        let moving = stderr().is_terminal();
        let target = if moving {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(STEPS), target);
        if moving {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Self { bar, moving }
    }

    /// Leaves nothing of it on the terminal.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn style(&self, template: &str) {
        let style = ProgressStyle::with_template(template);
        self.bar
            .set_style(style.expect("the templates here are well formed"));
    }
}

impl Progress for Shown {
    fn phase(&self, name: &str) {
        if !self.moving {
            eprintln!("{name}");
        }
        self.style("{spinner} [{elapsed}] {prefix}  {wide_msg:.dim}");
        self.bar.set_prefix(name.to_owned());
        self.bar.set_message("");
    }

    fn fraction(&self, fraction: f64) {
        self.style("{spinner} [{elapsed}] {prefix} {bar:30} {percent}%");
        self.bar.set_position((fraction * STEPS as f64) as u64);
    }

    fn detail(&self, line: &str) {
        self.bar.set_message(line.to_owned());
    }
}

/// Runs `work` on a thread of its own; SIGINT, SIGTERM or SIGHUP throws its switch, and it then cleans up and returns.
/// A second signal ends the program at once: the kernel then ends what was started, and the next build cleans up.
///
/// # Errors
/// That of `work`.
pub fn cancellable<T: Send>(
    work: impl FnOnce(&Cancel) -> images::Result<T> + Send,
) -> anyhow::Result<T> {
    let cancel = Cancel::new()?;
    let (ended, end) = oneshot::channel::<()>();
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let outcome = work(&cancel);
            drop(ended);
            outcome
        });
        block_on(watch(&cancel, end))?;
        let outcome = worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(outcome?)
    })
}

/// Throws the switch at the first signal, until the work has ended.
async fn watch(cancel: &Cancel, mut end: oneshot::Receiver<()>) -> anyhow::Result<()> {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let mut signals = Vec::new();
    for kind in kinds {
        signals.push(signal(kind).context("cannot listen to signals")?);
    }
    let [interrupt, terminate, hangup] = signals.as_mut_slice() else {
        return Ok(());
    };
    loop {
        tokio::select! {
            _ = &mut end => return Ok(()),
            () = any(interrupt, terminate, hangup) => {}
        }
        if cancel.is_cancelled() {
            std::process::exit(INTERRUPTED);
        }
        eprintln!("stopping, and cleaning up; again to stop at once");
        cancel.cancel();
    }
}

async fn any(one: &mut Signal, two: &mut Signal, three: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = two.recv() => {}
        _ = three.recv() => {}
    }
}
