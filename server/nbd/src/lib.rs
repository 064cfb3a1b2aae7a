//! The NBD wire protocol, both sides: bytes in, bytes out.
//!
//! The specification is the NBD project's `doc/proto.md` together with its extended-headers part;
//! section names in these docs refer to it, and `MUSTS.md` names a test for each of its demands on a server. Four pieces:
//!
//! - [`ClientHandshake`] and [`ServerHandshake`]: state machines that are fed what was received and
//!   hand out what is to be sent; both have an explicit TLS upgrade point.
//! - [`Request`] and the reply heads in [`reply`]: the transmission phase's headers, in the simple,
//!   structured and extended styles ([`HeaderStyle`]).
//! - [`Rules`]: turns a request header into a typed [`Operation`] or the error that the
//!   specification asks for.
//! - [`ReplyDecoder`]: the client's view of the replies.
//!
//! This crate must never open a socket or a file, never read a clock, and knows nothing of overlays
//! or exports beyond their names. It never panics on what a peer sends, and no peer can make it
//! allocate more than the limits that its caller gave.

#![forbid(unsafe_code)]

mod client;
mod error;
mod export;
mod flags;
mod numbers;
mod options;

pub mod reply;
mod reply_decode;
mod request;
mod rules;
mod server;
mod server_answers;

mod wire;

pub use client::{ClientConfig, ClientHandshake, ClientStep, ClientTls, Negotiated};
pub use error::{Error, ErrorKind, OptionError, Result};
pub use export::{BlockSizes, ContextId, ExportInfo, ExportName, MetaContext};
pub use flags::{CommandFlags, TransmissionFlags};
pub use numbers::{Command, HeaderStyle, IoError, OptionKind, block_state};
pub use reply_decode::{Reply, ReplyBody, ReplyDecoder};
pub use request::{Cookie, Request};
pub use rules::{Operation, Rules, Verdict, status_filter};
pub use server::{
    Directory, Purpose, Refusal, ServerHandshake, ServerLimits, ServerStep, Session, TlsPolicy,
};

/// The port that IANA reserved for NBD.
pub const DEFAULT_PORT: u16 = 10809;

/// Longest string that the specification allows in a name, a query or a message, in bytes.
pub const MAX_STRING: usize = 4096;

/// Largest payload that every server should take when no other size was agreed on, in bytes.
pub const DEFAULT_MAX_PAYLOAD: u32 = 32 << 20;
