//! Room: the quota of one overlay, and the low-water mark of the pool that all overlays share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::ids::{BLOCK, OverlayId};
use crate::storage::Storage;

/// Whether an overlay lasts, which decides who may still write when the pool runs low.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retention {
    /// A client's lasting disk: may grow until the host is full.
    Keep,
    /// Thrown away at the next boot or session: stops growing at the low-water mark.
    Discard,
}

/// How far an overlay may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of its own that it may hold; `None` for no limit.
    pub quota: Option<u64>,
    /// Whether it lasts.
    pub retention: Retention,
}

/// How near an overlay is to its quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Below 80 %, or no quota.
    Fine,
    /// 80 % or more.
    Warning,
    /// No room for another block.
    Full,
}

/// What an overlay holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Bytes of the client's blocks, in all layers.
    pub used: u64,
    /// Most bytes it may hold; `None` is no limit but the disk's size.
    pub quota: Option<u64>,
    /// How near `used` is to `quota`.
    pub level: Level,
}

/// Most and least bytes that may be given out before the filesystem is asked again how much is free.
const CHECK_EVERY: (u64, u64) = (1 << 20, 1 << 30);

/// The filesystem that all overlays of a store share.
pub(crate) struct Pool {
    host: Arc<dyn Storage>,
    dir: PathBuf,
    low_water: u64,
    /// Bytes that may be given out before the next look.
    allowance: AtomicI64,
    low: AtomicBool,
    admitted: AtomicBool,
}

impl Pool {
    pub(crate) fn new(host: Arc<dyn Storage>, dir: PathBuf, low_water: u64) -> Self {
        Self {
            host,
            dir,
            low_water,
            allowance: AtomicI64::new(0),
            low: AtomicBool::new(false),
            admitted: AtomicBool::new(false),
        }
    }

    /// Whether somebody else has decided already what there is room for.
    pub(crate) fn set_admitted(&self, admitted: bool) {
        self.admitted.store(admitted, Ordering::Relaxed);
    }

    fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Relaxed)
    }

    /// Whether less is free than the mark.
    pub(crate) fn is_low(&self) -> Result<bool> {
        Ok(self.low_water > 0 && self.look()?)
    }

    /// Looks how much is free; says whether that is below the mark.
    fn look(&self) -> Result<bool> {
        let free = self.host.free_bytes(&self.dir);
        let free = free.context(|| format!("asking for free space in {}", self.dir.display()))?;
        let above = free.saturating_sub(self.low_water);
        let next = (above / 4).clamp(CHECK_EVERY.0, CHECK_EVERY.1);
        self.allowance.store(next as i64, Ordering::Relaxed);
        let low = free < self.low_water;
        if low != self.low.swap(low, Ordering::Relaxed) {
            tracing::warn!(
                free,
                mark = self.low_water,
                low,
                "pool of overlays crossed its low-water mark"
            );
        }
        Ok(low)
    }

    /// Refuses while the pool is below its mark.
    pub(crate) fn require_room(&self) -> Result<()> {
        if self.is_admitted() || !self.is_low()? {
            return Ok(());
        }
        let text = format!(
            "less than {} MiB are free in {}; delete or reset overlays, or add disk",
            self.low_water >> 20,
            self.dir.display()
        );
        Err(Error::new(ErrorKind::PoolLow, text))
    }

    fn take(&self, bytes: u64, keep: bool) -> Result<()> {
        if self.low_water == 0 || keep || self.is_admitted() {
            return Ok(());
        }
        let left = self.allowance.fetch_sub(bytes as i64, Ordering::Relaxed) - bytes as i64;
        if left <= 0 || self.low.load(Ordering::Relaxed) {
            return self.require_room();
        }
        Ok(())
    }
}

/// The room that one overlay takes.
pub(crate) struct Space {
    id: OverlayId,
    used: AtomicU64,
    /// Bytes; `u64::MAX` for none.
    quota: AtomicU64,
    keep: AtomicBool,
    /// The quota refuses nothing for now.
    lenient: AtomicBool,
    warned: AtomicBool,
    pool: Arc<Pool>,
}

