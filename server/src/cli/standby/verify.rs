//! `bootroom standby verify`: do both servers hold the same?

use anyhow::bail;
use clap::Args;
use images::Progress;

use super::{
    act::disk_line,
    outcome::{Outcome, view},
    status::size,
};
use crate::{
    cli::{Exit, Target, image::progress::Shown, output},
    control::standby::model::{EventKind, EventView, PairView, ProgressView, VerifyView},
};

/// Arguments of `standby verify`.
#[derive(Debug, Args)]
#[command(after_help = ABOUT)]
pub struct VerifyOptions {
    #[command(flatten)]
    target: Target,
}

const ABOUT: &str = "\
To be said on the primary, while both servers are in step; the machines run on meanwhile. All that any machine's disk has of
its own is read on both sides and compared; what differs is sent to the standby again: what the primary has, counts. It goes
on when this command is interrupted: `standby status` shows how far it is, and what it found last.

Exit code 0 when both held the same, 5 when something differed (it is repaired by then) or could not be read.";

/// Compares, and says what was found.
pub async fn run(options: &VerifyOptions) -> anyhow::Result<Exit> {
    let control = options.target.control()?;
    let mut outcome = Outcome::listen(&control).await?;
    control.post("/v1/standby/verify").await?;
    let shown = Shown::new();
    shown.phase("comparing both servers");
    let show = |view: &PairView| {
        if let Some(progress) = &view.verify {
            shown.fraction(fraction(progress));
        }
        None
    };
    let ended = outcome.watch(ended, show).await;
    shown.clear();
    if ended?.is_none() {
        bail!("the server stopped meanwhile");
    }
    let view = view(&control).await?;
    let Some(found) = view.last_verify else {
        bail!("it could not be begun: both servers have to be in step for it");
    };
    report(&found, options.target.json)
}

fn ended(event: &EventView) -> Option<()> {
    matches!(event.event, EventKind::Verified | EventKind::VerifyStopped).then_some(())
}

fn fraction(progress: &ProgressView) -> f64 {
    let all = progress.blocks_done + progress.blocks_left;
    progress.blocks_done as f64 / all.max(1) as f64
}

fn report(found: &VerifyView, json: bool) -> anyhow::Result<Exit> {
    if json {
        output::json(found)?;
    } else {
        say!("{}", sentence(found));
        found
            .disks
            .iter()
            .for_each(|disk| say!("{}", disk_line(disk)));
    }
    Ok(exit(found))
}

fn exit(found: &VerifyView) -> Exit {
    match found {
        found if found.differing > 0 || found.unread > 0 => Exit::Unhealthy,
        found if found.stopped => Exit::Failed,
        _ => Exit::Ok,
    }
}

/// What was found, in words; the disks that differed follow.
pub fn sentence(found: &VerifyView) -> String {
    let compared = size(found.blocks);
    let begun = match (found.stopped, found.differing) {
        (false, 0) => format!("both servers hold the same: {compared} compared"),
        (true, 0) => {
            format!(
                "broken off after {compared}, which were the same: the standby was lost, or the primary changed"
            )
        }
        (false, n) => format!(
            "of {compared} up to {} differed, and were sent to the standby again:",
            size(n)
        ),
        (true, n) => format!(
            "broken off after {compared}, of which up to {} differed; they are sent again:",
            size(n)
        ),
    };
    match found.unread {
        0 => begun,
        n => format!(
            "{} could not be read on the primary (see its log). {begun}",
            size(n)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(differing: u64, unread: u64, stopped: bool) -> VerifyView {
        VerifyView {
            time_ms: 0,
            blocks: 256,
            differing,
            unread,
            stopped,
            disks: Vec::new(),
        }
    }

    #[test]
    fn only_a_whole_comparison_without_a_difference_is_well() {
        assert_eq!(exit(&found(0, 0, false)), Exit::Ok);
        assert_eq!(exit(&found(1, 0, false)), Exit::Unhealthy);
        assert_eq!(exit(&found(0, 1, false)), Exit::Unhealthy);
        assert_eq!(exit(&found(0, 0, true)), Exit::Failed);
        assert_eq!(exit(&found(1, 0, true)), Exit::Unhealthy);
    }

    #[test]
    fn the_sentence_says_how_much() {
        assert_eq!(
            sentence(&found(0, 0, false)),
            "both servers hold the same: 1 MiB compared"
        );
        assert!(sentence(&found(64, 0, false)).contains("up to 256 KiB differed"));
        assert!(sentence(&found(0, 2, false)).starts_with("8 KiB could not be read"));
        assert!(sentence(&found(0, 0, true)).starts_with("broken off"));
    }
}
