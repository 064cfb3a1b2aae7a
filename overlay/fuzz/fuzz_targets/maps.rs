//! Arbitrary bytes as the live map and as the durable map, with and without right checksums.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    overlay::decoders::live_map(bytes);
    overlay::decoders::durable_map(bytes, false);
    overlay::decoders::durable_map(bytes, true);
});
