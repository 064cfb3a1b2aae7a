//! The mirror's state machine: two servers, one truth.
//!
//! Messages and events in, messages and actions out. PROTOCOL.md beside this crate has the rules, the states, and what
//! each answer promises. Two machines:
//!
//! - [`Node`]: one server of the pair. It decides who is primary, ships each change before it is applied, keeps track of
//!   what may differ between the two, and makes them equal again.
//! - [`Witness`]: one record on a third box, changed by compare-and-swap.
//!
//! This crate must never open a socket or a file, read a clock or draw a random number: the caller passes them in, so
//! that a simulation can drive it through any order of failures. It knows nothing of overlays, images or NBD. It must
//! never let a client be answered with something that the promotion of the other server could undo.

#![forbid(unsafe_code)]

mod blocks;
mod config;
mod durable;
mod error;
mod event;
mod ids;
mod message;
mod node;
mod operation;
mod wire;
mod witness;

pub use blocks::{BLOCK, BlockRange, BlockSet, Blocks};
pub use config::{Alone, Config, Mode, Timing};
pub use durable::{Durable, Generation, HISTORY};
pub use error::{Error, ErrorKind, Result};
pub use event::{
    Action, Ask, Command, Event, Fault, Notice, PersistId, Reply, Request, WhyNot, Work, Yield,
};
pub use ids::{
    ConnectionId, Incarnation, Millis, Moment, NodeId, RequestId, Revision, Seq, SessionId, Term,
    Ticket, VolumeId, WitnessId,
};
pub use message::{Body, Hello, Message};
pub use node::{Findings, Node, Progress, Role, Status, Wait};
pub use operation::{Item, ItemAnswer, Op};
pub use wire::{FRAME_HEAD, MAX_FRAME, frame_length};
pub use witness::{Record, Swap, Witness, WitnessAnswer, WitnessRequest, WitnessState};
