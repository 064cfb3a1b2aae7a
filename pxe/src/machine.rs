//! What is known of a machine from the packets it sends.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// An Ethernet address; the identity of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// A text that is no MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address (like 52:54:00:12:34:56)")]
pub struct MacParseError(pub String);

impl Mac {
    /// The twelve hexadecimal digits without separators.
    pub fn hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The form with dashes that PXELINUX and `BOOTIF=` use, without the leading hardware type.
    pub fn dashed(&self) -> String {
        self.to_string().replace(':', "-")
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = MacParseError;

    /// Reads `52:54:00:12:34:56`, the same with dashes, or twelve bare digits.
    fn from_str(text: &str) -> Result<Self, MacParseError> {
        let wrong = || MacParseError(text.to_owned());
        let separated = text.len() == 17
            && text
                .bytes()
                .enumerate()
                .all(|(i, b)| (i % 3 == 2) == matches!(b, b':' | b'-'));
        if !(separated || text.len() == 12) || !text.is_ascii() {
            return Err(wrong());
        }
        let step = if separated { 3 } else { 2 };
        let mut mac = [0; 6];
        for (i, byte) in mac.iter_mut().enumerate() {
            let digits = &text[i * step..i * step + 2];
            if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(mac))
    }
}

impl TryFrom<String> for Mac {
    type Error = MacParseError;

    fn try_from(text: String) -> Result<Self, MacParseError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// A processor and firmware kind: the number of DHCP option 93 (RFC 4578 §2.1, IANA's registry since).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Arch(pub u16);

impl Arch {
    /// PC with a BIOS.
    pub const BIOS: Arch = Arch(0);
    /// 32-bit x86 UEFI.
    pub const EFI_IA32: Arch = Arch(6);
    /// 64-bit x86 UEFI; what nearly every firmware sends.
    pub const EFI_X64: Arch = Arch(7);
    /// "EFI byte code", which RFC 4578 once called x64; a few boards send it for x64.
    pub const EFI_BC: Arch = Arch(9);
    /// 32-bit ARM UEFI.
    pub const EFI_ARM32: Arch = Arch(10);
    /// 64-bit ARM UEFI.
    pub const EFI_ARM64: Arch = Arch(11);
    /// 32-bit x86 UEFI that asks for an HTTP URL.
    pub const HTTP_IA32: Arch = Arch(15);
    /// 64-bit x86 UEFI that asks for an HTTP URL.
    pub const HTTP_X64: Arch = Arch(16);
    /// "EFI byte code" that asks for an HTTP URL.
    pub const HTTP_BC: Arch = Arch(17);
    /// 32-bit ARM UEFI that asks for an HTTP URL.
    pub const HTTP_ARM32: Arch = Arch(18);
    /// 64-bit ARM UEFI that asks for an HTTP URL.
    pub const HTTP_ARM64: Arch = Arch(19);
    /// PC with a BIOS that asks for an HTTP URL.
    pub const HTTP_BIOS: Arch = Arch(20);
    /// 32-bit RISC-V UEFI.
    pub const EFI_RISCV32: Arch = Arch(25);
    /// 32-bit RISC-V UEFI that asks for an HTTP URL.
    pub const HTTP_RISCV32: Arch = Arch(26);
    /// 64-bit RISC-V UEFI.
    pub const EFI_RISCV64: Arch = Arch(27);
    /// 64-bit RISC-V UEFI that asks for an HTTP URL.
    pub const HTTP_RISCV64: Arch = Arch(28);
    /// Raspberry Pi boot ROM.
    pub const RASPBERRY_PI: Arch = Arch(41);

    /// Whether this kind of firmware wants a URL, not a TFTP path.
    pub fn is_http(self) -> bool {
        matches!(self.0, 15..=20 | 26 | 28)
    }

    /// A short name for people.
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "BIOS",
            6 => "UEFI ia32",
            7 | 9 => "UEFI x64",
            10 => "UEFI arm32",
            11 => "UEFI arm64",
            15 => "UEFI ia32 HTTP",
            16 | 17 => "UEFI x64 HTTP",
            18 => "UEFI arm32 HTTP",
            19 => "UEFI arm64 HTTP",
            20 => "BIOS HTTP",
            25 => "UEFI riscv32",
            26 => "UEFI riscv32 HTTP",
            27 => "UEFI riscv64",
            28 => "UEFI riscv64 HTTP",
            41 => "Raspberry Pi",
            _ => "unknown",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

/// A machine's SMBIOS UUID as option 97 carries it, in the order of the wire (RFC 4578 §2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

/// What an iPXE says it can do (option 175, iPXE's encapsulated options).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct IpxeFeatures {
    /// Speaks HTTP (175.19).
    pub http: bool,
    /// Speaks HTTPS (175.20).
    pub https: bool,
    /// Boots Linux kernels: as bzImage (175.24) or as EFI programs (175.36). VirtualBox's ROM does not and must be
    /// given a full iPXE once.
    pub linux: bool,
    /// Has the menu commands (175.39).
    pub menu: bool,
}

/// Who is asking: not which machine, but which program on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// PXE firmware: wants a file by TFTP (option 60 `PXEClient`), or a bare BOOTP client.
    Pxe,
    /// UEFI HTTP boot: wants a URL (option 60 `HTTPClient`).
    HttpBoot,
    /// iPXE, in the NIC's ROM or loaded by us: wants its script.
    Ipxe(IpxeFeatures),
    /// Anything that does not ask to boot: an initramfs, an installed system.
    Os,
}

/// Where on the network a packet came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Link {
    /// The interface that received it.
    pub interface: String,
    /// The relay that forwarded it (`giaddr`); none on the server's own segment.
    pub relay: Option<Ipv4Addr>,
    /// The relay's circuit id (82.1): a switch port.
    pub circuit_id: Option<Bytes>,
    /// The relay's remote id (82.2).
    pub remote_id: Option<Bytes>,
}

/// A machine as one DHCP packet shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its kind of firmware: the first number of option 93.
    pub arch: Option<Arch>,
    /// Its SMBIOS UUID (option 97).
    pub uuid: Option<Uuid>,
    /// Its client id (option 61); differs between firmware, iPXE and OS, so never an identity here.
    pub client_id: Option<Bytes>,
    /// User classes (option 77), whether sent raw or as RFC 3004 lists them.
    pub user_class: Vec<Bytes>,
    /// Vendor class (option 60).
    pub vendor_class: Option<Bytes>,
    /// The name it calls itself (option 12); a wish, not a fact.
    pub hostname: Option<String>,
    /// Where it is.
    pub link: Link,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_read_in_three_forms_and_no_other() {
        let mac = Mac([0x52, 0x54, 0, 0x12, 0xab, 0xff]);
        for text in ["52:54:00:12:ab:ff", "52-54-00-12-AB-FF", "52540012abff"] {
            assert_eq!(text.parse(), Ok(mac));
        }
        for text in [
            "",
            "52:54:00:12:ab",
            "52:54:00:12:ab:fg",
            "+2:54:00:12:ab:ff",
            "525400-12abff",
            "5é:54:00:12:ab:f",
            "52:54:00:12:ab:ff:",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
        assert_eq!(mac.to_string(), "52:54:00:12:ab:ff");
        assert_eq!(mac.hex(), "52540012abff");
        assert_eq!(mac.dashed(), "52-54-00-12-ab-ff");
    }
}
