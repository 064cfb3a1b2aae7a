//! The NBD service: listeners, connections, TLS, and the engine that serves requests.
//!
//! One thread per connection; it alone reads and writes its socket. Requests that need no disk are served on it, many
//! to a system call each way; what would wait for a disk goes to a bounded pool shared fairly between connections, so
//! that neither a cold read nor a stalled socket holds up anyone else (design P5).
//!
//! Must never answer a request from an export that a newer connection has taken over, and never let a peer's bytes
//! decide how much memory is taken.

pub mod connection;
mod device;
pub mod devices;
mod handshake;
mod input;
mod jobs;
mod listen;
mod mailbox;
mod output;
pub mod pool;
pub mod records;
mod registry;
pub mod secured;
mod server;
pub mod tls;
mod transport;

#[allow(unused_imports)] // The room uses more of these than `bootroom export` does.
pub use device::{
    Change, Claim, Deferred, Deliver, Device, Ended, Event, Export, Exports, Extent, Fault, Mapped,
    Peer, PeerAddress, Segment, Source, Told, deliver_all, pieces_of,
};
pub use listen::{Listener, passed_sockets};
#[allow(unused_imports)]
pub use registry::{ConnectionView, Ending};
pub use server::{Limits, Service, ServiceOptions};
