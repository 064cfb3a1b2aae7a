//! Hands an established TLS 1.3 connection over to the kernel, so that its NBD client talks TLS without knowing it.
//!
//! Layout of the keys: `struct tls12_crypto_info_aes_gcm_128` and `…_256` of `linux/tls.h` (used for TLS 1.3 as well):
//! version, cipher, 8 bytes of nonce, the key, 4 bytes of salt, the record number.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustls::{ClientConnection, ConnectionTrafficSecrets};

use crate::error::{Error, Kind, Result};
use crate::sys;

const TLS_1_3: u16 = 0x0304;
const AES_GCM_128: u16 = 51;
const AES_GCM_256: u16 = 52;
/// Length of those structures, the longer one first.
const LENGTHS: [usize; 2] = [56, 40];
/// What TLS 1.3 adds to a record, in bytes: a header, the type of its content, and the tag of AES-GCM. Neither the kernel
/// nor bootroom's server pads.
const ADDED: u64 = 5 + 1 + 16;

/// Gives both directions' keys to the socket. Every received byte must have been read by now.
pub fn hand_over(tls: ClientConnection, fd: &OwnedFd) -> Result<()> {
    let secrets = tls
        .dangerous_extract_secrets()
        .map_err(|e| Error::with(Kind::Network, "TLS keys are not to be had", e))?;
    let missing = |e| {
        Error::with(
            Kind::Kernel,
            "this kernel has no TLS (module tls): load it, or use nbd://",
            e,
        )
    };
    sys::start_ktls(fd.as_fd()).map_err(missing)?;
    for (direction, (record, keys)) in [
        (sys::Direction::Send, secrets.tx),
        (sys::Direction::Receive, secrets.rx),
    ] {
        let info = crypto_info(record, &keys)?;
        let refused = |e| {
            Error::with(
                Kind::Kernel,
                "this kernel does not take over TLS 1.3 with AES-GCM",
                e,
            )
        };
        sys::set_ktls_keys(fd.as_fd(), direction, &info).map_err(refused)?;
    }
    Ok(())
}

/// What TLS has added to what went each way, in bytes: sent and received, both from the same unknown beginning on.
pub fn added(fd: BorrowedFd<'_>) -> io::Result<[u64; 2]> {
    let [sent, received] = [sys::Direction::Send, sys::Direction::Receive].map(|direction| {
        let [longer, shorter] = LENGTHS.map(|length| sys::ktls_record(fd, direction, length));
        longer
            .or(shorter)
            .map(|records| records.wrapping_mul(ADDED))
    });
    Ok([sent?, received?])
}

fn crypto_info(record: u64, keys: &ConnectionTrafficSecrets) -> Result<Vec<u8>> {
    let (cipher, key, iv) = match keys {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (AES_GCM_128, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (AES_GCM_256, key, iv),
        _ => {
            return Err(Error::new(
                Kind::Kernel,
                "the server chose a cipher that the kernel cannot take over",
            ));
        }
    };
    let (salt, nonce) = iv.as_ref().split_at(4);
    let mut info = Vec::with_capacity(LENGTHS[0]);
    info.extend_from_slice(&TLS_1_3.to_ne_bytes());
    info.extend_from_slice(&cipher.to_ne_bytes());
    info.extend_from_slice(nonce);
    info.extend_from_slice(key.as_ref());
    info.extend_from_slice(salt);
    info.extend_from_slice(&record.to_be_bytes());
    Ok(info)
}
