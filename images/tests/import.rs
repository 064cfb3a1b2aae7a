//! Disks from elsewhere: what is taken, and what is refused and why. The disks are made by
//! e2fsprogs and qemu-img.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use images::import::{BootFiles, Import, import};
use images::{Cancel, Catalogue, Quiet, Version, VersionId};
use tempfile::TempDir;

/// A directory to work in, with a catalogue.
struct Bench {
    dir: TempDir,
    catalogue: Catalogue,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::open(dir.path().join("images")).unwrap();
        Self { dir, catalogue }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An ext4 disk of 16 MiB with two kernels in `/boot`, of which one has no initrd.
    fn ext4(&self) -> PathBuf {
        let (root, disk) = (self.path("root"), self.path("disk.img"));
        let boot = root.join("boot");
        fs::create_dir_all(&boot).unwrap();
        fs::write(boot.join("vmlinuz-6.1.0-9-amd64"), kernel(1)).unwrap();
        fs::write(
            boot.join("initrd.img-6.1.0-9-amd64"),
            b"070701 an old archive",
        )
        .unwrap();
        fs::write(boot.join("vmlinuz-6.1.0-10-amd64"), kernel(2)).unwrap();
        fs::write(boot.join("initrd.img-6.1.0-10-amd64"), b"070701 an archive").unwrap();
        fs::write(boot.join("vmlinuz-6.1.0-11-amd64"), kernel(3)).unwrap();
        run(
            "mke2fs",
            &[
                "-q",
                "-F",
                "-t",
                "ext4",
                "-d",
                text(&root),
                text(&disk),
                "16M",
            ],
        );
        disk
    }

    fn import(&self, disk: &Path, boot_files: Option<BootFiles>) -> images::Result<Version> {
        let what = Import {
            image: "taken".parse().unwrap(),
            disk: disk.to_owned(),
            boot_files,
            cmdline: None,
            description: String::new(),
        };
        let staging = self.catalogue.stage(VersionId::random())?;
        let cancel = Cancel::new()?;
        let staged = import(staging, &what, SystemTime::UNIX_EPOCH, &Quiet, &cancel)?;
        self.catalogue.publish(staged)
    }

    /// Refused with `wanted` in the message, and nothing left.
    fn refused(&self, disk: &Path, wanted: &str) {
        let error = self.import(disk, None).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        let left = fs::read_dir(self.catalogue.root()).unwrap().count();
        assert_eq!(left, 1, "only the lock stays");
    }
}

/// What the x86 boot protocol demands of a kernel's first sectors.
fn kernel(fill: u8) -> Vec<u8> {
    let mut kernel = vec![fill; 4096];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_raw_disk_is_taken_with_its_newest_usable_kernel() {
    let bench = Bench::new();
    let disk = bench.ext4();
    let version = bench.import(&disk, None).unwrap();
    assert!(fs::read(version.disk_path()).unwrap() == fs::read(&disk).unwrap());
    assert!(fs::read(version.kernel().path).unwrap() == kernel(2));
    assert_eq!(
        fs::read(version.initrd().path).unwrap(),
        b"070701 an archive"
    );
    version.verify(&Quiet, &Cancel::new().unwrap()).unwrap();
}

#[test]
fn a_qcow2_disk_is_taken() {
    let bench = Bench::new();
    let (disk, wrapped) = (bench.ext4(), bench.path("disk.qcow2"));
    run(
        "qemu-img",
        &["convert", "-O", "qcow2", "-c", text(&disk), text(&wrapped)],
    );
    let version = bench.import(&wrapped, None).unwrap();
    assert!(fs::read(version.disk_path()).unwrap() == fs::read(&disk).unwrap());
}

#[test]
fn kernel_and_initrd_that_are_given_are_taken_if_they_are_such() {
    let bench = Bench::new();
    let disk = bench.ext4();
    let files = BootFiles {
        kernel: bench.path("k"),
        initrd: bench.path("i"),
    };
    fs::write(&files.kernel, kernel(9)).unwrap();
    fs::write(&files.initrd, [0x28, 0xb5, 0x2f, 0xfd, 0]).unwrap();
    let version = bench.import(&disk, Some(files.clone())).unwrap();
    assert!(fs::read(version.kernel().path).unwrap() == kernel(9));

    fs::write(&files.initrd, b"no archive").unwrap();
    let error = bench.import(&disk, Some(files.clone())).unwrap_err();
    assert!(error.to_string().contains("initrd is neither"), "{error}");
    fs::write(&files.kernel, b"#!/bin/sh").unwrap();
    let error = bench.import(&disk, Some(files)).unwrap_err();
    assert!(error.to_string().contains("no Linux kernel"), "{error}");
}

/// Publishing another file of this machine to every client is what such a qcow2 file would do.
#[test]
fn a_qcow2_file_that_names_other_files_is_refused() {
    let bench = Bench::new();
    let (disk, wrapped) = (bench.ext4(), bench.path("backed.qcow2"));
    let backed = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        text(&disk),
        text(&wrapped),
    ];
    run("qemu-img", &backed);
    bench.refused(&wrapped, "refers to another file");

    let (outer, data) = (bench.path("outer.qcow2"), bench.path("data.raw"));
    let option = format!("data_file={},data_file_raw=on", text(&data));
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            &option,
            text(&outer),
            "16M",
        ],
    );
    bench.refused(&outer, "refers to another file");
}

#[test]
fn a_disk_that_could_not_boot_is_refused_with_the_fix() {
    let bench = Bench::new();
    let disk = bench.ext4();
    let spoil = |offset: u64, bytes: &[u8]| {
        let file = File::options().write(true).open(&disk).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    };
    File::options()
        .write(true)
        .open(&disk)
        .unwrap()
        .set_len(8 << 20)
        .unwrap();
    bench.refused(&disk, "cut short");

    let disk = bench.ext4();
    run(
        "debugfs",
        &["-w", "-R", "set_super_value state 0", text(&disk)],
    );
    bench.refused(&disk, "e2fsck -f");

    // No filesystem's mark any more: first a boot sector's, then none, then gzip's.
    spoil(1080, &[0, 0]);
    spoil(510, &[0x55, 0xaa]);
    bench.refused(&disk, "partition table");
    spoil(510, &[0, 0]);
    bench.refused(&disk, "holds no ext4, XFS or btrfs");
    spoil(0, &[0x1f, 0x8b]);
    bench.refused(&disk, "gunzip");
    bench.refused(&bench.path("absent"), "absent");
    bench.refused(bench.dir.path(), "no file with a disk");
}

#[test]
fn a_disk_without_a_kernel_needs_one_given() {
    let bench = Bench::new();
    let disk = bench.path("empty.img");
    run("mke2fs", &["-q", "-F", "-t", "ext4", text(&disk), "16M"]);
    bench.refused(&disk, "--kernel and --initrd");
}
