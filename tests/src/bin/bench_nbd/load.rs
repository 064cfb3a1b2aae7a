//! The rows of the benchmark, measured on one server at a time.

use std::time::Duration;

use anyhow::Context;

use super::{
    client::{Client, Work},
    servers::{Images, Kind, Server, patiently},
};

/// What one row of one server came to.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Requests a second.
    pub rate: f64,
    /// Microseconds of the server's processor for each request.
    pub cpu: f64,
}

/// What the overlay holds before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlay {
    /// Nothing; a new one in each round.
    Fresh,
    /// Nothing; reads leave it so.
    Empty,
    /// Every block.
    Full,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What is done.
    pub work: Work,
    /// On what.
    pub overlay: Overlay,
}

const K4: u64 = 4 << 10;
const M1: u64 = 1 << 20;

const fn row(name: &'static str, overlay: Overlay, work: Work) -> Row {
    Row {
        name,
        work,
        overlay,
    }
}

const fn flushing(work: Work, every: u64) -> Work {
    Work {
        flush_every: every,
        ..work
    }
}

/// All rows; those that need overlays full come last.
pub const ROWS: [Row; 12] = [
    row("read 4k d1", Overlay::Empty, Work::random(K4, 1, 100)),
    row("read 4k d32", Overlay::Empty, Work::random(K4, 32, 100)),
    row("read 128k d4", Overlay::Empty, Work::random(M1 / 8, 4, 100)),
    row("read 1m d4", Overlay::Empty, Work::random(M1, 4, 100)),
    row(
        "write 4k d32 fresh",
        Overlay::Fresh,
        Work::random(K4, 32, 0),
    ),
    row(
        "write 4k flush/32",
        Overlay::Fresh,
        flushing(Work::random(K4, 32, 0), 32),
    ),
    row("write 1m d4", Overlay::Full, Work::random(M1, 4, 0)),
    row(
        "write 4k d32 filled",
        Overlay::Full,
        Work::random(K4, 32, 0),
    ),
    row("mixed 70/30 d32", Overlay::Full, Work::random(K4, 32, 70)),
    row(
        "read 4k d32 filled",
        Overlay::Full,
        Work::random(K4, 32, 100),
    ),
    row("read 1m d4 filled", Overlay::Full, Work::random(M1, 4, 100)),
    row(
        "write+flush d1",
        Overlay::Full,
        flushing(Work::random(K4, 1, 0), 1),
    ),
];

/// A server and the connection to it.
pub struct Subject<'i> {
    kind: Kind,
    images: &'i Images,
    /// The next start's: a server that was killed may still be there for a moment.
    port: u16,
    running: Option<(Server, Client)>,
    full: bool,
}

impl<'i> Subject<'i> {
    /// One that is started when it is needed.
    pub fn new(kind: Kind, images: &'i Images, port: u16) -> Self {
        Self {
            kind,
            images,
            port,
            running: None,
            full: false,
        }
    }

    /// Starts what is not running, and brings the overlay into the state that `row` asks for.
    pub fn prepare(&mut self, row: &Row) -> anyhow::Result<()> {
        if row.overlay == Overlay::Fresh {
            self.running = None;
            self.images.forget(self.port - Kind::ALL.len() as u16);
            self.full = false;
        }
        if self.running.is_none() {
            let port = self.port;
            self.port += Kind::ALL.len() as u16;
            let server = Server::start(self.kind, self.images, port)?;
            let client = patiently(|| Client::connect(port, self.kind.export()))
                .with_context(|| format!("connecting to {}", self.kind.name()))?;
            self.running = Some((server, client));
        }
        if let Some((_, client)) = &mut self.running
            && row.overlay == Overlay::Full
            && !self.full
        {
            client.fill()?;
            self.full = true;
        }
        Ok(())
    }

    /// Measures `row` once, for about `time`.
    pub fn measure(&mut self, row: &Row, time: Duration) -> anyhow::Result<Figure> {
        self.prepare(row)?;
        let (server, client) = self.running.as_mut().context("no server")?;
        client.run(row.work, time / 8)?;
        let before = server.cpu();
        let (done, took) = client.run(row.work, time)?;
        let cpu = server.cpu().saturating_sub(before).as_secs_f64() * 1e6 / done as f64;
        let rate = done as f64 / took.as_secs_f64();
        Ok(Figure { rate, cpu })
    }
}

/// Bytes a second are told for large requests, requests a second for small ones.
pub fn shown(row: &Row, rate: f64) -> String {
    match row.work.block {
        K4 => format!("{:.1}k", rate / 1000.0),
        block => format!("{:.0} MiB/s", rate * block as f64 / M1 as f64),
    }
}
