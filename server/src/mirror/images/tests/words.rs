//! The messages: their description, what they survive, and what they refuse.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::mirror::images::wire::{
    Answer, Chunks, FRAME_HEAD, FRAME_MAX, FileOf, Head, IDS_MAX, MAGIC, PROTOCOLS, Question,
    REFUSAL_MAX, Sum, WINDOW,
};

const PAGE: &str = include_str!("../mod.rs");

/// The rows of the table whose heading begins so, cell by cell.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let lines = PAGE
        .lines()
        .map(|line| line.strip_prefix("//! ").unwrap_or_default());
    let rows = lines.skip_while(|line| !line.starts_with(heading)).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let cells = |row: &'static str| row.trim_matches('|').split('|').map(str::trim).collect();
    rows.map(cells).collect()
}

fn file() -> FileOf {
    FileOf {
        version: VersionId::from_uuid(uuid::Uuid::from_bytes([7; 16])),
        part: Part::Initrd,
    }
}

/// The number and the name of each kind.
fn named(kind: u8, message: &impl std::fmt::Debug) -> (String, String) {
    let text = format!("{message:?}");
    let name = text.split(['(', ' ']).next().unwrap();
    (kind.to_string(), format!("`{name}`"))
}

fn page_kinds(heading: &str) -> Vec<(String, String)> {
    let rows = table(heading).into_iter();
    rows.map(|row| (row[0].to_owned(), row[1].to_owned()))
        .collect()
}

#[test]
fn the_kinds_are_those_of_the_page() {
    let chunks = Chunks { first: 0, count: 1 };
    let questions = [
        Question::Hello(1, 1),
        Question::List,
        Question::Sums(file(), chunks),
        Question::Chunks(file(), vec![0]),
        Question::Holds(Vec::new()),
    ];
    let code: Vec<_> = questions.iter().map(|one| named(one.kind(), one)).collect();
    assert_eq!(page_kinds("| kind | question |"), code);
    let answers = [
        Answer::Hello(1),
        Answer::Version(true, b"{}"),
        Answer::Removed(Vec::new()),
        Answer::End,
        Answer::Sums(0, Vec::new()),
        Answer::Chunk(0, b"x"),
        Answer::Refused("no"),
    ];
    let code: Vec<_> = answers.iter().map(|one| named(one.kind(), one)).collect();
    assert_eq!(page_kinds("| kind | answer |"), code);
}

#[test]
fn the_numbers_are_those_of_the_page() {
    let has = |wanted: String| assert!(PAGE.contains(&wanted), "{wanted}");
    has(format!("length of the body, 1 to {FRAME_MAX}"));
    has(format!("how many, 1 to {WINDOW} "));
    has(format!("wanted, 1 to {WINDOW} "));
    has(format!("removed, at most {IDS_MAX} "));
    has(format!("at most {REFUSAL_MAX} bytes"));
    has(format!("A chunk is {CHUNK} bytes"));
    has(format!("This is protocol {}.", PROTOCOLS.1));
    has(format!("`{}`;", str::from_utf8(&MAGIC).unwrap()));
    let head: usize = table("| bytes | what |")
        .iter()
        .filter_map(|row| row[0].parse::<usize>().ok())
        .sum();
    assert_eq!(head, FRAME_HEAD);
}

/// Bytes as another program would write them from the page.
#[test]
fn the_layout_is_that_of_the_page() {
    let mut frame = Vec::new();
    let question = Question::Sums(
        file(),
        Chunks {
            first: 2,
            count: 300,
        },
    );
    question.encode(&mut frame);
    let body = [
        &[3][..],
        &[7; 16],
        &[2],
        &2u32.to_le_bytes(),
        &300u32.to_le_bytes(),
    ]
    .concat();
    assert_eq!(frame[FRAME_HEAD..], body);
    assert_eq!(frame[..4], 26u32.to_le_bytes());
    assert_eq!(frame[4..8], crc32c::crc32c(&body).to_le_bytes());
    assert_eq!(frame[8..12], crc32c::crc32c(&frame[..8]).to_le_bytes());

    let sums = vec![Sum::Zeros, Sum::Data(images::Digest([9; 32]))];
    Answer::Sums(5, sums).encode(&mut frame);
    let body = [&[15, 5, 0, 0, 0, 0, 1][..], &[9; 32]].concat();
    assert_eq!(frame[FRAME_HEAD..], body);

    Question::Hello(1, 2).encode(&mut frame);
    assert_eq!(frame[FRAME_HEAD..], *b"\x01BRimages\x01\0\x02\0");
    Answer::Version(true, b"{}").encode(&mut frame);
    assert_eq!(frame[FRAME_HEAD..], *b"\x0c\x01{}");
}

