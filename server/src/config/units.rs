//! The ids and units that the configuration speaks of, each with its own parser.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use pxe::Mac;
use serde::{Deserialize, Serialize};

/// Why a value does not fit: a sentence that also names what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadValue(pub String);

fn bad<T>(message: impl Into<String>) -> Result<T, BadValue> {
    Err(BadValue(message.into()))
}

/// Which MAC addresses belong to a group: whole leading bytes, then `*`; or one whole address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacPattern {
    prefix: Vec<u8>,
}

impl MacPattern {
    /// Whether `mac` begins as the pattern does.
    pub fn matches(&self, mac: Mac) -> bool {
        mac.0.starts_with(&self.prefix)
    }

    /// How many bytes the pattern fixes; the most specific pattern wins.
    pub fn fixed_bytes(&self) -> usize {
        self.prefix.len()
    }

    /// Whether some address matches both, and neither pattern is the more specific one.
    pub fn ambiguous_with(&self, other: &Self) -> bool {
        self.prefix == other.prefix
    }
}

impl FromStr for MacPattern {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let Some(head) = text.strip_suffix('*') else {
            let mac = Mac::from_str(text).map_err(|error| BadValue(error.to_string()))?;
            return Ok(MacPattern {
                prefix: mac.0.to_vec(),
            });
        };
        let mut prefix = Vec::new();
        for part in head.split([':', '-']).filter(|part| !part.is_empty()) {
            match u8::from_str_radix(part, 16) {
                Ok(byte) if part.len() == 2 && prefix.len() < 6 => prefix.push(byte),
                _ => {
                    return bad(format!(
                        "`{text}` is not a MAC pattern such as 52:54:00:12:*"
                    ));
                }
            }
        }
        Ok(MacPattern { prefix })
    }
}

/// A client's name, which is also its host name: one DNS label (RFC 1123 §2.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientName(String);

impl ClientName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClientName {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        check_label(text, "client name").map(ClientName)
    }
}

impl TryFrom<String> for ClientName {
    type Error = BadValue;

    fn try_from(text: String) -> Result<Self, BadValue> {
        text.parse()
    }
}

impl From<ClientName> for String {
    fn from(name: ClientName) -> String {
        name.0
    }
}

fn check_label(text: &str, what: &str) -> Result<String, BadValue> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edges = text.starts_with('-') || text.ends_with('-');
    if text.is_empty() || text.len() > 63 || edges || !text.chars().all(legal) {
        return bad(format!(
            "`{text}` cannot be a {what}: use 1 to 63 of a-z, 0-9 and -, no - at either end"
        ));
    }
    Ok(text.to_owned())
}

/// How the machines of a group are named: text with one `{n}` (or `{n:02}`: zero-padded) or `{mac}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameTemplate {
    before: String,
    field: NameField,
    after: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NameField {
    Number { width: usize },
    Mac,
}

impl NameTemplate {
    /// The name of the group's machine number `number` (from 1) with this address.
    pub fn render(&self, number: u32, mac: Mac) -> String {
        let middle = match self.field {
            NameField::Number { width } => format!("{number:0width$}"),
            NameField::Mac => mac.hex(),
        };
        format!("{}{middle}{}", self.before, self.after)
    }

    /// The template that a group without `name` uses: its own name, a dash, the number.
    pub fn for_group(group: &str) -> Self {
        let field = NameField::Number { width: 2 };
        NameTemplate {
            before: format!("{group}-"),
            field,
            after: String::new(),
        }
    }
}

impl FromStr for NameTemplate {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let wrong = || {
            BadValue(format!(
                "`{text}` needs exactly one {{n}}, {{n:02}} or {{mac}}"
            ))
        };
        let (before, rest) = text.split_once('{').ok_or_else(wrong)?;
        let (field, after) = rest.split_once('}').ok_or_else(wrong)?;
        let field = match field {
            "n" => NameField::Number { width: 1 },
            "mac" => NameField::Mac,
            _ => match field.strip_prefix("n:0").map(str::parse) {
                Some(Ok(width @ 1..=9)) => NameField::Number { width },
                _ => return Err(wrong()),
            },
        };
        let template = NameTemplate {
            before: before.into(),
            field,
            after: after.into(),
        };
        check_label(&template.render(1, Mac([0; 6])), "client name")?;
        Ok(template)
    }
}

