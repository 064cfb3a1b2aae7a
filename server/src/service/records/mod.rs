//! The record layer of an established TLS connection: bytes in, bytes out; no sockets.
//!
//! rustls does the handshake and keeps the traffic secrets; records are sealed and opened here, where they lie: what is sent
//! is put into the records by whoever has it, sealed in place, and handed to the socket several at a time; what is received
//! is opened in the buffer that the socket filled. rustls copies what it sends and what it receives more than once, into
//! memory of its own for each record. Sources: RFC 8446 §4.6.3, §5, §6, and for TLS 1.2 RFC 5246 §6.2, §7.2.
//!
//! Must never use a nonce twice with one key, never give out bytes that were not authenticated, and never send anything but
//! data to a kernel's TLS, which takes no other records (design §6): an answer to a KeyUpdate, which a kernel never sends,
//! one's own KeyUpdate once a key has done its share, and the alert at the end.

mod cipher;
mod open;
mod seal;

use std::io::{self, IoSlice};

use rustls::{
    ConnectionTrafficSecrets, ExtractedSecrets, ProtocolVersion, SupportedCipherSuite,
    kernel::KernelConnection,
};

pub use seal::Batch;

use cipher::Cipher;
use open::Opener;

/// Bytes of content that a record holds at most (RFC 8446 §5.1).
const MOST_CONTENT: usize = 1 << 14;
/// Bytes of a record's header, the last two of which are the length of the rest (RFC 8446 §5.1).
pub const HEADER: usize = 5;
/// A peer that changes its key more often than this without sending data in between does nothing else, as rustls has it.
const MOST_UPDATES: u32 = 32;

/// What a record holds (RFC 8446 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ContentType(u8);

impl ContentType {
    const ALERT: Self = Self(21);
    const HANDSHAKE: Self = Self(22);
    const DATA: Self = Self(23);
}

/// Why a connection is over (RFC 8446 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Alert(u8);

impl Alert {
    const CLOSE_NOTIFY: Self = Self(0);
    const UNEXPECTED_MESSAGE: Self = Self(10);
    const BAD_RECORD_MAC: Self = Self(20);
    const RECORD_OVERFLOW: Self = Self(22);
    const ILLEGAL_PARAMETER: Self = Self(47);
    const DECODE_ERROR: Self = Self(50);
    const INTERNAL_ERROR: Self = Self(80);
    const USER_CANCELED: Self = Self(90);

    fn text(self) -> &'static str {
        match self {
            Self::UNEXPECTED_MESSAGE => "a message of TLS that has no place there",
            Self::BAD_RECORD_MAC => "a record that cannot be authenticated",
            Self::RECORD_OVERFLOW => "a record that is too long",
            Self::DECODE_ERROR | Self::ILLEGAL_PARAMETER => "a message of TLS that makes no sense",
            _ => "TLS does not go on",
        }
    }
}

