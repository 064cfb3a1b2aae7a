//! The side that lacks versions: asks, checks every byte, and publishes what is whole.

use std::{
    collections::HashMap,
    io::{Read, Write},
};

use anyhow::{Context, bail, ensure};
use images::{
    Bytes, Cancel, Catalogue, Copying, ErrorKind, ImageRef, Original, Part, Progress, Version,
    VersionId,
};

use super::conn::Conn;
use super::files::{NoRoom, Source, Target, chunk_at, digest_of, windows};
use super::listing::{Listed, Listing};
use super::wire::{Answer, Chunks, FileOf, IDS_MAX, PROTOCOLS, Question, Sum};

/// Versions of the image here that are searched for a chunk before it is asked for.
const CANDIDATES: usize = 4;
/// Longest list of versions, in bytes: a damaged peer must not fill memory.
const LIST_MAX: u64 = 32 << 20;

/// What is to be pulled, and who hears of it.
pub struct Pull<'a> {
    /// Where versions go.
    pub catalogue: &'a Catalogue,
    /// Whether a version that is not here is to be copied.
    pub want: &'a mut dyn FnMut(&Original) -> bool,
    /// Whether a version that was removed on the other server is needed here: by overlays, say. Versions that are open
    /// need not be named.
    pub in_use: &'a dyn Fn(VersionId) -> bool,
    /// Room on the disk that copies leave alone.
    pub reserve: Bytes,
    /// Hears how far it is.
    pub progress: &'a dyn Progress,
    /// Stops it.
    pub cancel: &'a Cancel,
}

/// What a pull has done.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the other server has.
    pub listing: Listing,
    /// Versions that are here now and were not.
    pub copied: Vec<Original>,
    /// Versions that became the current ones of their images.
    pub pointed: Vec<ImageRef>,
    /// Versions that were removed, as on the other server.
    pub removed: Vec<ImageRef>,
    /// What was not done; the rest was.
    pub failed: Vec<Failed>,
    /// Bytes that came over the stream.
    pub received: u64,
    /// Bytes of copied versions that were here already.
    pub reused: u64,
}

/// A version that could not be copied, or not be made current, and why. It fails again the next time unless somebody
/// does something about it, and may take long to; who pulls again and again should not want it each time.
#[derive(Debug)]
pub struct Failed {
    /// Which; none if this release cannot even read what it is.
    pub version: Option<VersionId>,
    /// Why.
    pub error: anyhow::Error,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

/// The other server cannot give what it has listed.
#[derive(Debug, thiserror::Error)]
#[error("the other server: {0}")]
struct Refused(String);

/// Brings what the other side of `stream` has and this catalogue lacks; then `current` follows, and versions that were
/// removed there go here too.
///
/// # Errors
/// When the stream breaks or is damaged, this host's disk is full or fails, or it was cancelled. What came so far is
/// kept for the next pull, but for a full disk, and nobody sees it. What keeps one version from being copied, and no
/// others, is in [`Outcome::failed`] instead.
pub fn pull<S: Read + Write>(what: Pull<'_>, stream: &mut S) -> anyhow::Result<Outcome> {
    let cancel = what.cancel;
    let stop = || cancel.is_cancelled();
    let mut pulling = Pulling {
        conn: Conn::new(stream, &stop),
        here: here(what.catalogue)?,
        what,
        outcome: Outcome::default(),
        buf: Vec::new(),
    };
    let done = pulling.run();
    pulling.outcome.received = pulling.conn.received();
    done.map(|()| pulling.outcome)
}

/// Says over a stream that was pulled from what is here now. Of more versions than can be said the rest counts as not here.
///
/// # Errors
/// When the stream breaks or is damaged.
pub fn say_held<S: Read + Write>(catalogue: &Catalogue, stream: &mut S) -> anyhow::Result<()> {
    let held = here(catalogue)?.into_keys().take(IDS_MAX).collect();
    let never = || false;
    let mut conn = Conn::new(stream, &never);
    conn.ask(&Question::Holds(held))?;
    match conn.next_answer()? {
        Answer::End => Ok(()),
        other => Err(unexpected(&other)),
    }
}

struct Pulling<'a, 's, S> {
    conn: Conn<'s, S>,
    what: Pull<'a>,
    /// What this server has.
    here: HashMap<VersionId, Version>,
    outcome: Outcome,
    buf: Vec<u8>,
}

fn here(catalogue: &Catalogue) -> images::Result<HashMap<VersionId, Version>> {
    let images = catalogue.list()?.into_iter();
    let versions = images.flat_map(|image| image.versions);
    Ok(versions.map(|version| (version.id(), version)).collect())
}

impl<S: Read + Write> Pulling<'_, '_, S> {
    fn run(&mut self) -> anyhow::Result<()> {
        self.greet()?;
        let mut listing = self.list()?;
        self.forget(&listing)?;
        // Before the copies, which take long: a rollback is not to wait for them.
        self.follow(&listing);
        // Current ones first: they are what machines boot.
        let (current, others): (Vec<_>, _) = listing.versions.iter().partition(|one| one.current);
        for listed in current.into_iter().chain(others) {
            self.bring(&listed.version)?;
            self.may_go_on()?;
            self.follow_one(listed);
        }
        self.may_go_on()?;
        self.remove(&listing);
        for error in listing.unreadable.drain(..) {
            self.fail(None, error.into());
        }
        self.outcome.listing = listing;
        Ok(())
    }

