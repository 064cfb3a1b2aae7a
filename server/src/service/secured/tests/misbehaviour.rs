//! Records that no proper client sends, sealed with a proper client's keys by ring alone.

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

use super::*;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

struct Keys {
    key: LessSafeKey,
    iv: [u8; 12],
    number: u64,
}

impl Keys {
    fn of((number, secrets): (u64, ConnectionTrafficSecrets)) -> Self {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
            panic!("another cipher");
        };
        let key = UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap();
        Self {
            key: LessSafeKey::new(key),
            iv: iv.as_ref().try_into().unwrap(),
            number,
        }
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.number.to_be_bytes()) {
            *byte ^= number;
        }
        self.number += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    /// A record with this inside, type and padding included.
    fn record(&mut self, inner: &[u8]) -> Vec<u8> {
        let [high, low] = ((inner.len() + 16) as u16).to_be_bytes();
        let header = [DATA, 3, 3, high, low];
        let (nonce, mut sealed) = (self.nonce(), inner.to_vec());
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed)
            .unwrap();
        [&header[..], &sealed].concat()
    }

    fn open(&mut self, mut record: Vec<u8>) -> Vec<u8> {
        let header: [u8; 5] = record[..5].try_into().unwrap();
        let nonce = self.nonce();
        let opened = self
            .key
            .open_in_place(nonce, Aad::from(header), &mut record[5..]);
        opened.unwrap().to_vec()
    }
}

/// A client that seals what it is told to.
struct Crooked {
    secured: Secured,
    socket: Socket,
    raw: UnixStream,
    sealing: Keys,
    opening: Keys,
}

impl Crooked {
    fn connect() -> Self {
        let (secured, socket, client) = connected_13();
        let (session, raw) = client.into_parts();
        let secrets = session.dangerous_extract_secrets().unwrap();
        Self {
            secured,
            socket,
            raw,
            sealing: Keys::of(secrets.tx),
            opening: Keys::of(secrets.rx),
        }
    }

    /// What the server has to say to `raw`: its alert, and what it took for data before.
    fn refused(mut self, raw: &[u8]) -> (u8, Vec<u8>) {
        self.raw.write_all(raw).unwrap();
        let mut data = Vec::new();
        let mut buf = [0; 100];
        let error = loop {
            match self.secured.step(&self.socket, &mut buf) {
                Ok(Some(0)) => panic!("taken for the end"),
                Ok(count) => data.extend_from_slice(&buf[..count.unwrap_or(0)]),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        drop((self.secured, self.socket));
        let mut answer = Vec::new();
        self.raw.read_to_end(&mut answer).unwrap();
        let [2, alert, ALERT] = self.opening.open(answer)[..] else {
            panic!("no fatal alert");
        };
        (alert, data)
    }
}

/// Each is sealed in a record of its own, with its type behind it; then comes the alert.
#[test]
fn messages_that_have_no_place_are_answered_with_an_alert() {
    let cases: [(&[&[u8]], u8); 12] = [
        (&[&[HANDSHAKE]], 10),
        (&[&[20, 0, 0, 0, HANDSHAKE]], 10),
        (&[&[24, 0, 0, 1, 2, HANDSHAKE]], 47),
        (&[&[24, 0, 0, 2, 0, HANDSHAKE]], 10),
        (&[&[24, 0, 0, 1, 0, 24, 0, 0, 1, 0, HANDSHAKE]], 10),
        (&[&[24, 0, HANDSHAKE], b"data\x17"], 10),
        // It is taken from two records; what comes next is under the old key.
        (
            &[&[24, 0, HANDSHAKE], &[0, 1, 0, HANDSHAKE], b"data\x17"],
            20,
        ),
        (&[&[1, 20]], 10),
        (&[&[0, 0, 0]], 10),
        (&[&[]], 10),
        (&[&[2, ALERT]], 50),
        (&[&[1, 0, 0, ALERT]], 50),
    ];
    for (inner, alert) in cases {
        let mut client = Crooked::connect();
        let records: Vec<_> = inner
            .iter()
            .map(|inner| client.sealing.record(inner))
            .collect();
        assert_eq!(
            client.refused(&records.concat()),
            (alert, vec![]),
            "{inner:?}"
        );
    }
}

#[test]
fn records_that_are_none_are_answered_with_an_alert() {
    let longest = |length: usize| [&vec![1; length][..], &[DATA]].concat();
    let client = Crooked::connect();
    assert_eq!(
        client.refused(&[20, 3, 3, 0, 1, 1]).0,
        10,
        "change_cipher_spec"
    );
    let client = Crooked::connect();
    assert_eq!(
        client.refused(&[DATA, 3, 3, 0, 3, 1, 2, 3]).0,
        20,
        "no room for a tag"
    );
    let client = Crooked::connect();
    assert_eq!(
        client.refused(&[DATA, 3, 3, 0x41, 1]).0,
        22,
        "the header says so"
    );
    let mut client = Crooked::connect();
    let record = client.sealing.record(&longest((1 << 14) + 1));
    assert_eq!(client.refused(&record).0, 22);
    let mut client = Crooked::connect();
    let good = client.sealing.record(b"good\x17\0\0\0");
    let mut bad = client.sealing.record(b"bad\x17");
    bad[7] ^= 1;
    assert_eq!(client.refused(&[good, bad].concat()).0, 20);
}

#[test]
fn the_longest_record_and_empty_ones_are_taken() {
    let mut client = Crooked::connect();
    let content = pattern(1 << 14);
    let records = [
        client.sealing.record(&[DATA]),
        client.sealing.record(&[&content[..], &[DATA]].concat()),
        client.sealing.record(&[&[1, 90][..], &[ALERT]].concat()),
        client.sealing.record(&[DATA, 0, 0]),
        client.sealing.record(b"end\x17"),
    ];
    client.raw.write_all(&records.concat()).unwrap();
    let came = received(&mut client.secured, &client.socket, (1 << 14) + 3).unwrap();
    assert!(came == [&content[..], b"end"].concat());
}

/// A fatal alert is no end that leaves room for doubt, and is not answered.
#[test]
fn the_client_s_alert_ends_the_connection() {
    let mut client = Crooked::connect();
    let alert = client.sealing.record(&[2, 80, ALERT]);
    client.raw.write_all(&alert).unwrap();
    client
        .secured
        .step(&client.socket, &mut [0; 9])
        .unwrap_err();
    drop((client.secured, client.socket));
    assert_eq!(client.raw.read_to_end(&mut Vec::new()).unwrap(), 0);
}
