//! The NBD wire protocol, both sides: bytes in, bytes out.
//!
//! Must never open a socket or a file, and knows nothing of overlays.
