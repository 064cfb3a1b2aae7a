//! A machine played by client programs.

use std::fs;
use std::process::Output;
use std::time::Duration;

use super::Switch;
use crate::deadline::wait_for;
use crate::namespace::Namespace;

/// How long a program of a machine may try.
const LIMIT: Duration = Duration::from_secs(30);

/// What udhcpc runs: it says all that the lease has.
const LEASE_SCRIPT: &str = "#!/bin/sh\n[ \"$1\" != bound ] || env\n";

/// What DHCP gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// To the machine.
    pub address: String,
    /// The DHCP server.
    pub server: String,
    /// Where the boot file is.
    pub next: String,
    /// The boot file.
    pub file: String,
}

/// The machine.
pub struct Seat {
    namespace: Namespace,
    number: u8,
}

impl Seat {
    pub(super) fn new(number: u8, switch: &Switch) -> Self {
        let namespace = Namespace::new();
        switch.plug(&format!("seat{number}"), &namespace);
        let seat = Self { namespace, number };
        seat.namespace
            .ip(&format!("link set eth0 address {}", seat.mac()));
        seat
    }

    /// Its network.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its card's address.
    pub fn mac(&self) -> String {
        mac(self.number)
    }

    /// Takes a lease, and the address of it.
    ///
    /// # Panics
    /// When there is none to be had.
    pub fn lease(&self) -> Lease {
        self.lease_as(&[])
    }

    /// The same as a boot loader, BIOS or UEFI by the option 93 that is given.
    ///
    /// # Panics
    /// When there is none to be had.
    pub fn lease_as_firmware(&self, architecture: &str) -> Lease {
        let class = format!("PXEClient:Arch:{}:UNDI:002001", &architecture[2..]);
        self.lease_as(&["-V", &class, "-x", &format!("0x5d:{}", &architecture[2..])])
    }

    fn lease_as(&self, more: &[&str]) -> Lease {
        let scripts = tempfile::tempdir().expect("a temporary directory");
        let script = scripts.path().join("script");
        fs::write(&script, LEASE_SCRIPT).expect("it is written");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&script, executable).expect("its mode can be set");
        let mut udhcpc = self.namespace.command("udhcpc");
        udhcpc
            .args("-i eth0 -n -q -f -t 20 -T 1 -s".split(' '))
            .arg(script);
        let said = text(&udhcpc.args(more).output().expect("udhcpc runs"));
        let field = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().to_owned()
        };
        let lease = Lease {
            address: field("ip="),
            server: field("serverid="),
            next: field("siaddr="),
            file: field("boot_file="),
        };
        assert!(!lease.address.is_empty(), "no lease: {said}");
        self.namespace
            .ip(&format!("address replace {}/24 dev eth0", lease.address));
        lease
    }

    /// What `server` gives for a path, if it gives anything.
    pub fn try_get(&self, scheme: &str, server: &str, path: &str) -> Option<String> {
        let mut curl = self.namespace.command("curl");
        let url = format!("{scheme}://{server}/{path}");
        let output = curl.args(["-sf", "--max-time", "5", &url]).output();
        let output = output.expect("curl runs");
        let body = || String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then(body)
    }

    /// What `server` gives for a path, as soon as it does.
    ///
    /// # Panics
    /// When it does not.
    pub fn get(&self, scheme: &str, server: &str, path: &str) -> String {
        let what = format!("{scheme}://{server}/{path}");
        wait_for(&what, LIMIT, || self.try_get(scheme, server, path))
    }

    /// What iPXE is told.
    ///
    /// # Panics
    /// When it is told nothing.
    pub fn script(&self, server: &str) -> String {
        let dashed = self.mac().replace(':', "-");
        self.get("http", server, &format!("ipxe/{dashed}"))
    }

    /// Boots as far as the name of its disk, under which both servers have it.
    ///
    /// # Panics
    /// When it does not come so far.
    pub fn export(&self, server: &str, name: &str) -> String {
        let script = self.script(server);
        let export = script.split(&format!("client/{name}/")).nth(1);
        let token = export.and_then(|rest| rest.split_whitespace().next());
        let token = token.unwrap_or_else(|| panic!("no token: {script}"));
        format!("client/{name}/{token}")
    }

    /// Whether the disk of that name can be opened at `server`.
    ///
    /// # Panics
    /// When nbdinfo cannot be run.
    pub fn opens(&self, server: &str, export: &str) -> bool {
        let mut nbdinfo = self.namespace.command("timeout");
        nbdinfo.args(["12", "nbdinfo", "--size"]);
        let output = nbdinfo.arg(format!("nbd://{server}/{export}")).output();
        output
            .expect("nbdinfo (package libnbd-bin) runs")
            .status
            .success()
    }
}

/// The card's address of the machine of that number.
pub fn mac(number: u8) -> String {
    format!("52:54:00:80:00:{number:02x}")
}

/// A machine of the room with a lasting disk.
pub fn client(number: u8, name: &str, image: &str) -> String {
    let mac = mac(number);
    format!("[clients.{name}]\nmac = {mac:?}\nimage = {image:?}\nretention = \"keep\"\n")
}

/// What a program said.
pub fn text(output: &Output) -> String {
    let parts = [&output.stdout, &output.stderr];
    parts
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .concat()
}
