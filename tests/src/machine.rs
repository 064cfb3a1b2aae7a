//! A machine without a disk, under QEMU.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::console::Console;
use crate::deadline::wait_for;
use crate::namespace::Namespace;
use crate::screen::Screen;

/// What makes a machine boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS and the network card's own ROM, which is iPXE.
    Bios,
    /// SeaBIOS and a PXE of the emulator's own that starts PXELINUX, whatever it is told to; with a screen. (There is no
    /// ROM for QEMU that does not say it is iPXE, and an iPXE is given its script.)
    Pxelinux,
    /// As [`Firmware::Bios`], with a screen.
    BiosScreen,
    /// OVMF with its own PXE, which fetches a boot loader over TFTP.
    Uefi,
    /// OVMF that boots over HTTP (UEFI 2.10 §24.7) and has its PXE switched off.
    UefiHttp,
    /// OVMF with Secure Boot on and Microsoft's keys, as machines are sold; by PXE.
    SecureBoot,
    /// UEFI for 64-bit ARM, by PXE.
    Arm64,
}

/// What the PXE of [`Firmware::Pxelinux`] does: passes the lease on as if it had been told another file than its script.
/// Option 210 is the folder of that file (RFC 5071).
const PXELINUX: &str = "#!ipxe
dhcp net0
set net0/filename pxelinux/pxelinux.0
set net0/210:string pxelinux/
chain tftp://${next-server}/pxelinux/pxelinux.0
";

impl Firmware {
    fn has_screen(self) -> bool {
        matches!(self, Self::Pxelinux | Self::BiosScreen)
    }

    fn emulator(self) -> &'static str {
        match self {
            Self::Arm64 => "qemu-system-aarch64",
            _ => "qemu-system-x86_64",
        }
    }

    /// What QEMU is told beside what all machines have. `scratch` is for the firmware's variables.
    fn arguments(self, scratch: &Path) -> Vec<String> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        match self {
            // With random numbers in hardware, as real machines have and QEMU's default processor has not.
            Self::Bios | Self::BiosScreen => words("-cpu max -m 512"),
            Self::Pxelinux => {
                std::fs::write(scratch, PXELINUX).expect("a script for iPXE can be written");
                let script = scratch.display();
                words(&format!(
                    "-cpu max -m 512 -kernel /usr/lib/ipxe/ipxe.lkrn -initrd {script}"
                ))
            }
            Self::Uefi => words("-cpu max -m 512 -bios /usr/share/ovmf/OVMF.fd"),
            Self::UefiHttp => words(
                "-cpu max -m 1024 -bios /usr/share/ovmf/OVMF.fd \
                 -fw_cfg name=opt/org.tianocore/IPv4PXESupport,string=n \
                 -fw_cfg name=opt/org.tianocore/IPv6PXESupport,string=n",
            ),
            Self::SecureBoot => {
                let variables = scratch.display();
                std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.ms.fd", scratch)
                    .expect("OVMF's variables (package ovmf) can be copied");
                words(&format!(
                    "-cpu max -m 1024 -machine q35,smm=on \
                     -global driver=cfi.pflash01,property=secure,value=on \
                     -drive if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.ms.fd \
                     -drive if=pflash,format=raw,unit=1,file={variables}"
                ))
            }
            Self::Arm64 => words(
                "-machine virt -cpu cortex-a72 -m 1024 -bios /usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
            ),
        }
    }
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
    let mut qemu = namespace.command(desk.firmware.emulator());
    let line = format!(
        "-nodefaults -no-user-config -nographic -accel tcg -boot n \
         -chardev socket,id=console,path={} -serial chardev:console \
         -netdev tap,id=lan,ifname={},script=no,downscript=no -device virtio-rng-pci",
        socket.display(),
        desk.tap
    );
    qemu.args(line.split_whitespace());
    qemu.args(desk.firmware.arguments(&socket.with_extension("vars")));
    if desk.firmware.has_screen() {
        let dir = socket.parent().expect("the socket is in a directory");
        qemu.args(Screen::arguments(dir, &desk.name));
    }
    // Without the card's own ROM where the firmware is to do the work.
    let rom = match desk.firmware {
        Firmware::Bios | Firmware::BiosScreen => "",
        _ => ",romfile=",
    };
    let card = format!("virtio-net-pci,netdev=lan,mac={}{rom}", desk.mac);
    qemu.args(["-device", &card]);
    qemu.stdin(Stdio::null()).stdout(Stdio::null());
    qemu
}