/// An amount of storage, in bytes; written as `8GiB`, `500MB`, `4096`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZE_UNITS[..4].iter().find(|(_, scale)| self.0 >= *scale);
        match unit {
            Some((name, scale)) if self.0.is_multiple_of(*scale) => {
                write!(f, "{} {name}", self.0 / scale)
            }
            Some((name, scale)) => write!(f, "{:.1} {name}", self.0 as f64 / *scale as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ByteSize {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (digits, scale) = SIZE_UNITS
            .iter()
            .find_map(|(unit, scale)| Some((compact.strip_suffix(unit)?, *scale)))
            .unwrap_or((&compact, 1));
        let number: u64 = digits
            .parse()
            .map_err(|_| BadValue(format!("`{text}` is not a size such as 8GiB or 500MB")))?;
        let bytes = number.checked_mul(scale);
        bytes
            .map(ByteSize)
            .ok_or_else(|| BadValue(format!("`{text}` is more than 2^64 bytes")))
    }
}

/// How long a client's overlay lasts (design: retention).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retention {
    /// Fresh at every power-on.
    #[default]
    Boot,
    /// Fresh when told: `bootroom client reset`.
    Session,
    /// Lasts until it is reset on purpose.
    Keep,
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Retention::Boot => "boot",
            Retention::Session => "session",
            Retention::Keep => "keep",
        })
    }
}

impl FromStr for Retention {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        match text {
            "boot" => Ok(Retention::Boot),
            "session" => Ok(Retention::Session),
            "keep" => Ok(Retention::Keep),
            _ => bad(format!(
                "`{text}` is not a retention: use \"boot\", \"session\" or \"keep\""
            )),
        }
    }
}

/// First and last address of a range, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    /// The lowest address.
    pub first: Ipv4Addr,
    /// The highest address.
    pub last: Ipv4Addr,
}

impl AddressRange {
    /// Whether both ranges share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Whether `address` lies within.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.first <= address && address <= self.last
    }
}

impl FromStr for AddressRange {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let wrong = || {
            BadValue(format!(
                "`{text}` is not a range such as 10.12.0.100-10.12.0.199"
            ))
        };
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let first: Ipv4Addr = first.trim().parse().map_err(|_| wrong())?;
        let last: Ipv4Addr = last.trim().parse().map_err(|_| wrong())?;
        if first > last {
            return bad(format!(
                "`{text}` ends before it begins: swap the two addresses"
            ));
        }
        Ok(AddressRange { first, last })
    }
}

/// A span of time in whole seconds; written as `90s`, `30m`, `12h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(pub u32);

impl FromStr for Seconds {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let wrong = || {
            BadValue(format!(
                "`{text}` is not a time such as 90s, 30m, 12h or 7d"
            ))
        };
        let unit = text.chars().last().ok_or_else(wrong)?;
        let scale = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let number: u32 = text[..text.len() - 1].trim().parse().map_err(|_| wrong())?;
        number
            .checked_mul(scale)
            .filter(|s| *s > 0)
            .map(Seconds)
            .ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fixes_leading_bytes() {
        let pattern: MacPattern = "52:54:00:12:*".parse().unwrap();
        assert!(pattern.matches(Mac([0x52, 0x54, 0, 0x12, 9, 9])));
        assert!(!pattern.matches(Mac([0x52, 0x54, 0, 0x13, 9, 9])));
        assert!("*".parse::<MacPattern>().unwrap().matches(Mac([1; 6])));
        assert!("52:5*".parse::<MacPattern>().is_err());
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!("8GiB".parse(), Ok(ByteSize(8 << 30)));
        assert_eq!("500 MB".parse(), Ok(ByteSize(500_000_000)));
        assert!("8 gigs".parse::<ByteSize>().is_err());
        assert!("99999999999TiB".parse::<ByteSize>().is_err());
        assert_eq!("12h".parse(), Ok(Seconds(43_200)));
        assert!("0s".parse::<Seconds>().is_err());
        assert!("5ä".parse::<Seconds>().is_err());
    }

    #[test]
    fn a_template_makes_legal_names() {
        let template: NameTemplate = "r12-{n:02}".parse().unwrap();
        assert_eq!(template.render(7, Mac([0; 6])), "r12-07");
        assert!("Room {n}".parse::<NameTemplate>().is_err());
        assert!("fixed".parse::<NameTemplate>().is_err());
    }
}
