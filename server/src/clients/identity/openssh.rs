//! An ssh host key: made here, and written the way OpenSSH keeps it.
//!
//! Ed25519 only: every OpenSSH since 6.5 (2014) has it. The private file is OpenSSH's PROTOCOL.key, unencrypted:
//! strings with their length before them, in base64 between two lines of dashes.

use rcgen::{KeyPair, PKCS_ED25519};

const ALGORITHM: &str = "ssh-ed25519";
/// What a PKCS#8 Ed25519 key (RFC 8410 §7) begins with, up to the 32 bytes of the seed; the first length varies.
const PKCS8_BEFORE_SEED: usize = 16;
const SEED: usize = 32;
/// The unencrypted part is filled up to this many bytes.
const BLOCK: usize = 8;
const LINE: usize = 70;

/// Both halves of a host key, as files.
#[derive(Clone, PartialEq, Eq)]
pub struct HostKey {
    /// `ssh_host_ed25519_key`. Secret.
    pub private: String,
    /// `ssh_host_ed25519_key.pub`.
    pub public: String,
}

impl HostKey {
    /// A new key for the machine `name`.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate(name: &str) -> Result<Self, rcgen::Error> {
        let pair = KeyPair::generate_for(&PKCS_ED25519)?;
        let seed = pair
            .serialized_der()
            .get(PKCS8_BEFORE_SEED..PKCS8_BEFORE_SEED + SEED);
        let seed = seed.ok_or(rcgen::Error::CouldNotParseKeyPair)?;
        let check = getrandom::u32().map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(HostKey::from_parts(
            seed,
            pair.public_key_raw(),
            check,
            name,
        ))
    }

    fn from_parts(seed: &[u8], public: &[u8], check: u32, name: &str) -> Self {
        let blob = [string(ALGORITHM.as_bytes()), string(public)].concat();
        let comment = format!("root@{name}");
        let mut file = b"openssh-key-v1\0".to_vec();
        // No cipher, no key derivation, no options for it.
        file.extend([string(b"none"), string(b"none"), string(b"")].concat());
        file.extend(1u32.to_be_bytes());
        file.extend(string(&blob));
        file.extend(string(&secret_part(seed, public, check, &comment)));
        HostKey {
            private: armour(&base64(&file)),
            public: format!("{ALGORITHM} {} {comment}\n", base64(&blob)),
        }
    }
}

/// The check number twice (it tells a wrong passphrase), the key, the comment, and 1, 2, 3… up to a whole block.
fn secret_part(seed: &[u8], public: &[u8], check: u32, comment: &str) -> Vec<u8> {
    let mut part = [check.to_be_bytes(), check.to_be_bytes()].concat();
    part.extend(string(ALGORITHM.as_bytes()));
    part.extend(string(public));
    part.extend(string(&[seed, public].concat()));
    part.extend(string(comment.as_bytes()));
    let missing = part.len().next_multiple_of(BLOCK) - part.len();
    part.extend((1..).take(missing).map(|n: u8| n));
    part
}

/// RFC 4251 §5.
fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length, bytes].concat()
}

fn armour(base64: &str) -> String {
    let mut text = String::from("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    let mut rest = base64;
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END OPENSSH PRIVATE KEY-----\n");
    text
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut three = [0; 4];
        three[1..=chunk.len()].copy_from_slice(chunk);
        let number = u32::from_be_bytes(three);
        for place in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * place)) as usize & 63];
            text.push(if place > chunk.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    #[test]
    fn base64_as_in_the_rfc() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    /// OpenSSH itself derives the public half from the private file and finds it to be ours.
    #[test]
    fn openssh_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for name in ["r12-01", "a", "a-rather-long-name-of-a-machine"] {
            let key = HostKey::generate(name).unwrap();
            fs::write(&path, &key.private).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let output = Command::new("ssh-keygen")
                .arg("-y")
                .arg("-f")
                .arg(&path)
                .output();
            let output = output.expect("ssh-keygen (package openssh-client) runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), key.public);
        }
    }

    #[test]
    fn no_two_are_alike() {
        let (one, two) = (
            HostKey::generate("a").unwrap(),
            HostKey::generate("a").unwrap(),
        );
        assert!(one.public != two.public && one.private != two.private);
    }
}
