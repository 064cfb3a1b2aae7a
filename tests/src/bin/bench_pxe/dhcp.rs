//! HTTP beside nginx.
/// Measures all.
pub fn run() {}
