//! What carries the `mirror` crate's state machines: so far the witness, how it is asked, and by what the three know
//! each other.

#[allow(dead_code, unused_imports)] // The pair itself is being built.
pub mod asking;
#[allow(dead_code)] // The same.
pub mod secret;
pub mod witness;
