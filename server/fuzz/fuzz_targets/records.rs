//! A TLS connection after its handshake, from a client that seals whatever it likes, sends what was not sealed at all, and
//! changes keys; received in pieces of any length, with replies in between.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{
    ConnectionTrafficSecrets, ExtractedSecrets, ProtocolVersion,
    crypto::cipher::{AeadKey, Iv},
};

// The server is a program, not a library; this module needs nothing of it.
#[allow(dead_code)]
#[path = "../../src/service/records/mod.rs"]
mod records;

use records::{NextKeys, Records};

const IV: [u8; 12] = [9; 12];
const KEY_UPDATE: u8 = 24;

fn secrets(key: u8) -> ConnectionTrafficSecrets {
    ConnectionTrafficSecrets::Aes256Gcm {
        key: AeadKey::from([key; 32]),
        iv: Iv::from(IV),
    }
}

/// The server's keys: of both directions the first is 0.
#[derive(Default)]
struct Counted {
    sealing: u8,
    opening: u8,
}

impl NextKeys for Counted {
    fn sealing(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        self.sealing += 1;
        Ok(secrets(self.sealing))
    }

    fn opening(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        self.opening += 1;
        Ok(secrets(self.opening))
    }
}

/// The client's end, which seals with ring alone.
#[derive(Default)]
struct Client {
    key: u8,
    number: u64,
    stream: Vec<u8>,
    /// Data that the server may give out, in this order.
    data: Vec<u8>,
    /// All so far is what a client may send.
    proper: bool,
    updates: u32,
}

impl Client {
    /// Sends a record with this inside: content, its type, and zeros for padding.
    fn record(&mut self, content: &[u8], kind: u8, padding: usize) {
        let mut inner = content.to_vec();
        inner.push(kind);
        inner.resize(inner.len() + padding, 0);
        let [high, low] = ((inner.len() + 16) as u16).to_be_bytes();
        let header = [23, 3, 3, high, low];
        let mut nonce = IV;
        for (byte, number) in nonce[4..].iter_mut().zip(self.number.to_be_bytes()) {
            *byte ^= number;
        }
        self.number += 1;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[self.key; 32]).unwrap());
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, Aad::from(header), &mut inner).unwrap();
        self.stream.extend(header);
        self.stream.extend(inner);
    }

    fn data(&mut self, content: &[u8], padding: usize) {
        self.data.extend(content);
        self.updates = if content.is_empty() { self.updates } else { 0 };
        self.record(content, 23, padding);
    }

    fn update_key(&mut self, asks: u8) {
        self.record(&[KEY_UPDATE, 0, 0, 1, asks], 22, 0);
        (self.key, self.number) = (self.key.wrapping_add(1), 0);
        self.updates += 1;
        self.proper &= asks < 2 && self.updates <= 32;
    }

    /// Something else, after which nothing is certain.
    fn improper(&mut self, content: &[u8], kind: u8) {
        self.proper = false;
        self.record(content, kind, 0);
    }
}

/// The next so many bytes of the input, or what is left of it.
fn take<'i>(input: &mut &'i [u8], most: usize) -> &'i [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

/// Has the server receive up to `most` bytes and gives what it makes of them; false when the connection is over.
fn receive(server: &mut Records<Counted>, client: &mut Client, most: usize, given: &mut Vec<u8>) -> bool {
    let room = server.room().unwrap();
    assert!(!room.is_empty());
    let count = most.min(room.len()).min(client.stream.len());
    room[..count].copy_from_slice(&client.stream[..count]);
    server.received(count);
    client.stream.drain(..count);
    let mut part = [0; 300];
    loop {
        match server.read(&mut part) {
            Ok(0) => break,
            Ok(count) => given.extend(&part[..count]),
            Err(broken) => {
                assert!(!client.proper, "{}", broken.reason);
                return false;
            }
        }
    }
    assert!(!server.has_pending() || server.is_closed());
    !server.is_closed()
}

fn converse(mut input: &[u8]) {
    let begin = ExtractedSecrets { tx: (0, secrets(0)), rx: (0, secrets(0)) };
    let version = ProtocolVersion::TLSv1_3;
    let mut server = Records::new(version, 20, begin, Counted::default()).unwrap();
    let mut client = Client { proper: true, ..Client::default() };
    let mut given = Vec::new();
    let mut lives = true;
    while lives && let &[what, much, ..] = input {
        input = &input[2..];
        let much = usize::from(much);
        match what % 10 {
            0 | 1 => client.data(take(&mut input, much), 0),
            2 => client.data(&vec![what; much << 6], 0),
            3 => client.data(take(&mut input, much % 8), much),
            4 => client.update_key(what >> 6),
            5 => client.improper(take(&mut input, much), (what >> 4).max(1)), // 0 is padding
            6 => client.improper(take(&mut input, much % 8), 21 + (what >> 7)),
            7 => {
                client.proper = false;
                client.stream.extend(take(&mut input, much));
            }
            8 if client.number > 0 || client.key > 0 => {
                server.batch().put(&vec![what; much]).unwrap();
                let slices = server.seal().unwrap();
                assert!(slices.iter().map(|slice| slice.len()).sum::<usize>() >= much);
                server.sent();
            }
            _ => lives = receive(&mut server, &mut client, 1 + (much << 3), &mut given),
        }
    }
    while lives && !client.stream.is_empty() {
        lives = receive(&mut server, &mut client, usize::MAX, &mut given);
    }
    assert!(client.data.starts_with(&given), "what nobody sealed, or not in that order");
    assert!(!client.proper || given == client.data, "some is missing");
}

fuzz_target!(|input: &[u8]| converse(input));
