//! The copy-on-write store under every client's disk.
//!
//! Must never know the network, DHCP or how an image is built.
