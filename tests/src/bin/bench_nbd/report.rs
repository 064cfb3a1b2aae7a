//! Rounds, medians, and the tables.

use std::{io::Write, thread, time::Duration};

use super::{
    client::{Client, Work},
    load::{Figure, ROWS, Row, Subject, shown},
    servers::{Images, Kind, Server, pin_load},
};

const PORT: u16 = 21809;

/// All rows, or those that `arguments` name, wholly or by a part that is no row's whole name. Each is printed when it is done. The servers take turns
/// in every round, so that whatever else the machine does meets all of them.
pub fn all(arguments: &[String]) -> anyhow::Result<()> {
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let names: Vec<_> = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let is_a_row = |name: &str| ROWS.iter().any(|row| row.name == name);
    let means = |name: &str, row: &str| match is_a_row(name) {
        true => row == name,
        false => row.contains(name),
    };
    let chosen = |row: &&Row| names.is_empty() || names.iter().any(|name| means(name, row.name));
    let (rounds, time) = if quick {
        (3, Duration::from_millis(150))
    } else {
        (7, Duration::from_millis(400))
    };
    pin_load()?;
    let images = Images::make()?;
    let kinds = match arguments.iter().any(|argument| argument == "--before") {
        true => &[Kind::Bootroom, Kind::Before, Kind::Limit][..],
        false => &Kind::ALL,
    };
    let mut subjects: Vec<_> = (PORT..)
        .zip(kinds.iter().copied())
        .map(|(port, kind)| Subject::new(kind, &images, port))
        .collect();
    print_head(kinds)?;
    for row in ROWS.iter().filter(chosen) {
        print_row(row, kinds, &measure(row, &mut subjects, rounds, time)?)?;
    }
    Ok(())
}

fn measure(
    row: &Row,
    subjects: &mut [Subject<'_>],
    rounds: usize,
    time: Duration,
) -> anyhow::Result<Vec<Figure>> {
    let mut figures = vec![Vec::new(); subjects.len()];
    for subject in &mut *subjects {
        subject.prepare(row)?;
    }
    // What earlier rows and the preparation wrote shall not be written back during this one.
    rustix::fs::sync();
    for _ in 0..rounds {
        for (subject, figures) in subjects.iter_mut().zip(&mut figures) {
            figures.push(subject.measure(row, time)?);
        }
    }
    Ok(figures.iter().map(|figures| median(figures)).collect())
}

fn print_head(kinds: &[Kind]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "{:<20}", "rate / server µs")?;
    for kind in kinds {
        write!(out, "{:>18}", kind.name())?;
    }
    writeln!(out, "{:>14}{:>10}{:>10}", "× best peer", "× cpu", "× limit")?;
    Ok(out.flush()?)
}

/// In rows with flushes only peers count whose flush means something: the changes of the others (in brackets) do not
/// outlive the connection, and are never on disk together with the knowledge which blocks they are.
fn print_row(row: &Row, kinds: &[Kind], medians: &[Figure]) -> anyhow::Result<()> {
    let flushes = row.work.flush_every > 0;
    let mut out = std::io::stdout().lock();
    write!(out, "{:<20}", row.name)?;
    for (kind, figure) in kinds.iter().zip(medians) {
        let text = format!("{} {:.1}", shown(row, figure.rate), figure.cpu);
        let counts = !flushes || kind.keeps_changes();
        let text = if counts { text } else { format!("[{text}]") };
        write!(out, "{text:>18}")?;
    }
    let (best, leanest) = peers(flushes, kinds, medians);
    let of = |kind| {
        let place = kinds.iter().position(|other| *other == kind);
        medians[place.unwrap_or(0)]
    };
    let (ours, limit) = (of(Kind::Bootroom), of(Kind::Limit));
    writeln!(
        out,
        "{:>14.2}{:>10.2}{:>10.2}",
        ours.rate / best,
        ours.cpu / leanest,
        ours.rate / limit.rate
    )?;
    Ok(out.flush()?)
}

/// The highest rate and the least processor time among the peers, or of the build before.
fn peers(flushes: bool, kinds: &[Kind], medians: &[Figure]) -> (f64, f64) {
    let counts = |kind: &Kind| match kind {
        Kind::Before => true,
        kind => kind.is_peer() && (!flushes || kind.keeps_changes()),
    };
    let counted = || {
        let peers = kinds.iter().zip(medians);
        peers.filter(|(kind, _)| counts(kind))
    };
    let best = counted().map(|(_, figure)| figure.rate).fold(0.0, f64::max);
    let leanest = counted().map(|(_, figure)| figure.cpu);
    (best, leanest.fold(f64::MAX, f64::min))
}

pub fn median(figures: &[Figure]) -> Figure {
    let middle = |pick: fn(&Figure) -> f64| {
        let mut values: Vec<f64> = figures.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Figure {
        rate: middle(|figure| figure.rate),
        cpu: middle(|figure| figure.cpu),
    }
}

/// Eight clients at once, each on its own overlay where the server can do that on one port.
pub fn eight_clients() -> anyhow::Result<()> {
    pin_load()?;
    let images = Images::make()?;
    let work = Work::random(4 << 10, 32, 70);
    println!("8 clients, mixed 70/30 4k d32: IOPS together, slowest client's share");
    for (number, kind) in [
        Kind::BootroomCow,
        Kind::NbdServerCow,
        Kind::NbdkitCow,
        Kind::QemuQcow2,
    ]
    .into_iter()
    .enumerate()
    {
        let port = PORT + 1000 + number as u16;
        let server = Server::start(kind, &images, port)?;
        let before = server.cpu_of_all()?;
        let clients: Vec<_> = (0..8)
            .map(|_| {
                thread::spawn(move || -> anyhow::Result<u64> {
                    Ok(Client::connect(port, kind.export())?
                        .run(work, Duration::from_secs(3))?
                        .0)
                })
            })
            .collect();
        let done: Result<Vec<u64>, _> = clients
            .into_iter()
            .map(|client| client.join().expect("a client panicked"))
            .collect();
        let done = done?;
        let sum: u64 = done.iter().sum();
        let slowest = *done.iter().min().unwrap_or(&0) as f64 / (sum as f64 / 8.0);
        let cpu = server.cpu_of_all()?.saturating_sub(before).as_secs_f64() * 1e6 / sum as f64;
        println!(
            "{:<14}{:>10.1}k{:>8.1} µs{:>8.2}",
            kind.name(),
            sum as f64 / 3000.0,
            cpu,
            slowest
        );
    }
    Ok(())
}
