//! Any bytes from a server in the transmission phase.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nbd::{HeaderStyle, ReplyDecoder};

fuzz_target!(|input: (u8, u8, Vec<u8>)| {
    let (style, magic, mut bytes) = input;
    let style = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended][usize::from(style % 3)];
    let magics: [u32; 3] = [0x6744_6698, 0x668e_33ef, 0x6e8a_278c];
    bytes.splice(0..0, magics[usize::from(magic % 3)].to_be_bytes());
    let decoder = ReplyDecoder::new(style, 1 << 20);
    if let Ok(Some((_, used))) = decoder.decode(&bytes, |cookie| u32::try_from(cookie.0).ok()) {
        assert!(used <= bytes.len());
    }
});
