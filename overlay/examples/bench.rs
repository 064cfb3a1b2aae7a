//! Times the store alone and prints a table. `cargo run --release -p overlay --example bench [DIR]`.
//!
//! DIR is where the overlays are made (default: the temporary folder); use the filesystem that will hold them.

use std::env;
use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay::{
    Attachment, Attempt, BLOCK, Base, BaseId, Digest, Durability, FileBase, Options, Overlay,
    OverlayId, OverlaySpec, Retention, Store,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const GIB: u64 = 1 << 30;
const OPS: u64 = 40_000;
const FLUSHES: u64 = 200;

/// Numbers without a pattern; the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

struct Bench {
    dir: PathBuf,
    store: Store,
    base: Arc<dyn Base>,
}

fn row(what: &str, figure: String) {
    println!("| {what:<62} | {figure:>24} |");
}

fn per_op(time: Duration, ops: u64) -> String {
    let nanos = time.as_nanos() as f64 / ops as f64;
    format!("{:.2} µs ({:.0}/s)", nanos / 1e3, 1e9 / nanos)
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn time<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<(Duration, T)> {
    let start = Instant::now();
    let value = work()?;
    Ok((start.elapsed(), value))
}

/// Bytes of memory that are this process's own.
fn memory() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon"))
        .ok_or("no RssAnon")?;
    let kib: u64 = line.split_whitespace().nth(1).ok_or("no figure")?.parse()?;
    Ok(kib << 10)
}

impl Bench {
    fn new(dir: &Path) -> Outcome<Self> {
        let dir = dir.join(format!("overlay-bench-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let path = dir.join("base.raw");
        fs::write(&path, vec![7; 256 << 20])?;
        let id = BaseId {
            version: uuid::Uuid::from_u128(1),
            digest: Digest([1; 32]),
        };
        let base = Arc::new(FileBase::open(&path, id)?);
        let store = Store::open(&dir.join("overlays"), Options::default())?;
        Ok(Self { dir, store, base })
    }

    fn create(&self, name: &str, size: u64) -> Outcome<Arc<Overlay>> {
        let spec = OverlaySpec {
            size,
            quota: None,
            retention: Retention::Keep,
            base: self.base.clone(),
        };
        Ok(self.store.create(&OverlayId::new(name)?, spec)?)
    }

    fn open(&self, name: &str) -> Outcome<Arc<Overlay>> {
        Ok(self
            .store
            .open_overlay(&OverlayId::new(name)?, &|_| Some(self.base.clone()))?)
    }

    fn delete(&self, name: &str) -> Outcome<()> {
        Ok(self.store.delete(&OverlayId::new(name)?)?)
    }

    fn writes(&self) -> Outcome<()> {
        let disk = self.create("writes", GIB)?.attach();
        let (fresh, ()) = time(|| write_some(&disk, OPS, None))?;
        row(
            "random 4 KiB write, fresh overlay of 1 GiB",
            per_op(fresh, OPS),
        );
        for block in 0..GIB / (1 << 20) {
            disk.write(&[3; 1 << 20], block << 20, Durability::Process)?;
        }
        disk.flush()?;
        let (filled, ()) = time(|| write_some(&disk, OPS, None))?;
        row(
            "random 4 KiB write, filled overlay of 1 GiB",
            per_op(filled, OPS),
        );
        self.reads(&disk, "random 4 KiB read, from the overlay, cached", GIB)?;
        disk.flush()?;
        self.delete("writes")
    }

    fn partial(&self) -> Outcome<()> {
        let disk = self.create("partial", GIB)?.attach();
        let mut dice = Dice(5);
        let (spent, ()) = time(|| {
            for _ in 0..OPS {
                disk.write(&[1; 512], dice.below(GIB / 512) * 512, Durability::Process)?;
            }
            Ok(())
        })?;
        row(
            "random 512 byte write, fresh overlay (copy-up)",
            per_op(spent, OPS),
        );
        self.delete("partial")
    }

    fn reads(&self, disk: &Attachment, what: &str, span: u64) -> Outcome<()> {
        let mut buf = vec![0; BLOCK as usize];
        let mut dice = Dice(11);
        let (spent, waits) = time(|| {
            let mut waits = 0;
            for _ in 0..OPS * 5 {
                let at = dice.below(span / BLOCK) * BLOCK;
                if disk.try_read(&mut buf, at)? == Attempt::WouldBlock {
                    waits += 1;
                    disk.read(&mut buf, at)?;
                }
            }
            Ok(waits)
        })?;
        let note = if waits > 0 {
            format!("{what} ({waits} waited)")
        } else {
            what.to_owned()
        };
        row(&note, per_op(spent, OPS * 5));
        Ok(())
    }

    fn base_reads(&self) -> Outcome<()> {
        let disk = self.create("reads", GIB)?.attach();
        self.reads(
            &disk,
            "random 4 KiB read, from the base, cached",
            self.base.size(),
        )?;
        let mut dice = Dice(13);
        let size = self.base.size() / BLOCK;
        let (spent, ()) = time(|| {
            let mut runs = Vec::new();
            for _ in 0..OPS * 5 {
                let at = dice.below(size) * BLOCK;
                runs.clear();
                disk.segments(at..at + BLOCK, &mut runs)?;
                black_box(disk.base().resident(at..at + BLOCK));
            }
            Ok(())
        })?;
        row(
            "4 KiB of the base found in the page cache, no copy",
            per_op(spent, OPS * 5),
        );
        self.delete("reads")
    }

    fn flushes(&self) -> Outcome<()> {
        let disk = self.create("flushes", GIB)?.attach();
        let (spent, ()) = time(|| write_some(&disk, FLUSHES, Some(1)))?;
        row(
            "random 4 KiB write to a fresh block + flush",
            per_op(spent, FLUSHES),
        );
        let (spent, ()) = time(|| write_some(&disk, FLUSHES * 32, Some(32)))?;
        row(
            "random 4 KiB write to fresh blocks, flush every 32",
            per_op(spent, FLUSHES * 32),
        );
        let (spent, ()) = time(|| {
            for _ in 0..FLUSHES {
                disk.write(&[9; 4096], 0, Durability::Disk)?;
            }
            Ok(())
        })?;
        row(
            "4 KiB write with FUA to a mapped block",
            per_op(spent, FLUSHES),
        );
        let (spent, ()) = time(|| (0..OPS).try_for_each(|_| Ok(disk.flush()?)))?;
        row("flush with nothing to do", per_op(spent, OPS));
        self.delete("flushes")
    }

    fn sizes(&self) -> Outcome<()> {
        for shift in [30, 33, 36, 40] {
            let size = 1u64 << shift;
            let label = format!("{} GiB", size / GIB);
            let (made, overlay) = time(|| self.create("sized", size))?;
            let disk = overlay.attach();
            let (spent, ()) = time(|| write_some(&disk, 2000, None))?;
            disk.flush()?;
            drop((disk, overlay));
            let (opened, overlay) = time(|| self.open("sized"))?;
            row(&format!("{label}: create"), millis(made));
            row(
                &format!("{label}: 2000 random 4 KiB writes all over it"),
                per_op(spent, 2000),
            );
            row(
                &format!("{label}: open, with those 2000 blocks"),
                millis(opened),
            );
            row(
                &format!("{label}: memory of its map"),
                format!("{} KiB", overlay.map_memory() >> 10),
            );
            drop(overlay);
            let spec = OverlaySpec {
                size,
                quota: None,
                retention: Retention::Keep,
                base: self.base.clone(),
            };
            let (reset, _) = time(|| Ok(self.store.reset(&OverlayId::new("sized")?, spec)?))?;
            row(&format!("{label}: reset"), millis(reset));
            self.idle(&label, size)?;
            self.delete("sized")?;
        }
        Ok(())
    }

    fn idle(&self, label: &str, size: u64) -> Outcome<()> {
        const MANY: u64 = 32;
        for i in 0..MANY {
            self.create(&format!("idle-{i}"), size)?;
        }
        let before = memory()?;
        let open = (0..MANY).map(|i| self.open(&format!("idle-{i}")));
        let overlays = open.collect::<Outcome<Vec<_>>>()?;
        let disks: Vec<_> = overlays.iter().map(|overlay| overlay.attach()).collect();
        let maps: u64 = overlays.iter().map(|overlay| overlay.map_memory()).sum();
        let each = (memory()?.saturating_sub(before)) / MANY;
        let rest = each.saturating_sub(maps / MANY);
        row(
            &format!("{label}: memory of an idle overlay beside its map"),
            format!("{} KiB", rest >> 10),
        );
        drop((disks, overlays));
        (0..MANY).try_for_each(|i| self.delete(&format!("idle-{i}")))
    }

    /// A million fragments: every 512th block of a terabyte was written.
    fn fragments(&self) -> Outcome<()> {
        const SIZE: u64 = 1 << 40;
        let overlay = self.create("million", SIZE)?;
        let disk = overlay.attach();
        for i in 0..1 << 19 {
            disk.write(&[1; 4096], i * 512 * BLOCK, Durability::Process)?;
        }
        let (spent, runs) = time(|| {
            let mut runs = 0u64;
            disk.block_status(0..SIZE, &mut |_| {
                runs += 1;
                ControlFlow::Continue(())
            })?;
            Ok(runs)
        })?;
        row(
            &format!("1 TiB, block status of all {runs} runs"),
            millis(spent),
        );
        row(
            "1 TiB, memory of that map",
            format!("{} KiB", overlay.map_memory() >> 10),
        );
        drop((disk, overlay));
        let (spent, overlay) = time(|| self.open("million"))?;
        row("1 TiB, open with that map", millis(spent));
        drop(overlay);
        let (spent, ()) = time(|| self.delete("million"))?;
        row("1 TiB, delete of that overlay", millis(spent));
        Ok(())
    }
}

fn write_some(disk: &Attachment, ops: u64, flush_every: Option<u64>) -> Outcome<()> {
    let mut dice = Dice(7 + ops);
    for op in 1..=ops {
        let at = dice.below(disk.size() / BLOCK) * BLOCK;
        disk.write(&[op as u8; BLOCK as usize], at, Durability::Process)?;
        if flush_every.is_some_and(|every| op % every == 0) {
            disk.flush()?;
        }
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let dir = env::args_os()
        .nth(1)
        .map_or_else(env::temp_dir, PathBuf::from);
    let bench = Bench::new(&dir)?;
    row("the store alone, one thread", "figure".into());
    row("---", "---".into());
    let result = bench
        .writes()
        .and_then(|()| bench.partial())
        .and_then(|()| bench.base_reads())
        .and_then(|()| bench.flushes())
        .and_then(|()| bench.sizes())
        .and_then(|()| bench.fragments());
    fs::remove_dir_all(&bench.dir)?;
    result
}
