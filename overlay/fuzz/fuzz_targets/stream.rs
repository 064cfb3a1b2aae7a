//! Arbitrary bytes as a change stream, with and without right checksums.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overlay::ChangeReader;

/// Puts the sums right, so that what lies behind them is reached.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    if out.len() < 24 {
        return out;
    }
    out[..12].copy_from_slice(b"BRchange\x01\0\0\0");
    let mut sum = crc32c::crc32c(&out[..20]);
    out[20..24].copy_from_slice(&sum.to_le_bytes());
    let mut at = 24;
    while at + 32 <= out.len() {
        sum = crc32c::crc32c_append(sum, &out[at..at + 24]);
        out[at + 24..at + 28].copy_from_slice(&sum.to_le_bytes());
        let len = if out[at] == 1 { u16::from_le_bytes([out[at + 16], out[at + 17]]).into() } else { 0 };
        let end = (at + 32 + len).min(out.len());
        sum = crc32c::crc32c_append(sum, &out[at + 32..end]);
        out[at + 28..at + 32].copy_from_slice(&sum.to_le_bytes());
        at = end;
    }
    out
}

fn read(bytes: &[u8]) {
    let Ok(mut reader) = ChangeReader::new(bytes) else { return };
    let size = reader.size();
    while let Ok(Some(change)) = reader.next_change() {
        if let overlay::Change::Write { offset, data } = change {
            assert!(offset + data.len() as u64 <= size);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    read(&sealed(bytes));
});
