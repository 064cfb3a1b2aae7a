//! `bootroom status`: the server as a whole.

use clap::Args;

use super::{Exit, Target, block_on, output};
use crate::control::{
    model::Status,
    standby::model::{PairLine, RoleView},
};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusOptions {
    #[command(flatten)]
    target: Target,
    /// Go on and show the boot trace as it happens
    #[arg(short, long)]
    watch: bool,
}

/// Prints the server's state.
pub fn run(options: &StatusOptions) -> anyhow::Result<Exit> {
    block_on(async {
        let control = options.target.control()?;
        let status = control.get("/v1/status").await?;
        match options.target.json {
            true => output::json(&status)?,
            false => print(&serde_json::from_value(status)?),
        }
        if options.watch {
            watch(&control, options.target.json).await?;
        }
        Ok(Exit::Ok)
    })
}

fn print(status: &Status) {
    let Status {
        version,
        pid,
        address,
        interface,
        dhcp,
        ..
    } = status;
    say!(
        "bootroom {version}, process {pid}, up {}",
        duration(status.uptime_seconds)
    );
    match &status.pair {
        Some(pair) if pair.role != RoleView::Primary => {
            say!("serves   nothing: {}", elsewhere(pair))
        }
        _ => say!(
            "serves   {address} on {interface}, DHCP {dhcp}, {} leases",
            status.leases
        ),
    }
    if let Some(pair) = &status.pair {
        say!("pair     {}", pair_line(pair));
    }
    say!(
        "clients  {} attached, {} known",
        status.attached,
        status.clients
    );
    for export in &status.exports {
        say!(
            "export   {}: {}, {}, {} connections",
            export.name,
            export.source,
            export.mode,
            export.connections
        );
    }
    for image in &status.images {
        let current = output::or_dash(image.current);
        say!(
            "image    {}: version {current} current, {} kept",
            image.name,
            image.versions
        );
    }
    for warning in &status.warnings {
        say!("WARNING  {warning}");
    }
    for stuck in &status.stuck {
        let (client, step, seconds) = (&stuck.client, &stuck.step, stuck.seconds);
        say!(
            "STUCK    {client} at {step} for {seconds} s: {}",
            stuck.advice
        );
    }
}

/// Who serves the room instead, as far as that is known.
fn elsewhere(pair: &PairLine) -> String {
    match pair.role {
        RoleView::Standby => format!(
            "this is the standby of {}, which serves the room",
            pair.peer
        ),
        _ => format!(
            "this server waits for the other one of the pair, {}",
            pair.peer
        ),
    }
}

/// The pair in a line; `bootroom standby status` has more.
fn pair_line(pair: &PairLine) -> String {
    let role = match pair.role {
        RoleView::Primary => "primary",
        RoleView::Standby => "standby",
        RoleView::Seeking => "neither primary nor standby",
    };
    let how = match (pair.problems.first(), pair.paired) {
        (Some(problem), _) => problem,
        (None, true) => "both servers hold the same",
        (None, false) => "not in step yet",
    };
    format!("{role} in term {}, with {}; {how}", pair.term, pair.peer)
}

/// Seconds for people.
pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

async fn watch(control: &crate::control::client::Control, json: bool) -> anyhow::Result<()> {
    let mut events = control.events().await?;
    while let Some(step) = events.next().await? {
        match json {
            true => say!("{}", serde_json::to_string(&step)?),
            false => say!("{:<16} {:<10} {}", step.client, step.step, step.detail),
        }
    }
    Ok(())
}
