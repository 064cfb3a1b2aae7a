//! Loads on a disk, mirrored and not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bootroom_tests::pair::Side;

use super::client::{Client, Work};
use super::stage::{Place, Stage};

const ROUNDS: usize = 3;
const SPAN: Duration = Duration::from_secs(2);
const K4: u64 = 4 << 10;

const fn flushing(work: Work, every: u64) -> Work {
    Work {
        flush_every: every,
        ..work
    }
}

const ROWS: [Row; 6] = [
    ("write 4k d1", Work::random(K4, 1, 0)),
    ("write+flush 4k d1", flushing(Work::random(K4, 1, 0), 1)),
    ("write 4k d32", Work::random(K4, 32, 0)),
    ("write 128k d8", Work::random(128 << 10, 8, 0)),
    ("read 4k d1", Work::random(K4, 1, 100)),
    ("read 4k d32", Work::random(K4, 32, 100)),
];

/// A line of the table: its name, and the load.
type Row = (&'static str, Work);

/// The rows that these words name.
pub fn rows(wanted: &[String]) -> Vec<Row> {
    let named = |row: &Row| wanted.iter().any(|word| word == row.0);
    ROWS.into_iter().filter(named).collect()
}

/// Prints the table: these rows, or all if there are none.
pub fn run(stage: &Stage, rows: &[Row]) -> anyhow::Result<()> {
    let rows = if rows.is_empty() { &ROWS[..] } else { rows };
    let trip = round_trip(stage)?;
    println!("bare round trip between the servers, 4 KiB there and 40 bytes back: {trip:.1} µs");
    println!(
        "{:20}{:>12}{:>12}{:>10}{:>10}{:>8}",
        "", "mirrored/s", "alone/s", "µs", "µs", "ratio"
    );
    let places = [&stage.mirrored, &stage.alone];
    for place in places {
        on(stage, place, |client| client.fill().map(|_| ()))?;
    }
    for &(name, work) in rows {
        let mut rates = [const { Vec::new() }; 2];
        for _ in 0..ROUNDS {
            for (rates, place) in rates.iter_mut().zip(places) {
                rates.push(rate(stage, place, work)?);
            }
        }
        print_row(name, &work, rates.map(median), trip);
    }
    Ok(())
}

fn print_row(name: &str, work: &Work, [mirrored, alone]: [f64; 2], trip: f64) {
    let (ours, theirs) = (1e6 / mirrored, 1e6 / alone);
    let more = match work.depth {
        1 if work.reads == 0 && work.flush_every == 0 => {
            format!(
                "   {:.2} of (alone + one round trip)",
                ours / (theirs + trip)
            )
        }
        _ => String::new(),
    };
    println!(
        "{name:20}{mirrored:12.0}{alone:12.0}{ours:10.1}{theirs:10.1}{:8.2}{more}",
        mirrored / alone
    );
}

fn on<T: Send>(
    stage: &Stage,
    place: &Place,
    work: impl FnOnce(&mut Client) -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    stage.seat.namespace().inside(|| {
        let mut client = Client::connect_to(place.socket(), &place.export)?;
        work(&mut client)
    })
}

fn rate(stage: &Stage, place: &Place, work: Work) -> anyhow::Result<f64> {
    on(stage, place, |client| {
        let (done, took) = client.run(work, SPAN)?;
        Ok(done as f64 / took.as_secs_f64())
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What the way to the standby and back costs without a server at either end.
fn round_trip(stage: &Stage) -> anyhow::Result<f64> {
    const TIMES: u32 = 20_000;
    let [a, b] = Side::BOTH.map(|side| stage.pair.host(side).namespace());
    let listener = b.inside(|| TcpListener::bind((Side::B.address(), 7099)))?;
    let answering = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let mut message = [0; K4 as usize];
        for _ in 0..TIMES {
            socket.read_exact(&mut message)?;
            socket.write_all(&[0; 40])?;
        }
        Ok(())
    });
    let took = a.inside(|| -> std::io::Result<Duration> {
        let mut socket = TcpStream::connect((Side::B.address(), 7099))?;
        socket.set_nodelay(true)?;
        let (message, mut answer) = ([0; K4 as usize], [0; 40]);
        let start = Instant::now();
        for _ in 0..TIMES {
            socket.write_all(&message)?;
            socket.read_exact(&mut answer)?;
        }
        Ok(start.elapsed())
    })?;
    answering.join().expect("the answering does not panic")?;
    Ok(took.as_secs_f64() * 1e6 / f64::from(TIMES))
}
