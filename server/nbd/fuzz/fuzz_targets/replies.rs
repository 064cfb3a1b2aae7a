//! Any bytes from a server in the transmission phase, reply after reply.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nbd::{HeaderStyle, ReplyBody, ReplyDecoder};

const MAGICS: [u32; 3] = [0x6744_6698, 0x668e_33ef, 0x6e8a_278c];
const LIMIT: u32 = 1 << 20;

fuzz_target!(|input: (u8, Vec<(u8, Vec<u8>)>)| {
    let (style, replies) = input;
    let style = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended][usize::from(style % 3)];
    let mut bytes = Vec::new();
    for (magic, rest) in replies {
        bytes.extend(MAGICS[usize::from(magic % 3)].to_be_bytes());
        bytes.extend(rest);
    }
    let decoder = ReplyDecoder::new(style, LIMIT);
    let mut rest = &bytes[..];
    while let Ok(Some((reply, used))) = decoder.decode(rest, |cookie| u32::try_from(cookie.0).ok()) {
        assert!(used > 0 && used <= rest.len());
        rest = &rest[used..];
        match reply.body {
            ReplyBody::Data { length, .. } => rest = &rest[rest.len().min(length as usize)..],
            ReplyBody::Status { extents, .. } => assert!(extents.len() <= bytes.len() / 8),
            _ => {}
        }
    }
});
