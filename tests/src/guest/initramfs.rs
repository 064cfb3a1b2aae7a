//! An initial filesystem for the kernel: the `newc` archive of `Documentation/driver-api/early-userspace`, written here.

use std::path::Path;

/// The archive under construction.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, 0o040_755, &[]);
    }

    /// Adds a file that can be executed.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, 0o100_755, content);
    }

    /// Adds a file of the host, and the libraries that it is linked with, at the places where they are.
    ///
    /// # Panics
    /// When the file cannot be read.
    pub fn program(&mut self, path: &str, source: &Path) {
        for (path, content) in program(path, source) {
            self.file(&path, &content);
        }
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, to: &str) {
        self.entry(path, 0o120_777, to.as_bytes());
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let length = u32::try_from(content.len()).expect("a file of a guest is small");
        let name = u32::try_from(path.len() + 1).expect("a path is short");
        self.bytes.extend_from_slice(b"070701");
        // ino, mode, uid, gid, nlink, mtime, filesize, device, rdevice, namesize, check
        for field in [self.entries, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name, 0] {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

/// A file of the host under another path, and the libraries that it is linked with at the places where they are, as
/// paths and contents.
///
/// # Panics
/// When one cannot be read.
pub fn program(path: &str, source: &Path) -> Vec<(String, Vec<u8>)> {
    let read =
        |path: &Path| std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let linked = std::process::Command::new("ldd")
        .arg(source)
        .output()
        .expect("ldd runs");
    let text = String::from_utf8_lossy(&linked.stdout).into_owned();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    let library = |library: &str| (library[1..].to_owned(), read(Path::new(library)));
    let own = (path.to_owned(), read(source));
    std::iter::once(own).chain(libraries.map(library)).collect()
}
