//! Names, numbers and units.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Longest image name, in bytes.
const NAME_MAX: usize = 64;

/// The name of an image: 1 to 64 of `a-z`, `0-9`, `-`, `_` and `.`, the first a letter or digit.
///
/// It is a directory name and part of URLs, so nothing that needs quoting is let in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

impl ImageName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// True for a byte that may stand in an image name.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
}

impl FromStr for ImageName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let first_ok = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !first_ok || text.len() > NAME_MAX || !text.bytes().all(is_name_byte) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "bad image name {text:?}: use 1 to {NAME_MAX} of a-z, 0-9, '-', '_', '.', \
                     beginning with a letter or digit"
                ),
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for ImageName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a version within its image: 1, 2, 3, …; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionNumber(u32);

impl VersionNumber {
    /// The number, if it is one (zero is not).
    pub fn new(number: u32) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// The plain number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for VersionNumber {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // "01" and "+1" would be second names of directory "1".
        let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        let number = text.parse().ok().filter(|_| canonical).and_then(Self::new);
        number.ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                format!(
                    "bad version number {text:?}: use 1, 2, 3, … as `bootroom image list` shows"
                ),
            )
        })
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a configuration or a command line names: `debian` (its current version) or `debian@3`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    /// The image.
    pub image: ImageName,
    /// The version; `None` means the current one at the time it is resolved.
    pub number: Option<VersionNumber>,
}

impl FromStr for ImageRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (image, number) = match text.split_once('@') {
            Some((image, number)) => (image, Some(number.parse()?)),
            None => (text, None),
        };
        Ok(Self {
            image: image.parse()?,
            number,
        })
    }
}

impl TryFrom<String> for ImageRef {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(reference: ImageRef) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(f, "{}@{number}", self.image),
            None => self.image.fmt(f),
        }
    }
}

/// Identity of one version, for ever and on every server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionId(uuid::Uuid);

impl VersionId {
    /// A new identity from the operating system's randomness.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }

    /// The identity with this UUID.
    pub fn from_uuid(uuid: uuid::Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID.
    pub fn uuid(self) -> uuid::Uuid {
        self.0
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(u64);

impl Bytes {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many MiB.
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// So many GiB.
    pub const fn gib(gib: u64) -> Self {
        Self(gib << 30)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Bytes {
    type Err = Error;

    /// Reads `4GiB`, `512MiB`, `64KiB`, `1TiB`, the same without `iB`, or plain bytes.
    fn from_str(text: &str) -> Result<Self> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim() {
            "" | "B" => Some(0),
            "K" | "KiB" => Some(10),
            "M" | "MiB" => Some(20),
            "G" | "GiB" => Some(30),
            "T" | "TiB" => Some(40),
            _ => None,
        };
        let bytes = number.parse::<u64>().ok().zip(shift);
        let bytes = bytes.and_then(|(number, shift)| number.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                format!("bad size {text:?}: write it like 4GiB or 512MiB"),
            )
        })
    }
}

impl fmt::Display for Bytes {
    /// The largest unit that keeps one decimal: `4.0 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let unit = UNITS.iter().find(|(shift, _)| self.0 >> shift > 0);
        match unit {
            Some((shift, name)) => {
                write!(f, "{:.1} {name}", self.0 as f64 / (1u64 << shift) as f64)
            }
            None => write!(f, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_need_quoting_are_refused() {
        for good in ["debian", "debian-12.5", "r12_lab", "9front"] {
            assert_eq!(good.parse::<ImageName>().unwrap().as_str(), good);
        }
        let long = "a".repeat(NAME_MAX + 1);
        for bad in [
            "", ".", "..", ".lock", "a/b", "Debian", "a b", "a@1", "ä", "-x", &long,
        ] {
            let error = bad.parse::<ImageName>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn references_round_trip() {
        for text in ["debian", "debian@3"] {
            assert_eq!(text.parse::<ImageRef>().unwrap().to_string(), text);
        }
        for bad in [
            "debian@",
            "debian@0",
            "debian@01",
            "debian@+1",
            "@1",
            "debian@1@2",
            "d@-1",
        ] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_binary_and_do_not_overflow() {
        assert_eq!("4GiB".parse::<Bytes>().unwrap(), Bytes::gib(4));
        assert_eq!("4G".parse::<Bytes>().unwrap(), Bytes::gib(4));
        assert_eq!("512 MiB".parse::<Bytes>().unwrap(), Bytes::mib(512));
        assert_eq!("4096".parse::<Bytes>().unwrap().get(), 4096);
        for bad in ["", "GiB", "4GB", "-1", "4.5G", "99999999999999T"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad:?}");
        }
        assert_eq!(Bytes::new(1536 << 20).to_string(), "1.5 GiB");
        assert_eq!(Bytes::new(12).to_string(), "12 B");
    }
}
