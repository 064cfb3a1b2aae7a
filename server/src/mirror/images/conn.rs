//! Frames over a stream, and when to stop waiting for one.

use std::{
    io::{self, ErrorKind, Read, Write},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use super::wire::{Answer, FRAME_HEAD, Head, Malformed, Question};

/// A peer that says nothing for this long in the middle of something has gone.
const SILENCE: Duration = Duration::from_secs(120);

/// One that asks nothing for this long has gone without a word: between two questions it may verify a large version, and
/// does nothing else that takes long.
const IDLE: Duration = Duration::from_secs(1800);

/// One side of a conversation.
///
/// A stream with a read timeout hears `stop` within that time; one without, at the next frame.
pub struct Conn<'a, S> {
    stream: &'a mut S,
    stop: &'a dyn Fn() -> bool,
    /// The frame that was read or is being written.
    frame: Vec<u8>,
    received: u64,
}

/// Why reading ended before all was read.
enum Ended {
    /// The stream is at its end.
    Stream,
    Failed(anyhow::Error),
}

impl<'a, S: Read + Write> Conn<'a, S> {
    /// Talks over `stream` until `stop` says so.
    pub fn new(stream: &'a mut S, stop: &'a dyn Fn() -> bool) -> Self {
        Self {
            stream,
            stop,
            frame: Vec::new(),
            received: 0,
        }
    }

    /// Bytes that came over the stream so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Asks.
    pub fn ask(&mut self, question: &Question) -> anyhow::Result<()> {
        question.encode(&mut self.frame);
        self.send()?;
        self.flush()
    }

    /// Answers; it may stay in a buffer until [`Conn::flush`].
    pub fn answer(&mut self, answer: &Answer<'_>) -> anyhow::Result<()> {
        answer.encode(&mut self.frame);
        self.send()
    }

    /// The next question, which may take long to come; `None` once the other side has no more.
    pub fn question(&mut self) -> anyhow::Result<Option<Question>> {
        match self.receive(IDLE) {
            Ok(()) => Ok(Some(Question::decode(&self.frame)?)),
            Err(Ended::Stream) => Ok(None),
            Err(Ended::Failed(error)) => Err(error),
        }
    }

    /// The next answer.
    pub fn next_answer(&mut self) -> anyhow::Result<Answer<'_>> {
        match self.receive(SILENCE) {
            Ok(()) => Ok(Answer::decode(&self.frame)?),
            Err(Ended::Stream) => bail!("the other server has closed the connection"),
            Err(Ended::Failed(error)) => Err(error),
        }
    }

    /// Hands over what was answered.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            match self.stream.flush() {
                Ok(()) => return Ok(()),
                Err(error) => self.may_wait(error, begun, SILENCE).context("sending")?,
            }
        }
    }

    fn send(&mut self) -> anyhow::Result<()> {
        self.may_go_on()?;
        let (mut at, mut begun) = (0, Instant::now());
        while at < self.frame.len() {
            match self.stream.write(&self.frame[at..]) {
                Ok(0) => bail!("the other server takes no more"),
                Ok(count) => (at, begun) = (at + count, Instant::now()),
                Err(error) => self.may_wait(error, begun, SILENCE).context("sending")?,
            }
        }
        Ok(())
    }

    /// Reads a frame, whose beginning may take as long as `patience` says.
    fn receive(&mut self, patience: Duration) -> Result<(), Ended> {
        self.may_go_on()?;
        let mut head = [0; FRAME_HEAD];
        self.fill(&mut head[..1], patience)?;
        self.rest_of_frame(head).map_err(|ended| match ended {
            Ended::Stream => Ended::Failed(anyhow::anyhow!("the connection ends within a frame")),
            failed => failed,
        })
    }

    fn rest_of_frame(&mut self, mut head: [u8; FRAME_HEAD]) -> Result<(), Ended> {
        self.fill(&mut head[1..], SILENCE)?;
        let head = Head::decode(head)?;
        let mut frame = std::mem::take(&mut self.frame);
        frame.resize(head.length, 0);
        let filled = self.fill(&mut frame, SILENCE);
        self.frame = frame;
        filled?;
        head.check(&self.frame)?;
        Ok(())
    }

    fn fill(&mut self, buf: &mut [u8], patience: Duration) -> Result<(), Ended> {
        let (mut at, mut begun) = (0, Instant::now());
        while at < buf.len() {
            match self.stream.read(&mut buf[at..]) {
                Ok(0) => return Err(Ended::Stream),
                Ok(count) => {
                    (at, begun) = (at + count, Instant::now());
                    self.received += count as u64;
                }
                Err(error) => self.may_wait(error, begun, patience).context("receiving")?,
            }
        }
        Ok(())
    }

    fn may_go_on(&self) -> anyhow::Result<()> {
        if (self.stop)() {
            bail!("told to stop");
        }
        Ok(())
    }

    /// Whether `error` only says that it takes longer, and that may go on.
    fn may_wait(&self, error: io::Error, begun: Instant, patience: Duration) -> anyhow::Result<()> {
        match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            ErrorKind::WouldBlock | ErrorKind::TimedOut if begun.elapsed() < patience => {
                self.may_go_on()
            }
            _ => Err(error.into()),
        }
    }
}

impl From<anyhow::Error> for Ended {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Malformed> for Ended {
    fn from(error: Malformed) -> Self {
        Self::Failed(error.into())
    }
}