/// The largest of everything fits.
#[test]
fn the_longest_messages_fit_a_frame() {
    let chunk = vec![1; CHUNK as usize];
    let reason = "ü".repeat(REFUSAL_MAX);
    let messages = [
        Answer::Chunk(u32::MAX, &chunk),
        Answer::Version(true, &chunk),
        Answer::Removed(vec![file().version; IDS_MAX]),
        Answer::Sums(0, vec![Sum::Data(images::Digest([9; 32])); WINDOW as usize]),
        Answer::Refused(&reason),
    ];
    for message in messages {
        let mut frame = Vec::new();
        message.encode(&mut frame);
        let head = Head::decode(frame[..FRAME_HEAD].try_into().unwrap()).unwrap();
        head.check(&frame[FRAME_HEAD..]).unwrap();
        let back = Answer::decode(&frame[FRAME_HEAD..]).unwrap();
        match (&message, &back) {
            (Answer::Refused(_), Answer::Refused(short)) => assert!(reason.starts_with(short)),
            _ => assert_eq!(back, message),
        }
    }
}

fn any_file() -> impl Strategy<Value = FileOf> {
    let part = prop_oneof![Just(Part::Disk), Just(Part::Kernel), Just(Part::Initrd)];
    (any::<[u8; 16]>(), part).prop_map(|(id, part)| FileOf {
        version: VersionId::from_uuid(uuid::Uuid::from_bytes(id)),
        part,
    })
}

fn any_question() -> impl Strategy<Value = Question> {
    let chunks =
        (0..u32::MAX - WINDOW, 1..=WINDOW).prop_map(|(first, count)| Chunks { first, count });
    prop_oneof![
        any::<(u16, u16)>().prop_map(|(oldest, newest)| Question::Hello(oldest, newest)),
        Just(Question::List),
        (any_file(), chunks).prop_map(|(file, chunks)| Question::Sums(file, chunks)),
        (any_file(), vec(any::<u32>(), 1..50))
            .prop_map(|(file, some)| Question::Chunks(file, some)),
    ]
}

fn any_sum() -> impl Strategy<Value = Sum> {
    prop_oneof![
        Just(Sum::Zeros),
        any::<[u8; 32]>().prop_map(|bytes| Sum::Data(images::Digest(bytes))),
    ]
}

proptest! {
    #[test]
    fn questions_survive(question in any_question()) {
        let mut frame = Vec::new();
        question.encode(&mut frame);
        prop_assert_eq!(Question::decode(&frame[FRAME_HEAD..]), Ok(question));
    }

    #[test]
    fn lists_of_digests_survive(first in any::<u32>(), sums in vec(any_sum(), 0..50)) {
        let mut frame = Vec::new();
        let answer = Answer::Sums(first, sums);
        answer.encode(&mut frame);
        prop_assert_eq!(Answer::decode(&frame[FRAME_HEAD..]), Ok(answer));
    }

    #[test]
    fn any_bytes_are_a_message_or_refused(bytes in vec(any::<u8>(), 0..300), kind in 1u8..18) {
        let _ = Question::decode(&bytes);
        let _ = Answer::decode(&bytes);
        let begun = [&[kind][..], &bytes].concat();
        let _ = Question::decode(&begun);
        let _ = Answer::decode(&begun);
    }

    #[test]
    fn a_question_cut_short_or_longer_is_another_or_none(question in any_question(), cut in any::<prop::sample::Index>()) {
        let mut frame = Vec::new();
        question.encode(&mut frame);
        let body = &frame[FRAME_HEAD..];
        prop_assert_ne!(Question::decode(&body[..cut.index(body.len())]), Ok(question.clone()));
        prop_assert_ne!(Question::decode(&[body, &[0]].concat()), Ok(question));
    }
}
