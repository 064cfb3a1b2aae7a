//! A machine played by client programs.

use std::process::Output;
use std::time::Duration;

use super::Switch;
use crate::deadline::wait_for;
use crate::namespace::Namespace;

/// How long a program of a machine may try.
const LIMIT: Duration = Duration::from_secs(30);

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

    /// Takes a lease, and the address of it; returns that.
    ///
    /// # Panics
    /// When there is none to be had.
    pub fn lease(&self) -> String {
        let mut udhcpc = self.namespace.command("udhcpc");
        let usual = "-i eth0 -n -q -f -t 20 -T 1 -s /bin/true";
        let output = udhcpc.args(usual.split(' ')).output().expect("udhcpc runs");
        let said = text(&output);
        let address = said
            .split("lease of ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let address = address
            .unwrap_or_else(|| panic!("no lease: {said}"))
            .to_owned();
        self.namespace
            .ip(&format!("address replace {address}/24 dev eth0"));
        address
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

/// What a program said.
pub fn text(output: &Output) -> String {
    let parts = [&output.stdout, &output.stderr];
    parts
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .concat()
}
