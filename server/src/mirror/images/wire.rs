//! Questions and answers as bytes. The module above has the layout.
//!
//! Decoding never panics, copies no content, and allocates no more than the bytes that are there can hold. This file
//! knows neither streams nor files, so that it can be fuzzed on its own.

use images::{Digest, Part, VersionId};

/// Bytes that have one digest, and are sent or not as one.
pub const CHUNK: u64 = 64 << 10;
/// Most chunks in one question.
pub const WINDOW: u32 = 1024;
/// Begins every conversation.
pub const MAGIC: [u8; 8] = *b"BRimages";
/// The oldest and the newest protocol that this release speaks.
pub const PROTOCOLS: (u16, u16) = (1, 1);
/// Bytes before each frame: its length, the checksum of what follows, and the checksum of these two.
pub const FRAME_HEAD: usize = 12;
/// Longest frame after its head: a chunk or a version's record, and a few numbers.
pub const FRAME_MAX: usize = (64 << 10) + 64;
/// Most removed versions in one frame.
pub const IDS_MAX: usize = 1024;
/// Longest text of a refusal, in bytes.
pub const REFUSAL_MAX: usize = 1024;

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

type Result<T> = std::result::Result<T, Malformed>;

/// One file of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileOf {
    /// The version.
    pub version: VersionId,
    /// The file.
    pub part: Part,
}

/// What the pulling side asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// First of all: the protocols that it speaks, from the oldest to the newest.
    Hello(u16, u16),
    /// Which versions are there?
    List,
    /// What is in these chunks of a file?
    Sums(FileOf, Chunks),
    /// The content of these chunks, please.
    Chunks(FileOf, Vec<u32>),
    /// Nothing: the versions that the asking side has, at most [`IDS_MAX`].
    Holds(Vec<VersionId>),
}

/// Some chunks that follow on one another: at least 1 and at most [`WINDOW`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunks {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// What the serving side answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The protocol that will be spoken.
    Hello(u16),
    /// A version, as its `version.json` has it, and whether the bare name of the image means it.
    Version(bool, &'a [u8]),
    /// Versions that were there and were removed.
    Removed(Vec<VersionId>),
    /// The list is complete.
    End,
    /// What is in the chunks from this one on.
    Sums(u32, Vec<Sum>),
    /// The content of one chunk.
    Chunk(u32, &'a [u8]),
    /// That cannot be had, and why.
    Refused(&'a str),
}

/// What is in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// Zeros, whether stored or not.
    Zeros,
    /// Bytes with this BLAKE3 digest.
    Data(Digest),
}

/// What a frame's head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes that follow.
    pub length: usize,
    sum: u32,
}

impl Head {
    /// Reads a head. One that is damaged is refused before a byte of what follows is waited for.
    pub fn decode(head: [u8; FRAME_HEAD]) -> Result<Self> {
        let mut take = Take(&head);
        let (length, sum, own) = (take.u32()?, take.u32()?, take.u32()?);
        if crc32c::crc32c(&head[..8]) != own {
            return Err(Malformed("the head of a frame is damaged"));
        }
        let length = length as usize;
        if length == 0 || length > FRAME_MAX {
            return Err(Malformed(
                "a frame has a length that the protocol does not allow",
            ));
        }
        Ok(Self { length, sum })
    }

    /// Whether these are the bytes that it was made for.
    pub fn check(&self, body: &[u8]) -> Result<()> {
        if body.len() != self.length || crc32c::crc32c(body) != self.sum {
            return Err(Malformed("a frame is damaged"));
        }
        Ok(())
    }
}

/// Replaces `out` by a frame around what `body` writes.
fn framed(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.clear();
    out.extend_from_slice(&[0; FRAME_HEAD]);
    body(out);
    let length = out.len() - FRAME_HEAD;
    debug_assert!((1..=FRAME_MAX).contains(&length), "{length}");
    let sum = crc32c::crc32c(&out[FRAME_HEAD..]);
    out[..4].copy_from_slice(&(length as u32).to_le_bytes());
    out[4..8].copy_from_slice(&sum.to_le_bytes());
    let own = crc32c::crc32c(&out[..8]);
    out[8..FRAME_HEAD].copy_from_slice(&own.to_le_bytes());
}

impl Question {
    /// The number of its kind.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Hello(..) => 1,
            Self::List => 2,
            Self::Sums(..) => 3,
            Self::Chunks(..) => 4,
            Self::Holds(_) => 5,
        }
    }

    /// Replaces `out` by the question in its frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        framed(out, |out| {
            out.push(self.kind());
            match self {
                Self::Hello(oldest, newest) => {
                    out.extend_from_slice(&MAGIC);
                    out.extend_from_slice(&oldest.to_le_bytes());
                    out.extend_from_slice(&newest.to_le_bytes());
                }
                Self::List => {}
                Self::Sums(file, chunks) => {
                    put_file(out, *file);
                    put_u32(out, chunks.first);
                    put_u32(out, chunks.count);
                }
                Self::Chunks(file, indices) => {
                    put_file(out, *file);
                    indices.iter().for_each(|index| put_u32(out, *index));
                }
                Self::Holds(ids) => ids.iter().for_each(|id| put_id(out, *id)),
            }
        });
    }

    /// Reads what a frame holds.
    pub fn decode(body: &[u8]) -> Result<Self> {
        let mut take = Take(body);
        let question = match take.u8()? {
            1 => take.hello()?,
            2 => Self::List,
            3 => Self::Sums(take.file()?, take.chunks()?),
            4 => Self::Chunks(take.file()?, take.indices()?),
            5 => Self::Holds(take.ids()?),
            _ => {
                return Err(Malformed(
                    "a question of a kind that this release does not know",
                ));
            }
        };
        take.end(question)
    }
}