impl Space {
    /// An account of an overlay that holds `used` blocks.
    pub(crate) fn new(id: OverlayId, used: u64, limits: Limits, pool: Arc<Pool>) -> Self {
        let space = Self {
            id,
            used: AtomicU64::new(used),
            quota: AtomicU64::new(u64::MAX),
            keep: AtomicBool::new(false),
            lenient: AtomicBool::new(false),
            warned: AtomicBool::new(false),
            pool,
        };
        space.set_limits(limits);
        space
    }

    /// Holds every later write to `limits`.
    pub(crate) fn set_limits(&self, limits: Limits) {
        let keep = limits.retention == Retention::Keep;
        self.keep.store(keep, Ordering::Relaxed);
        self.quota
            .store(limits.quota.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.warned.store(false, Ordering::Relaxed);
        self.warn(self.used.load(Ordering::Relaxed));
    }

    /// Whether the overlay holds what the client did not ask for, so that its quota is no measure.
    pub(crate) fn set_lenient(&self, lenient: bool) {
        self.lenient.store(lenient, Ordering::Relaxed);
    }

    fn keeps(&self) -> bool {
        self.keep.load(Ordering::Relaxed)
    }

    fn quota(&self) -> Option<u64> {
        Some(self.quota.load(Ordering::Relaxed)).filter(|quota| *quota != u64::MAX)
    }

    /// Takes room for `blocks` more.
    pub(crate) fn reserve(&self, blocks: u64) -> Result<()> {
        if blocks == 0 {
            return Ok(());
        }
        let used = self.used.fetch_add(blocks, Ordering::Relaxed) + blocks;
        let result = self
            .fits(used)
            .and_then(|()| self.pool.take(blocks * BLOCK, self.keeps()));
        if result.is_err() {
            self.release(blocks);
        } else {
            self.warn(used);
        }
        result
    }

    /// Refuses what [`Space::reserve`] would refuse as things stand.
    pub(crate) fn require(&self, blocks: u64) -> Result<()> {
        if blocks == 0 {
            return Ok(());
        }
        self.fits(self.used.load(Ordering::Relaxed) + blocks)?;
        match self.keeps() || !self.pool.low.load(Ordering::Relaxed) {
            true => Ok(()),
            false => self.pool.require_room(),
        }
    }

    /// Takes room without asking: for the store's own copies, which replace others.
    pub(crate) fn reserve_anyway(&self, blocks: u64) {
        self.used.fetch_add(blocks, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, blocks: u64) {
        if blocks == 0 {
            return;
        }
        let used = self.used.fetch_sub(blocks, Ordering::Relaxed) - blocks;
        if self.level(used) == Level::Fine {
            self.warned.store(false, Ordering::Relaxed);
        }
    }

    fn fits(&self, used: u64) -> Result<()> {
        if self.lenient.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.quota() {
            Some(quota) if used > quota / BLOCK && !self.pool.is_admitted() => {
                let text = format!("overlay {} with a quota of {quota} bytes", self.id);
                Err(Error::new(ErrorKind::QuotaFull, text))
            }
            _ => Ok(()),
        }
    }

    fn level(&self, used: u64) -> Level {
        match self.quota() {
            Some(quota) if used >= quota / BLOCK => Level::Full,
            Some(quota) if used * 5 >= quota / BLOCK * 4 => Level::Warning,
            _ => Level::Fine,
        }
    }

    fn warn(&self, used: u64) {
        if self.level(used) == Level::Fine || self.warned.swap(true, Ordering::Relaxed) {
            return;
        }
        let used = used * BLOCK;
        tracing::warn!(overlay = %self.id, used, quota = self.quota(), "overlay is at 80 % of its quota or more");
    }

    pub(crate) fn usage(&self) -> Usage {
        let used = self.used.load(Ordering::Relaxed);
        Usage {
            used: used * BLOCK,
            quota: self.quota(),
            level: self.level(used),
        }
    }
}
