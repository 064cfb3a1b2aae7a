//! Messages between the servers.

use bytes::Bytes;

use super::{FRAME_HEAD, Put, Take, frame_length, framed_before, short, unknown};
use crate::{Body, Hello, Incarnation, Message, Moment, Result, Seq, SessionId, Term};

impl Message {
    /// Appends this message as a frame.
    ///
    /// # Errors
    ///
    /// [`crate::ErrorKind::TooLong`] if it does not fit; nothing is appended then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        let content = self.encode_head(out)?;
        out.extend_from_slice(content);
        Ok(())
    }

    /// Appends this message as a frame but for the content at its end, which is given back: it need not be copied to be
    /// sent.
    ///
    /// # Errors
    ///
    /// As [`Message::encode`].
    pub fn encode_head(&self, out: &mut Vec<u8>) -> Result<&Bytes> {
        let content = self.body.content();
        framed_before(content.len(), out, |out| {
            out.push(self.body.kind());
            out.put_node(self.from);
            out.put_u64(self.term.0);
            self.body.put(out);
        })?;
        Ok(content)
    }

    /// Reads a frame's content, without its length.
    ///
    /// # Errors
    ///
    /// It is not understood to its last byte.
    pub fn decode(frame: Bytes) -> Result<Self> {
        Self::take(Take::new(&frame))
    }

    /// Reads several whole frames, with their lengths.
    ///
    /// # Errors
    ///
    /// As [`Message::decode`], and if the last frame is not whole.
    pub fn decode_all(frames: &Bytes) -> Result<Vec<Self>> {
        let (mut messages, mut at) = (Vec::new(), 0);
        while at < frames.len() {
            let head = frames[at..].first_chunk().ok_or_else(short)?;
            let start = at + FRAME_HEAD;
            at = start + frame_length(*head)?;
            if at > frames.len() {
                return Err(short());
            }
            messages.push(Self::take(Take::part(frames, start..at))?);
        }
        Ok(messages)
    }

    fn take(mut take: Take<'_>) -> Result<Self> {
        let kind = take.u8()?;
        let from = take.node()?;
        let term = Term(take.u64()?);
        let body = Body::take(kind, &mut take)?;
        take.end(Self { from, term, body })
    }
}

impl Body {
    /// The number of this kind of message.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Open { .. } => 2,
            Self::Opened { .. } => 3,
            Self::Ship { .. } => 4,
            Self::Ack { .. } => 5,
            Self::Ping { .. } => 6,
            Self::Pong { .. } => 7,
            Self::Failed { .. } => 8,
            Self::Yield { .. } => 9,
        }
    }

    /// What a frame ends with, if that is content.
    fn content(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match self {
            Self::Ship { item, .. } => item.content().unwrap_or(&NONE),
            _ => &NONE,
        }
    }

    /// All but the content.
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => hello.put(out),
            Self::Open { session, to } => {
                session.put(out);
                out.put_u64(to.0);
            }
            Self::Opened {
                session,
                complete,
                dirty,
            } => {
                session.put(out);
                out.put_flag(*complete);
                out.put_blocks(dirty);
            }
            Self::Ship { session, seq, item } => {
                session.put(out);
                out.put_u64(seq.0);
                item.put(out);
            }
            Self::Ack {
                session,
                seq,
                answer,
            } => {
                session.put(out);
                out.put_u64(seq.0);
                answer.put(out);
            }
            Self::Ping {
                session,
                number,
                sent,
            }
            | Self::Pong {
                session,
                number,
                sent,
            } => {
                session.put(out);
                out.put_u64(*number);
                out.put_u64(sent.0);
            }
            Self::Failed { session } | Self::Yield { session } => session.put(out),
        }
    }

    fn take(kind: u8, take: &mut Take) -> Result<Self> {
        if kind == 1 {
            return Ok(Self::Hello(Hello::take(take)?));
        }
        let session = SessionId::take(take)?;
        Ok(match kind {
            2 => Self::Open {
                session,
                to: Incarnation(take.u64()?),
            },
            3 => Self::Opened {
                session,
                complete: take.flag()?,
                dirty: take.blocks()?,
            },
            4 => Self::Ship {
                session,
                seq: Seq(take.u64()?),
                item: crate::Item::take(take)?,
            },
            5 => Self::Ack {
                session,
                seq: Seq(take.u64()?),
                answer: crate::ItemAnswer::take(take)?,
            },
            6 => Self::Ping {
                session,
                number: take.u64()?,
                sent: Moment(take.u64()?),
            },
            7 => Self::Pong {
                session,
                number: take.u64()?,
                sent: Moment(take.u64()?),
            },
            8 => Self::Failed { session },
            9 => Self::Yield { session },
            _ => return Err(unknown("a message of an unknown kind")),
        })
    }
}

impl SessionId {
    fn put(self, out: &mut Vec<u8>) {
        out.put_u64(self.of.0);
        out.put_u64(self.number);
    }

    fn take(take: &mut Take) -> Result<Self> {
        let of = Incarnation(take.u64()?);
        let number = take.u64()?;
        Ok(Self { of, number })
    }
}

impl Hello {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_option(self.incarnation.map(|run| run.0));
        out.put_flag(self.primary);
        out.put_flag(self.inconsistent);
        out.put_flag(self.rolled_back);
        out.put_flag(self.last_primary);
        out.put_flag(self.resting);
        out.put_history(&self.history);
    }

    fn take(take: &mut Take) -> Result<Self> {
        Ok(Self {
            incarnation: take.option()?.map(Incarnation),
            primary: take.flag()?,
            inconsistent: take.flag()?,
            rolled_back: take.flag()?,
            last_primary: take.flag()?,
            resting: take.flag()?,
            history: take.history()?,
        })
    }
}
