//! Sending a file: from the page cache to the socket without a copy through this process.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::files::Source;

/// Bytes that one system call may send, so that no client keeps a thread to itself.
const CHUNK: u64 = 512 * 1024;
/// How closely a chunk is looked through for pages that are not in memory.
const STEP: u64 = 128 * 1024;

/// A connection's sending side.
pub struct Sender<'a> {
    /// The connection.
    pub stream: &'a TcpStream,
    /// How long a client may take nothing.
    pub patience: Duration,
}

impl Sender<'_> {
    /// Sends all of `bytes`; `more` says that something follows at once, so that a head does not travel alone.
    pub async fn bytes(&self, mut bytes: &[u8], more: bool) -> io::Result<()> {
        let flags = if more {
            SendFlags::MORE
        } else {
            SendFlags::empty()
        } | SendFlags::NOSIGNAL;
        while !bytes.is_empty() {
            let send = || Ok(rustix::net::send(self.stream, bytes, flags)?);
            let sent = self
                .patiently(self.stream.async_io(Interest::WRITABLE, send))
                .await?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Sends the bytes of `source` from `from` to before `to`, calling `progress` with the bytes sent so far.
    pub async fn source(
        &self,
        source: &Source,
        from: u64,
        to: u64,
        mut progress: impl FnMut(u64),
    ) -> io::Result<()> {
        let file = match source {
            Source::Bytes(bytes) => {
                self.bytes(&bytes[from as usize..to as usize], false)
                    .await?;
                progress(to - from);
                return Ok(());
            }
            Source::File(file, _) => file,
        };
        let (mut at, mut warm) = (from, from);
        while at < to {
            if at >= warm {
                warm = (at + CHUNK).min(to);
                warm_up(file, at, warm).await?;
            }
            let mut offset = at;
            let send = || {
                Ok(rustix::fs::sendfile(
                    self.stream,
                    file.as_fd(),
                    Some(&mut offset),
                    (warm - at) as usize,
                )?)
            };
            let sent = self
                .patiently(self.stream.async_io(Interest::WRITABLE, send))
                .await?;
            if sent == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the file became shorter while it was sent",
                ));
            }
            at += sent as u64;
            progress(at - from);
        }
        Ok(())
    }

    async fn patiently<T>(&self, send: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        tokio::time::timeout(self.patience, send)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// Sees to it that a stretch of the file is in memory: sendfile would wait for the disk on this thread, and everyone
/// else with it.
async fn warm_up(file: &Arc<File>, from: u64, to: u64) -> io::Result<()> {
    let is_cached = |at| {
        let mut byte = [0];
        let slices = &mut [io::IoSliceMut::new(&mut byte)];
        let read =
            rustix::io::preadv2(file.as_fd(), slices, at, rustix::io::ReadWriteFlags::NOWAIT);
        // Filesystems that cannot tell are mostly those that live in memory.
        matches!(read, Ok(1) | Err(rustix::io::Errno::OPNOTSUPP))
    };
    if probes(from, to).all(is_cached) {
        return Ok(());
    }
    let file = file.clone();
    let read = move || -> io::Result<()> {
        let mut buffer = vec![0; STEP as usize];
        let mut at = from;
        while at < to {
            let len = STEP.min(to - at) as usize;
            std::os::unix::fs::FileExt::read_exact_at(&*file, &mut buffer[..len], at)?;
            at += len as u64;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(io::Error::other)?
}

/// Where to look: at every step, and at the last byte.
fn probes(from: u64, to: u64) -> impl Iterator<Item = u64> {
    (from..to).step_by(STEP as usize).chain(to.checked_sub(1))
}
