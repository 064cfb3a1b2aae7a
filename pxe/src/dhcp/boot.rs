//! Firmware lore: who is asking, and which loader it can run.

use std::net::Ipv4Addr;

use bytes::Bytes;

use super::packet::{Options, Packet, code, suboptions};
use crate::machine::{Arch, IpxeFeatures, Link, Mac, Machine, Stage, Uuid};
use crate::policy::Loader;

/// The OUIs of Raspberry Pi, whose boot ROM calls itself a BIOS PC.
const RASPBERRY_PI: [[u8; 3]; 7] = [
    [0xb8, 0x27, 0xeb],
    [0xdc, 0xa6, 0x32],
    [0xe4, 0x5f, 0x01],
    [0xd8, 0x3a, 0xdd],
    [0x28, 0xcd, 0xc1],
    [0x2c, 0xcf, 0x67],
    [0x88, 0xa2, 0x9e],
];
/// What the UUIDs begin with that its newer boot ROMs make up: `RPi4`, `RPi5`.
const RASPBERRY_UUID: &[u8] = b"RPi";

/// What the packet says of its machine.
pub fn machine(packet: &Packet, mac: Mac, interface: &str) -> Machine {
    let options = &packet.options;
    let owned = |code| options.get(code).map(Bytes::copy_from_slice);
    let relay = options.get(code::RELAY).map(suboptions).unwrap_or_default();
    let uuid = options.fixed::<17>(code::UUID);
    let uuid = uuid.map(|v| Uuid(std::array::from_fn(|i| v[i + 1])));
    let part = |code| relay.get(code).map(Bytes::copy_from_slice);
    Machine {
        mac,
        arch: arch(options, mac, uuid),
        uuid,
        client_id: owned(code::CLIENT_ID),
        user_class: options
            .get(code::USER_CLASS)
            .map(user_classes)
            .unwrap_or_default(),
        vendor_class: owned(code::VENDOR_CLASS),
        hostname: options.get(code::HOSTNAME).and_then(hostname),
        link: Link {
            interface: interface.to_owned(),
            relay: (packet.giaddr != Ipv4Addr::UNSPECIFIED).then_some(packet.giaddr),
            circuit_id: part(1),
            remote_id: part(2),
        },
    }
}

fn arch(options: &Options, mac: Mac, uuid: Option<Uuid>) -> Option<Arch> {
    let number = match options.get(code::ARCH)? {
        [high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => return None,
    };
    let by_mac = RASPBERRY_PI.iter().any(|oui| mac.0.starts_with(oui));
    let by_uuid = uuid.is_some_and(|uuid| uuid.0.starts_with(RASPBERRY_UUID));
    let pi = number == Arch::BIOS.0 && (by_mac || by_uuid);
    Some(if pi { Arch::RASPBERRY_PI } else { Arch(number) })
}

/// Option 77 as RFC 3004 has it (each class with its length in front), or raw, as iPXE and others send it.
fn user_classes(value: &[u8]) -> Vec<Bytes> {
    let mut classes = Vec::new();
    let mut rest = value;
    while let [len, tail @ ..] = rest {
        let len = usize::from(*len);
        if len == 0 || len > tail.len() {
            return vec![Bytes::copy_from_slice(value)];
        }
        classes.push(Bytes::copy_from_slice(&tail[..len]));
        rest = &tail[len..];
    }
    classes
}

/// A name that may stand in a log or a script; anything else is dropped, not mended.
fn hostname(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim_end_matches('\0');
    let fits = (1..=63).contains(&text.len());
    let clean = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    (fits && clean).then(|| text.to_owned())
}

/// Which program on the machine sent the packet.
pub fn stage(packet: &Packet, machine: &Machine) -> Stage {
    if let Some(features) = ipxe(packet, machine) {
        return Stage::Ipxe(features);
    }
    let class = machine.vendor_class.as_deref().unwrap_or_default();
    if class.starts_with(b"HTTPClient") {
        Stage::HttpBoot
    } else if class.starts_with(b"PXEClient") {
        Stage::Pxe
    } else {
        Stage::Os
    }
}

fn ipxe(packet: &Packet, machine: &Machine) -> Option<IpxeFeatures> {
    if let Some(encapsulated) = packet.options.get(code::IPXE) {
        let features = suboptions(encapsulated);
        let on = |code| {
            features
                .get(code)
                .is_some_and(|v| v.iter().any(|b| *b != 0))
        };
        return Some(IpxeFeatures {
            http: on(19),
            https: on(20),
            linux: on(24) || on(36),
            menu: on(39),
        });
    }
    // Some relays drop option 175; then the user class has to do, and the features of a plain build are assumed.
    let called = machine.user_class.iter().any(|c| c.as_ref() == b"iPXE");
    called.then_some(IpxeFeatures {
        http: true,
        https: false,
        linux: true,
        menu: true,
    })
}

/// The path of the loader for a kind of firmware. None: nothing is known that would run there.
pub fn loader(loader: Loader, arch: Arch) -> Option<&'static str> {
    let bios = matches!(arch, Arch::BIOS | Arch::HTTP_BIOS);
    match (loader, arch) {
        (Loader::Grub, _) if !bios => grub(arch),
        (Loader::Pxelinux, Arch::BIOS) => Some("pxelinux/pxelinux.0"),
        _ => ipxe_build(arch),
    }
}

