//! What is served, and where it is found.

use std::{fmt, io::IoSlice, iter, net::IpAddr, ops::Range, os::fd::BorrowedFd, sync::Arc};

use bytes::Bytes;
use nbd::{ExportInfo, IoError, Refusal};

/// Begins the name of the metadata context that tells what changed since a snapshot; its name follows.
pub const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";

/// Long payloads are stored in pieces that end at multiples of this. The host keeps what is written at once in pages of
/// about that size, and looks through a whole one for each short write to it. Bytes.
const PIECE: u64 = 256 << 10;

/// Cuts what is to be stored at `offset` into its pieces, each with its place.
pub fn pieces(offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    pieces_of(PIECE, offset, data)
}

/// The same in pieces of another length.
pub fn pieces_of(size: u64, offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let (mut at, mut left) = (offset, data);
    iter::from_fn(move || {
        let length = left.len().min((size - at % size) as usize);
        let (piece, rest) = left.split_at(length);
        let place = at;
        (at, left) = (at + length as u64, rest);
        (length > 0).then_some((place, piece))
    })
}

/// Why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// This request fails; the connection goes on.
    #[error("{1}")]
    Request(IoError, String),
    /// The connection lost its right to the export: close it and answer nothing more.
    #[error("taken over by a newer connection")]
    Gone,
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => IoError::NoSpace,
            Some(libc::EPERM | libc::EACCES | libc::EROFS) => IoError::NotPermitted,
            Some(libc::EINVAL) => IoError::Invalid,
            Some(libc::EOPNOTSUPP) => IoError::NotSupported,
            _ => IoError::Io,
        };
        Fault::Request(kind, error.to_string())
    }
}

/// Where a stretch of a device lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Bytes of the device.
    pub range: Range<u64>,
    /// How to get at them.
    pub source: Source,
}

/// How to get at a stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// By [`Device::resident`] if it lies in memory, else by reading.
    File,
    /// By [`Device::mapped`] if that has it, else by reading.
    Stored,
    /// It is zeros.
    Zero,
}

/// Bytes in a mapping that only the kernel may look at.
pub enum Mapped<'d> {
    /// Of what never changes.
    Base(IoSlice<'d>),
    /// Of what the client wrote itself.
    Own(overlay::Own),
}

impl Mapped<'_> {
    /// For `sendmsg`.
    pub fn bytes(&self) -> IoSlice<'_> {
        match self {
            Self::Base(bytes) => *bytes,
            Self::Own(own) => own.bytes(),
        }
    }
}

/// State of a stretch, for BLOCK_STATUS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes.
    pub length: u64,
    /// No room is taken for it.
    pub hole: bool,
    /// It reads as zeros.
    pub zero: bool,
    /// How deep it lies: 1 in the top layer, 2 in its base, 0 nowhere (`qemu:allocation-depth`).
    pub depth: u32,
}

/// A disk being served to one connection. Ranges have been checked against its size.
///
/// Everything may block unless it begins with `try_`, and is called from several threads at once.
pub trait Device: Send + Sync {
    /// Fills `buf` from `offset`.
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Fault>;

    /// As [`Device::read`] without waiting for a disk; false if it would have to, with `buf` undefined.
    fn try_read(&self, buf: &mut [u8], offset: u64) -> Result<bool, Fault>;

    /// Appends where the stretches of `range` lie, without touching a disk.
    fn segments(&self, range: Range<u64>, out: &mut Vec<Segment>) -> Result<(), Fault> {
        out.push(Segment {
            range,
            source: Source::Stored,
        });
        Ok(())
    }

