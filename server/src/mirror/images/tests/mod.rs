//! Two catalogues and a stream between them.

mod copying;
mod kill;
mod space;
mod trouble;
mod words;

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::{
        fs::{FileExt, MetadataExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    thread,
    time::SystemTime,
};

use images::{Bytes, Cancel, Catalogue, Details, Original, Part, Quiet, Version, VersionId};
use tempfile::TempDir;

use super::{Outcome, Pull, pull, say_held, serve, wire::CHUNK};

/// A primary with versions and a standby that pulls them.
struct Pair {
    dir: TempDir,
    there: Catalogue,
    here: Catalogue,
}

/// Bytes at places of a disk.
type Data<'a> = &'a [(u64, Vec<u8>)];

impl Pair {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let open = |name| Catalogue::open(dir.path().join(name)).unwrap();
        let (there, here) = (open("there"), open("here"));
        Self { dir, there, here }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pull(&self) -> anyhow::Result<Outcome> {
        self.pull_through(|stream| stream)
    }

    /// Pulls over what `through` makes of the standby's end.
    fn pull_through<S: Read + Write>(
        &self,
        through: impl FnOnce(UnixStream) -> S,
    ) -> anyhow::Result<Outcome> {
        pull_from(&self.there, |stream| {
            pull_all(&self.here, &mut through(stream))
        })
    }
}

/// Serves `there` on a thread of its own, as long as `puller` has the other end.
fn pull_from<T>(there: &Catalogue, puller: impl FnOnce(UnixStream) -> T) -> T {
    let (near, mut far) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        // It breaks where a test breaks it.
        scope.spawn(move || serve(there, &mut far, &|| false, &|_| ()));
        puller(near)
    })
}

#[test]
fn who_has_pulled_says_what_it_has_now() {
    let pair = Pair::new();
    let version = publish(&pair.there, "debian", CHUNK, &[]);
    let (mut near, mut far) = UnixStream::pair().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let there = &pair.there;
        scope.spawn(move || {
            let holds = |held| tell.send(held).unwrap();
            let _ = serve(there, &mut far, &|| false, &holds);
        });
        pull_all(&pair.here, &mut near).unwrap();
        say_held(&pair.here, &mut near).unwrap();
        drop(near);
    });
    assert_eq!(told.iter().collect::<Vec<_>>(), [[version.id()]]);
}

/// Pulls everything.
fn pull_all<S: Read + Write>(here: &Catalogue, stream: &mut S) -> anyhow::Result<Outcome> {
    pull_with(here, stream, &|_| false, Bytes::new(0))
}

fn pull_with<S: Read + Write>(
    here: &Catalogue,
    stream: &mut S,
    in_use: &dyn Fn(VersionId) -> bool,
    reserve: Bytes,
) -> anyhow::Result<Outcome> {
    let what = Pull {
        catalogue: here,
        want: &mut |_| true,
        in_use,
        reserve,
        progress: &Quiet,
        cancel: &Cancel::new().unwrap(),
    };
    pull(what, stream)
}

/// Publishes a version of `image` whose disk has `size` bytes, with `data` and holes elsewhere.
fn publish(catalogue: &Catalogue, image: &str, size: u64, data: Data<'_>) -> Version {
    let staging = catalogue.stage(VersionId::random()).unwrap();
    let disk = File::create_new(staging.disk_path()).unwrap();
    disk.set_len(size).unwrap();
    for (at, bytes) in data {
        disk.write_all_at(bytes, *at).unwrap();
    }
    fs::write(staging.kernel_path(), noise(1, 3 * CHUNK as usize + 100)).unwrap();
    fs::write(staging.initrd_path(), noise(2, CHUNK as usize)).unwrap();
    let details = Details {
        image: image.parse().unwrap(),
        created: SystemTime::UNIX_EPOCH,
        description: "made by a test".to_owned(),
        cmdline: "quiet".to_owned(),
    };
    let staged = staging.finish(details, &Quiet, &Cancel::new().unwrap());
    catalogue.publish(staged.unwrap()).unwrap()
}

/// Bytes that no compression or hole makes smaller, the same for the same seed.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let key = blake3::hash(&seed.to_le_bytes());
    let mut output = blake3::Hasher::new_keyed(key.as_bytes()).finalize_xof();
    output.fill(&mut bytes);
    bytes
}

/// Each version of `there` is `here`, byte by byte, and the same ones are current.
fn assert_same(there: &Catalogue, here: &Catalogue) {
    for image in there.list().unwrap() {
        assert_eq!(here.current(&image.name).unwrap(), image.current);
        for version in &image.versions {
            assert_copied(version, here);
        }
    }
}

fn assert_copied(version: &Version, here: &Catalogue) {
    let copy = here.resolve(&version.reference()).unwrap();
    copy.verify(&Quiet, &Cancel::new().unwrap()).unwrap();
    assert_eq!(Original::of(&copy).unwrap(), Original::of(version).unwrap());
    for part in Part::ALL {
        let read = |version: &Version| fs::read(version.file(part).path).unwrap();
        assert!(read(&copy) == read(version), "{version}: {part:?}");
    }
}

/// Nothing is to be seen in the catalogue.
fn assert_empty(here: &Catalogue) {
    assert!(here.list().unwrap().is_empty());
    let dirs = fs::read_dir(here.root()).unwrap();
    let names = dirs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let other = names.filter(|name| name != ".lock" && !name.starts_with(".copy-"));
    let other: Vec<_> = other.collect();
    assert!(other.is_empty(), "{other:?}");
}

fn stored(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// A stream that can be damaged and cut.
struct Tampered<S> {
    inner: S,
    received: u64,
    /// Flips a bit of the byte that comes so many bytes after the first.
    flip: Option<u64>,
    /// Ends after so many bytes have come.
    cut: Option<u64>,
    /// What came.
    heard: Vec<u8>,
}

impl<S> Tampered<S> {
    fn new(inner: S, flip: Option<u64>, cut: Option<u64>) -> Self {
        Self {
            inner,
            received: 0,
            flip,
            cut,
            heard: Vec::new(),
        }
    }
}

impl<S: Read> Read for Tampered<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = self.cut.map_or(u64::MAX, |cut| cut - self.received);
        let room = room.min(buf.len() as u64) as usize;
        let count = self.inner.read(&mut buf[..room])?;
        if let Some(at) = self.flip.and_then(|flip| flip.checked_sub(self.received))
            && at < count as u64
        {
            buf[at as usize] ^= 0x10;
        }
        self.received += count as u64;
        self.heard.extend_from_slice(&buf[..count]);
        Ok(count)
    }
}

impl<S: Write> Write for Tampered<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
