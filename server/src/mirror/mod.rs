//! What carries the `mirror` crate's state machines: so far the witness.

pub mod witness;
