//! Paths that clients ask for: made safe, resolved below the directories that may be served, and read.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::ReadWriteFlags;

use crate::policy::{Content, FileRequest, Policy};

/// No sensible path is longer.
const LONGEST_PATH: usize = 1024;

/// Makes a client's path safe: no leading slash, backslashes turned, `.` and `..` resolved. None: it leads upwards, is
/// too long, or holds bytes that no path of ours has.
pub fn clean(path: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(path)
        .ok()
        .filter(|t| t.len() <= LONGEST_PATH)?;
    if text.chars().any(char::is_control) {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split(['/', '\\']) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The same for the path of a URL, percent signs decoded first.
pub fn clean_url(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len().min(LONGEST_PATH));
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        (rest, _) = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => (tail, decoded.push(hex(*high)? << 4 | hex(*low)?)),
            (b'%', _) => return None,
            (byte, tail) => (tail, decoded.push(*byte)),
        };
    }
    clean(&decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}

/// Where one path, or all paths under a prefix, are found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    /// The path clients ask for, or the prefix (ends in `/`, or is empty).
    path: String,
    /// The file, or the directory.
    target: PathBuf,
}

/// The files and directories that are served to anyone, when the policy has no answer for a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    files: Vec<Mapping>,
    dirs: Vec<Mapping>,
}

/// The signed and plain loaders of Debian's packages, under the names that firmware and loaders ask for.
const LOADERS: [(&str, &str); 13] = [
    // Named one by one since some are links to /boot.
    ("ipxe/undionly.kpxe", "/usr/lib/ipxe/undionly.kpxe"),
    ("ipxe/ipxe.efi", "/usr/lib/ipxe/ipxe.efi"),
    ("ipxe/snponly.efi", "/usr/lib/ipxe/snponly.efi"),
    ("grub/shimx64.efi", "/usr/lib/shim/shimx64.efi.signed"),
    (
        "grub/grubx64.efi",
        "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed",
    ),
    ("grub/mmx64.efi", "/usr/lib/shim/mmx64.efi.signed"),
    ("grub/shimia32.efi", "/usr/lib/shim/shimia32.efi.signed"),
    (
        "grub/grubia32.efi",
        "/usr/lib/grub/i386-efi-signed/grubnetia32.efi.signed",
    ),
    ("grub/shimaa64.efi", "/usr/lib/shim/shimaa64.efi.signed"),
    (
        "grub/grubaa64.efi",
        "/usr/lib/grub/arm64-efi-signed/grubnetaa64.efi.signed",
    ),
    ("pxelinux/pxelinux.0", "/usr/lib/PXELINUX/pxelinux.0"),
    (
        "pxelinux/ldlinux.c32",
        "/usr/lib/syslinux/modules/bios/ldlinux.c32",
    ),
    ("memtest", "/boot/memtest86+x64.bin"),
];

impl Roots {
    /// Nothing at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// The boot loaders of the distribution's packages (`ipxe`, `shim-signed`, `grub-efi-amd64-signed`, `pxelinux`),
    /// under the names the crate hands out. Which exist is found out when they are asked for.
    pub fn loaders() -> Self {
        let roots = Self::default().with_dir("ipxe/", "/usr/lib/ipxe");
        LOADERS
            .iter()
            .fold(roots, |roots, (path, file)| roots.with_file(*path, *file))
    }

