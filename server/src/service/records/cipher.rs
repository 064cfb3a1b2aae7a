//! The key of one direction, and how records are made with it.

use std::{io, ops::Range};

use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

use super::{Alert, ContentType, HEADER, MOST_CONTENT};

/// Bytes of an authentication tag, the same for all ciphers here.
const TAG: usize = 16;
/// Bytes of the part of the nonce that AES-GCM sends along in TLS 1.2 (RFC 5288 §3).
const EXPLICIT: usize = 8;
/// Room that a record needs behind its content, at most: the type of it, and the tag. Bytes.
pub const AFTER: usize = 1 + TAG;
/// In every header, whatever the version is (RFC 8446 §5.1).
const VERSION: [u8; 2] = [3, 3];

/// How a version of TLS uses a cipher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// RFC 8446 §5.2: the content's type is its last byte, the header is authenticated.
    Tls13,
    /// RFC 5246 §6.2.3.3, RFC 7905 §2: record number, type, version and length are authenticated.
    Tls12,
    /// The same with AES-GCM, whose nonce is partly sent.
    Tls12Explicit,
}

/// A key, and how many records it was used for.
pub struct Cipher {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    layout: Layout,
    /// Number of the next record; it makes each nonce another (RFC 8446 §5.3).
    sequence: u64,
}

impl Cipher {
    /// A key whose next record has the number in `secrets`.
    ///
    /// # Errors
    /// A cipher that is not known here.
    pub fn new(
        version: ProtocolVersion,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> io::Result<Self> {
        use ConnectionTrafficSecrets as Secrets;
        let (algorithm, key, iv) = match &secrets {
            Secrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            Secrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            Secrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let layout = match version {
            ProtocolVersion::TLSv1_3 => Layout::Tls13,
            ProtocolVersion::TLSv1_2 if algorithm == &CHACHA20_POLY1305 => Layout::Tls12,
            ProtocolVersion::TLSv1_2 => Layout::Tls12Explicit,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let unusable = |_| io::Error::from(io::ErrorKind::Unsupported);
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(unusable)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv: iv
                .as_ref()
                .try_into()
                .map_err(|_| io::ErrorKind::Unsupported)?,
            layout,
            sequence,
        })
    }

    /// Number of records so far.
    pub fn used(&self) -> u64 {
        self.sequence
    }

    /// Bytes of a record before its content.
    pub fn before(&self) -> usize {
        match self.layout {
            Layout::Tls13 | Layout::Tls12 => HEADER,
            Layout::Tls12Explicit => HEADER + EXPLICIT,
        }
    }

    /// The record's number in the last bytes of the key's own nonce.
    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        let number = self.sequence.to_be_bytes();
        let last = nonce.iter_mut().skip(NONCE_LEN - number.len());
        last.zip(number).for_each(|(byte, number)| *byte ^= number);
        nonce
    }

    /// What TLS 1.2 authenticates besides the content: type and version as they are sent, and the length of the content.
    fn additional(&self, [kind, major, minor]: [u8; 3], length: usize) -> [u8; 13] {
        let mut additional = [0; 13];
        additional[..8].copy_from_slice(&self.sequence.to_be_bytes());
        let [high, low] = (length as u16).to_be_bytes();
        additional[8..].copy_from_slice(&[kind, major, minor, high, low]);
        additional
    }

    /// Makes a record of the `length` bytes of content that lie in `record` behind [`Cipher::before`] bytes of room; gives
    /// its length. There is room for what comes after the content.
    ///
    /// # Errors
    /// None, for content that is not too long for a record.
    pub fn seal(
        &mut self,
        kind: ContentType,
        record: &mut [u8],
        length: usize,
    ) -> io::Result<usize> {
        let nonce = self.nonce();
        let start = self.before();
        let (end, header, tag) = match self.layout {
            Layout::Tls13 => {
                let end = start + length + 1;
                record[end - 1] = kind.0;
                let header = header(ContentType::DATA.0, length + 1 + TAG);
                let content = &mut record[start..end];
                (end, header, self.tag(nonce, &header, content)?)
            }
            Layout::Tls12 | Layout::Tls12Explicit => {
                let end = start + length;
                let additional = self.additional([kind.0, VERSION[0], VERSION[1]], length);
                let tag = self.tag(nonce, &additional, &mut record[start..end])?;
                record[HEADER..start].copy_from_slice(&nonce[NONCE_LEN - (start - HEADER)..]);
                (end, header(kind.0, end - HEADER + TAG), tag)
            }
        };
        record[..HEADER].copy_from_slice(&header);
        record[end..end + TAG].copy_from_slice(&tag);
        self.sequence += 1;
        Ok(end + TAG)
    }