fn ipxe_build(arch: Arch) -> Option<&'static str> {
    match arch {
        Arch::BIOS | Arch::HTTP_BIOS => Some("ipxe/undionly.kpxe"),
        Arch::EFI_X64 | Arch::EFI_BC | Arch::HTTP_X64 | Arch::HTTP_BC => Some("ipxe/ipxe.efi"),
        Arch::EFI_IA32 | Arch::HTTP_IA32 => Some("ipxe/ipxe-ia32.efi"),
        // Debian 12 packages no iPXE for ARM or RISC-V, but GRUB.
        other => grub(other),
    }
}

fn grub(arch: Arch) -> Option<&'static str> {
    match arch {
        Arch::EFI_X64 | Arch::EFI_BC | Arch::HTTP_X64 | Arch::HTTP_BC => Some("grub/shimx64.efi"),
        Arch::EFI_IA32 | Arch::HTTP_IA32 => Some("grub/shimia32.efi"),
        Arch::EFI_ARM64 | Arch::HTTP_ARM64 => Some("grub/shimaa64.efi"),
        Arch::EFI_ARM32 | Arch::HTTP_ARM32 => Some("grub/grubarm.efi"),
        Arch::EFI_RISCV64 | Arch::HTTP_RISCV64 => Some("grub/grubriscv64.efi"),
        _ => None,
    }
}

/// Option 43 for firmware that asks a proxy: "use the boot file as given, ask nobody else" (PXE 2.1, tag 6, bit 3).
pub const USE_BOOT_FILE: [u8; 4] = [6, 1, 8, 255];

/// Option 43 that a Raspberry Pi's ROM looks for: a boot menu (tag 9) with its own name in it, and a prompt (tag 10).
pub fn raspberry_menu() -> Vec<u8> {
    const NAME: &[u8] = b"Raspberry Pi Boot";
    let mut value = vec![
        6,
        1,
        3,
        10,
        4,
        0,
        b'P',
        b'X',
        b'E',
        9,
        3 + NAME.len() as u8,
        0,
        0,
        NAME.len() as u8,
    ];
    value.extend(NAME);
    value.push(code::END);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_classes_are_read_raw_and_listed() {
        assert_eq!(user_classes(b"iPXE"), ["iPXE"]);
        assert_eq!(user_classes(b"\x04iPXE"), ["iPXE"]);
        assert_eq!(user_classes(b"\x03lab\x04iPXE"), ["lab", "iPXE"]);
        assert_eq!(user_classes(b"\x03lab\x09iPXE"), [&b"\x03lab\x09iPXE"[..]]);
        assert_eq!(user_classes(b"\0"), [&b"\0"[..]]);
    }

    #[test]
    fn names_are_taken_clean_or_not_at_all() {
        assert_eq!(hostname(b"r12-01"), Some("r12-01".into()));
        assert_eq!(hostname(b"r12-01\0"), Some("r12-01".into()));
        for bad in [&b""[..], b"a b", b"$(reboot)", b"\xff", &[b'a'; 64]] {
            assert_eq!(hostname(bad), None);
        }
    }

    #[test]
    fn every_known_firmware_has_a_loader_and_no_other() {
        for arch in [0, 7, 9, 16, 17, 20] {
            assert!(
                loader(Loader::Ipxe, Arch(arch))
                    .unwrap()
                    .starts_with("ipxe/"),
                "{arch}"
            );
        }
        for arch in [6, 10, 11, 15, 18, 19, 27, 28] {
            assert!(loader(Loader::Ipxe, Arch(arch)).is_some(), "{arch}");
        }
        assert_eq!(
            loader(Loader::Grub, Arch::EFI_X64),
            Some("grub/shimx64.efi")
        );
        assert_eq!(loader(Loader::Grub, Arch::BIOS), Some("ipxe/undionly.kpxe"));
        assert_eq!(
            loader(Loader::Pxelinux, Arch::EFI_X64),
            Some("ipxe/ipxe.efi")
        );
        for arch in [1, 2, 12, 13, 99] {
            assert_eq!(loader(Loader::Ipxe, Arch(arch)), None, "{arch}");
        }
    }

    #[test]
    fn the_pi_finds_its_name() {
        let menu = suboptions(&raspberry_menu());
        assert_eq!(menu.get(9).unwrap()[2..], b"\x11Raspberry Pi Boot"[..]);
    }
}
