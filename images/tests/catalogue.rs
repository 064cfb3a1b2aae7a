//! The catalogue as the server and the command line use it.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::{DISK, published, staged};
use images::{Binding, Cancel, Catalogue, ErrorKind, ImageRef, Quiet, Version, VersionId};
use overlay::Base;
use tempfile::TempDir;

fn catalogue() -> (TempDir, Catalogue) {
    let dir = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::open(dir.path().join("images")).unwrap();
    (dir, catalogue)
}

fn reference(text: &str) -> ImageRef {
    text.parse().unwrap()
}

fn resolve(catalogue: &Catalogue, text: &str) -> Version {
    catalogue.resolve(&reference(text)).unwrap()
}

fn verify(version: &Version) -> images::Result<()> {
    version.verify(&Quiet, &Cancel::new().unwrap())
}

/// Names in the catalogue's directory that are no image.
fn leftovers(catalogue: &Catalogue) -> Vec<String> {
    let names = fs::read_dir(catalogue.root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names
        .filter(|name| name.starts_with('.') && name != ".lock")
        .collect()
}

#[test]
fn a_published_version_is_current_and_reads_back() {
    let (_dir, catalogue) = catalogue();
    let version = published(&catalogue, "debian", 7);
    assert_eq!(version.to_string(), "debian@1");
    assert_eq!(resolve(&catalogue, "debian"), version);
    assert_eq!(
        catalogue.find(version.id()).unwrap().as_ref(),
        Some(&version)
    );
    verify(&version).unwrap();

    let disk = version.open().unwrap();
    assert_eq!(disk.id().version, version.id().uuid());
    let mut bytes = [0; 100];
    disk.read_at(&mut bytes, DISK as u64 - 100).unwrap();
    assert_eq!(bytes, [7; 100]);
    assert!(disk.read_at(&mut bytes, DISK as u64 - 99).is_err());
}

#[test]
fn the_digest_is_the_one_that_b3sum_would_print() {
    let (_dir, catalogue) = catalogue();
    let version = published(&catalogue, "debian", 7);
    let expected = blake3::hash(&vec![7; DISK]).to_hex();
    assert_eq!(version.digest().to_string(), expected.as_str());
    assert_eq!(
        version.kernel().digest.to_string(),
        blake3::hash(b"a kernel").to_hex().as_str()
    );
}

#[test]
fn the_current_version_moves_forth_and_back() {
    let (_dir, catalogue) = catalogue();
    for fill in 1..=3 {
        published(&catalogue, "debian", fill);
    }
    let debian = "debian".parse().unwrap();
    assert_eq!(resolve(&catalogue, "debian").to_string(), "debian@3");
    assert_eq!(catalogue.rollback(&debian).unwrap().to_string(), "debian@2");
    assert_eq!(resolve(&catalogue, "debian").to_string(), "debian@2");
    assert_eq!(catalogue.rollback(&debian).unwrap().to_string(), "debian@1");
    assert_eq!(
        catalogue.rollback(&debian).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    catalogue.set_current(&reference("debian@3")).unwrap();
    assert_eq!(resolve(&catalogue, "debian").to_string(), "debian@3");
}

#[test]
fn an_unknown_image_is_answered_with_what_there_is() {
    let (_dir, catalogue) = catalogue();
    let message = |text: &str| catalogue.resolve(&reference(text)).unwrap_err().to_string();
    assert!(
        message("debian").contains("bootroom image build"),
        "{}",
        message("debian")
    );
    published(&catalogue, "debian", 1);
    assert!(
        message("debain").contains("did you mean debian?"),
        "{}",
        message("debain")
    );
    assert!(
        message("windows-xp").contains("bootroom image list"),
        "{}",
        message("windows-xp")
    );
    assert!(
        message("debian@4").contains("there are @1"),
        "{}",
        message("debian@4")
    );
}

#[test]
fn a_number_is_never_given_twice() {
    let (_dir, catalogue) = catalogue();
    published(&catalogue, "debian", 1);
    published(&catalogue, "debian", 2);
    catalogue.remove(&reference("debian@2"), [], true).unwrap();
    catalogue.remove(&reference("debian@1"), [], false).unwrap();
    assert!(catalogue.list().unwrap().is_empty());
    assert_eq!(published(&catalogue, "debian", 3).to_string(), "debian@3");
}

#[test]
fn several_may_publish_at_once() {
    let (_dir, catalogue) = catalogue();
    let staged: Vec<_> = (1..=8)
        .map(|fill| staged(&catalogue, "debian", fill))
        .collect();
    std::thread::scope(|scope| {
        for one in staged {
            scope.spawn(|| {
                Catalogue::open(catalogue.root())
                    .unwrap()
                    .publish(one)
                    .unwrap()
            });
        }
    });
    let image = catalogue.list().unwrap().remove(0);
    let numbers: Vec<_> = image
        .versions
        .iter()
        .map(|version| version.number().get())
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8]);
    for version in &image.versions {
        verify(version).unwrap();
    }
}

