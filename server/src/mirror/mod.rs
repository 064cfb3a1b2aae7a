//! What carries the `mirror` crate's state machines: the pair of servers, and the witness.

pub mod asking;
pub mod chronicle;
mod clock;
pub mod driver;
mod images;
mod late_base;
pub mod leaving;
mod link;
pub mod pair;
pub mod secret;
pub mod served;
mod state;
pub mod store;
mod strangers;
pub mod supplies;
pub mod witness;