    /// The file of a distribution's package that [`Roots::loaders`] serves as `path`.
    pub fn loader_file(path: &str) -> Option<&'static Path> {
        let found = LOADERS.iter().find(|(name, _)| *name == path);
        found.map(|(_, file)| Path::new(*file))
    }

    /// Serves `file` as `path`.
    pub fn with_file(mut self, path: impl Into<String>, file: impl Into<PathBuf>) -> Self {
        self.files.push(Mapping {
            path: path.into(),
            target: file.into(),
        });
        self
    }

    /// Serves what lies below `dir` under `prefix` (which ends in `/`, or is empty). Links that lead out of `dir` are
    /// not followed.
    pub fn with_dir(mut self, prefix: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        self.dirs.push(Mapping {
            path: prefix.into(),
            target: dir.into(),
        });
        self
    }

    /// Opens what `path`, made safe before, names here.
    pub fn open(&self, path: &str) -> io::Result<Option<Source>> {
        // A loader whose package is not installed may lie in a directory of the site's own.
        if let Some(file) = self.files.iter().find(|m| m.path == path)
            && let Some(source) = absent(open_file(&file.target))?
        {
            return Ok(Some(source));
        }
        for dir in &self.dirs {
            if let Some(rest) = path.strip_prefix(&dir.path)
                && let Some(source) = absent(open_beneath(&dir.target, rest))?
            {
                return Ok(Some(source));
            }
        }
        Ok(None)
    }
}

/// Not there, or not to be served, is no error but an answer.
fn absent(result: io::Result<Source>) -> io::Result<Option<Source>> {
    match result {
        Ok(source) => Ok(Some(source)),
        Err(error) => match error.raw_os_error() {
            Some(
                libc::ENOENT
                | libc::ENOTDIR
                | libc::EXDEV
                | libc::ELOOP
                | libc::EISDIR
                | libc::ENXIO,
            ) => Ok(None),
            _ => Err(error),
        },
    }
}

// NONBLOCK: opening a pipe must not wait for its writer.
const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

fn open_file(path: &Path) -> io::Result<Source> {
    Source::from_file(rustix::fs::openat(CWD, path, OPEN, Mode::empty())?.into())
}

