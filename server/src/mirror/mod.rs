//! What carries the `mirror` crate's state machines: so far the witness, and by what the three know each other.

mod clock;
mod link;
#[allow(dead_code)] // The pair itself is being built.
pub mod secret;
mod state;
mod store;
pub mod witness;
