//! What a file is, told by its first bytes, and whether a machine could boot from it.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::invalid;
use crate::error::{IoContext, Result};

/// Enough of the beginning for every mark below: btrfs has its own at 64 KiB.
const HEAD: usize = 68 << 10;

/// How a disk is wrapped in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Raw,
    Qcow2,
}

/// The filesystem on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileSystem {
    Ext,
    Xfs,
    Btrfs,
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext => "ext4",
            Self::Xfs => "XFS",
            Self::Btrfs => "btrfs",
        })
    }
}

/// The beginning of a file; what lies behind its end reads as zeros.
struct Head(Vec<u8>);

impl Head {
    fn read(file: &File, path: &Path) -> Result<Self> {
        let mut bytes = vec![0; HEAD];
        let mut filled = 0;
        while filled < HEAD {
            match file
                .read_at(&mut bytes[filled..], filled as u64)
                .at("read", path)?
            {
                0 => break,
                count => filled += count,
            }
        }
        Ok(Self(bytes))
    }

    fn has(&self, offset: usize, mark: &[u8]) -> bool {
        self.0[offset..].starts_with(mark)
    }

    fn bytes<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|index| self.0[offset + index])
    }

    fn be32(&self, offset: usize) -> u32 {
        u32::from_be_bytes(self.bytes(offset))
    }

    fn be64(&self, offset: usize) -> u64 {
        u64::from_be_bytes(self.bytes(offset))
    }

    fn le16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.bytes(offset))
    }

    fn le32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes(offset))
    }
}

/// Formats that we do not read, and what to do about it.
const FOREIGN: [(&[u8], &str); 6] = [
    (&[0x1f, 0x8b], "compressed: run gunzip first"),
    (
        &[0xfd, b'7', b'z', b'X', b'Z'],
        "compressed: run unxz first",
    ),
    (&[0x28, 0xb5, 0x2f, 0xfd], "compressed: run unzstd first"),
    (b"BZh", "compressed: run bunzip2 first"),
    (b"KDMV", "in VMDK format: run qemu-img convert -O raw first"),
    (
        b"vhdxfile",
        "in VHDX format: run qemu-img convert -O raw first",
    ),
];

/// How the disk in `file` is wrapped.
pub(super) fn container(file: &File, path: &Path) -> Result<Container> {
    let metadata = file.metadata().at("look at", path)?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Err(invalid(format!(
            "{} is no file with a disk in it",
            path.display()
        )));
    }
    let head = Head::read(file, path)?;
    if head.has(0, b"QFI\xfb") {
        check_qcow2(&head, path)?;
        return Ok(Container::Qcow2);
    }
    match FOREIGN.iter().find(|(mark, _)| head.has(0, mark)) {
        Some((_, what)) => Err(invalid(format!("{} is {what}", path.display()))),
        None => Ok(Container::Raw),
    }
}

/// A qcow2 file may say that parts of its content are to be read from other files, by name. One
/// that we were handed could so publish any file of this machine to every client.
/// (QEMU, docs/interop/qcow2.txt: `backing_file_offset`, incompatible feature bit 2.)
fn check_qcow2(head: &Head, path: &Path) -> Result<()> {
    let has_backing = head.be64(8) != 0;
    let has_data_file = head.be32(4) >= 3 && head.be64(72) & 4 != 0;
    let is_encrypted = head.be32(32) != 0;
    let path = path.display();
    if has_backing || has_data_file {
        return Err(invalid(format!(
            "{path} refers to another file: merge them with qemu-img convert first"
        )));
    }
    if is_encrypted {
        return Err(invalid(format!(
            "{path} is encrypted: decrypt it with qemu-img convert first"
        )));
    }
    Ok(())
}

/// The filesystem on the raw disk at `disk`; `source` is how the user knows it.
pub(super) fn filesystem(disk: &Path, source: &Path) -> Result<FileSystem> {
    let file = File::open(disk).at("open", disk)?;
    let size = file.metadata().at("look at", disk)?.len();
    let head = Head::read(&file, disk)?;
    if head.has(1080, &[0x53, 0xef]) {
        check_ext(&head, size, source)?;
        return Ok(FileSystem::Ext);
    }
    if head.has(0, b"XFSB") {
        return Ok(FileSystem::Xfs);
    }
    if head.has(0x10040, b"_BHRfS_M") {
        return Ok(FileSystem::Btrfs);
    }
    let source = source.display();
    if head.has(510, &[0x55, 0xaa]) || head.has(512, b"EFI PART") {
        return Err(invalid(format!(
            "{source} has a partition table, and a client's root is the whole disk: \
             copy its root partition into a file of its own and import that"
        )));
    }
    Err(invalid(format!(
        "{source} holds no ext4, XFS or btrfs filesystem"
    )))
}

/// An ext superblock, at byte 1024 (Linux, Documentation/filesystems/ext4/super.rst).
fn check_ext(head: &Head, size: u64, source: &Path) -> Result<()> {
    const SUPER: usize = 1024;
    let source = source.display();
    let is_64bit = head.le32(SUPER + 0x60) & 0x80 != 0;
    let high = if is_64bit {
        head.le32(SUPER + 0x150)
    } else {
        0
    };
    let blocks = u64::from(high) << 32 | u64::from(head.le32(SUPER + 4));
    let log_block = head.le32(SUPER + 0x18).min(20);
    if blocks.saturating_mul(1024 << log_block) > size {
        return Err(invalid(format!(
            "{source} is cut short: its filesystem is larger than the file"
        )));
    }
    let needs_recovery = head.le32(SUPER + 0x60) & 0x4 != 0;
    let state = head.le16(SUPER + 0x3a);
    if needs_recovery || state & 1 == 0 || state & 2 != 0 {
        return Err(invalid(format!(
            "{source} was not unmounted cleanly: run e2fsck -f on it first"
        )));
    }
    Ok(())
}

/// Refuses what no boot loader takes for a Linux kernel: x86 (Linux, Documentation/arch/x86/boot.rst)
/// and arm64 (Documentation/arch/arm64/booting.rst).
pub(super) fn check_kernel(path: &Path) -> Result<()> {
    let head = Head::read(&File::open(path).at("open", path)?, path)?;
    if head.has(0x202, b"HdrS") || head.has(0x38, b"ARM\x64") {
        return Ok(());
    }
    Err(invalid(
        "the kernel is no Linux kernel image: give the vmlinuz file".to_owned(),
    ))
}

/// First bytes of what Linux unpacks as an initramfs.
const INITRD: [&[u8]; 8] = [
    b"070701",
    b"070702",
    &[0x1f, 0x8b],
    &[0xfd, b'7', b'z', b'X', b'Z'],
    &[0x28, 0xb5, 0x2f, 0xfd],
    b"BZh",
    &[0x02, 0x21, 0x4c, 0x18],
    &[0x5d, 0x00, 0x00],
];

/// Refuses what Linux could not unpack as an initramfs.
pub(super) fn check_initrd(path: &Path) -> Result<()> {
    let head = Head::read(&File::open(path).at("open", path)?, path)?;
    if INITRD.iter().any(|mark| head.has(0, mark)) {
        return Ok(());
    }
    Err(invalid(
        "the initrd is neither a cpio archive nor a compressed one".to_owned(),
    ))
}
