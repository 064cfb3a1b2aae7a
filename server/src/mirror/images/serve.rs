//! The side that has the versions: answers what it is asked, and decides nothing.

use std::io::{Read, Write};

use anyhow::{Context, bail};
use images::{Catalogue, Original, Version, VersionId};

use super::conn::Conn;
use super::files::{Source, chunk_at};
use super::wire::{Answer, Chunks, FileOf, IDS_MAX, PROTOCOLS, Question, Sum};

/// Answers the questions that come over `stream` until its end, or until `stop`.
///
/// It reads files of any size, so it belongs on a thread of its own. A stream with a read timeout hears `stop` within
/// that time. The version that was asked about last stays in use until the stream ends. `holds` hears which versions the
/// other side has, when it says so.
///
/// # Errors
/// When the stream breaks, or what comes over it is no question.
pub fn serve<S: Read + Write>(
    catalogue: &Catalogue,
    stream: &mut S,
    stop: &dyn Fn() -> bool,
    holds: &dyn Fn(Vec<VersionId>),
) -> anyhow::Result<()> {
    let mut serving = Serving {
        catalogue,
        holds,
        conn: Conn::new(stream, stop),
        open: None,
        buf: Vec::new(),
    };
    match serving.run() {
        Err(_) if stop() => Ok(()),
        other => other,
    }
}

struct Serving<'a, S> {
    catalogue: &'a Catalogue,
    holds: &'a dyn Fn(Vec<VersionId>),
    conn: Conn<'a, S>,
    /// What was asked about last: the next question is about the same.
    open: Option<(FileOf, Source)>,
    buf: Vec<u8>,
}

impl<S: Read + Write> Serving<'_, S> {
    fn run(&mut self) -> anyhow::Result<()> {
        if !self.greet()? {
            return Ok(());
        }
        while let Some(question) = self.conn.question()? {
            match question {
                Question::Hello(..) => bail!("the other server says hello twice"),
                Question::List => self.list()?,
                Question::Sums(file, chunks) => self.sums(file, chunks)?,
                Question::Chunks(file, indices) => self.chunks(file, &indices)?,
                Question::Holds(ids) => {
                    (self.holds)(ids);
                    self.conn.answer(&Answer::End)?;
                }
            }
            self.conn.flush()?;
        }
        Ok(())
    }

    /// Whether there is anybody who speaks what this release speaks.
    fn greet(&mut self) -> anyhow::Result<bool> {
        let (oldest, newest) = match self.conn.question()? {
            Some(Question::Hello(oldest, newest)) => (oldest, newest),
            Some(_) => bail!("the other server does not say hello"),
            None => return Ok(false),
        };
        let common = newest.min(PROTOCOLS.1);
        if common >= oldest.max(PROTOCOLS.0) {
            self.conn.answer(&Answer::Hello(common))?;
            self.conn.flush()?;
            return Ok(true);
        }
        let refusal = format!(
            "this server copies images by protocols {} to {}, the other by {oldest} to {newest}: \
             upgrade the older one",
            PROTOCOLS.0, PROTOCOLS.1
        );
        self.conn.answer(&Answer::Refused(&refusal))?;
        self.conn.flush()?;
        bail!(refusal)
    }

    fn list(&mut self) -> anyhow::Result<()> {
        self.open = None;
        for image in self.catalogue.list()? {
            for version in &image.versions {
                let current = image.current == Some(version.number());
                self.show(version, current)?;
            }
        }
        for some in self.catalogue.removed()?.chunks(IDS_MAX) {
            self.conn.answer(&Answer::Removed(some.to_vec()))?;
        }
        self.conn.answer(&Answer::End)
    }

    fn show(&mut self, version: &Version, current: bool) -> anyhow::Result<()> {
        match Original::of(version) {
            Ok(original) => self.conn.answer(&Answer::Version(current, original.text())),
            // Removed since; or damaged, which `image verify` is for.
            Err(error) => {
                tracing::debug!(%error, "{version} is not shown to the other server");
                Ok(())
            }
        }
    }

    fn sums(&mut self, file: FileOf, chunks: Chunks) -> anyhow::Result<()> {
        match self.sums_of(file, chunks) {
            Ok(sums) => self.conn.answer(&Answer::Sums(chunks.first, sums)),
            Err(error) => self.refuse(&error),
        }
    }

    fn sums_of(&mut self, file: FileOf, chunks: Chunks) -> anyhow::Result<Vec<Sum>> {
        self.open(file)?;
        let (_, source) = self.open.as_ref().context("nothing is open")?;
        let indices = chunks.first..chunks.first + chunks.count;
        indices
            .map(|index| {
                let range = chunk_at(index, source.size()).context("behind the file's end")?;
                Ok(source.sum(&range, &mut self.buf)?)
            })
            .collect()
    }

    /// Answers with every chunk, or with those before the first that cannot be had.
    fn chunks(&mut self, file: FileOf, indices: &[u32]) -> anyhow::Result<()> {
        for index in indices {
            if let Err(error) = self.read(file, *index) {
                return self.refuse(&error);
            }
            self.conn.answer(&Answer::Chunk(*index, &self.buf))?;
        }
        Ok(())
    }

    fn read(&mut self, file: FileOf, index: u32) -> anyhow::Result<()> {
        self.open(file)?;
        let (_, source) = self.open.as_ref().context("nothing is open")?;
        let range = chunk_at(index, source.size()).context("behind the file's end")?;
        Ok(source.read(&range, &mut self.buf)?)
    }

    fn open(&mut self, file: FileOf) -> anyhow::Result<()> {
        if self.open.as_ref().is_some_and(|(open, _)| *open == file) {
            return Ok(());
        }
        let version = self.catalogue.find(file.version)?;
        let version = version.with_context(|| format!("version {} was removed", file.version))?;
        self.open = Some((file, Source::open(&version, file.part)?));
        Ok(())
    }

    fn refuse(&mut self, error: &anyhow::Error) -> anyhow::Result<()> {
        tracing::debug!("an image version cannot be given to the other server: {error:#}");
        self.conn.answer(&Answer::Refused(&format!("{error:#}")))
    }
}
