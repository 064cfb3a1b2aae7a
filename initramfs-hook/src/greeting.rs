//! The client's side of the NBD handshake (fixed newstyle, GO): bytes in, bytes out.

use crate::error::{Error, Kind, Result};
use crate::terms::{Terms, flag};

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT";
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERROR: u32 = 1 << 31;
const REP_ERR_UNKNOWN: u32 = REP_ERROR | 6;
const INFO_EXPORT: u16 = 0;
const INFO_DESCRIPTION: u16 = 2;
const INFO_BLOCK_SIZE: u16 = 3;
/// Longest reply body that is believed, in bytes.
const MAX_BODY: usize = 8192;

/// A handshake under way.
pub struct Greeting {
    out: Vec<u8>,
    input: Vec<u8>,
    export: String,
    greeted: bool,
    terms: Terms,
}

impl Greeting {
    /// Begins a handshake for one export.
    pub fn new(export: &str) -> Self {
        let terms = Terms {
            size: 0,
            flags: 0,
            minimum: 1,
            maximum: 32 << 20,
            description: None,
        };
        let (out, input) = (Vec::new(), Vec::new());
        Self {
            out,
            input,
            export: export.to_owned(),
            greeted: false,
            terms,
        }
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        &self.out
    }

    /// So much of it has been sent.
    pub fn sent(&mut self, length: usize) {
        self.out.drain(..length);
    }

    /// Takes what was received; `Some` when the server has agreed.
    pub fn input(&mut self, bytes: &[u8]) -> Result<Option<Terms>> {
        self.input.extend_from_slice(bytes);
        if !self.greeted {
            let Some(head) = self.take(18) else {
                return Ok(None);
            };
            self.greet(&head)?;
        }
        while let Some((kind, body)) = self.reply()? {
            match kind {
                REP_ACK if self.terms.size > 0 => return Ok(Some(self.terms.clone())),
                REP_INFO => self.info(&body)?,
                kind if kind & REP_ERROR != 0 => return Err(denied(kind, &body)),
                kind => return Err(nonsense(&format!("reply type {kind}"))),
            }
        }
        Ok(None)
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        (self.input.len() >= length).then(|| self.input.drain(..length).collect())
    }

    fn greet(&mut self, head: &[u8]) -> Result<()> {
        let server = u16::from_be_bytes([head[16], head[17]]);
        if &head[..16] != GREETING || server & FIXED_NEWSTYLE == 0 {
            return Err(nonsense("no fixed newstyle greeting"));
        }
        self.greeted = true;
        let flags = u32::from(server & (FIXED_NEWSTYLE | NO_ZEROES));
        self.out.extend_from_slice(&flags.to_be_bytes());
        let mut body = Vec::new();
        body.extend_from_slice(&(self.export.len() as u32).to_be_bytes());
        body.extend_from_slice(self.export.as_bytes());
        for word in [2, INFO_DESCRIPTION, INFO_BLOCK_SIZE] {
            body.extend_from_slice(&word.to_be_bytes());
        }
        self.out.extend_from_slice(&GREETING[8..]);
        self.out.extend_from_slice(&OPT_GO.to_be_bytes());
        self.out
            .extend_from_slice(&(body.len() as u32).to_be_bytes());
        self.out.extend_from_slice(&body);
        Ok(())
    }

    fn reply(&mut self) -> Result<Option<(u32, Vec<u8>)>> {
        let Some(head) = self.input.first_chunk::<20>() else {
            return Ok(None);
        };
        let word =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let magic = u64::from(word(0)) << 32 | u64::from(word(4));
        let (option, kind, length) = (word(8), word(12), word(16) as usize);
        if magic != REPLY_MAGIC || option != OPT_GO || length > MAX_BODY {
            return Err(nonsense("a damaged reply"));
        }
        Ok(self
            .take(20 + length)
            .map(|mut bytes| (kind, bytes.split_off(20))))
    }

    fn info(&mut self, body: &[u8]) -> Result<()> {
        let Some((kind, data)) = body.split_first_chunk::<2>() else {
            return Err(nonsense("a short reply"));
        };
        match (u16::from_be_bytes(*kind), data.len()) {
            (INFO_EXPORT, 10) => {
                self.terms.size = u64::from_be_bytes(data[..8].try_into().expect("eight bytes"));
                self.terms.flags = u16::from_be_bytes([data[8], data[9]]) & flag::KNOWN;
            }
            (INFO_BLOCK_SIZE, 12) => {
                let word = |at: usize| {
                    u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
                };
                (self.terms.minimum, self.terms.maximum) = (word(0), word(8));
            }
            (INFO_DESCRIPTION, _) => {
                self.terms.description = Some(String::from_utf8_lossy(data).into_owned())
            }
            _ => {}
        }
        Ok(())
    }
}

fn nonsense(what: &str) -> Error {
    Error::new(
        Kind::Network,
        format!("the server does not speak NBD as expected: {what}"),
    )
}

fn denied(kind: u32, body: &[u8]) -> Error {
    let text = String::from_utf8_lossy(body);
    let what = if kind == REP_ERR_UNKNOWN {
        "the server does not know this disk"
    } else {
        "the server says no"
    };
    Error::new(Kind::Refused, format!("{what} ({text})"))
}
