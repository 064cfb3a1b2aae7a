//! A host in memory that records every storage call.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use overlay::{Attempt, OpenMode, Storage, StoredFile};
use parking_lot::Mutex;
use uuid::Uuid;

use super::image::{Event, FileImage, Image, Node, SECTOR};

struct World {
    /// What calls see.
    image: Image,
    /// What is on the disk of those contents that were ever synced or there from the start.
    disk: HashMap<u64, FileImage>,
    /// Sectors not yet written back.
    dirty: BTreeSet<(u64, u64)>,
    /// Files with this extension fail to sync.
    failing: Option<&'static str>,
    log: Vec<Event>,
    next: u64,
}

/// The host.
pub struct Sim {
    world: Arc<Mutex<World>>,
    boot: Uuid,
}

struct SimFile {
    world: Arc<Mutex<World>>,
    inode: u64,
}

impl World {
    fn record(&mut self, event: Event) {
        self.image.apply_name(&event);
        self.image.apply_data(&event, &mut |_| true);
        match &event {
            Event::Write {
                inode,
                first,
                sectors,
                ..
            } => {
                let last = first + sectors.len() as u64;
                self.dirty.extend((*first..last).map(|s| (*inode, s)));
            }
            Event::Punch { inode, sectors } => {
                self.dirty.extend(sectors.clone().map(|s| (*inode, s)));
            }
            Event::Sync { inode } => self.write_back(*inode),
            _ => {}
        }
        self.log.push(event);
    }
}

impl World {
    /// The dirty sectors of a file, which are clean from now on.
    fn clean(&mut self, inode: u64) -> Vec<u64> {
        let all = self.dirty.range((inode, 0)..=(inode, u64::MAX));
        let sectors: Vec<_> = all.map(|(_, sector)| *sector).collect();
        self.dirty.retain(|(dirty, _)| *dirty != inode);
        sectors
    }

    fn write_back(&mut self, inode: u64) {
        let sectors = self.clean(inode);
        let (seen, disk) = (
            &self.image.files[&inode],
            self.disk.entry(inode).or_default(),
        );
        for sector in sectors {
            match seen.sectors.get(&sector) {
                Some(bytes) => disk.sectors.insert(sector, bytes.clone()),
                None => disk.sectors.remove(&sector),
            };
        }
        disk.len = seen.len;
    }

    fn fails(&self, inode: u64) -> bool {
        let names = self.image.names.iter();
        let mut paths = names.filter(|(_, node)| **node == Node::File(inode));
        let bad = |path: &Path| path.extension().and_then(|e| e.to_str()) == self.failing;
        self.failing.is_some() && paths.any(|(path, _)| bad(path))
    }
}

impl Sim {
    /// From now on syncs of files with this extension fail; what they should have written is lost from memory only
    /// when that is asked for, or with the power.
    pub fn fail_syncs_of(&self, extension: Option<&'static str>) {
        self.world.lock().failing = extension;
    }

    /// What a power cut leaves now, if nothing was written back but by syncs, and all names are durable.
    pub fn power_cut(&self) -> Image {
        let world = self.world.lock();
        let mut image = world.image.clone();
        for (inode, file) in &mut image.files {
            file.sectors = match world.disk.get(inode) {
                Some(disk) => disk.sectors.clone(),
                None => BTreeMap::new(),
            };
        }
        image
    }

    pub fn new(image: Image, boot: u64) -> Self {
        let next = 1 + image.files.keys().copied().max().unwrap_or(0);
        let world = World {
            disk: image.files.clone(),
            image,
            dirty: BTreeSet::new(),
            failing: None,
            log: Vec::new(),
            next,
        };
        Self {
            world: Arc::new(Mutex::new(world)),
            boot: Uuid::from_u64_pair(0xB007, boot),
        }
    }

    pub fn log(&self) -> Vec<Event> {
        self.world.lock().log.clone()
    }

    /// Puts a mark in the log; says where.
    pub fn mark(&self) -> usize {
        let mut world = self.world.lock();
        world.log.push(Event::Mark);
        world.log.len() - 1
    }

    fn file(&self, inode: u64) -> Arc<dyn StoredFile> {
        Arc::new(SimFile {
            world: self.world.clone(),
            inode,
        })
    }
}

