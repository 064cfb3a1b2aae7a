//! A reader of big-endian fields that cannot run past its end, and a writer beside it.

use crate::error::{Error, Result};

/// Takes fields from the front of a slice.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or_else(too_short)?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or_else(too_short)?;
        self.rest = tail;
        Ok(*head)
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string with a 32-bit length before it, held to the specification's rules for strings.
    pub(crate) fn counted_string(&mut self) -> Result<&'a str> {
        let length = self.u32()? as usize;
        string(self.bytes(length)?)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn finish(self) -> Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(Error::protocol(format!(
            "{} bytes too many in a message",
            self.rest.len()
        )))
    }
}

fn too_short() -> Error {
    Error::protocol("a message is shorter than its fields")
}

/// Checks the rules for strings ("Conventions"): UTF-8, no NUL, at most 4096 bytes.
pub(crate) fn string(bytes: &[u8]) -> Result<&str> {
    if bytes.len() > crate::MAX_STRING {
        return Err(Error::protocol("a string is longer than 4096 bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Error::protocol("a string is not UTF-8"))?;
    if text.contains('\0') {
        return Err(Error::protocol("a string contains a NUL"));
    }
    Ok(text)
}

/// Big-endian appends to a buffer.
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    /// A string after its 32-bit length. The caller keeps it within [`crate::MAX_STRING`].
    fn put_counted(&mut self, text: &str) {
        self.put_u32(text.len() as u32);
        self.put(text.as_bytes());
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// The longest prefix of `text` that is a valid string of the specification.
pub(crate) fn clip(text: &str, limit: usize) -> &str {
    let nul = text.find('\0').unwrap_or(text.len());
    let mut end = nul.min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_utf8_without_nul_and_at_most_4096_bytes() {
        assert_eq!(string(b"disk").unwrap(), "disk");
        assert!(string(b"a\0b").is_err());
        assert!(string(&[0xff, 0xfe]).is_err());
        assert!(string(&[b'x'; 4096]).is_ok());
        assert!(string(&[b'x'; 4097]).is_err());
    }

    #[test]
    fn a_counted_string_longer_than_the_message_is_an_error() {
        let mut fields = Fields::new(&[0, 0, 0, 9, b'a']);
        assert!(fields.counted_string().is_err());
    }

    #[test]
    fn clip_cuts_at_a_character_and_at_a_nul() {
        assert_eq!(clip("äöü", 3), "ä");
        assert_eq!(clip("ab\0c", 10), "ab");
    }
}
