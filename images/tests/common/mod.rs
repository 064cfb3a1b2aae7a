//! Small versions with known content.

use std::time::{Duration, SystemTime};
use std::{fs, io};

use images::{Cancel, Catalogue, Details, Quiet, Staged, Staging, Version, VersionId};

/// Bytes of a small disk.
pub const DISK: usize = 64 << 10;

/// A staged version of `image` whose disk is filled with `fill`.
pub fn staged(catalogue: &Catalogue, image: &str, fill: u8) -> Staged {
    let staging = catalogue.stage(VersionId::random()).unwrap();
    write(&staging, fill).unwrap();
    finish(staging, image, fill).unwrap()
}

/// Writes the disk, the kernel and the initrd.
pub fn write(staging: &Staging, fill: u8) -> io::Result<()> {
    fs::write(staging.disk_path(), vec![fill; DISK])?;
    fs::write(staging.kernel_path(), b"a kernel")?;
    fs::write(staging.initrd_path(), b"an initrd")
}

/// Finishes what is written.
pub fn finish(staging: Staging, image: &str, fill: u8) -> images::Result<Staged> {
    let details = Details {
        image: image.parse().unwrap(),
        created: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        description: format!("filled with {fill}"),
        cmdline: "rw".to_owned(),
    };
    staging.finish(details, &Quiet, &Cancel::new().unwrap())
}

/// The same, published.
pub fn published(catalogue: &Catalogue, image: &str, fill: u8) -> Version {
    catalogue.publish(staged(catalogue, image, fill)).unwrap()
}
