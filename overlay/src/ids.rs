//! Names and units: types instead of bare strings and integers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};

/// Bytes in a block: the unit in which an overlay differs from its base.
pub const BLOCK: u64 = 4096;
/// Largest disk, in bytes: 16 TiB.
pub const MAX_SIZE: u64 = 16 << 40;

/// Name of an overlay, and of its folder: 1 to 64 of `a-z`, `0-9`, `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OverlayId(String);

/// Name of a snapshot: same form as an [`OverlayId`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName(String);

macro_rules! name {
    ($type:ident, $what:literal) => {
        impl $type {
            /// Checks the form.
            ///
            /// # Errors
            /// [`ErrorKind::Invalid`] unless it is 1 to 64 of `a-z`, `0-9`, `-`.
            pub fn new(name: impl Into<String>) -> Result<Self> {
                let name = name.into();
                if well_formed(&name) {
                    return Ok(Self(name));
                }
                let shown: String = name.chars().take(80).collect();
                let text = format!("{} {shown:?} must be 1 to 64 of a-z, 0-9 and -", $what);
                Err(Error::new(ErrorKind::Invalid, text))
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(name: String) -> Result<Self> {
                Self::new(name)
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
name!(OverlayId, "overlay name");
name!(SnapshotName, "snapshot name");

/// How the names begin of snapshots that no list has.
const HIDDEN: &str = "--";

impl SnapshotName {
    /// The name of a snapshot that is taken for the server's own purposes: [`crate::Overlay::snapshots`] leaves it out.
    pub fn hidden(purpose: &str, number: Uuid) -> Self {
        Self(format!("{HIDDEN}{purpose}-{}", number.simple()))
    }

    /// Whether it is such a name. Other names may begin like one.
    pub fn is_hidden(&self) -> bool {
        let rest = self.0.strip_prefix(HIDDEN);
        let number = rest.and_then(|rest| Some(rest.rsplit_once('-')?.1));
        number.is_some_and(|number| number.len() == 32 && Uuid::try_parse(number).is_ok())
    }
}

fn well_formed(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(legal)
}

/// Content digest (BLAKE3, 32 bytes) of an image version's disk; 64 hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::new(ErrorKind::Invalid, "a digest must be 64 hex digits");
        let bytes = text.as_bytes();
        if bytes.len() != 64 || !bytes.iter().all(u8::is_ascii_hexdigit) {
            return Err(bad());
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(bytes.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self(digest))
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Which immutable content an overlay lies over: both must agree, or it is another base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BaseId {
    /// UUID of the image version.
    pub version: Uuid,
    /// Digest of the version's disk.
    pub digest: Digest,
}

impl fmt::Display for BaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = self.digest.to_string();
        write!(f, "version {} (digest {}…)", self.version, &digest[..12])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        for bad in ["", "..", "a/b", "A", "a b", ".x", "ü", &"a".repeat(65)] {
            assert!(OverlayId::new(bad).is_err(), "{bad:?}");
        }
        assert!(OverlayId::new("525400120001").is_ok());
    }

    #[test]
    fn only_names_made_so_are_hidden() {
        let hidden = SnapshotName::hidden("fold", Uuid::from_u128(7));
        assert!(hidden.is_hidden());
        assert!(SnapshotName::new(hidden.as_str()).unwrap().is_hidden());
        for name in [
            "monday",
            "--monday",
            "--fold-monday",
            "--",
            "a--fold-00000000000000000000000000000007",
        ] {
            assert!(!SnapshotName::new(name).unwrap().is_hidden(), "{name}");
        }
    }

    #[test]
    fn digests_survive_their_text() {
        let digest = Digest(std::array::from_fn(|i| i as u8));
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!("zz".repeat(32).parse::<Digest>().is_err());
        assert!("+1".repeat(32).parse::<Digest>().is_err());
    }
}
