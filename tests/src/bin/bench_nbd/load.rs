//! The rows of the benchmark, measured on one server.

use std::time::Duration;

use anyhow::Context;

use super::{
    client::{Client, Work},
    servers::{Images, Kind, Server},
};

/// What one row of one server came to.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Requests a second.
    pub rate: f64,
    /// Microseconds of the server's processor for each request.
    pub cpu: f64,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What is done.
    pub work: Work,
    /// Whether the overlay is written full before.
    pub filled: bool,
}

const K4: u64 = 4 << 10;
const M1: u64 = 1 << 20;

/// All rows, in the order in which they have to be measured on a fresh overlay.
pub const ROWS: [Row; 10] = [
    Row {
        name: "read 4k d1",
        work: Work::random(K4, 1, 100),
        filled: false,
    },
    Row {
        name: "read 4k d32",
        work: Work::random(K4, 32, 100),
        filled: false,
    },
    Row {
        name: "read 1m d4",
        work: Work::random(M1, 4, 100),
        filled: false,
    },
    Row {
        name: "write 4k d32 fresh",
        work: Work::random(K4, 32, 0),
        filled: false,
    },
    Row {
        name: "write 4k flush/32",
        work: Work {
            flush_every: 32,
            ..Work::random(K4, 32, 0)
        },
        filled: false,
    },
    Row {
        name: "write 1m d4",
        work: Work::random(M1, 4, 0),
        filled: true,
    },
    Row {
        name: "write 4k d32 filled",
        work: Work::random(K4, 32, 0),
        filled: true,
    },
    Row {
        name: "mixed 70/30 d32",
        work: Work::random(K4, 32, 70),
        filled: true,
    },
    Row {
        name: "read 4k d32 filled",
        work: Work::random(K4, 32, 100),
        filled: true,
    },
    Row {
        name: "write+flush d1",
        work: Work {
            flush_every: 1,
            ..Work::random(K4, 1, 0)
        },
        filled: true,
    },
];

/// Measures `rows` on a freshly started server.
pub fn measure(
    kind: Kind,
    images: &Images,
    port: u16,
    rows: &[Row],
    time: Duration,
) -> anyhow::Result<Vec<Figure>> {
    let server = Server::start(kind, images, port)?;
    let mut client = Client::connect(port, kind.export())
        .with_context(|| format!("connecting to {}", kind.name()))?;
    let mut filled = false;
    let mut figures = Vec::new();
    for row in rows {
        if row.filled && !filled {
            client.fill()?;
            filled = true;
        }
        client.run(row.work, time / 10)?;
        let before = server.cpu();
        let (done, took) = client.run(row.work, time)?;
        let cpu = server.cpu().saturating_sub(before).as_secs_f64() * 1e6 / done as f64;
        figures.push(Figure {
            rate: done as f64 / took.as_secs_f64(),
            cpu,
        });
    }
    Ok(figures)
}

/// Bytes a second are told for large requests, requests a second for small ones.
pub fn shown(row: &Row, rate: f64) -> String {
    match row.work.block {
        M1 => format!("{:.0} MiB/s", rate),
        _ => format!("{:.1}k", rate / 1000.0),
    }
}
