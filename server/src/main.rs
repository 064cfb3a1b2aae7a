//! The `bootroom` binary.

fn main() {}
