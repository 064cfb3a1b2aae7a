//! Any bytes from the other server, as one frame's content: what is understood means the same when it is said again, and
//! takes no more room.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mirror::{FRAME_HEAD, Message, frame_length};

fuzz_target!(|bytes: &[u8]| {
    if let Some(head) = bytes.first_chunk::<FRAME_HEAD>() {
        let _ = frame_length(*head);
    }
    let Ok(message) = Message::decode(Bytes::copy_from_slice(bytes)) else { return };
    let mut frame = Vec::new();
    message.encode(&mut frame).expect("what came in one frame fits into one");
    let (head, content) = frame.split_first_chunk::<FRAME_HEAD>().expect("a frame");
    assert_eq!(frame_length(*head).expect("a length"), content.len());
    // Ranges that overlap are said as one.
    assert!(content.len() <= bytes.len());
    let again = Message::decode(Bytes::copy_from_slice(content)).expect("our own words");
    assert_eq!(again, message);
});