    /// Cancelled, a server may be primary by now: its pointers are its own then.
    fn may_go_on(&self) -> anyhow::Result<()> {
        ensure!(!self.what.cancel.is_cancelled(), "told to stop");
        Ok(())
    }

    fn fail(&mut self, version: Option<VersionId>, error: anyhow::Error) {
        self.outcome.failed.push(Failed { version, error });
    }

    fn greet(&mut self) -> anyhow::Result<()> {
        self.conn.ask(&Question::Hello(PROTOCOLS.0, PROTOCOLS.1))?;
        match self.conn.next_answer()? {
            Answer::Hello(protocol) if (PROTOCOLS.0..=PROTOCOLS.1).contains(&protocol) => Ok(()),
            Answer::Refused(reason) => Err(Refused(reason.to_owned()).into()),
            other => Err(unexpected(&other)),
        }
    }

    fn list(&mut self) -> anyhow::Result<Listing> {
        let mut listing = Listing::default();
        let begun = self.conn.received();
        self.conn.ask(&Question::List)?;
        loop {
            match self.conn.next_answer()? {
                Answer::Version(current, record) => listing.add(current, record),
                Answer::Removed(ids) => listing.removed.extend(ids),
                Answer::End => break,
                other => return Err(unexpected(&other)),
            }
            let length = self.conn.received() - begun;
            ensure!(
                length <= LIST_MAX,
                "the other server lists too many versions"
            );
        }
        listing.check()?;
        Ok(listing)
    }

    /// Deletes what was copied of versions that nobody can give any more.
    fn forget(&self, listing: &Listing) -> anyhow::Result<()> {
        let wanted = |id| listing.has(id) && !self.here.contains_key(&id);
        self.what.catalogue.forget_copies(&wanted)?;
        Ok(())
    }

    /// Copies a version if it is lacking and wanted.
    fn bring(&mut self, original: &Original) -> anyhow::Result<()> {
        match self.copy(original) {
            Err(error) if of_this_version_only(&error) => {
                self.fail(Some(original.id()), error);
                Ok(())
            }
            other => other,
        }
    }

    fn copy(&mut self, original: &Original) -> anyhow::Result<()> {
        let catalogue = self.what.catalogue;
        if self.here.contains_key(&original.id()) || !(self.what.want)(original) {
            return Ok(());
        }
        if let Some(version) = catalogue.place_for(original)? {
            self.here.insert(version.id(), version);
            return Ok(());
        }
        let copying = catalogue.stage_copy(original.id())?;
        if let Err(error) = self.fill(original, &copying) {
            return Err(given_up(copying, error));
        }
        let what = &self.what;
        let copied = copying.finish(original.clone(), what.progress, what.cancel)?;
        let version = catalogue.publish_copy(copied)?;
        tracing::info!("{version} was copied from the other server");
        self.here.insert(version.id(), version);
        self.outcome.copied.push(original.clone());
        Ok(())
    }

    fn fill(&mut self, original: &Original, copying: &Copying) -> anyhow::Result<()> {
        let like = self.alike(original);
        for part in Part::ALL {
            let name = part.name();
            self.what
                .progress
                .phase(&format!("Copying the {name} of {original}"));
            // One that cannot be opened is of no help, and no harm.
            let sources = like.iter().map(|version| Source::open(version, part));
            let sources: Vec<_> = sources.filter_map(Result::ok).collect();
            let size = original.size(part).get();
            let reserve = self.what.reserve;
            let target = Target::open(&copying.path(part), size, sources.first(), reserve)?;
            let file = FileOf {
                version: original.id(),
                part,
            };
            self.file(file, &target, &sources)?;
        }
        Ok(())
    }

    /// Versions of the same image here, those first whose number is nearest.
    fn alike(&self, original: &Original) -> Vec<Version> {
        let versions = self.here.values();
        let mut alike: Vec<_> = versions
            .filter(|version| version.image() == original.image())
            .cloned()
            .collect();
        let number = original.number().get();
        alike.sort_by_key(|version| (version.number().get().abs_diff(number), version.number()));
        alike.truncate(CANDIDATES);
        alike
    }

    fn file(&mut self, file: FileOf, target: &Target, sources: &[Source]) -> anyhow::Result<()> {
        for chunks in windows(target.size()) {
            let sums = self.sums(file, chunks)?;
            let mut missing = Vec::new();
            for (index, sum) in (chunks.first..).zip(sums) {
                if !self.settle(index, sum, target, sources)? {
                    missing.push((index, sum));
                }
            }
            self.fetch(file, &missing, target)?;
            let done = f64::from(chunks.first + chunks.count);
            let all = target.size().div_ceil(super::wire::CHUNK) as f64;
            self.what.progress.fraction(done / all);
        }
        Ok(())
    }

