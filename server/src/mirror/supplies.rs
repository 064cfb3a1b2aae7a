//! Image versions: a server that is not primary fetches from the one that is what it lacks, before it becomes its standby
//! and from then on.

use std::{collections::HashSet, net::TcpStream, sync::Arc, thread, time::Duration};

use ::images::{Bytes, Cancel, Progress, VersionId};
use parking_lot::Mutex;
use rustls::{ClientConnection, StreamOwned};

use super::{
    images::{Outcome, Pull, lacking, pull, say_held},
    link::{Ends, Purpose, connect},
    pair::Pair,
};

/// Between two looks at what the primary has.
const LOOK: Duration = Duration::from_secs(2);
/// While there is nobody to look at.
const IDLE: Duration = Duration::from_millis(200);
/// How long the other server may be silent in the middle of a copy.
const SLOW: Duration = Duration::from_secs(60);
/// Room on the disk that copies leave to the machines' disks. Bytes.
const RESERVE: u64 = 1 << 30;

/// How the copying goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SuppliesView {
    /// Versions that the primary has and this server lacks, when it was looked last.
    pub lacking: Vec<VersionId>,
    /// What keeps them from coming.
    pub trouble: Option<String>,
    /// Parts of a thousand of the file under way.
    pub permille: Option<u16>,
}

/// What fetches.
pub struct Supplies {
    pair: Arc<Pair>,
    ends: Ends,
}

impl Supplies {
    /// Fetches on a thread of its own.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(pair: Arc<Pair>, ends: Ends) -> anyhow::Result<()> {
        pair.mirror.prepare(false);
        let supplies = Self { pair, ends };
        let thread = thread::Builder::new().name("pair-images".into());
        thread.spawn(move || supplies.run())?;
        Ok(())
    }

    fn run(&self) {
        while !self.pair.mirror.is_stopped() {
            let rest = match self.pair.mirror.follows() {
                true => self.look(),
                false => IDLE,
            };
            thread::sleep(rest);
        }
    }

    fn look(&self) -> Duration {
        match self.fetch() {
            Ok(outcome) => self.note(&outcome),
            Err(error) => self.complain(format!("{error:#}")),
        }
        LOOK
    }

    fn fetch(&self) -> anyhow::Result<Outcome> {
        let mut stream = connect(&self.ends, Purpose::Images)?;
        patient(&stream)?;
        let volumes = self.pair.mirror.store().volumes.specs();
        let bound: HashSet<_> = volumes
            .into_iter()
            .map(|(_, spec)| VersionId::from_uuid(spec.base.version))
            .collect();
        let cancel = Cancel::new()?;
        *self.pair.fetching.lock() = Some(cancel.clone());
        if !self.pair.mirror.follows() {
            anyhow::bail!("this server is no standby any more");
        }
        let what = Pull {
            catalogue: self.pair.versions.catalogue(),
            want: &mut |_| true,
            in_use: &|version| bound.contains(&version),
            reserve: Bytes::new(RESERVE),
            progress: &Shown(&self.pair.supplies),
            cancel: &cancel,
        };
        let outcome = pull(what, &mut stream)?;
        say_held(self.pair.versions.catalogue(), &mut stream)?;
        Ok(outcome)
    }

    /// What came, and what did not. With everything here this server may be a standby.
    fn note(&self, outcome: &Outcome) {
        let lacking = lacking(self.pair.versions.catalogue(), &outcome.listing);
        let lacking = lacking.unwrap_or_default();
        let complete = lacking.is_empty() && outcome.failed.is_empty();
        if let Some(failed) = outcome.failed.first() {
            self.complain(format!("{failed:#}"));
        }
        let mut view = self.pair.supplies.lock();
        view.permille = None;
        view.lacking = lacking;
        if complete {
            view.trouble = None;
            self.pair.mirror.prepare(true);
        }
    }

    /// Once for each trouble.
    fn complain(&self, trouble: String) {
        let mut view = self.pair.supplies.lock();
        if view.trouble.as_ref() != Some(&trouble) {
            tracing::warn!("image versions of the other server: {trouble}");
        }
        view.trouble = Some(trouble);
    }
}

fn patient(stream: &StreamOwned<ClientConnection, TcpStream>) -> std::io::Result<()> {
    stream.sock.set_read_timeout(Some(SLOW))?;
    stream.sock.set_write_timeout(Some(SLOW))
}

/// Progress, for the status.
struct Shown<'a>(&'a Mutex<SuppliesView>);

impl Progress for Shown<'_> {
    fn phase(&self, _: &str) {}

    fn detail(&self, _: &str) {}

    fn fraction(&self, done: f64) {
        self.0.lock().permille = Some((done * 1000.0) as u16);
    }
}
