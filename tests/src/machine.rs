//! A machine without a disk, under QEMU.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::console::Console;
use crate::deadline::wait_for;
use crate::namespace::Namespace;

/// What makes a machine boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS and the network card's own ROM, which is iPXE.
    Bios,
    /// OVMF with its own PXE, which fetches a boot loader over TFTP.
    Uefi,
}

/// A machine that can be switched on.
#[derive(Debug, Clone)]
pub struct Desk {
    /// The client's name in the configuration.
    pub name: String,
    /// Its network card's address.
    pub mac: String,
    /// The tap its network card is plugged into.
    pub tap: String,
    /// What makes it boot.
    pub firmware: Firmware,
}

/// A machine that is on.
pub struct Machine {
    qemu: Child,
    /// Its serial console.
    pub console: Console,
}

impl Machine {
    /// Switches it on. `dir` is for its socket and its transcript.
    ///
    /// # Panics
    /// When QEMU does not start.
    pub fn power_on(namespace: &Namespace, desk: &Desk, dir: &Path) -> Self {
        let socket = dir.join(format!("{}.console", desk.name));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("a socket for the console");
        listener
            .set_nonblocking(true)
            .expect("a socket that does not block");
        let mut qemu = qemu(namespace, desk, &socket)
            .spawn()
            .expect("qemu-system-x86_64 runs");
        let stream = wait_for(
            "QEMU to connect its console",
            Duration::from_secs(30),
            || {
                let ended = qemu.try_wait().expect("QEMU can be waited for");
                assert!(ended.is_none(), "QEMU ended at once: {ended:?}");
                listener.accept().ok()
            },
        );
        stream
            .0
            .set_nonblocking(false)
            .expect("a socket that blocks");
        let console = Console::new(stream.0, &dir.join(format!("{}.log", desk.name)));
        Self { qemu, console }
    }

    /// Cuts its power.
    ///
    /// # Panics
    /// When the process cannot be killed.
    pub fn pull_plug(self) {
        drop(self);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only for a machine that is gone already.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn qemu(namespace: &Namespace, desk: &Desk, socket: &Path) -> std::process::Command {
    let mut qemu = namespace.command("qemu-system-x86_64");
    // With random numbers in hardware, as real machines have and QEMU's default processor has not.
    qemu.args(["-cpu", "max"]);
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-nographic",
        "-accel",
        "tcg",
        "-m",
        "512",
        "-boot",
        "n",
    ])
    .args([
        "-chardev",
        &format!("socket,id=console,path={}", socket.display()),
        "-serial",
        "chardev:console",
    ])
    .args([
        "-netdev",
        &format!("tap,id=lan,ifname={},script=no,downscript=no", desk.tap),
    ])
    .args(["-device", "virtio-rng-pci"]);
    let card = format!("virtio-net-pci,netdev=lan,mac={}", desk.mac);
    match desk.firmware {
        Firmware::Bios => qemu.args(["-device", &card]),
        // Without the card's own ROM, or that would do the firmware's work.
        Firmware::Uefi => qemu.args([
            "-bios",
            "/usr/share/ovmf/OVMF.fd",
            "-device",
            &format!("{card},romfile="),
        ]),
    };
    qemu.stdin(Stdio::null()).stdout(Stdio::null());
    qemu
}
