//! The boot protocols against real clients, each in a network of its own.

mod dhcp;
mod files;
mod net;
mod relay;
