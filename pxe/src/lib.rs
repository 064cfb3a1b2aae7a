//! DHCP, TFTP and HTTP: from power-on to a running kernel.
//!
//! Must never know the overlay store or the image catalogue: it asks a policy.
