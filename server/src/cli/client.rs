//! `bootroom client`: the machines.

use anyhow::bail;
use clap::{Args, Subcommand};

use super::{Exit, Target, ask, block_on, output};
use images::Progress;

use super::image::progress::Shown;
use crate::{
    clients::Reset,
    clients::disks::overlay_id,
    config::units::{ByteSize, Retention},
    control::{
        client::Control,
        model::{ClientView, CommitRequest, CommitStep, DiskView, ResetDone},
    },
    trace::{Step, StuckView},
};

/// What can be asked about machines.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// List every machine that was ever served
    List(Target),
    /// Show one machine
    Show(Named),
    /// Show the steps of a machine's last boot
    Trace(Named),
    /// Give a machine a fresh disk: at once, or at its next boot if it is running
    Reset(ResetOptions),
    /// Forget a machine: its name and address are free, its disks are gone
    Forget(ForgetOptions),
    /// Make a machine's disk the next version of an image, also while it runs
    Commit(CommitOptions),
}

/// Arguments of `client commit`.
#[derive(Debug, Args)]
pub struct CommitOptions {
    #[command(flatten)]
    named: Named,
    /// The image that gets the new version; it need not exist yet
    #[arg(long, value_name = "NAME")]
    image: images::ImageName,
    /// A line about the version
    #[arg(long, default_value = "")]
    description: String,
}

/// One machine, by its name.
#[derive(Debug, Args)]
pub struct Named {
    /// Its name, as `client list` shows it
    name: String,
    #[command(flatten)]
    target: Target,
}

/// Arguments of `client reset`.
#[derive(Debug, Args)]
pub struct ResetOptions {
    #[command(flatten)]
    named: Named,
    /// The image whose disk is meant [default: the one that the machine booted last]
    #[arg(long, value_name = "NAME")]
    image: Option<images::ImageName>,
    /// Do not ask before a lasting disk is thrown away
    #[arg(long)]
    yes: bool,
    /// Do not wait for the next boot of a machine that is not connected; if it runs after all, it has lost its disk
    #[arg(long)]
    now: bool,
}

/// Arguments of `client forget`.
#[derive(Debug, Args)]
pub struct ForgetOptions {
    #[command(flatten)]
    named: Named,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Does it.
pub fn run(command: &ClientCommand) -> anyhow::Result<Exit> {
    block_on(async {
        match command {
            ClientCommand::List(target) => list(target).await,
            ClientCommand::Show(named) => show(named).await,
            ClientCommand::Trace(named) => trace(named).await,
            ClientCommand::Reset(options) => reset(options).await,
            ClientCommand::Forget(options) => forget(options).await,
            ClientCommand::Commit(options) => commit(options).await,
        }
    })
}

async fn list(target: &Target) -> anyhow::Result<Exit> {
    let clients = target.control()?.get("/v1/clients").await?;
    if target.json {
        output::json(&clients)?;
        return Ok(Exit::Ok);
    }
    let clients: Vec<ClientView> = serde_json::from_value(clients)?;
    let rows: Vec<_> = clients.iter().map(row).collect();
    let heading = [
        "NAME",
        "MAC",
        "ADDRESS",
        "VERSION",
        "RETENTION",
        "ATTACHED",
        "OVERLAY",
        "LAST STEP",
    ];
    say!("{}", output::table(heading, &rows));
    Ok(Exit::Ok)
}

fn row(client: &ClientView) -> [String; 8] {
    [
        client.name.clone(),
        client.mac.to_string(),
        output::or_dash(client.address),
        output::or_dash(client.version.as_ref().or(client.image.as_ref())),
        output::or_dash(client.retention),
        if client.attached { "yes" } else { "no" }.into(),
        output::or_dash(client.overlay_bytes.map(ByteSize)),
        output::or_dash(client.last_step.as_ref()),
    ]
}

async fn fetch(control: &Control, name: &str) -> anyhow::Result<ClientView> {
    let path = format!("/v1/clients/{}", checked(name)?);
    Ok(serde_json::from_value(control.get(&path).await?)?)
}

/// A name that can stand in a path of the control API.
fn checked(name: &str) -> anyhow::Result<&str> {
    name.parse::<crate::config::units::ClientName>()?;
    Ok(name)
}

async fn show(named: &Named) -> anyhow::Result<Exit> {
    let client = fetch(&named.target.control()?, &named.name).await?;
    if named.target.json {
        output::json(&client)?;
        return Ok(Exit::Ok);
    }
    let bytes = |bytes: Option<u64>| output::or_dash(bytes.map(ByteSize));
    let rows = [
        ("name", client.name.clone()),
        ("mac", client.mac.to_string()),
        ("group", output::or_dash(client.group)),
        ("address", output::or_dash(client.address)),
        ("image", output::or_dash(client.image)),
        ("version", output::or_dash(client.version)),
        ("retention", output::or_dash(client.retention)),
        (
            "attached",
            if client.attached { "yes" } else { "no" }.into(),
        ),
        ("disk", bytes(client.disk_bytes)),
        ("overlay", bytes(client.overlay_bytes)),
        ("quota", bytes(client.quota_bytes)),
        (
            "next boot",
            if client.fresh_at_next_boot {
                "fresh, as told"
            } else {
                "as configured"
            }
            .into(),
        ),
        ("trouble", output::or_dash(client.trouble)),
    ];
    rows.iter()
        .for_each(|(key, value)| say!("{key:<10} {value}"));
    other_disks(&client.disks, client.overlay.as_deref());
    client.stuck.iter().for_each(say_stuck);
    Ok(Exit::Ok)
}

/// The disks of images that the machine booted at other times.
fn other_disks(disks: &[DiskView], current: Option<&str>) {
    for disk in disks
        .iter()
        .filter(|disk| Some(disk.overlay.as_str()) != current)
    {
        let bytes = output::or_dash(disk.overlay_bytes.map(ByteSize));
        say!(
            "{:<10} {}, {bytes}",
            "also has",
            output::or_dash(disk.version.as_ref())
        );
    }
}

fn say_stuck(stuck: &StuckView) {
    let StuckView {
        step,
        seconds,
        advice,
        ..
    } = stuck;
    say!("{:<10} at {step} for {seconds} s: {advice}", "stuck");
}

async fn trace(named: &Named) -> anyhow::Result<Exit> {
    let control = named.target.control()?;
    let path = format!("/v1/clients/{}/trace", checked(&named.name)?);
    let answer = control.get(&path).await?;
    if named.target.json {
        output::json(&answer)?;
        return Ok(Exit::Ok);
    }
    let steps: Vec<Step> = serde_json::from_value(answer)?;
    let Some(first) = steps.first() else {
        say!("{} has not booted since the server started", named.name);
        return Ok(Exit::Ok);
    };
    for step in &steps {
        let seconds = step.time_ms.saturating_sub(first.time_ms) as f64 / 1000.0;
        say!("{seconds:>8.1} s  {:<10} {}", step.step, step.detail);
    }
    let client = fetch(&control, &named.name).await?;
    client.stuck.iter().for_each(say_stuck);
    Ok(Exit::Ok)
}

/// The machine's disks that are meant to last, by what is configured now or was when the disk was made; of `image` only,
/// if one is named.
fn lasting<'a>(client: &'a ClientView, image: Option<&images::ImageName>) -> Vec<&'a DiskView> {
    // By its name: a disk whose image is gone does not tell which that was.
    let named = image.map(|image| overlay_id(client.mac, image).to_string());
    let meant =
        |disk: &&DiskView| Some(&disk.overlay) == named.as_ref().or(client.overlay.as_ref());
    let configured = client.retention != Some(Retention::Boot);
    let lasts = |disk: &&DiskView| disk.lasts != Some(false) || configured;
    client.disks.iter().filter(meant).filter(lasts).collect()
}

