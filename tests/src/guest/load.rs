//! Runs inside the guest: writes, syncs, reads back past the page cache, for as long as `/run/load.stop` is absent.
//!
//! Every block carries its number and the number of the write that made it, so that a lost write, a torn one and one
//! that landed elsewhere all show. Compiled on its own by the harness, with nothing but the standard library.
//!
//! `/run/load.log`: `gap START LENGTH` (ms) for every pause between two good writes of more than 300 ms; `error …`.
//! `/run/load.ops`: good writes so far. At the end: `done OPS ERRORS WRONG`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
const BLOCKS: usize = 2048;
const O_DIRECT: i32 = 0o40000;
const GAP: Duration = Duration::from_millis(300);

#[repr(align(4096))]
struct Aligned([u8; BLOCK]);

struct Load {
    file: File,
    direct: File,
    written: Vec<u64>,
    log: File,
    start: Instant,
    last: Instant,
    operations: u64,
    errors: u64,
    wrong: u64,
    random: u64,
}

fn pattern(block: usize, sequence: u64) -> Aligned {
    let mut page = Aligned([0; BLOCK]);
    for (at, chunk) in page.0.chunks_exact_mut(16).enumerate() {
        chunk[..8].copy_from_slice(&sequence.to_le_bytes());
        chunk[8..].copy_from_slice(&((block as u64) << 16 | at as u64).to_le_bytes());
    }
    page
}

impl Load {
    fn new(path: &str) -> std::io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        for block in 0..BLOCKS {
            file.write_all_at(&pattern(block, 0).0, (block * BLOCK) as u64)?;
        }
        file.sync_all()?;
        let direct = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(path)?;
        let log = OpenOptions::new().create(true).append(true).open("/run/load.log")?;
        let now = Instant::now();
        let written = vec![0; BLOCKS];
        Ok(Self { file, direct, written, log, start: now, last: now, operations: 0, errors: 0, wrong: 0, random: 88172645463325252 })
    }

    fn pick(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % BLOCKS as u64) as usize
    }

    fn write(&mut self) -> std::io::Result<()> {
        let block = self.pick();
        let sequence = self.operations + 1;
        self.file.write_all_at(&pattern(block, sequence).0, (block * BLOCK) as u64)?;
        self.file.sync_data()?;
        self.written[block] = sequence;
        self.operations = sequence;
        let now = Instant::now();
        if now - self.last > GAP {
            let begun = (self.last - self.start).as_millis();
            writeln!(self.log, "gap {begun} {}", (now - self.last).as_millis())?;
        }
        self.last = now;
        Ok(())
    }

    fn check(&mut self, block: usize) -> std::io::Result<()> {
        let mut page = Aligned([0; BLOCK]);
        self.direct.read_exact_at(&mut page.0, (block * BLOCK) as u64)?;
        if page.0 != pattern(block, self.written[block]).0 {
            self.wrong += 1;
            writeln!(self.log, "wrong block {block}, write {}", self.written[block])?;
        }
        Ok(())
    }

    fn note(&mut self, result: std::io::Result<()>) {
        if let Err(error) = result {
            self.errors += 1;
            let _ = writeln!(self.log, "error {error}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn main() -> std::io::Result<()> {
    let mut load = Load::new(&std::env::args().nth(1).expect("a path"))?;
    while !Path::new("/run/load.stop").exists() {
        let result = load.write();
        load.note(result);
        let block = load.pick();
        let result = load.check(block);
        load.note(result);
        std::fs::write("/run/load.ops", load.operations.to_string())?;
    }
    for block in 0..BLOCKS {
        let result = load.check(block);
        load.note(result);
    }
    writeln!(load.log, "done {} {} {}", load.operations, load.errors, load.wrong)
}
