//! Bytes that nothing compresses and no two disks share.

use std::fs::File;
use std::io::Read;

/// That many bytes of noise. From the kernel: a debug build's own generator takes 0.7 s for 16 MiB.
///
/// # Panics
/// When the kernel has none to give.
pub fn noise(length: usize) -> Vec<u8> {
    let mut noise = vec![0; length];
    let mut kernel = File::open("/dev/urandom").expect("/dev/urandom is there");
    kernel.read_exact(&mut noise).expect("it gives any amount");
    noise
}