/// Where the next keys of a TLS 1.3 connection come from (RFC 8446 §7.2).
pub trait NextKeys {
    /// For what is sealed from now on.
    ///
    /// # Errors
    /// There is none.
    fn sealing(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error>;
    /// For what is opened from now on.
    ///
    /// # Errors
    /// There is none.
    fn opening(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error>;
}

impl<D> NextKeys for KernelConnection<D> {
    fn sealing(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        self.update_tx_secret().map(|(_, secrets)| secrets)
    }

    fn opening(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        self.update_rx_secret().map(|(_, secrets)| secrets)
    }
}

/// Both directions of a connection whose handshake is done.
pub struct Records<K> {
    version: ProtocolVersion,
    /// Records that a key may seal.
    limit: u64,
    keys: K,
    sealing: Cipher,
    opener: Opener,
    batch: Batch,
    /// What goes before the batch: sealed already.
    before: Vec<u8>,
    /// A handshake message of which only the beginning has come.
    message: Vec<u8>,
    /// KeyUpdates since data last came.
    updates: u32,
    /// Whether the peer asked for this side's KeyUpdate.
    update_wanted: bool,
    closed: bool,
}

impl<D> Records<KernelConnection<D>> {
    /// Goes on where the handshake ended. `early` is what was received behind it.
    ///
    /// # Errors
    /// A cipher that is not known here.
    pub fn after_handshake(
        secrets: ExtractedSecrets,
        kernel: KernelConnection<D>,
        early: &[u8],
    ) -> io::Result<Self> {
        let version = kernel.protocol_version();
        let limit = match kernel.negotiated_cipher_suite() {
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
        };
        let mut records = Self::new(version, limit, secrets, kernel)?;
        records.opener.put(early)?;
        Ok(records)
    }
}

impl<K: NextKeys> Records<K> {
    /// Begins with the keys `secrets`, each of which may seal `limit` records.
    ///
    /// # Errors
    /// A cipher that is not known here.
    pub fn new(
        version: ProtocolVersion,
        limit: u64,
        secrets: ExtractedSecrets,
        keys: K,
    ) -> io::Result<Self> {
        let opener = Opener::new(Cipher::new(version, secrets.rx)?);
        Ok(Self {
            version,
            limit,
            keys,
            sealing: Cipher::new(version, secrets.tx)?,
            opener,
            batch: Batch::default(),
            before: Vec::new(),
            message: Vec::new(),
            updates: 0,
            update_wanted: false,
            closed: false,
        })
    }

    /// What is to be sent next is put in here.
    pub fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// Seals what is in the batch. All of it has to be sent before anything else is; [`Records::sent`] says that it was.
    ///
    /// # Errors
    /// The key has done its share and there is no other (TLS 1.2).
    pub fn seal(&mut self) -> io::Result<Vec<IoSlice<'_>>> {
        self.before.clear();
        if self.update_wanted || self.sealing.used() + Batch::RECORDS > self.limit {
            self.update_key()?;
        }
        let mut slices = Vec::with_capacity(1 + Batch::RECORDS as usize);
        if !self.before.is_empty() {
            slices.push(IoSlice::new(&self.before));
        }
        self.batch.seal(&mut self.sealing, &mut slices)?;
        Ok(slices)
    }

    /// The batch is out.
    pub fn sent(&mut self) {
        self.batch.clear();
    }

    /// Announces that the next record is sealed with the next key, and takes it (RFC 8446 §4.6.3).
    fn update_key(&mut self) -> io::Result<()> {
        const KEY_UPDATE_NOT_REQUESTED: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];
        if self.version != ProtocolVersion::TLSv1_3 {
            return Err(io::Error::other(
                "the key of this TLS 1.2 connection is used up",
            ));
        }
        self.before = self.sealed(ContentType::HANDSHAKE, &KEY_UPDATE_NOT_REQUESTED)?;
        let secrets = self.keys.sealing().map_err(io::Error::other)?;
        self.sealing = Cipher::new(self.version, (0, secrets))?;
        self.update_wanted = false;
        Ok(())
    }

    fn sealed(&mut self, kind: ContentType, content: &[u8]) -> io::Result<Vec<u8>> {
        let start = self.sealing.before();
        let mut record = vec![0; start + content.len() + cipher::AFTER];
        record[start..start + content.len()].copy_from_slice(content);
        let length = self.sealing.seal(kind, &mut record, content.len());
        record.truncate(length?);
        Ok(record)
    }

    /// The words at the end of a connection.
    ///
    /// # Errors
    /// None that happens.
    pub fn close_notify(&mut self) -> io::Result<Vec<u8>> {
        self.alert(Alert::CLOSE_NOTIFY)
    }

    fn alert(&mut self, alert: Alert) -> io::Result<Vec<u8>> {
        const WARNING: u8 = 1;
        const FATAL: u8 = 2;
        let level = match alert {
            Alert::CLOSE_NOTIFY => WARNING,
            _ => FATAL,
        };
        self.sealed(ContentType::ALERT, &[level, alert.0])
    }

