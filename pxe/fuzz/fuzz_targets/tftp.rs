//! Any bytes as a TFTP packet, any ACKs for a transfer: no panic, no block out of range.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use pxe::files;
use pxe::tftp::packet::{FromClient, decode};
use pxe::tftp::transfer::{Step, Terms, Transfer};

/// Half of what matters is behind words that chance does not find.
fn request(raw: &[u8], options: &[(u8, u32)]) -> Vec<u8> {
    const NAMES: [&str; 5] = ["blksize", "WindowSize", "timeout", "tsize", "multicast"];
    let mut bytes = [b"\0\x01", raw, b"\0octet\0"].concat();
    for (name, value) in options {
        bytes.extend(NAMES[usize::from(*name) % NAMES.len()].as_bytes());
        bytes.extend(format!("\0{value}\0").as_bytes());
    }
    bytes
}

fuzz_target!(|input: (Vec<u8>, Vec<(u8, u32)>, u32, Vec<(u16, u16)>)| {
    let (raw, options, size, acks) = input;
    let bytes = if options.is_empty() { raw } else { request(&raw, &options) };
    let Ok(FromClient::Read(request)) = decode(&bytes) else { return };
    if let Some(path) = files::clean(request.path) {
        assert!(!path.starts_with('/') && path.split('/').all(|p| p != ".."));
    }
    let terms = Terms::agree(&request, size.into(), 1500);
    assert!((8..=1468).contains(&terms.block_size) && (1..=64).contains(&terms.window));
    let blocks = u64::from(size) / u64::from(terms.block_size) + 1;
    let mut now = Instant::now();
    let (mut transfer, _) = Transfer::start(terms, size.into(), Duration::from_secs(30), now);
    for (ack, wait) in acks {
        now += Duration::from_millis(wait.into());
        for step in [transfer.on_ack(ack, now), transfer.on_timeout(now)] {
            match step {
                Step::Send { first, count } => assert!(first >= 1 && count >= 1 && first + count - 1 <= blocks),
                Step::End(_) => return,
                Step::Wait | Step::SendOptions => {}
            }
        }
    }
});
