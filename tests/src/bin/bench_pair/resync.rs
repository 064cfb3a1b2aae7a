//! How fast a standby that was away is brought up, beside plain copies of as much.

use std::process::Command;
use std::time::{Duration, Instant};

use bootroom_tests::deadline::wait_for;
use bootroom_tests::pair::Side;

use super::client::Client;
use super::stage::{DISK, Stage};

const LIMIT: Duration = Duration::from_secs(120);

/// Prints it.
pub fn run(stage: &mut Stage) -> anyhow::Result<()> {
    let resync = resync(stage)?;
    let speed = |took: Duration| DISK as f64 / (1 << 20) as f64 / took.as_secs_f64();
    println!("resync of {} MiB: {:.0} MiB/s", DISK >> 20, speed(resync));
    for (name, took) in [
        (
            "nbdcopy --flush of the same disk from A to a file of B",
            nbdcopy(stage)?,
        ),
        ("cp between two files, fsync", cp(stage)?),
    ] {
        let ratio = speed(resync) / speed(took);
        println!("  {name}: {:.0} MiB/s, resync {ratio:.2}", speed(took));
    }
    Ok(())
}

/// From when the standby begins to be brought up until it is.
fn resync(stage: &mut Stage) -> anyhow::Result<Duration> {
    stage.pair.host_mut(Side::B).kill();
    stage.pair.wait_lone(Side::A);
    let place = stage.mirrored.clone();
    stage
        .seat
        .namespace()
        .inside(|| Client::connect_to(place.socket(), &place.export)?.fill())?;
    stage.pair.host_mut(Side::B).start();
    let a = stage.pair.host(Side::A);
    wait_for("the resync to begin", LIMIT, || {
        let status = a.status()?;
        (status["paired"] == true || !status["resync"].is_null()).then_some(())
    });
    let start = Instant::now();
    wait_for("its end", LIMIT, || a.is_paired().then_some(()));
    Ok(start.elapsed())
}

fn timed(command: &mut Command) -> anyhow::Result<Duration> {
    let start = Instant::now();
    anyhow::ensure!(command.status()?.success(), "{command:?} failed");
    Ok(start.elapsed())
}

fn nbdcopy(stage: &Stage) -> anyhow::Result<Duration> {
    let mut nbdcopy = stage.pair.host(Side::B).namespace().command("nbdcopy");
    let uri = format!("nbd://{}/{}", stage.mirrored.address, stage.mirrored.export);
    let copy = stage.pair.path("copy");
    timed(nbdcopy.arg("--flush").arg(uri).arg(copy))
}

fn cp(stage: &Stage) -> anyhow::Result<Duration> {
    let of = |way: &str, name: &str| format!("{way}={}", stage.pair.path(name).display());
    timed(Command::new("dd").args([
        of("if", "copy"),
        of("of", "copy2"),
        "bs=1M".to_owned(),
        "conv=fsync".to_owned(),
        "status=none".to_owned(),
    ]))
}