    /// Where what comes next from the socket is to be put; never empty.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn room(&mut self) -> io::Result<&mut [u8]> {
        self.opener.room()
    }

    /// So many bytes were put there.
    pub fn received(&mut self, count: usize) {
        self.opener.received(count);
    }

    /// Whether [`Records::read`] has something to do.
    pub fn has_pending(&self) -> bool {
        self.closed || self.opener.has_pending()
    }

    /// Whether the peer has said that nothing more comes.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Moves received data to `buf`; 0 if there is no more of it.
    ///
    /// # Errors
    /// Why the connection is over, and what the peer is to be told of that, if anything.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, Broken> {
        let mut count = 0;
        while count < buf.len() && self.has_data()? {
            count += self.opener.take(&mut buf[count..]);
        }
        Ok(count)
    }

    /// The data that comes next, where it lies; `None` if no more is there.
    ///
    /// # Errors
    /// As [`Records::read`].
    pub fn next(&mut self) -> Result<Option<&[u8]>, Broken> {
        Ok(match self.has_data()? {
            true => Some(self.opener.take_all()),
            false => None,
        })
    }

    /// Whether there is data that was opened; opens what it takes for that.
    fn has_data(&mut self) -> Result<bool, Broken> {
        while self.opener.is_empty() && !self.closed {
            match self.open_next() {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(told) => return Err(self.broken(told)),
            }
        }
        Ok(!self.opener.is_empty())
    }

    /// Opens a record, if there is a whole one.
    fn open_next(&mut self) -> Result<bool, Told> {
        match self.opener.open()? {
            Some(kind) => self.look_at(kind).map(|()| true),
            None => Ok(false),
        }
    }

    /// Takes notice of an opened record.
    fn look_at(&mut self, kind: ContentType) -> Result<(), Told> {
        if !self.message.is_empty() && kind != ContentType::HANDSHAKE {
            return Err(Alert::UNEXPECTED_MESSAGE.into());
        }
        match kind {
            ContentType::DATA => {
                // Records without data are allowed, to hide how much there is.
                if !self.opener.is_empty() {
                    self.updates = 0;
                }
                Ok(())
            }
            ContentType::ALERT => self.heed(),
            ContentType::HANDSHAKE => self.take_message(),
            _ => Err(Alert::UNEXPECTED_MESSAGE.into()),
        }
    }

    /// The end, or an alert that means it (RFC 8446 §6.2).
    fn heed(&mut self) -> Result<(), Told> {
        let content = self.opener.take_all();
        let &[level, alert] = content else {
            return Err(Alert::DECODE_ERROR.into());
        };
        let is_warning = level == 1 && self.version != ProtocolVersion::TLSv1_3;
        match Alert(alert) {
            Alert::CLOSE_NOTIFY => {
                self.closed = true;
                Ok(())
            }
            Alert::USER_CANCELED => Ok(()),
            _ if is_warning => Ok(()),
            alert => Err(Told::ByPeer(alert)),
        }
    }

    /// Nobody has anything to say after the handshake but that a key changes (a server that sends tickets would). What comes behind that in the same
    /// record would be under the wrong key (RFC 8446 §5.1). Renegotiation in TLS 1.2 is not done.
    fn take_message(&mut self) -> Result<(), Told> {
        self.message.extend_from_slice(self.opener.take_all());
        let expected = [KEY_UPDATE, 0, 0, 1];
        let begins = expected
            .iter()
            .zip(&self.message)
            .all(|(want, is)| want == is);
        if !begins || self.message.is_empty() || self.version != ProtocolVersion::TLSv1_3 {
            return Err(Alert::UNEXPECTED_MESSAGE.into());
        }
        match self.message[expected.len().min(self.message.len())..] {
            [] => Ok(()),
            [asked @ (0 | 1)] => {
                self.message.clear();
                self.peer_updates_key(asked == 1)
            }
            [_] => Err(Alert::ILLEGAL_PARAMETER.into()),
            _ => Err(Alert::UNEXPECTED_MESSAGE.into()),
        }
    }

    fn peer_updates_key(&mut self, asks: bool) -> Result<(), Told> {
        self.updates += 1;
        if self.updates > MOST_UPDATES {
            return Err(Alert::UNEXPECTED_MESSAGE.into());
        }
        self.update_wanted |= asks;
        let next = self.keys.opening().ok();
        let cipher = next.and_then(|secrets| Cipher::new(self.version, (0, secrets)).ok());
        self.opener.change(cipher.ok_or(Alert::INTERNAL_ERROR)?);
        Ok(())
    }

    fn broken(&mut self, told: Told) -> Broken {
        self.closed = true;
        match told {
            Told::ByPeer(alert) => Broken {
                reason: format!("the other end closed TLS with alert {}", alert.0),
                last_words: Vec::new(),
            },
            Told::ToPeer(alert) => Broken {
                reason: format!("the other end sent {}", alert.text()),
                last_words: self.alert(alert).unwrap_or_default(),
            },
        }
    }

    /// Has a key seal no more than so many records.
    #[cfg(test)]
    pub fn limit_to(&mut self, records: u64) {
        self.limit = records;
    }

    /// Gives back what memory is not in use.
    pub fn release(&mut self) {
        self.opener.release();
        self.batch.release();
    }
}

/// The type of the handshake message KeyUpdate.
const KEY_UPDATE: u8 = 24;

/// Who found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    ByPeer(Alert),
    ToPeer(Alert),
}

impl From<Alert> for Told {
    fn from(alert: Alert) -> Self {
        Self::ToPeer(alert)
    }
}

/// A connection that cannot go on.
#[derive(Debug)]
pub struct Broken {
    /// Why, in words.
    pub reason: String,
    /// To be sent to the peer.
    pub last_words: Vec<u8>,
}

#[cfg(test)]
mod tests;
