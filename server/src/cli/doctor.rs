//! `bootroom doctor`: what on this host would keep machines from booting.

use clap::Args;

use super::{Exit, Target, block_on, load, output};
use crate::{
    control::{client::Control, model::Status, standby::model::PairView},
    doctor::{self, Finding, Level, Running},
};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Changes nothing. Exit code 5 when something is bad; warnings alone are 0.")]
pub struct DoctorOptions {
    #[command(flatten)]
    target: Target,
}

/// Looks, and prints what was found with what to do about it.
pub fn run(options: &DoctorOptions) -> anyhow::Result<Exit> {
    let config = load(&options.target.config)?;
    let control = options.target.control()?;
    let running = Running {
        pid: block_on(async { Ok(pid(&control).await) })?,
        pair: block_on(async { Ok(pair(&control).await) })?,
    };
    let findings = doctor::examine(&config, &running);
    match options.target.json {
        true => output::json(&findings)?,
        false => findings.iter().for_each(print),
    }
    let bad = findings.iter().any(|finding| finding.level == Level::Bad);
    Ok(if bad { Exit::Unhealthy } else { Exit::Ok })
}

/// The server's process; none if it does not answer.
async fn pid(control: &Control) -> Option<u32> {
    let status = control.get("/v1/status").await.ok()?;
    let status: Status = serde_json::from_value(status).ok()?;
    Some(status.pid)
}

/// How the pair is; none if the server is alone, or does not answer.
async fn pair(control: &Control) -> Option<PairView> {
    let view = control.get("/v1/standby").await.ok()?;
    serde_json::from_value(view).ok()
}

fn print(finding: &Finding) {
    let level = match finding.level {
        Level::Ok => "ok     ",
        Level::Warning => "WARNING",
        Level::Bad => "BAD    ",
    };
    say!("{level}  {:<13}  {}", finding.check, finding.message);
    if let Some(fix) = &finding.fix {
        say!("{:24}fix: {fix}", "");
    }
}
