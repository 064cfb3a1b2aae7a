//! The archive that the kernel unpacks into an initramfs: cpio, "newc" (Linux: Documentation/driver-api/early-userspace).
//!
//! Every entry is a header of `070701` and 13 numbers of 8 hex digits, the name with a NUL, and the content; header with
//! name, and content, are each filled up to 4 bytes. The entry `TRAILER!!!` ends it. Everything belongs to root.

const MAGIC: &str = "070701";
const ALIGN: usize = 4;
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const END: &str = "TRAILER!!!";

/// An archive that is being written.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a folder; that which it is in has to be there already.
    pub fn folder(&mut self, path: &str, mode: u32) {
        self.entry(path, FOLDER | mode, 2, &[]);
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, FILE | mode, 1, content);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(END, 0, 1, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, links: u32, content: &[u8]) {
        self.entries += 1;
        let size = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        // inode, mode, uid, gid, links, mtime, size, device and rdevice (major, minor each), name, checksum (unused)
        let numbers = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            size(content.len()),
            0,
            0,
            0,
            0,
            size(name.len() + 1),
            0,
        ];
        self.bytes.extend(MAGIC.as_bytes());
        for number in numbers {
            self.bytes.extend(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Write,
        os::unix::fs::PermissionsExt,
        process::{Command, Stdio},
    };

    use super::*;

    /// GNU cpio unpacks it to what was packed.
    #[test]
    fn cpio_reads_it() {
        let mut archive = Archive::default();
        archive.folder("top", 0o700);
        archive.folder("top/in", 0o755);
        for length in 0..9 {
            archive.file(
                &format!("top/in/{}", "n".repeat(length + 1)),
                0o600,
                &b"12345678"[..length],
            );
        }
        let dir = tempfile::tempdir().unwrap();
        let mut cpio = Command::new("cpio")
            .args(["--extract", "--quiet", "--no-absolute-filenames"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .expect("cpio runs");
        cpio.stdin
            .take()
            .unwrap()
            .write_all(&archive.finish())
            .unwrap();
        assert!(cpio.wait().unwrap().success());
        for length in 0..9 {
            let path = dir.path().join("top/in").join("n".repeat(length + 1));
            assert_eq!(fs::read(&path).unwrap(), &b"12345678"[..length]);
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        let mode = fs::metadata(dir.path().join("top"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
