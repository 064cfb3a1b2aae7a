//! The demo's files: the image, kept between runs, and a directory for each run, removed after it.
//!
//! ```text
//! DIR/images/       the catalogue that `bootroom image build` fills
//! DIR/logs/         console transcripts and the server's log of the last run
//! DIR/run-XXXXXX/   a run: sockets, configuration, and data/ with overlays, leases and state
//! ```

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tempfile::TempDir;

/// What the name of a run's directory begins with.
const RUN: &str = "run-";
/// The file in a run's directory whose lock says that the run goes on.
const LOCK: &str = "lock";
/// How long a Unix socket's path may be, less the longest name the demo puts below a run's directory.
const LONGEST: usize = 107 - "/control.sock.console".len();

/// The place where the demo keeps its files.
pub struct Storage {
    root: PathBuf,
}

/// A run's directory. It is removed when this is dropped.
pub struct Run {
    /// The directory.
    pub dir: TempDir,
    /// The server's data directory in it.
    pub data: PathBuf,
    /// Held for as long as the run goes on.
    _lock: File,
}

impl Storage {
    /// Opens the place, makes it if need be, and clears away what killed runs left behind.
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub fn open(asked: Option<&Path>) -> anyhow::Result<Self> {
        let root = asked.map_or_else(default_root, |dir| Ok(dir.to_owned()))?;
        for dir in [root.clone(), root.join("images"), root.join("logs")] {
            fs::create_dir_all(&dir)
                .with_context(|| format!("cannot make the directory {}", dir.display()))?;
        }
        let storage = Self {
            root: root.canonicalize()?,
        };
        storage.sweep()?;
        Ok(storage)
    }

    /// The directory that holds the catalogue.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the last run's logs are.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Waits until no other demo is at work on the image, and keeps others off it until the lock is dropped.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub fn lock_image(&self) -> anyhow::Result<File> {
        locked(&self.root.join("image.lock"))
    }

    /// Keeps a run that is just being made from being taken for an abandoned one. Held for moments only.
    fn lock_runs(&self) -> anyhow::Result<File> {
        locked(&self.root.join("runs.lock"))
    }

    /// Makes the directory of a new run.
    ///
    /// # Errors
    /// It cannot be made, or its path is too long for a socket.
    pub fn begin_run(&self) -> anyhow::Result<Run> {
        let _sweepers_out = self.lock_runs()?;
        let dir = tempfile::Builder::new().prefix(RUN).tempdir_in(&self.root);
        let dir = dir.with_context(|| format!("cannot write to {}", self.root.display()))?;
        if dir.path().as_os_str().len() > LONGEST {
            bail!(
                "{} is too long a path for sockets: choose a shorter --data",
                self.root.display()
            );
        }
        let lock = locked(&dir.path().join(LOCK))?;
        let data = dir.path().join("data");
        fs::create_dir(&data)?;
        symlink(self.root.join("images"), data.join("images"))?;
        Ok(Run {
            dir,
            data,
            _lock: lock,
        })
    }

    /// Whether no run goes on here.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn is_idle(&self) -> anyhow::Result<bool> {
        let _still = self.lock_runs()?;
        Ok(self.runs()?.is_empty())
    }

    /// Removes the directories of runs that no process is behind any more.
    fn sweep(&self) -> anyhow::Result<()> {
        let _makers_out = self.lock_runs()?;
        for run in self.runs()? {
            if is_abandoned(&run)? {
                fs::remove_dir_all(run)?;
            }
        }
        Ok(())
    }

    fn runs(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut runs = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(RUN) && entry.file_type()?.is_dir() {
                runs.push(entry.path());
            }
        }
        Ok(runs)
    }
}

/// Waits for the lock of the file at `path`, which is made if need be.
fn locked(path: &Path) -> anyhow::Result<File> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

fn is_abandoned(run: &Path) -> anyhow::Result<bool> {
    let Ok(lock) = File::open(run.join(LOCK)) else {
        return Ok(true);
    };
    match lock.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

fn default_root() -> anyhow::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/cache/bootroom/demo"));
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute());
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    Ok(cache
        .context("no home directory: name one with --data")?
        .join("bootroom/demo"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runs_directory_goes_with_it_and_the_images_stay() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(Some(dir.path())).unwrap();
        fs::write(storage.root().join("images/version"), "1").unwrap();
        let run = storage.begin_run().unwrap();
        let path = run.dir.path().to_owned();
        assert_eq!(
            fs::read_to_string(run.data.join("images/version")).unwrap(),
            "1"
        );
        drop(run);
        assert!(!path.exists());
        assert!(storage.root().join("images/version").exists());
    }

    #[test]
    fn what_a_killed_run_left_is_swept_and_a_live_run_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(Some(dir.path())).unwrap();
        assert!(storage.is_idle().unwrap());
        let live = storage.begin_run().unwrap();
        assert!(!storage.is_idle().unwrap());
        let dead = storage.root().join("run-dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        Storage::open(Some(dir.path())).unwrap();
        assert!(live.dir.path().exists());
        assert!(!dead.exists());
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(100));
        let error = Storage::open(Some(&long))
            .unwrap()
            .begin_run()
            .err()
            .unwrap();
        assert!(error.to_string().contains("--data"), "{error}");
    }
}
