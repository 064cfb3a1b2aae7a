//! End-to-end scenarios and benchmarks, and what they share.
//!
//! The scenarios drive the built `bootroom` binary from outside, as a user and a network would: configuration files,
//! command lines, packets, and real machines under QEMU. This crate must never link against the product's crates; a
//! fault that both sides share would then pass unseen.
//!
//! Everything a scenario makes is its own and is gone with it, also when the test is killed: the network is a
//! namespace held by a child process, every child gets SIGKILL when its parent dies, and files are in a temporary
//! directory. They need root and the packages that `bootroom demo` names.

pub mod binary;
pub mod console;
pub mod deadline;
pub mod guest;
pub mod image;
pub mod machine;
pub mod namespace;
pub mod noise;
pub mod pair;
pub mod room;
pub mod screen;
pub mod server;
pub mod site;
pub mod wire;
