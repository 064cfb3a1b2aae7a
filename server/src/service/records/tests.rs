use proptest::prelude::*;
use rustls::{
    ConnectionTrafficSecrets,
    crypto::cipher::{AeadKey, Iv},
};

use super::*;

const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2];

fn cipher(version: ProtocolVersion, chacha: bool) -> Cipher {
    let (key, iv) = (AeadKey::from([7; 32]), Iv::from([9; 12]));
    let secrets = match chacha {
        true => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
        false => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
    };
    Cipher::new(version, (3, secrets)).unwrap()
}

/// Records of data with these contents, and where each ends.
fn sealed(cipher: &mut Cipher, contents: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
    let (mut stream, mut ends) = (Vec::new(), Vec::new());
    for content in contents {
        let mut record = vec![0; cipher.before()];
        record.extend_from_slice(content);
        record.resize(record.len() + cipher::AFTER, 0);
        let length = cipher.seal(ContentType::DATA, &mut record, content.len());
        stream.extend_from_slice(&record[..length.unwrap()]);
        ends.push(stream.len());
    }
    (stream, ends)
}

/// What an opener makes of `stream`, received in pieces of about `step` bytes.
fn opened(cipher: Cipher, stream: &[u8], step: usize) -> (Vec<u8>, Result<(), Alert>) {
    let mut opener = Opener::new(cipher);
    let mut all = Vec::new();
    for piece in stream.chunks(step) {
        opener.put(piece).unwrap();
        loop {
            match opener.open() {
                Ok(Some(kind)) => assert_eq!(kind, ContentType::DATA),
                Ok(None) => break,
                Err(alert) => return (all, Err(alert)),
            }
            let mut part = [0; 1000];
            while !opener.is_empty() {
                let count = opener.take(&mut part);
                all.extend_from_slice(&part[..count]);
            }
        }
    }
    (all, Ok(()))
}

fn contents() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let lengths = prop::collection::vec(prop_oneof![0..40usize, 16_300..=MOST_CONTENT], 1..6);
    lengths.prop_map(|lengths| {
        let content = |(number, length): (usize, usize)| {
            (0..length).map(|at| (at + 31 * number + 1) as u8).collect()
        };
        lengths.into_iter().enumerate().map(content).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_sealed_is_opened(
        contents in contents(), step in 1..60_000usize, version in 0..2usize, chacha: bool
    ) {
        let version = VERSIONS[version];
        let (stream, _) = sealed(&mut cipher(version, chacha), &contents);
        // Byte by byte is slow, and no other than a few at a time.
        let step = step.max(stream.len() / 2000 + 1);
        let (all, result) = opened(cipher(version, chacha), &stream, step);
        prop_assert_eq!(result, Ok(()));
        prop_assert!(all == contents.concat());
    }

    /// Whatever is done to a stream, nothing is given out but a beginning of what was sealed, and nothing of the record
    /// that was touched or of any after it.
    #[test]
    fn nothing_comes_out_of_a_record_that_was_touched(
        contents in contents(), step in 2_000..60_000usize, version in 0..2usize,
        place: prop::sample::Index, change in 1..=255u8, way in 0..4u8,
    ) {
        let version = VERSIONS[version];
        let (mut stream, ends) = sealed(&mut cipher(version, false), &contents);
        let place = place.index(stream.len());
        match way {
            0 => stream[place] ^= change,
            1 => { stream.remove(place); }
            2 => stream.insert(place, change),
            _ => stream.truncate(place),
        }
        let whole = ends.iter().filter(|end| **end <= place).count();
        let (all, result) = opened(cipher(version, false), &stream, step);
        let untouched = contents[..whole].concat();
        if way == 2 && all.len() > untouched.len() {
            // A byte that equals the next one, put before it: only what it pushes out is touched.
            prop_assert!(contents.concat().starts_with(&all));
        } else {
            prop_assert!(all == untouched);
        }
        if way == 0 && stream.len() >= place + 2 * MOST_CONTENT {
            prop_assert!(result.is_err());
        }
    }

    /// All of it, that is.
    #[test]
    fn no_byte_of_a_header_may_be_touched(version in 0..2usize, at in 0..HEADER, change in 1..=255u8) {
        let version = VERSIONS[version];
        let (mut stream, _) = sealed(&mut cipher(version, false), &[vec![1; 100]]);
        stream[at] ^= change;
        let (all, _) = opened(cipher(version, false), &stream, 10_000);
        prop_assert!(all.is_empty());
    }

    /// Records in another order, or twice, are not taken.
    #[test]
    fn records_have_their_place(version in 0..2usize, twice: bool) {
        let version = VERSIONS[version];
        let contents = [vec![1; 100], vec![2; 100], vec![3; 100]];
        let (stream, ends) = sealed(&mut cipher(version, false), &contents);
        let (one, two) = (&stream[..ends[0]], &stream[ends[0]..ends[1]]);
        let order = if twice { [one, one] } else { [two, one] };
        let (all, result) = opened(cipher(version, false), &order.concat(), 10_000);
        prop_assert_eq!(result, Err(Alert::BAD_RECORD_MAC));
        prop_assert_eq!(all.len(), if twice { 100 } else { 0 });
    }
}

#[test]
fn a_batch_fills_its_records_one_after_the_other() {
    let mut batch = Batch::default();
    let all: Vec<u8> = (0..100_000u32).map(|at| (at % 241) as u8).collect();
    let mut rest = &all[..];
    let mut cipher_out = cipher(ProtocolVersion::TLSv1_3, false);
    let mut stream = Vec::new();
    while !rest.is_empty() {
        while !batch.is_full() && !rest.is_empty() {
            let count = batch.put(&rest[..rest.len().min(7000)]).unwrap();
            rest = &rest[count..];
        }
        let mut records = Vec::new();
        batch.seal(&mut cipher_out, &mut records).unwrap();
        stream.extend(records.iter().flat_map(|record| record.to_vec()));
        batch.clear();
        assert!(batch.is_empty());
    }
    let records = all.len().div_ceil(MOST_CONTENT);
    assert_eq!(stream.len(), all.len() + records * (HEADER + cipher::AFTER));
    let (came, result) = opened(cipher(ProtocolVersion::TLSv1_3, false), &stream, 5000);
    assert_eq!(result, Ok(()));
    assert!(came == all);
}

#[test]
fn memory_is_given_back_only_when_nothing_is_in_it() {
    let (stream, _) = sealed(&mut cipher(ProtocolVersion::TLSv1_3, false), &[vec![5; 30]]);
    let mut opener = Opener::new(cipher(ProtocolVersion::TLSv1_3, false));
    for piece in [&stream[..10], &stream[10..]] {
        opener.put(piece).unwrap();
        opener.release();
    }
    assert_eq!(opener.open(), Ok(Some(ContentType::DATA)));
    opener.release();
    assert_eq!(opener.take(&mut [0; 20]), 20);
    opener.release();
    assert_eq!(opener.take_all(), [5; 10]);
    opener.release();
    assert_eq!((opener.take(&mut [0; 10]), opener.open()), (0, Ok(None)));
}
