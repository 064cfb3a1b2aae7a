//! What is on a disk in memory, the calls that changed it, and what a crash may leave of them.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const SECTOR: u64 = 512;
pub type Sector = Arc<[u8; 512]>;

/// What one file holds: sectors not there read as zeros.
#[derive(Clone, Default)]
pub struct FileImage {
    pub len: u64,
    pub sectors: BTreeMap<u64, Sector>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Node {
    Dir,
    File(u64),
}

/// All that is on a disk.
#[derive(Clone, Default)]
pub struct Image {
    pub files: HashMap<u64, FileImage>,
    pub names: BTreeMap<PathBuf, Node>,
}

/// A recorded call that changes something or makes it durable, or a mark of the test.
#[derive(Clone)]
pub enum Event {
    Create {
        path: PathBuf,
        inode: u64,
    },
    Mkdir {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    SyncDir {
        path: PathBuf,
    },
    Write {
        inode: u64,
        first: u64,
        end: u64,
        sectors: Vec<Sector>,
    },
    Punch {
        inode: u64,
        sectors: Range<u64>,
    },
    SetLen {
        inode: u64,
        len: u64,
    },
    Sync {
        inode: u64,
    },
    Mark,
}

impl FileImage {
    pub fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset + buf.len() as u64 > self.len {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let start = (at % SECTOR) as usize;
            let len = rest.len().min(SECTOR as usize - start);
            let (part, later) = rest.split_at_mut(len);
            match self.sectors.get(&(at / SECTOR)) {
                Some(sector) => part.copy_from_slice(&sector[start..start + len]),
                None => part.fill(0),
            }
            at += len as u64;
            rest = later;
        }
        Ok(())
    }

    /// The sectors that a write makes, whole.
    pub fn overlaid(&self, data: &[u8], offset: u64) -> (u64, Vec<Sector>) {
        let first = offset / SECTOR;
        let last = (offset + data.len() as u64).div_ceil(SECTOR);
        let mut bytes = vec![0; ((last - first) * SECTOR) as usize];
        for (i, bytes) in bytes.chunks_exact_mut(512).enumerate() {
            if let Some(old) = self.sectors.get(&(first + i as u64)) {
                bytes.copy_from_slice(&old[..]);
            }
        }
        bytes[(offset - first * SECTOR) as usize..][..data.len()].copy_from_slice(data);
        let (sectors, _) = bytes.as_chunks::<512>();
        (
            first,
            sectors.iter().map(|sector| Arc::new(*sector)).collect(),
        )
    }

    fn grow(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    fn set_len(&mut self, len: u64) {
        self.len = len;
        self.sectors.split_off(&len.div_ceil(SECTOR));
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap()
}

impl Image {
    /// Applies a change of names; false if what it needs is not there.
    pub fn apply_name(&mut self, event: &Event) -> bool {
        match event {
            Event::Create { path, inode } => {
                self.files.entry(*inode).or_default();
                self.add(path, Node::File(*inode))
            }
            Event::Mkdir { path } => self.add(path, Node::Dir),
            Event::Rename { from, to } => self.rename(from, to),
            Event::Remove { path } => {
                self.names.retain(|name, _| !name.starts_with(path));
                true
            }
            _ => true,
        }
    }

    fn add(&mut self, path: &Path, node: Node) -> bool {
        let ok = parent(path) == Path::new("/") || self.names.get(parent(path)) == Some(&Node::Dir);
        if ok {
            self.names.insert(path.to_owned(), node);
        }
        ok
    }

    fn rename(&mut self, from: &Path, to: &Path) -> bool {
        let moved: Vec<_> = self
            .names
            .keys()
            .filter(|name| name.starts_with(from))
            .cloned()
            .collect();
        if moved.is_empty() || self.names.get(parent(to)) != Some(&Node::Dir) {
            return false;
        }
        for name in moved {
            let node = self.names.remove(&name).unwrap();
            let rest = name.strip_prefix(from).unwrap();
            let name = if rest.as_os_str().is_empty() {
                to.to_owned()
            } else {
                to.join(rest)
            };
            self.names.insert(name, node);
        }
        true
    }

    /// Applies a change of contents, of which `keep` says what is kept: by sector, or whole for `None`.
    pub fn apply_data(&mut self, event: &Event, keep: &mut dyn FnMut(Option<u64>) -> bool) {
        match event {
            Event::Write {
                inode,
                first,
                end,
                sectors,
            } => {
                let file = self.files.entry(*inode).or_default();
                for (number, sector) in (*first..).zip(sectors) {
                    if keep(Some(number)) {
                        file.sectors.insert(number, sector.clone());
                        file.grow(((number + 1) * SECTOR).min(*end));
                    }
                }
            }
            Event::Punch { inode, sectors } => {
                let file = self.files.entry(*inode).or_default();
                for number in sectors.clone() {
                    // A hole comes and goes by whole blocks of the filesystem.
                    if keep(Some(number / 8 * 8)) {
                        file.sectors.remove(&number);
                    }
                }
            }
            Event::SetLen { inode, len } if keep(None) => {
                self.files.entry(*inode).or_default().set_len(*len);
            }
            _ => {}
        }
    }

    /// A number that differs where contents or names do.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (name, node) in &self.names {
            name.hash(&mut hasher);
            let Node::File(inode) = node else { continue };
            let file = &self.files[inode];
            file.len.hash(&mut hasher);
            for (number, sector) in &file.sectors {
                (number, crc32c::crc32c(&sector[..])).hash(&mut hasher);
            }
        }
        hasher.finish()
    }
}

/// What a crash does to that which was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing: only the process died.
    Kill,
    /// Power was lost; all of it is lost.
    DropAll,
    /// Contents were all written by chance, names were not.
    KeepData,
    /// Each call is kept or lost.
    Calls,
    /// Each sector is kept or lost.
    Sectors,
    /// Maps are kept, data is lost.
    MapsFirst,
    /// Data is kept, maps are lost.
    DataFirst,
}

