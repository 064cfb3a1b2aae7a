//! Arbitrary bytes as a manifest, with and without a right first line.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    overlay::decoders::manifest(bytes);
    let mut sealed = format!("bootroom-overlay 1 {:08x}\n", crc32c::crc32c(bytes)).into_bytes();
    sealed.extend_from_slice(bytes);
    overlay::decoders::manifest(&sealed);
});
