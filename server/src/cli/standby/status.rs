//! `bootroom standby status`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use super::{act::disk_line, outcome::view, verify::sentence};
use crate::{
    cli::{Exit, Target, block_on, output, status::duration},
    config::units::ByteSize,
    control::{
        client::Control,
        standby::model::{EventView, KeptView, PairView, ProgressView, RoleView, VerifyView},
    },
};

/// Arguments of `standby status`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code 5 when something is wrong: lines that begin with BAD. A WARNING alone is 0."
)]
pub struct StatusOptions {
    #[command(flatten)]
    target: Target,
    /// Go on and show what happens to the pair
    #[arg(short, long)]
    watch: bool,
}

/// Prints how the pair is.
pub fn run(options: &StatusOptions) -> anyhow::Result<Exit> {
    block_on(async {
        let control = options.target.control()?;
        let view = view(&control).await?;
        match options.target.json {
            true => output::json(&view)?,
            false => lines(&view).iter().for_each(|line| say!("{line}")),
        }
        if options.watch {
            watch(&control, options.target.json).await?;
        }
        Ok(match view.problems.is_empty() {
            true => Exit::Ok,
            false => Exit::Unhealthy,
        })
    })
}

async fn watch(control: &Control, json: bool) -> anyhow::Result<()> {
    let mut events = control.lines::<EventView>("/v1/standby/events").await?;
    while let Some(event) = events.next().await? {
        match json {
            true => say!("{}", serde_json::to_string(&event)?),
            false => say!("{}", event.text),
        }
    }
    Ok(())
}

/// The view in words.
fn lines(view: &PairView) -> Vec<String> {
    let mut lines = vec![
        format!("server   {}, {}", view.server, role(view)),
        format!("other    {}, {}", view.peer, reached(view)),
        format!("data     {}", data(view)),
    ];
    lines.extend(
        view.kept
            .as_ref()
            .map(|one| format!("kept     {}", kept(one))),
    );
    if view.role == RoleView::Primary && view.paired {
        lines.push(format!("lag      {}", lag(view)));
    }
    lines.extend(
        view.resync
            .as_ref()
            .map(|one| format!("resync   {}", progress(one))),
    );
    lines.extend(
        view.verify
            .as_ref()
            .map(|one| format!("verify   {}", progress(one))),
    );
    lines.extend(view.last_verify.as_ref().map(verified));
    lines.extend(images(view));
    lines.push(format!("witness  {}", witness(view)));
    lines.push(format!("mode     {}, alone: {}", view.mode, view.alone));
    lines.extend(
        view.split_brain
            .iter()
            .flatten()
            .map(|disk| format!("SPLIT  {}", disk_line(disk))),
    );
    lines.extend(view.warnings.iter().map(|text| format!("WARNING  {text}")));
    lines.extend(view.problems.iter().map(|text| format!("BAD      {text}")));
    lines
}

fn role(view: &PairView) -> String {
    let role = match view.role {
        RoleView::Primary => "primary",
        RoleView::Standby => "standby",
        RoleView::Seeking => "neither primary nor standby",
    };
    format!("{role}, term {}", view.term)
}

fn reached(view: &PairView) -> String {
    let link = match view.linked {
        true => "connected",
        false => "not connected",
    };
    match view.heard_seconds {
        Some(seconds) if seconds >= 2.0 => format!("{link}, heard of {seconds:.0} s ago"),
        Some(_) => link.into(),
        None => format!("{link}, not heard of since this server was started"),
    }
}

fn data(view: &PairView) -> &'static str {
    match view {
        view if view.paired => "both servers hold the same",
        view if view.empty => "none of the pair",
        view if !view.consistent => "half old, half new",
        view if view.role == RoleView::Primary => "whole here; the other server lacks some",
        view if view.rolled_back => "whole, but for what a power cut took",
        _ => "whole; the other server may have newer",
    }
}

fn lag(view: &PairView) -> String {
    let lag = &view.lag;
    let bytes = ByteSize(lag.bytes.max(lag.unsent_bytes));
    match lag.items {
        0 => "nothing on its way to the standby".into(),
        items => format!(
            "{items} items on their way, {bytes}, the oldest for {:.3} s",
            lag.seconds
        ),
    }
}

/// What is kept from before a resync, in words.
pub fn kept(kept: &KeptView) -> String {
    let begun = match kept.begun {
        Some(begun) => format!("began {} ago", since(begun)),
        None => "has changed nothing yet".into(),
    };
    let last = kept.last_change;
    let last = last.map_or(String::new(), |last| {
        format!(", last changed {} ago", since(last))
    });
    format!("what was here before the resync, which {begun}{last}")
}

/// How long that is ago, which is given in seconds since 1970.
fn since(then: u64) -> String {
    duration(since_1970().as_secs().saturating_sub(then))
}

fn since_1970() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}

fn verified(found: &VerifyView) -> String {
    let now = since_1970().as_millis() as u64;
    let minutes = now.saturating_sub(found.time_ms) / 60_000;
    format!(
        "verify   {minutes} min ago: {}",
        sentence(found).trim_end_matches(':')
    )
}

/// How far, how fast and how long.
pub fn progress(progress: &ProgressView) -> String {
    let ProgressView {
        compare,
        blocks_done,
        blocks_left,
        bytes_per_second,
        seconds_left,
    } = *progress;
    let left = match seconds_left {
        Some(seconds) => format!(", {seconds} s left"),
        None => String::new(),
    };
    let what = if compare { "compared" } else { "sent" };
    format!(
        "{} {what}, {} to go at {}/s{left}",
        size(blocks_done),
        size(blocks_left),
        ByteSize(bytes_per_second)
    )
}

/// Bytes of blocks.
pub fn size(blocks: u64) -> ByteSize {
    ByteSize(blocks * mirror::BLOCK)
}

fn images(view: &PairView) -> Option<String> {
    let images = &view.images;
    (images.lacking > 0).then(|| {
        let part = images
            .permille
            .map(|part| format!(", the present file {} %", part / 10));
        format!(
            "images   {} versions to come{}",
            images.lacking,
            part.unwrap_or_default()
        )
    })
}

fn witness(view: &PairView) -> String {
    let Some(witness) = &view.witness else {
        return "none: a person decides who is primary".into();
    };
    if witness.trouble.is_some() {
        return format!("{}, does not answer", witness.place);
    }
    let primary = match &witness.primary {
        Some(server) => format!("has {server} down as primary"),
        None => "has nobody down as primary yet".into(),
    };
    let outdated = witness.outdated.as_ref();
    let outdated = outdated.map(|server| format!(", and {server} as lacking something"));
    format!(
        "{}, {primary}{}",
        witness.place,
        outdated.unwrap_or_default()
    )
}
