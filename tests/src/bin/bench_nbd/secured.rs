//! The leanest TLS 1.3 client end: every byte is decrypted and authenticated, in the buffer that the socket filled, and
//! looked at no more than that. rustls shakes hands.

use std::{
    io::{IoSlice, Write},
    net::TcpStream,
};

use anyhow::{Context, bail, ensure};
use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::{ClientConnection, ConnectionTrafficSecrets, ProtocolVersion, StreamOwned};

/// Bytes of a record's header, and of its tag.
const HEADER: usize = 5;
const TAG: usize = 16;
/// Bytes of content in a record that is sent.
const CONTENT: usize = 16 << 10;
/// What a record holds.
const DATA: u8 = 23;
const HANDSHAKE: u8 = 22;
/// Bytes that are received at a time.
const CHUNK: usize = 256 << 10;

/// The keys of one direction.
struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    number: u64,
}

impl Keys {
    fn new((number, secrets): (u64, ConnectionTrafficSecrets)) -> anyhow::Result<Self> {
        use ConnectionTrafficSecrets as Secrets;
        let (algorithm, key, iv) = match &secrets {
            Secrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            Secrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            Secrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => bail!("a cipher that this client does not know"),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).ok();
        Ok(Self {
            key: LessSafeKey::new(key.context("a key that does not fit its cipher")?),
            iv: iv.as_ref().try_into()?,
            number,
        })
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.number.to_be_bytes()) {
            *byte ^= number;
        }
        self.number += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// An established connection.
pub struct Secured {
    socket: TcpStream,
    sealing: Keys,
    opening: Keys,
    buffer: Vec<u8>,
    have: usize,
    outgoing: Vec<u8>,
}

impl Secured {
    /// Takes a connection over from rustls. Everything that was received has been read.
    pub fn new(stream: StreamOwned<ClientConnection, TcpStream>) -> anyhow::Result<Self> {
        let (session, socket) = stream.into_parts();
        let version = session.protocol_version();
        ensure!(version == Some(ProtocolVersion::TLSv1_3), "not TLS 1.3");
        let secrets = session.dangerous_extract_secrets()?;
        Ok(Self {
            socket,
            sealing: Keys::new(secrets.tx)?,
            opening: Keys::new(secrets.rx)?,
            buffer: vec![0; CHUNK + (32 << 10)],
            have: 0,
            outgoing: Vec::new(),
        })
    }

    /// Sends all of `slices`.
    pub fn send(&mut self, slices: &[IoSlice<'_>]) -> anyhow::Result<()> {
        self.outgoing.clear();
        let mut record = self.begin_record();
        for slice in slices {
            let mut bytes = &slice[..];
            while !bytes.is_empty() {
                let used = self.outgoing.len() - record - HEADER;
                let (now, later) = bytes.split_at(bytes.len().min(CONTENT - used));
                self.outgoing.extend_from_slice(now);
                bytes = later;
                if used + now.len() == CONTENT {
                    self.end_record(record)?;
                    record = self.begin_record();
                }
            }
        }
        self.end_record(record)?;
        Ok(self.socket.write_all(&self.outgoing)?)
    }

    fn begin_record(&mut self) -> usize {
        self.outgoing.extend_from_slice(&[0; HEADER]);
        self.outgoing.len() - HEADER
    }

    /// Seals what was put into a record, or takes its beginning back if that is nothing.
    fn end_record(&mut self, record: usize) -> anyhow::Result<()> {
        let content = record + HEADER;
        if self.outgoing.len() == content {
            self.outgoing.truncate(record);
            return Ok(());
        }
        self.outgoing.push(DATA);
        let [high, low] = ((self.outgoing.len() - content + TAG) as u16).to_be_bytes();
        let header = [DATA, 3, 3, high, low];
        let (nonce, plain) = (self.sealing.nonce(), &mut self.outgoing[content..]);
        let tag = self
            .sealing
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(header), plain);
        let tag = tag.ok().context("a record was not sealed")?;
        self.outgoing.extend_from_slice(tag.as_ref());
        self.outgoing[record..content].copy_from_slice(&header);
        Ok(())
    }

    /// Receives once, with `receive`, and hands on what is in the whole records that are there now.
    pub fn receive(
        &mut self,
        receive: impl FnOnce(&TcpStream, &mut [u8]) -> anyhow::Result<usize>,
        mut took: impl FnMut(&[u8]),
    ) -> anyhow::Result<()> {
        let count = receive(&self.socket, &mut self.buffer[self.have..])?;
        ensure!(count > 0, "the server closed the connection");
        self.have += count;
        let mut at = 0;
        while let Some(length) = length(&self.buffer[at..self.have]) {
            let (header, sealed) = self.buffer[at..at + length].split_at_mut(HEADER);
            let nonce = self.opening.nonce();
            let key = &self.opening.key;
            let opened = key.open_in_place(nonce, Aad::from(header), sealed);
            let opened = &*opened.ok().context("a record is not the server's")?;
            let end = opened.iter().rposition(|byte| *byte != 0);
            let end = end.context("a record without a type")?;
            match opened[end] {
                DATA => took(&opened[..end]),
                // A session ticket.
                HANDSHAKE => {}
                other => bail!("a record of type {other}"),
            }
            at += length;
        }
        self.buffer.copy_within(at..self.have, 0);
        self.have -= at;
        Ok(())
    }
}

/// Length of the record that `bytes` begin with, if all of it is there.
fn length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER>()?;
    let length = HEADER + u16::from_be_bytes([header[3], header[4]]) as usize;
    (bytes.len() >= length).then_some(length)
}