    /// The file that holds `range` at equal offsets, if all of it is in memory now. Only for the kernel to send.
    fn resident(&self, _range: Range<u64>) -> Option<BorrowedFd<'_>> {
        None
    }

    /// What `range` reads, if it can be had without waiting, for `sendmsg` and for nothing else: a look at it by this
    /// process could kill it.
    fn mapped(&self, _range: Range<u64>) -> Result<Option<Mapped<'_>>, Fault> {
        Ok(None)
    }

    /// Its client sends nothing for now: gives back what only speeds reads up.
    fn rest(&self) {}

    /// The kernel could not read what [`Device::resident`] or [`Device::mapped`] gave: give none of it any more, to
    /// anybody.
    fn distrust(&self) {}

    /// Stores `data` at `offset`. This, trim and zero are left as they are by a device of which the handshake says that it
    /// is read-only: requests that write are refused before they come here.
    fn write(&self, _data: &[u8], _offset: u64) -> Result<(), Fault> {
        read_only()
    }

    /// Makes everything answered so far durable.
    fn flush(&self) -> Result<(), Fault>;

    /// Forgets the contents of `range`.
    fn trim(&self, _range: Range<u64>) -> Result<(), Fault> {
        read_only()
    }

    /// Makes `range` read as zeros; with `only_fast` fails with NotSupported when that would mean writing them.
    fn zero(&self, _range: Range<u64>, _may_hole: bool, _only_fast: bool) -> Result<(), Fault> {
        read_only()
    }

    /// Fetches `range` into memory.
    fn cache(&self, _range: Range<u64>) -> Result<(), Fault> {
        Ok(())
    }

    /// The first extents of `range`, at most `most` (at least one).
    fn status(&self, range: Range<u64>, most: usize) -> Result<Vec<Extent>, Fault>;

    /// The first stretches of `range`, at most `most` (at least one), and whether they changed since `snapshot` was
    /// taken. Neighbours differ.
    fn changed(
        &self,
        snapshot: &str,
        _range: Range<u64>,
        _most: usize,
    ) -> Result<Vec<(u64, bool)>, Fault> {
        let text = format!("no snapshot {snapshot:?} to compare with");
        Err(Fault::Request(IoError::Invalid, text))
    }

    /// Whether its writes wait for something slow, so that they must not run on the connection's thread.
    fn writes_wait(&self) -> bool {
        false
    }

    /// Takes changes that end later, if it does: many may then be under way without a thread for each.
    fn deferred(&self) -> Option<&dyn Deferred> {
        None
    }

    /// Called after the data of replies were read and before these are sent; waits until they may be.
    ///
    /// # Errors
    /// [`Fault::Gone`] when they never may.
    fn before_replies(&self) -> Result<(), Fault> {
        Ok(())
    }

    /// Whether [`Device::before_replies`] would not wait now, nor fail; false if that is not known.
    fn may_reply_now(&self) -> bool {
        false
    }
}

/// A change that ends later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Stores data.
    Write {
        /// Where, in bytes.
        offset: u64,
        /// What.
        data: Bytes,
        /// Whether it has to be durable.
        fua: bool,
    },
    /// Makes a range read as zeros.
    Zero {
        /// Where, in bytes.
        range: Range<u64>,
        /// Whether the space may be given back.
        may_hole: bool,
        /// Whether it has to be durable.
        fua: bool,
    },
    /// Makes everything answered so far durable.
    Flush,
}

/// Called with how a change ended, on any thread. Must not block.
pub type Ended = Box<dyn FnOnce(Result<(), Fault>) -> Told + Send>;

/// Whom to ask to deliver, once all was told that ended together.
pub type Told = Option<Arc<dyn Deliver>>;

/// Was told how changes ended, and has not answered yet.
pub trait Deliver: Send + Sync {
    /// Answers. Must not block.
    fn deliver(&self);
}

/// Has all of them deliver, when the last was told: each once, however much of theirs has ended.
pub fn deliver_all(told: impl IntoIterator<Item = Told>) {
    let mut all: Vec<Arc<dyn Deliver>> = Vec::new();
    for one in told.into_iter().flatten() {
        if !all.iter().any(|known| Arc::ptr_eq(known, &one)) {
            all.push(one);
        }
    }
    all.iter().for_each(|one| one.deliver());
}

/// A device whose changes end later.
pub trait Deferred: Send + Sync {
    /// Begins changes, in their order. Does not wait for them.
    fn begin(&self, changes: Vec<(Change, Ended)>);
}

