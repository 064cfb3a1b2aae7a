//! Image versions: a server that is not primary fetches from the one that is what it lacks, before it becomes its standby
//! and from then on.

use std::{
    collections::{HashMap, HashSet},
    net::TcpStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use ::images::{Bytes, Cancel, Progress, VersionId};
use parking_lot::Mutex;

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
/// After a failure, before what failed is tried again: a damaged version is read whole each time.
const REST: Duration = Duration::from_secs(60);
/// Room on the disk that copies leave free: a quarter more than where machines' disks stop growing. Bytes.
const RESERVE: u64 = (1 << 30) + (1 << 28);

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
    /// Versions that could not be copied, until when they are left alone.
    resting: Mutex<HashMap<VersionId, Instant>>,
}

impl Supplies {
    /// Fetches on a thread of its own.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(pair: Arc<Pair>, ends: Ends) -> anyhow::Result<()> {
        let supplies = Self {
            pair,
            ends,
            resting: Mutex::default(),
        };
        let thread = thread::Builder::new().name("pair-images".into());
        thread.spawn(move || supplies.run())?;
        Ok(())
    }

    fn run(&self) {
        while !self.pair.mirror.is_stopped() {
            let rest = match self.pair.mirror.follows() {
                true => self.look(),
                false => {
                    // What the other server gets meanwhile has to come here first.
                    self.pair.mirror.prepare(false);
                    IDLE
                }
            };
            thread::sleep(rest);
        }
    }

    fn look(&self) -> Duration {
        // Goes into the log when it changes: a standby refuses nothing that would tell.
        let _ = self.pair.overlays.is_low();
        match self.fetch() {
            Ok(outcome) => {
                self.note(&outcome);
                LOOK
            }
            Err(error) => {
                self.complain(format!("{error:#}"));
                // A full disk is not filled again at once; a primary that is away is no failure of the disk.
                match error.is::<std::io::Error>() {
                    true => LOOK,
                    false => self.rest(),
                }
            }
        }
    }

    /// Rests, unless this server is to be primary meanwhile.
    fn rest(&self) -> Duration {
        let until = Instant::now() + REST;
        while Instant::now() < until && self.pair.mirror.follows() {
            thread::sleep(IDLE);
        }
        IDLE
    }

    fn fetch(&self) -> anyhow::Result<Outcome> {
        let mut stream = connect(&self.ends, Purpose::Images)?;
        patient(stream.socket())?;
        let volumes = self.pair.mirror.store().volumes.specs();
        let kept = self.pair.mirror.store().kept.specs();
        let specs = volumes.into_iter().map(|(_, spec)| spec).chain(kept);
        let bound: HashSet<_> = specs
            .map(|spec| VersionId::from_uuid(spec.base.version))
            .collect();
        let cancel = Cancel::new()?;
        *self.pair.fetching.lock() = Some(cancel.clone());
        if !self.pair.mirror.follows() {
            anyhow::bail!("this server is no standby any more");
        }
        let what = Pull {
            catalogue: self.pair.versions.catalogue(),
            want: &mut |version| !self.rests(version.id()),
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
        let until = Instant::now() + REST;
        let failed = outcome.failed.iter().filter_map(|failed| failed.version);
        self.resting
            .lock()
            .extend(failed.map(|version| (version, until)));
        let mut view = self.pair.supplies.lock();
        view.permille = None;
        view.lacking = lacking;
        if complete {
            view.trouble = None;
        }
        self.pair
            .mirror
            .prepare(complete && self.pair.own_disks() == 0);
    }

    fn rests(&self, version: VersionId) -> bool {
        let resting = self.resting.lock();
        resting
            .get(&version)
            .is_some_and(|until| Instant::now() < *until)
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

fn patient(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_read_timeout(Some(SLOW))?;
    socket.set_write_timeout(Some(SLOW))
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