#[test]
fn a_version_in_use_is_not_removed() {
    let (_dir, catalogue) = catalogue();
    let version = published(&catalogue, "debian", 1);
    let only = reference("debian@1");
    let disk = version.open().unwrap();
    let refused = |result: images::Result<Version>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
        error.to_string()
    };
    assert!(refused(catalogue.remove(&only, [], true)).contains("being served"));
    drop(disk);

    let binding = Binding {
        overlay: "525400120001".to_owned(),
        version: version.id(),
    };
    let text = refused(catalogue.remove(&only, [binding], true));
    assert!(text.contains("525400120001"), "{text}");

    published(&catalogue, "debian", 2);
    let current = reference("debian@2");
    assert!(refused(catalogue.remove(&current, [], false)).contains("rollback"));
    let other = Binding {
        overlay: "525400120001".to_owned(),
        version: VersionId::random(),
    };
    catalogue.remove(&only, [other], false).unwrap();
    assert_eq!(version.open().unwrap_err().kind(), ErrorKind::NotFound);
    assert!(leftovers(&catalogue).is_empty());
}

#[test]
fn damage_is_found_and_named() {
    let (_dir, catalogue) = catalogue();
    let version = published(&catalogue, "debian", 1);
    let path = version.disk_path();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let write = |content: Vec<u8>| fs::write(&path, content).unwrap();

    let mut flipped = vec![1; DISK];
    flipped[DISK / 2] ^= 0x10;
    write(flipped);
    let error = verify(&version).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(
        error.to_string().contains("disk.raw has changed"),
        "{error}"
    );

    write(vec![1; DISK - 4096]);
    assert_eq!(verify(&version).unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(version.open().unwrap_err().kind(), ErrorKind::Damaged);

    write(vec![1; DISK]);
    verify(&version).unwrap();
    fs::remove_file(version.kernel().path).unwrap();
    assert!(
        verify(&version)
            .unwrap_err()
            .to_string()
            .contains("vmlinuz")
    );
}

#[test]
fn a_damaged_version_does_not_hide_the_others() {
    let (_dir, catalogue) = catalogue();
    let first = published(&catalogue, "debian", 1);
    let second = published(&catalogue, "debian", 2);
    let record = first.dir().join("version.json");
    fs::remove_file(&record).unwrap();
    fs::write(&record, "{\"format\": 1, \"id\":").unwrap();
    let image = catalogue.list().unwrap().remove(0);
    assert_eq!(image.versions, [second]);
    assert_eq!(image.damaged.len(), 1);
    assert_eq!(image.damaged[0].number.get(), 1);
    assert_eq!(image.damaged[0].error.kind(), ErrorKind::Damaged);
}

#[test]
fn a_renamed_version_is_not_taken_for_another() {
    let (_dir, catalogue) = catalogue();
    let version = published(&catalogue, "debian", 1);
    fs::rename(version.dir(), version.dir().with_file_name("9")).unwrap();
    let error = catalogue.resolve(&reference("debian@9")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
}

#[test]
fn a_newer_format_is_refused_as_such() {
    let (_dir, catalogue) = catalogue();
    let version = published(&catalogue, "debian", 1);
    let record = version.dir().join("version.json");
    fs::remove_file(&record).unwrap();
    fs::write(&record, "{\"format\": 2, \"disk\": \"somewhere else\"}").unwrap();
    let error = catalogue.resolve(&reference("debian")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NewerFormat);
    assert!(error.to_string().contains("newer bootroom"), "{error}");
}

#[test]
fn a_staging_is_removed_when_its_maker_is_gone_and_not_before() {
    let (_dir, catalogue) = catalogue();
    let working = staged(&catalogue, "debian", 1);
    Catalogue::open(catalogue.root()).unwrap();
    assert_eq!(leftovers(&catalogue).len(), 1);
    let version = catalogue.publish(working).unwrap();
    verify(&version).unwrap();

    drop(staged(&catalogue, "debian", 2));
    assert!(leftovers(&catalogue).is_empty());

    let orphan = catalogue.root().join(".staging-of-a-killed-build");
    fs::create_dir_all(orphan.join("root/etc")).unwrap();
    fs::create_dir_all(catalogue.root().join(".trash-half-removed")).unwrap();
    assert_eq!(catalogue.clean().unwrap(), 2);
    assert!(leftovers(&catalogue).is_empty());
}

#[test]
fn what_a_boot_script_could_not_hold_is_refused() {
    let (_dir, catalogue) = catalogue();
    let staging = catalogue.stage(VersionId::random()).unwrap();
    fs::write(staging.disk_path(), vec![0; 5000]).unwrap();
    fs::write(staging.kernel_path(), b"a kernel").unwrap();
    fs::write(staging.initrd_path(), b"an initrd").unwrap();
    let details = images::Details {
        image: "debian".parse().unwrap(),
        created: std::time::SystemTime::UNIX_EPOCH,
        description: String::new(),
        cmdline: "quiet".to_owned(),
    };
    let error = staging
        .finish(details, &Quiet, &Cancel::new().unwrap())
        .unwrap_err();
    assert!(error.to_string().contains("no multiple of 4096"), "{error}");

    let staging = catalogue.stage(VersionId::random()).unwrap();
    let details = images::Details {
        image: "debian".parse().unwrap(),
        created: std::time::SystemTime::UNIX_EPOCH,
        description: String::new(),
        cmdline: "quiet\nchain http://elsewhere/".to_owned(),
    };
    let error = staging
        .finish(details, &Quiet, &Cancel::new().unwrap())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(catalogue.list().unwrap().is_empty() && leftovers(&catalogue).is_empty());
}

/// The way of a commit: a new disk, the kernel and initrd of the version below it.
#[test]
fn a_commit_keeps_kernel_and_initrd() {
    let (_dir, catalogue) = catalogue();
    let base = published(&catalogue, "debian", 1);
    let staging = catalogue.stage(VersionId::random()).unwrap();
    fs::write(staging.disk_path(), vec![2; DISK]).unwrap();
    staging.copy_boot_files(&base).unwrap();
    let staged = common::finish(staging, "debian", 2).unwrap();
    let version = catalogue.publish(staged).unwrap();
    assert_eq!(version.to_string(), "debian@2");
    assert_eq!(version.kernel().digest, base.kernel().digest);
    assert_eq!(version.initrd().digest, base.initrd().digest);
    assert_ne!(version.digest(), base.digest());
    verify(&base).unwrap();
    verify(&version).unwrap();
}

/// The record as any other program sees it, against its description in the `record` module.
#[test]
fn the_record_is_as_described() {
    let (_dir, catalogue) = catalogue();
    let version = published(&catalogue, "debian", 1);
    let text = fs::read(version.dir().join("version.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let file = |size: usize, content: &[u8]| serde_json::json!({ "size": size, "digest": blake3::hash(content).to_hex().as_str() });
    let expected = serde_json::json!({
        "format": 1,
        "id": version.id().to_string(),
        "image": "debian",
        "number": 1,
        "created": 1_700_000_000,
        "description": "filled with 1",
        "cmdline": "rw",
        "disk": file(DISK, &vec![1; DISK]),
        "kernel": file(8, b"a kernel"),
        "initrd": file(9, b"an initrd"),
    });
    assert_eq!(record, expected);
    let described = include_str!("../src/record.rs");
    for key in expected.as_object().unwrap().keys() {
        assert!(
            described.contains(&format!("//! | `{key}`")),
            "{key} is not described"
        );
    }
    let target = fs::read_link(catalogue.root().join("debian/current")).unwrap();
    assert_eq!(target.to_str(), Some("1"));
}

/// Another process sees the lock: `flock` of util-linux is the oracle.
#[test]
fn use_is_seen_by_other_processes() {
    let (_dir, catalogue) = catalogue();
    let version = published(&catalogue, "debian", 1);
    let free = || {
        let record = version.dir().join("version.json");
        let status = Command::new("flock")
            .args(["-x", "-n"])
            .arg(record)
            .arg("true")
            .status();
        status.unwrap().success()
    };
    assert!(free());
    let (one, two) = (version.open().unwrap(), version.open().unwrap());
    assert!(!free());
    drop(one);
    assert!(!free());
    drop(two);
    assert!(free());
}
