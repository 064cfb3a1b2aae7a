//! Any bytes as an HTTP request: no panic, no path upwards, no range outside the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pxe::files;
use pxe::http::range::Part;
use pxe::http::request::Request;

fuzz_target!(|input: (Vec<u8>, u64)| {
    let (bytes, len) = input;
    let Ok(Some((request, used))) = Request::parse(&bytes) else { return };
    assert!(used <= bytes.len());
    if let Some(path) = files::clean_url(&request.path) {
        assert!(!path.starts_with('/') && path.split('/').all(|p| p != ".."));
    }
    if let Some(Part::Slice(from, to)) = request.range.map(|r| r.on(len)) {
        assert!(from < to && to <= len);
    }
});
