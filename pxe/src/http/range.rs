//! Byte ranges (RFC 9110 §14).

/// One range, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeSpec {
    /// From the first number to the second, both included.
    Between(u64, u64),
    /// From here to the end.
    From(u64),
    /// The last so many bytes.
    Last(u64),
}

/// What an asked range comes to on a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// These bytes: from the first to before the second.
    Slice(u64, u64),
    /// Nothing that the file has.
    Unsatisfiable,
}

impl RangeSpec {
    /// Reads a `Range` header. None: several ranges, other units or nonsense, all of which mean "the whole file".
    pub fn parse(value: &str) -> Option<Self> {
        let (unit, spec) = value.split_once('=')?;
        let (first, last) = spec
            .split_once('-')
            .filter(|_| unit.trim().eq_ignore_ascii_case("bytes"))?;
        let number = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| text.parse().ok())
                .flatten()
        };
        match (first.trim(), last.trim()) {
            ("", "") => None,
            ("", last) => Some(Self::Last(number(last)?)),
            (first, "") => Some(Self::From(number(first)?)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::Between(first, last))
            }
        }
    }

    /// What it comes to on a file of `len` bytes.
    pub fn on(self, len: u64) -> Part {
        let (from, to) = match self {
            Self::Between(first, last) => (first, last.saturating_add(1).min(len)),
            Self::From(first) => (first, len),
            Self::Last(count) => (len.saturating_sub(count), len),
        };
        if from < to {
            Part::Slice(from, to)
        } else {
            Part::Unsatisfiable
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_applied() {
        for (text, part) in [
            ("bytes=0-0", Part::Slice(0, 1)),
            ("bytes=3-99", Part::Slice(3, 10)),
            ("Bytes = 3-", Part::Slice(3, 10)),
            ("bytes=-4", Part::Slice(6, 10)),
            ("bytes=-40", Part::Slice(0, 10)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=0-18446744073709551615", Part::Slice(0, 10)),
        ] {
            assert_eq!(RangeSpec::parse(text).unwrap().on(10), part, "{text}");
        }
        for text in [
            "bytes=5-3",
            "bytes=0-1,3-4",
            "lines=1-2",
            "bytes=-",
            "bytes",
            "bytes=a-b",
            "bytes=+1-",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(RangeSpec::parse(text), None, "{text}");
        }
        assert_eq!(RangeSpec::From(0).on(0), Part::Unsatisfiable);
    }
}
