//! Arbitrary bytes as the messages by which image versions are copied, with and without right checksums.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The server is a program, not a library; this module needs nothing of it.
#[allow(dead_code)]
#[path = "../../src/mirror/images/wire.rs"]
mod wire;

use wire::{Answer, FRAME_HEAD, FRAME_MAX, Head, Question};

/// What is understood is said in the same bytes again.
fn read(body: &[u8]) {
    let mut frame = Vec::new();
    if let Ok(question) = Question::decode(body) {
        question.encode(&mut frame);
        assert_eq!(&frame[FRAME_HEAD..], body);
    }
    if let Ok(answer) = Answer::decode(body) {
        answer.encode(&mut frame);
        assert_eq!(&frame[FRAME_HEAD..], body);
        if let Answer::Version(_, record) = answer {
            let _ = images::Original::parse(record);
        }
    }
}

/// A frame as it comes, and the same with its sums put right, so that what lies behind them is reached.
fn receive(bytes: &[u8]) {
    let Some((head, body)) = bytes.split_first_chunk::<FRAME_HEAD>() else { return };
    if let Ok(head) = Head::decode(*head) {
        assert!((1..=FRAME_MAX).contains(&head.length));
        let _ = head.check(&body[..head.length.min(body.len())]);
    }
    let mut sealed = *head;
    sealed[4..8].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let own = crc32c::crc32c(&sealed[..8]);
    sealed[8..].copy_from_slice(&own.to_le_bytes());
    match Head::decode(sealed) {
        Ok(head) => assert_eq!(head.check(body).is_ok(), head.length == body.len()),
        Err(_) => {
            let length = u32::from_le_bytes([sealed[0], sealed[1], sealed[2], sealed[3]]) as usize;
            assert!(length == 0 || length > FRAME_MAX);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    receive(bytes);
});
