//! gzip without compression (RFC 1952, with the stored blocks of RFC 1951 §3.2.4).
//!
//! A kernel takes a bare cpio archive behind another initrd only at a multiple of 4 bytes, and the stub that UEFI starts
//! joins initrds without a gap (seen with Linux 6.1); a compressed one it takes anywhere.

/// Identification, method "deflate", no flags, no time, no extra flags, system unknown.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// Longest stored block. Bytes.
const LONGEST: usize = 0xffff;

/// `bytes` as a gzip file.
pub fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut file = HEADER.to_vec();
    let mut rest = bytes;
    loop {
        let (block, after) = rest.split_at(rest.len().min(LONGEST));
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        file.push(u8::from(after.is_empty()));
        file.extend(length.to_le_bytes());
        file.extend((!length).to_le_bytes());
        file.extend(block);
        if after.is_empty() {
            break;
        }
        rest = after;
    }
    file.extend(crc32(bytes).to_le_bytes());
    // Modulo 2^32, as the RFC says.
    file.extend((bytes.len() as u32).to_le_bytes());
    file
}

/// CRC-32 as RFC 1952 §8 has it; bit by bit, for a few kilobytes.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), step);
    !bytes.iter().fold(u32::MAX, byte)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn gzip_reads_it() {
        let long: Vec<u8> = (0..200_000u32)
            .map(|n| n.to_le_bytes()[n as usize % 3])
            .collect();
        for content in [&b""[..], b"x", &long[..LONGEST], &long] {
            let path = tempfile::NamedTempFile::new().unwrap();
            path.as_file().write_all(&stored(content)).unwrap();
            let gzip = Command::new("gzip")
                .args(["-dc"])
                .stdin(path.reopen().unwrap())
                .stderr(Stdio::inherit())
                .output()
                .expect("gzip runs");
            assert!(gzip.status.success());
            assert!(gzip.stdout == content, "{} bytes", content.len());
        }
    }
}