fn read_only<T>() -> Result<T, Fault> {
    let text = "it is read-only";
    Err(Fault::Request(IoError::NotPermitted, text.into()))
}

/// Something that a name stands for.
pub trait Export: Send + Sync {
    /// What clients are told of it. Changes nothing.
    fn info(&self) -> Result<ExportInfo, Refusal>;

    /// Whether it is given out over TLS only.
    fn needs_tls(&self) -> bool {
        false
    }

    /// Who owns it, if only one connection at a time may have it: a newer one takes over from the older.
    fn owner(&self) -> Option<String> {
        None
    }

    /// By which name its connections are found, if they are to end when the export is changed or removed.
    fn claim(&self) -> Option<Claim> {
        None
    }

    /// What logs call it, where the name that opens it is a secret.
    fn shown(&self) -> Option<String> {
        self.owner()
    }

    /// Whether its clients come back by themselves after a lost connection. They are then never told ESHUTDOWN,
    /// which a kernel would hand to its filesystem as an I/O error.
    fn clients_return(&self) -> bool {
        false
    }

    /// Opens it for one connection; what had it before is closed and drained by now.
    fn open(&self) -> Result<Arc<dyn Device>, Refusal>;
}

/// What a connection says of itself before it opens an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The export's name.
    pub export: String,
    /// Whether nobody else may have it meanwhile.
    pub alone: bool,
}

/// The directory of exports.
pub trait Exports: Send + Sync {
    /// Names and descriptions of what `peer` may open. Never names with tokens in them.
    fn list(&self, peer: &Peer) -> Vec<(String, Option<String>)>;

    /// What `name` stands for, for `peer`; compares secrets in constant time.
    fn find(&self, name: &str, peer: &Peer) -> Result<Arc<dyn Export>, Refusal>;
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it connects from.
    pub address: PeerAddress,
    /// Whether TLS is in use.
    pub secure: bool,
    /// Names in the certificate that it showed, verified against the CA; empty if it showed none.
    pub names: Vec<String>,
    /// The serial number of that certificate.
    pub serial: Option<Vec<u8>>,
}

impl Peer {
    /// Somebody at `address`, without TLS so far.
    pub fn plain(address: PeerAddress) -> Self {
        Self {
            address,
            secure: false,
            names: Vec::new(),
            serial: None,
        }
    }
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerAddress {
    /// Over TCP.
    Ip(IpAddr),
    /// Over a Unix socket.
    Local,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Local => f.write_str("local socket"),
        }
    }
}

/// What the service tells its owner.
#[derive(Debug, Clone)]
pub enum Event {
    /// An export was opened.
    Attached {
        peer: PeerAddress,
        export: String,
        owner: Option<String>,
        secure: bool,
    },
    /// A connection ended that had opened an export.
    Detached {
        peer: PeerAddress,
        export: String,
        owner: Option<String>,
        reason: String,
    },
    /// A newer connection took over from this one.
    Evicted { peer: PeerAddress, owner: String },
    /// A connection was turned away.
    Refused { peer: PeerAddress, reason: String },
    /// A request failed; told once for each connection.
    Failed {
        peer: PeerAddress,
        export: String,
        error: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_multiples_and_are_all_there_is() {
        let data: Vec<u8> = (0..600 << 10).map(|n| n as u8).collect();
        let start = PIECE - 1000;
        let cut: Vec<_> = pieces(start, &data).collect();
        let places: Vec<_> = cut.iter().map(|(at, piece)| (*at, piece.len())).collect();
        let last = data.len() - 1000 - (512 << 10);
        let whole = PIECE as usize;
        let expected = [
            (start, 1000),
            (PIECE, whole),
            (2 * PIECE, whole),
            (3 * PIECE, last),
        ];
        assert_eq!(places, expected);
        assert!(cut.iter().flat_map(|(_, piece)| *piece).eq(&data));
        assert_eq!(pieces(5, &[]).count(), 0);
    }
}