    fn tag(
        &self,
        nonce: [u8; NONCE_LEN],
        additional: &[u8],
        content: &mut [u8],
    ) -> io::Result<[u8; TAG]> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let additional = Aad::from(additional);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, additional, content);
        let tag = tag.ok().and_then(|tag| tag.as_ref().try_into().ok());
        tag.ok_or_else(|| io::Error::other("content that is too long for a record"))
    }

    /// Length of the record that begins with `bytes`, header included; `None` if that is not to be seen yet.
    pub fn length(bytes: &[u8]) -> Result<Option<usize>, Alert> {
        let Some(header) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u16::from_be_bytes([header[3], header[4]]) as usize;
        // More than any cipher adds (RFC 8446 §5.2). TLS 1.2 would allow more, but no cipher here needs it.
        match length {
            ..=MOST_CIPHERTEXT => Ok(Some(HEADER + length)),
            _ => Err(Alert::RECORD_OVERFLOW),
        }
    }

    /// Opens a whole record where it lies; gives what it holds, and where in it that is.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), Alert> {
        let opened = match self.layout {
            Layout::Tls13 => self.open_13(record),
            Layout::Tls12 | Layout::Tls12Explicit => self.open_12(record),
        }?;
        self.sequence += 1;
        match opened.1.len() {
            ..=MOST_CONTENT => Ok(opened),
            _ => Err(Alert::RECORD_OVERFLOW),
        }
    }

    fn open_13(&self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), Alert> {
        let (header, sealed) = record.split_at_mut(HEADER);
        if header[0] != ContentType::DATA.0 {
            return Err(Alert::UNEXPECTED_MESSAGE);
        }
        let opened = self.opened(self.nonce(), header, sealed)?;
        // Zeros behind the type are padding.
        let end = opened.iter().rposition(|byte| *byte != 0);
        let end = end.ok_or(Alert::UNEXPECTED_MESSAGE)?;
        Ok((ContentType(opened[end]), HEADER..HEADER + end))
    }

    fn open_12(&self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), Alert> {
        let (sent, start) = ([record[0], record[1], record[2]], self.before());
        let added = start + TAG;
        let length = record
            .len()
            .checked_sub(added)
            .ok_or(Alert::BAD_RECORD_MAC)?;
        let mut nonce = self.nonce();
        let explicit = start - HEADER;
        nonce[NONCE_LEN - explicit..].copy_from_slice(&record[HEADER..start]);
        let additional = self.additional(sent, length);
        self.opened(nonce, &additional, &mut record[start..])?;
        Ok((ContentType(sent[0]), start..start + length))
    }

    fn opened<'r>(
        &self,
        nonce: [u8; NONCE_LEN],
        additional: &[u8],
        sealed: &'r mut [u8],
    ) -> Result<&'r [u8], Alert> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.key.open_in_place(nonce, Aad::from(additional), sealed);
        opened
            .map(|opened| &*opened)
            .map_err(|_| Alert::BAD_RECORD_MAC)
    }
}

/// The longest that may follow a header (RFC 8446 §5.2).
const MOST_CIPHERTEXT: usize = MOST_CONTENT + 256;

/// Bytes of the longest record.
pub const LONGEST: usize = HEADER + MOST_CIPHERTEXT;

fn header(kind: u8, length: usize) -> [u8; HEADER] {
    let [high, low] = (length as u16).to_be_bytes();
    [kind, VERSION[0], VERSION[1], high, low]
}
