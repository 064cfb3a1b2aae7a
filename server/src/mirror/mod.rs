//! What carries the `mirror` crate's state machines: so far the witness, and by what the three know each other.

#[allow(dead_code)] // The pair itself is being built.
pub mod secret;
pub mod witness;