impl Storage for Sim {
    fn boot_id(&self) -> io::Result<Uuid> {
        Ok(self.boot)
    }

    fn fresh_uuid(&self) -> Uuid {
        let mut world = self.world.lock();
        world.next += 1;
        let (next, run) = (world.next, self.boot.as_u64_pair().1);
        Uuid::from_u64_pair(next, run << 32 | world.log.len() as u64)
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoredFile>> {
        let mut world = self.world.lock();
        let there = world.image.names.get(path).copied();
        let inode = match (there, mode) {
            (Some(Node::File(inode)), OpenMode::Read | OpenMode::Write) => inode,
            (None, OpenMode::CreateNew) => {
                world.next += 1;
                let inode = world.next;
                world.record(Event::Create {
                    path: path.to_owned(),
                    inode,
                });
                inode
            }
            (Some(_), OpenMode::CreateNew) => return Err(ErrorKind::AlreadyExists.into()),
            _ => return Err(ErrorKind::NotFound.into()),
        };
        drop(world);
        Ok(self.file(inode))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        if world.image.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        world.record(Event::Mkdir {
            path: path.to_owned(),
        });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let world = self.world.lock();
        let inside = world
            .image
            .names
            .keys()
            .filter(|name| name.parent() == Some(dir));
        Ok(inside
            .map(|name| name.file_name().unwrap().to_str().unwrap().to_owned())
            .collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        if !world.image.names.contains_key(from) {
            return Err(ErrorKind::NotFound.into());
        }
        world.record(Event::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        if !world.image.names.contains_key(path) {
            return Err(ErrorKind::NotFound.into());
        }
        world.record(Event::Remove {
            path: path.to_owned(),
        });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.world.lock().record(Event::SyncDir {
            path: dir.to_owned(),
        });
        Ok(())
    }

    fn lock(&self, _path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }
}

impl StoredFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.world.lock().image.files[&self.inode].read(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Attempt> {
        self.read_at(buf, offset).map(|()| Attempt::Done)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut world = self.world.lock();
        let inode = self.inode;
        let (first, sectors) = world.image.files[&inode].overlaid(data, offset);
        let end = offset + data.len() as u64;
        world.record(Event::Write {
            inode,
            first,
            end,
            sectors,
        });
        Ok(())
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let sectors = range.start / SECTOR..range.end / SECTOR;
        self.world.lock().record(Event::Punch {
            inode: self.inode,
            sectors,
        });
        Ok(())
    }

    fn allocate(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.world.lock().record(Event::SetLen {
            inode: self.inode,
            len,
        });
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.world.lock().image.files[&self.inode].len)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.world.lock().image.files[&self.inode].sectors.len() as u64 * SECTOR)
    }

    fn sync(&self) -> io::Result<()> {
        {
            let mut world = self.world.lock();
            if world.fails(self.inode) {
                world.clean(self.inode);
                return Err(io::Error::other("a dying disk"));
            }
            world.record(Event::Sync { inode: self.inode });
        }
        // Lets others act between this sync and what follows it.
        (0..3).for_each(|_| std::thread::yield_now());
        Ok(())
    }

    fn forget_cache(&self) -> io::Result<()> {
        let mut world = self.world.lock();
        let world = &mut *world;
        let disk = world.disk.entry(self.inode).or_default();
        let seen = world.image.files.get_mut(&self.inode).unwrap();
        let dirty = |sector: &u64| world.dirty.contains(&(self.inode, *sector));
        seen.sectors.retain(|sector, _| dirty(sector));
        for (sector, bytes) in disk.sectors.iter().filter(|(sector, _)| !dirty(sector)) {
            seen.sectors.insert(*sector, bytes.clone());
        }
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let world = self.world.lock();
        let file = &world.image.files[&self.inode];
        let Some((first, _)) = file.sectors.range(from / SECTOR..).next() else {
            return Ok(None);
        };
        let mut end = *first;
        while file.sectors.contains_key(&end) {
            end += 1;
        }
        let start = (first * SECTOR).max(from);
        Ok(Some(start..(end * SECTOR).min(file.len)))
    }
}