impl<'a> Answer<'a> {
    /// The number of its kind.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 11,
            Self::Version(..) => 12,
            Self::Removed(_) => 13,
            Self::End => 14,
            Self::Sums(..) => 15,
            Self::Chunk(..) => 16,
            Self::Refused(_) => 17,
        }
    }

    /// Replaces `out` by the answer in its frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        framed(out, |out| {
            out.push(self.kind());
            match self {
                Self::Hello(protocol) => out.extend_from_slice(&protocol.to_le_bytes()),
                Self::Version(current, record) => {
                    out.push(u8::from(*current));
                    out.extend_from_slice(record);
                }
                Self::Removed(ids) => ids.iter().for_each(|id| put_id(out, *id)),
                Self::End => {}
                Self::Sums(first, sums) => {
                    put_u32(out, *first);
                    sums.iter().for_each(|sum| put_sum(out, *sum));
                }
                Self::Chunk(index, content) => {
                    put_u32(out, *index);
                    out.extend_from_slice(content);
                }
                Self::Refused(reason) => out.extend_from_slice(shortened(reason).as_bytes()),
            }
        });
    }

    /// Reads what a frame holds.
    pub fn decode(body: &'a [u8]) -> Result<Self> {
        let mut take = Take(body);
        let answer = match take.u8()? {
            11 => Self::Hello(take.u16()?),
            12 => Self::Version(take.flag()?, take.rest()),
            13 => Self::Removed(take.ids()?),
            14 => Self::End,
            15 => Self::Sums(take.u32()?, take.sums()?),
            16 => Self::Chunk(take.u32()?, take.content()?),
            17 => Self::Refused(take.text()?),
            _ => {
                return Err(Malformed(
                    "an answer of a kind that this release does not know",
                ));
            }
        };
        take.end(answer)
    }
}

fn shortened(text: &str) -> &str {
    let mut end = text.len().min(REFUSAL_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn part_number(part: Part) -> u8 {
    match part {
        Part::Disk => 0,
        Part::Kernel => 1,
        Part::Initrd => 2,
    }
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_id(out: &mut Vec<u8>, id: VersionId) {
    out.extend_from_slice(id.uuid().as_bytes());
}

fn put_file(out: &mut Vec<u8>, file: FileOf) {
    put_id(out, file.version);
    out.push(part_number(file.part));
}

fn put_sum(out: &mut Vec<u8>, sum: Sum) {
    match sum {
        Sum::Zeros => out.push(0),
        Sum::Data(digest) => {
            out.push(1);
            out.extend_from_slice(&digest.0);
        }
    }
}

/// Takes from the front.
struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((array, rest)) = self.0.split_first_chunk() else {
            return Err(Malformed("a message ends too early"));
        };
        self.0 = rest;
        Ok(*array)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn u8(&mut self) -> Result<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn flag(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a flag is neither 0 nor 1")),
        }
    }

    fn id(&mut self) -> Result<VersionId> {
        let bytes = self.array()?;
        Ok(VersionId::from_uuid(uuid::Uuid::from_bytes(bytes)))
    }

    fn hello(&mut self) -> Result<Question> {
        if self.array()? != MAGIC {
            return Err(Malformed("whoever is there does not copy images"));
        }
        let (oldest, newest) = (self.u16()?, self.u16()?);
        Ok(Question::Hello(oldest, newest))
    }

    fn file(&mut self) -> Result<FileOf> {
        let version = self.id()?;
        let part = match self.u8()? {
            0 => Part::Disk,
            1 => Part::Kernel,
            2 => Part::Initrd,
            _ => return Err(Malformed("a file that no version has")),
        };
        Ok(FileOf { version, part })
    }

    fn chunks(&mut self) -> Result<Chunks> {
        let (first, count) = (self.u32()?, self.u32()?);
        let allowed = (1..=WINDOW).contains(&count) && first.checked_add(count).is_some();
        allowed
            .then_some(Chunks { first, count })
            .ok_or(Malformed("a question about no chunks, or too many"))
    }

    fn indices(&mut self) -> Result<Vec<u32>> {
        let count = self.0.len() / size_of::<u32>();
        if count == 0 || count > WINDOW as usize {
            return Err(Malformed("a question for no chunks, or too many"));
        }
        (0..count).map(|_| self.u32()).collect()
    }

    fn ids(&mut self) -> Result<Vec<VersionId>> {
        let count = self.0.len() / size_of::<uuid::Uuid>();
        if count > IDS_MAX {
            return Err(Malformed("too many versions in one message"));
        }
        (0..count).map(|_| self.id()).collect()
    }

    fn sums(&mut self) -> Result<Vec<Sum>> {
        let mut sums = Vec::new();
        while !self.0.is_empty() {
            if sums.len() == WINDOW as usize {
                return Err(Malformed("more digests than may be asked for"));
            }
            sums.push(match self.flag()? {
                false => Sum::Zeros,
                true => Sum::Data(Digest(self.array()?)),
            });
        }
        Ok(sums)
    }

    fn content(&mut self) -> Result<&'a [u8]> {
        if self.0.is_empty() || self.0.len() as u64 > CHUNK {
            return Err(Malformed("a chunk that is empty or too long"));
        }
        Ok(self.rest())
    }

    fn text(&mut self) -> Result<&'a str> {
        if self.0.len() > REFUSAL_MAX {
            return Err(Malformed("a refusal that is too long"));
        }
        str::from_utf8(self.rest()).map_err(|_| Malformed("a refusal that is no text"))
    }

    /// Everything has been read.
    fn end<T>(self, value: T) -> Result<T> {
        if !self.0.is_empty() {
            return Err(Malformed("a message goes on after its end"));
        }
        Ok(value)
    }
}
