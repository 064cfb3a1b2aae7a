//! What a site has around a room: cables, a DHCP server that nobody may touch, a router with a relay.

use std::process::{Child, Command, Stdio};

use crate::namespace::Namespace;

/// Connects two namespaces by a cable; both ends are up.
///
/// # Panics
/// When the kernel refuses.
pub fn cable(a: &Namespace, name_a: &str, b: &Namespace, name_b: &str) {
    let pid = b.pid();
    a.ip(&format!(
        "link add {name_a} type veth peer name {name_b} netns {pid}"
    ));
    a.ip(&format!("link set {name_a} up"));
    b.ip(&format!("link set {name_b} up"));
}

/// A switch that these taps are plugged into, with an address of its own.
///
/// # Panics
/// When the kernel refuses.
pub fn switch(namespace: &Namespace, name: &str, address: &str, taps: &[&str]) {
    namespace.ip(&format!(
        "link add {name} type bridge stp_state 0 forward_delay 0"
    ));
    namespace.ip(&format!("address add {address} dev {name}"));
    namespace.ip(&format!("link set {name} up"));
    for tap in taps {
        namespace.ip(&format!("tuntap add {tap} mode tap"));
        namespace.ip(&format!("link set {tap} master {name} up"));
    }
}

/// A program that serves for as long as this exists.
pub struct Daemon(Child);

impl Daemon {
    fn start(mut command: Command) -> Self {
        let quiet = command.stdin(Stdio::null()).stderr(Stdio::null());
        Self(quiet.spawn().expect("the program is installed"))
    }

    /// dnsmasq, which gives out 10.78.0.150 to 10.78.0.179 on `interface` and names no boot file.
    ///
    /// # Panics
    /// When it is not installed.
    pub fn dnsmasq(namespace: &Namespace, interface: &str) -> Self {
        let mut command = namespace.command("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0"]);
        command.args(["--dhcp-leasefile=/dev/null", "--user=root", "--pid-file"]);
        command.args(["--bind-interfaces", "--interface", interface]);
        command.arg("--dhcp-range=10.78.0.150,10.78.0.179,255.255.255.0,1h");
        Self::start(command)
    }

    /// ISC's relay between two interfaces; it adds option 82 and drops answers that do not bring it back.
    ///
    /// # Panics
    /// When it is not installed.
    pub fn relay(namespace: &Namespace, up: &str, down: &str, server: &str) -> Self {
        let mut command = namespace.command("dhcrelay");
        command.args(["-d", "-4", "-a", "-iu", up, "-id", down, server]);
        Self::start(command)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only for a program that ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
