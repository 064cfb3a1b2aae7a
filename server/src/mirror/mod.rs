//! What carries the `mirror` crate's state machines: so far the witness.

#[allow(dead_code, unused_imports, reason = "the driver is still to come")]
pub mod images;
#[allow(dead_code, unused_imports, reason = "the driver is still to come")]
pub mod late_base;
pub mod witness;