fn open_beneath(dir: &Path, path: &str) -> io::Result<Source> {
    let dir = rustix::fs::openat(
        CWD,
        dir,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Source::from_file(rustix::fs::openat2(&dir, path, OPEN, Mode::empty(), beneath)?.into())
}

/// What was asked for, open for reading.
#[derive(Debug, Clone)]
pub enum Source {
    /// Bytes in memory.
    Bytes(Bytes),
    /// An open file of this length. A file that shrinks later ends the transfer with an error.
    File(Arc<File>, u64),
}

impl Source {
    fn from_file(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        match metadata.is_file() {
            true => Ok(Self::File(Arc::new(file), metadata.len())),
            false => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        }
    }

    /// Asks the policy, then the roots. Blocks.
    pub fn find(
        policy: &dyn Policy,
        roots: &Roots,
        request: &FileRequest,
    ) -> io::Result<Option<Self>> {
        match policy.file(request) {
            Some(Content::Bytes(bytes)) => Ok(Some(Self::Bytes(bytes))),
            Some(Content::File(path)) => absent(open_file(&path)),
            None => roots.open(&request.path),
        }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }

    /// A name for this version of it, for caches (a strong ETag). None: made for this one request.
    pub fn tag(&self) -> Option<String> {
        let Self::File(file, len) = self else {
            return None;
        };
        let metadata = file.metadata().ok()?;
        Some(format!(
            "\"{:x}-{len:x}-{:x}.{:x}\"",
            metadata.ino(),
            metadata.mtime(),
            metadata.mtime_nsec()
        ))
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` from `offset` on, waiting for the disk if need be.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => copy_at(bytes, buffer, offset),
            Self::File(file, _) => {
                std::os::unix::fs::FileExt::read_exact_at(&**file, buffer, offset)
            }
        }
    }

    /// Fills one slice after the other, but `Ok(false)` at once where the disk would have to be waited for. At most 1024
    /// slices.
    pub fn try_read_slices_at(
        &self,
        slices: &mut [IoSliceMut<'_>],
        offset: u64,
    ) -> io::Result<bool> {
        let bytes = match self {
            Self::File(file, _) => return read_cached(file, slices, offset),
            Self::Bytes(bytes) => bytes,
        };
        let mut at = offset;
        for slice in slices {
            copy_at(bytes, slice, at)?;
            at += slice.len() as u64;
        }
        Ok(true)
    }
}

fn copy_at(bytes: &[u8], buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let from = usize::try_from(offset)
        .ok()
        .and_then(|at| bytes.get(at..at.checked_add(buffer.len())?));
    buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
    Ok(())
}

/// Reads from the page cache. `Ok(false)`: not all of it is there, or this filesystem cannot tell.
fn read_cached(file: &File, slices: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<bool> {
    let wanted: usize = slices.iter().map(|s| s.len()).sum();
    match rustix::io::preadv2(file.as_fd(), slices, offset, ReadWriteFlags::NOWAIT) {
        Ok(n) => Ok(n == wanted),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_made_safe() {
        let ok = [
            ("/ipxe/ipxe.efi", "ipxe/ipxe.efi"),
            ("a//./b/../c", "a/c"),
            ("\\boot\\x", "boot/x"),
            ("", ""),
            ("...", "..."),
        ];
        for (path, clean_path) in ok {
            assert_eq!(clean(path.as_bytes()).as_deref(), Some(clean_path));
        }
        for bad in [
            "..",
            "a/../../b",
            "/../etc/passwd",
            "\\..\\x",
            "a\0b",
            "a\nb",
        ] {
            assert_eq!(clean(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(clean(b"\xff"), None);
        assert_eq!(clean(&[b'a'; LONGEST_PATH + 1]), None);
    }

    #[test]
    fn urls_are_decoded_once_and_then_made_safe() {
        assert_eq!(clean_url("/a%20b/c%2Fd"), Some("a b/c/d".into()));
        assert_eq!(clean_url("/%252e%252e/x"), Some("%2e%2e/x".into()));
        for bad in ["/%2e%2e/x", "/..%2fx", "/a%00", "/%", "/%4", "/%zz", "/%+1"] {
            assert_eq!(clean_url(bad), None, "{bad}");
        }
    }

    #[test]
    fn nothing_outside_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, secret) = (dir.path().join("in"), dir.path().join("secret"));
        std::fs::create_dir_all(inside.join("sub")).unwrap();
        std::fs::write(inside.join("sub/file"), b"hello").unwrap();
        std::fs::write(&secret, b"no").unwrap();
        std::os::unix::fs::symlink(&secret, inside.join("out")).unwrap();
        std::os::unix::fs::symlink("sub/file", inside.join("link")).unwrap();
        rustix::fs::mknodat(
            CWD,
            inside.join("pipe"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        let roots = Roots::none()
            .with_dir("x/", &inside)
            .with_file("one", &secret)
            .with_file("x/sub/file", dir.path().join("not-installed"));
        let found = |path: &str| roots.open(path).unwrap().map(|s| s.len());
        assert_eq!(found("x/sub/file"), Some(5));
        assert_eq!(found("x/link"), Some(5));
        assert_eq!(found("one"), Some(2));
        for path in [
            "x/out",
            "x/sub",
            "x/",
            "x",
            "x/none",
            "x/pipe",
            "x/../secret",
            "x//etc/passwd",
            "two",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
    }

    #[test]
    fn reads_are_exact_or_fail() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"0123456789").unwrap();
        let mut buffer = [0; 4];
        for source in [
            Source::from_file(file).unwrap(),
            Source::Bytes(Bytes::from_static(b"0123456789")),
        ] {
            source.read_exact_at(&mut buffer, 6).unwrap();
            assert_eq!(&buffer, b"6789");
            assert!(source.read_exact_at(&mut buffer, 7).is_err());
            assert!(source.read_exact_at(&mut buffer, u64::MAX).is_err());
            let (left, right) = buffer.split_at_mut(1);
            if source
                .try_read_slices_at(&mut [IoSliceMut::new(left), IoSliceMut::new(right)], 1)
                .unwrap()
            {
                assert_eq!(&buffer, b"1234");
            }
        }
    }

    proptest! {
        #[test]
        fn no_path_escapes(path in "[a./\\\\%2eE0]{0,40}") {
            for clean in [clean(path.as_bytes()), clean_url(&path)].into_iter().flatten() {
                prop_assert!(clean.split('/').all(|part| part != ".." && part != "."));
                prop_assert!(!clean.starts_with('/') && !clean.contains('\\'));
            }
        }
    }
}