async fn reset(options: &ResetOptions) -> anyhow::Result<Exit> {
    let Named { name, target } = &options.named;
    let control = target.control()?;
    let client = fetch(&control, name).await?;
    if !lasting(&client, options.image.as_ref()).is_empty() && !options.yes && !confirm(name)? {
        bail!("nothing was done");
    }
    let image = options.image.as_ref();
    let image = image.map_or_else(String::new, |image| format!("&image={image}"));
    let path = format!("/v1/clients/{name}/reset?now={}{image}", options.now);
    let answer = control.post(&path).await?;
    if target.json {
        output::json(&answer)?;
        return Ok(Exit::Ok);
    }
    let done: ResetDone = serde_json::from_value(answer)?;
    match done.result {
        Reset::Done => say!("{name}: its disk is gone; its next boot starts from a fresh one"),
        Reset::AtNextBoot => say!(
            "{name} may be running: its next boot starts from a fresh disk (--now does not wait, if it is off)"
        ),
    }
    Ok(Exit::Ok)
}

/// Asks before a lasting disk is thrown away.
fn confirm(name: &str) -> anyhow::Result<bool> {
    let question = format!("Throw away the lasting disk of {name}?");
    let reason = format!("{name} has a lasting disk (retention keep)");
    ask::confirm(&question, &reason)
}

async fn forget(options: &ForgetOptions) -> anyhow::Result<Exit> {
    let Named { name, target } = &options.named;
    let control = target.control()?;
    let client = fetch(&control, name).await?;
    let question = format!(
        "Forget {name} ({}), with its address and {} disk(s)?",
        client.mac,
        client.disks.len()
    );
    let reason = format!("{name} loses its name, its address and its disks");
    if !options.yes && !ask::confirm(&question, &reason)? {
        bail!("nothing was done");
    }
    let answer = control.post(&format!("/v1/clients/{name}/forget")).await?;
    match target.json {
        true => output::json(&answer)?,
        false => say!("{name} is forgotten: its name and address are free"),
    }
    Ok(Exit::Ok)
}

async fn commit(options: &CommitOptions) -> anyhow::Result<Exit> {
    let Named { name, target } = &options.named;
    let request = CommitRequest {
        image: options.image.clone(),
        description: options.description.clone(),
    };
    let mut steps = target.control()?.commit(checked(name)?, &request).await?;
    let shown = Shown::new();
    while let Some(step) = steps.next().await? {
        match step {
            CommitStep::Phase(phase) => shown.phase(&phase),
            CommitStep::Fraction(fraction) => shown.fraction(fraction),
            CommitStep::Published(version) => {
                shown.clear();
                return published(name, &version, target.json);
            }
            CommitStep::Failed(reason) => {
                shown.clear();
                bail!("nothing was published: {reason}");
            }
        }
    }
    bail!("the server stopped before the version was published")
}

fn published(name: &str, version: &str, json: bool) -> anyhow::Result<Exit> {
    match json {
        true => output::json(&serde_json::json!({ "client": name, "version": version }))?,
        false => say!("{version} is the disk of {name}, and current"),
    }
    Ok(Exit::Ok)
}
