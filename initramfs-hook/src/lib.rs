//! The client agent: attaches network disks by the kernel's NBD driver and keeps them attached for as long as the
//! machine runs, whatever happens to the server and the network in between.
//!
//! The agent must never hand the kernel a socket that leads to another disk than the one it began with, never hold
//! two live sockets for one disk, never open a file once its disks are attached, and never end while they are.
//!
//! What decides is pure and apart from what acts: [`link`] (when to dial, when to install), [`terms`] (is it the same
//! disk), [`netlink`] and [`lease`] (messages as bytes), [`uri`] and [`cmdline`] (what is asked for). [`agent`],
//! [`attachment`] and [`renewal`] act; [`secret`] fetches before any disk is attached; [`identity`] is a run of its own, before any system has started; [`daemon`] makes the process outlive the initramfs; all `unsafe` is in [`sys`].

#![deny(unsafe_code)]

pub mod agent;
pub mod args;
pub mod attachment;
pub mod clock;
pub mod cmdline;
pub mod console;
pub mod daemon;
pub mod error;
pub mod guard;
pub mod identity;
pub mod kernel;
pub mod ktls;
pub mod lease;
pub mod link;
pub mod nag;
pub mod net;
pub mod netlink;
pub mod post;
pub mod pulse;
pub mod question;
pub mod queue;
pub mod renewal;
pub mod report;
pub mod secret;
pub mod security;
pub mod sys;
pub mod talk;
pub mod terms;
pub mod traffic;
pub mod uri;
