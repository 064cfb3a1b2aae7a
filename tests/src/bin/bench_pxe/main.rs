//! bootroom's boot protocols beside their peers, side by side in one run, on this machine.
//!
//!     bench_pxe [tftp] [crowd] [http] [dhcp]
//!
//! TFTP: a 20 MB file at two block sizes and two windows beside dnsmasq and tftpd-hpa; `limit`
//! is a server that does nothing but send. The crowd: 200 TFTP clients at once. HTTP: a 60 MB file to 100 clients, beside nginx. DHCP: four-way exchanges per
//! second with leases on disk, measured by perfdhcp, beside dnsmasq and Kea. Every server runs in a network namespace of
//! its own making, on one processor, and the load on another; figures are the median of several runs, ratios are against
//! the best peer. A peer that is not installed is left out and named.

mod bare;
mod client;
mod dhcp;
mod http;
mod peers;
mod socket;
mod tftp;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let [limit, file, port] = &wanted[..]
        && limit == peers::LIMIT
    {
        return tftp::serve_limit(file, port);
    }
    peers::pin_load();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let tftp = [wants("tftp"), wants("crowd")];
    if tftp.contains(&true) {
        tftp::run(tftp);
    }
    if wants("http") {
        http::run();
    }
    if wants("dhcp") {
        dhcp::run();
    }
}