pub const POWER: [Fate; 6] = [
    Fate::DropAll,
    Fate::KeepData,
    Fate::Calls,
    Fate::Sectors,
    Fate::MapsFirst,
    Fate::DataFirst,
];

/// A small generator; the same seed gives the same crash.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    fn coin(&mut self) -> bool {
        self.roll() & 1 == 1
    }
}

/// What is on the disk after a crash behind the calls of `log`, which began at `start`.
pub fn crash(start: &Image, log: &[Event], fate: Fate, dice: &mut Dice) -> Image {
    let synced = last_syncs(log);
    let maps = map_inodes(start, log);
    let mut image = start.clone();
    for (i, event) in log.iter().enumerate() {
        if let Some((inode, durable)) = synced.covers(i, event) {
            let whole = dice.coin();
            let mut keep = |sector: Option<u64>| {
                durable || fate.keeps(maps.contains(&inode), whole, sector, dice)
            };
            image.apply_data(event, &mut keep);
        } else if synced.name_kept(i, event)
            || fate == Fate::Kill
            || fate != Fate::DropAll && fate != Fate::KeepData && dice.coin()
        {
            image.apply_name(event);
        }
    }
    image
}

impl Fate {
    fn keeps(self, map: bool, whole: bool, sector: Option<u64>, dice: &mut Dice) -> bool {
        match self {
            Fate::Kill | Fate::KeepData => true,
            Fate::DropAll => false,
            Fate::Calls => whole,
            Fate::Sectors if sector.is_none() => whole,
            Fate::Sectors => dice.coin(),
            Fate::MapsFirst => map,
            Fate::DataFirst => !map,
        }
    }
}

struct Syncs {
    files: HashMap<u64, usize>,
    dirs: HashMap<PathBuf, usize>,
}

fn last_syncs(log: &[Event]) -> Syncs {
    let (mut files, mut dirs) = (HashMap::new(), HashMap::new());
    for (i, event) in log.iter().enumerate() {
        match event {
            Event::Sync { inode } => drop(files.insert(*inode, i)),
            Event::SyncDir { path } => drop(dirs.insert(path.clone(), i)),
            _ => {}
        }
    }
    Syncs { files, dirs }
}

impl Syncs {
    /// For a change of contents: of which file, and whether a later sync made it durable.
    fn covers(&self, i: usize, event: &Event) -> Option<(u64, bool)> {
        let inode = match event {
            Event::Write { inode, .. }
            | Event::Punch { inode, .. }
            | Event::SetLen { inode, .. } => inode,
            _ => return None,
        };
        Some((*inode, self.files.get(inode).is_some_and(|sync| *sync > i)))
    }

    fn name_kept(&self, i: usize, event: &Event) -> bool {
        let after = |path: &Path| self.dirs.get(parent(path)).is_some_and(|sync| *sync > i);
        match event {
            Event::Create { path, .. } | Event::Mkdir { path } | Event::Remove { path } => {
                after(path)
            }
            Event::Rename { from, to } => after(from) || after(to),
            _ => false,
        }
    }
}

fn map_inodes(start: &Image, log: &[Event]) -> Vec<u64> {
    let is_map = |path: &Path| path.extension().is_some_and(|ext| ext == "map");
    let old = start.names.iter().filter_map(|(path, node)| match node {
        Node::File(inode) if is_map(path) => Some(*inode),
        _ => None,
    });
    let new = log.iter().filter_map(|event| match event {
        Event::Create { path, inode } if is_map(path) => Some(*inode),
        _ => None,
    });
    old.chain(new).collect()
}
