//! A machine's screen in text mode, for what does not speak on the serial console.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::deadline::wait_for;

/// The text page of a VGA, 80 by 25, each character with its colours.
const PAGE: (u64, usize) = (0xb_8000, 80 * 25 * 2);

/// The screen of a running machine.
pub struct Screen {
    monitor: PathBuf,
    page: PathBuf,
}

impl Screen {
    /// What QEMU is told, so that there is a screen and somebody may look at it. `dir` and `name` are as for
    /// [`Screen::of`].
    pub fn arguments(dir: &Path, name: &str) -> Vec<String> {
        let monitor = format!("unix:{},server=on,wait=off", monitor(dir, name).display());
        ["-vga", "std", "-monitor", &monitor]
            .map(str::to_owned)
            .into()
    }

    /// The screen of the machine `name`, whose files are in `dir`.
    pub fn of(dir: &Path, name: &str) -> Self {
        let page = dir.join(format!("{name}.page"));
        let monitor = monitor(dir, name);
        Self { monitor, page }
    }

    /// Waits until these words stand on the screen; returns all of it.
    ///
    /// # Panics
    /// When they do not within `limit`.
    pub fn expect(&self, words: &str, limit: Duration) -> String {
        let mut last = String::new();
        let look = || {
            last = self.text().unwrap_or_default();
            last.contains(words).then(|| last.clone())
        };
        wait_for(&format!("{words:?} on the screen"), limit, look)
    }

    fn text(&self) -> std::io::Result<String> {
        let mut monitor = UnixStream::connect(&self.monitor)?;
        let (from, len) = PAGE;
        let page = self.page.display();
        // QEMU does what it is told before it notices that nobody is there any more.
        writeln!(monitor, "pmemsave {from:#x} {len} \"{page}\"\ninfo version")?;
        monitor.shutdown(std::net::Shutdown::Write)?;
        monitor.read_to_end(&mut Vec::new())?;
        let page = std::fs::read(&self.page)?;
        let lines = page.chunks(160);
        let shown = |cell: &[u8]| match cell[0] {
            byte @ b' '..=b'~' => char::from(byte),
            _ => ' ',
        };
        let text = lines.map(|line| line.chunks(2).map(shown).chain(['\n']).collect::<String>());
        Ok(text.collect())
    }
}

fn monitor(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.monitor"))
}