    fn sums(&mut self, file: FileOf, chunks: Chunks) -> anyhow::Result<Vec<Sum>> {
        self.conn.ask(&Question::Sums(file, chunks))?;
        match self.conn.next_answer()? {
            Answer::Sums(first, sums)
                if first == chunks.first && sums.len() == chunks.count as usize =>
            {
                Ok(sums)
            }
            Answer::Refused(reason) => Err(Refused(reason.to_owned()).into()),
            other => Err(unexpected(&other)),
        }
    }

    /// Puts a chunk right with what is here: an earlier try, or another version. Whether it could.
    fn settle(
        &mut self,
        index: u32,
        sum: Sum,
        target: &Target,
        sources: &[Source],
    ) -> anyhow::Result<bool> {
        let range = chunk_at(index, target.size()).context("behind the file's end")?;
        let Sum::Data(digest) = sum else {
            target.clear(&range)?;
            return Ok(true);
        };
        if !target.holds(&range, digest, &mut self.buf)? {
            let mut sources = sources.iter();
            if !sources.any(|source| source.holds(&range, digest, &mut self.buf)) {
                return Ok(false);
            }
            target.write(&range, &self.buf)?;
        }
        self.outcome.reused += range.end - range.start;
        Ok(true)
    }

    fn fetch(
        &mut self,
        file: FileOf,
        missing: &[(u32, Sum)],
        target: &Target,
    ) -> anyhow::Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        let indices = missing.iter().map(|(index, _)| *index).collect();
        self.conn.ask(&Question::Chunks(file, indices))?;
        for (index, sum) in missing {
            let range = chunk_at(*index, target.size()).context("behind the file's end")?;
            match self.conn.next_answer()? {
                Answer::Chunk(at, content) if at == *index => {
                    check(content, *sum)?;
                    target.write(&range, content)?;
                }
                Answer::Refused(reason) => return Err(Refused(reason.to_owned()).into()),
                other => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }

    fn follow(&mut self, listing: &Listing) {
        listing.versions.iter().for_each(|one| self.follow_one(one));
    }

    /// Makes a version current if it is so on the other server, and here.
    fn follow_one(&mut self, listed: &Listed) {
        if !listed.current || !self.here.contains_key(&listed.version.id()) {
            return;
        }
        let (catalogue, original) = (self.what.catalogue, &listed.version);
        // A damaged pointer is put right.
        if matches!(catalogue.current(original.image()), Ok(Some(number)) if number == original.number())
        {
            return;
        }
        match catalogue.set_current(&original.reference()) {
            Ok(version) => self.outcome.pointed.push(version.reference()),
            Err(error) => self.fail(Some(original.id()), error.into()),
        }
    }

    /// Removes what was removed on the other server and nobody needs here. What the other server merely does not have
    /// stays: it may be the only copy.
    fn remove(&mut self, listing: &Listing) {
        let gone = |id: &&VersionId| !listing.has(**id) && !(self.what.in_use)(**id);
        let gone: Vec<_> = listing.removed.iter().filter(gone).copied().collect();
        for id in gone {
            let Some(version) = self.here.get(&id) else {
                continue;
            };
            let reference = version.reference();
            match self.what.catalogue.remove(&reference, [], false) {
                Ok(_) => self.outcome.removed.push(reference),
                // The next pull tries again.
                Err(error) => tracing::debug!("{reference} is kept for now: {error}"),
            }
        }
    }
}

/// What is written is kept for the next try, unless that would leave clients a full disk.
fn given_up(copying: Copying, error: anyhow::Error) -> anyhow::Error {
    if !error.is::<NoRoom>() {
        return error;
    }
    match copying.discard() {
        Ok(()) => error.context("nothing was published, and what was copied is deleted: make room"),
        Err(other) => error.context(format!("what was copied cannot be deleted either: {other}")),
    }
}

/// Whether other versions may fare better.
fn of_this_version_only(error: &anyhow::Error) -> bool {
    let kind = error
        .downcast_ref::<images::Error>()
        .map(images::Error::kind);
    let kinds = [ErrorKind::Conflict, ErrorKind::Damaged, ErrorKind::InUse];
    error.is::<Refused>() || kind.is_some_and(|kind| kinds.contains(&kind))
}

fn check(content: &[u8], sum: Sum) -> anyhow::Result<()> {
    if sum != Sum::Data(digest_of(content)) {
        bail!(
            "a chunk has another digest than was said: damaged on the way, or on the other server"
        );
    }
    Ok(())
}

fn unexpected(answer: &Answer<'_>) -> anyhow::Error {
    anyhow::anyhow!(
        "the other server gives an answer of kind {} to something else",
        answer.kind()
    )
}
