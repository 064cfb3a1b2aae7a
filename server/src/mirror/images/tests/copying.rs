//! What is copied, and what of it comes over the stream.

use std::fs;
use std::process::Command;

use images::import::{BootFiles, Import, import};

use super::*;
use crate::mirror::images::lacking;

const MIB: u64 = 1 << 20;

#[test]
fn everything_that_is_there_comes_and_only_once() {
    let pair = Pair::new();
    publish(&pair.there, "debian", MIB, &[(0, noise(1, 5000))]);
    publish(&pair.there, "debian", 2 * MIB, &[(MIB, noise(2, 300_000))]);
    publish(&pair.there, "windows", MIB, &[(4096, noise(3, 4096))]);
    let listing = pair.pull().unwrap().listing;
    assert_same(&pair.there, &pair.here);
    assert!(lacking(&pair.here, &listing).unwrap().is_empty());

    let again = pair.pull().unwrap();
    assert!(again.copied.is_empty() && again.pointed.is_empty());
    assert!(again.received < 4096, "{} bytes for a list", again.received);
}

#[test]
fn what_is_lacking_is_known_before_it_is_copied() {
    let pair = Pair::new();
    let first = publish(&pair.there, "debian", MIB, &[]);
    let second = publish(&pair.there, "debian", MIB, &[(0, vec![1])]);
    let outcome = pull_from(&pair.there, |mut stream| {
        let what = Pull {
            catalogue: &pair.here,
            want: &mut |version| version.id() == second.id(),
            in_use: &|_| false,
            reserve: Bytes::new(0),
            progress: &Quiet,
            cancel: &Cancel::new().unwrap(),
        };
        pull(what, &mut stream).unwrap()
    });
    assert_eq!(lacking(&pair.here, &outcome.listing).unwrap(), [first.id()]);
    assert_copied(&second, &pair.here);
    assert_eq!(pair.here.find(first.id()).unwrap(), None);
}

/// The second version differs in three blocks, far apart.
#[test]
fn only_what_differs_comes_over_the_stream() {
    let pair = Pair::new();
    let size = 64 * MIB;
    let content = noise(7, 24 * MIB as usize);
    publish(&pair.there, "debian", size, &[(8 * MIB, content.clone())]);
    let first = pair.pull().unwrap();
    assert!(first.received > 24 * MIB);

    let changes = [9 * MIB, 20 * MIB + 4096, 50 * MIB].map(|at| (at, noise(at, 4096)));
    let data = [vec![(8 * MIB, content)], changes.to_vec()].concat();
    publish(&pair.there, "debian", size, &data);
    let second = pair.pull().unwrap();
    assert_same(&pair.there, &pair.here);
    // Three chunks, the digests of the others, and the list.
    let least = 3 * CHUNK;
    assert!(
        (least..least + 30_000).contains(&second.received),
        "{} bytes came",
        second.received
    );
    assert!(second.reused >= 24 * MIB - 3 * CHUNK, "{}", second.reused);
}

#[test]
fn a_version_that_is_older_than_those_here_takes_from_them_too() {
    let pair = Pair::new();
    let data = [(0, noise(7, MIB as usize))];
    let old = publish(&pair.there, "debian", MIB, &data);
    // Numbers 2 to 4: other content, so that the first one is found only beyond the nearest.
    for seed in 2..5 {
        publish(&pair.there, "debian", MIB, &[(0, noise(seed, 100))]);
    }
    publish(&pair.there, "debian", 2 * MIB, &data);
    pair.pull().unwrap();
    pair.here.remove(&old.reference(), [], true).unwrap();
    let again = pair.pull().unwrap();
    assert_copied(&old, &pair.here);
    assert!(again.received < 20_000, "{} bytes came", again.received);
}

#[test]
fn current_follows_forth_and_back() {
    let pair = Pair::new();
    let debian = "debian".parse().unwrap();
    let current = || pair.here.current(&debian).unwrap().unwrap().get();
    publish(&pair.there, "debian", MIB, &[(0, vec![1])]);
    publish(&pair.there, "debian", MIB, &[(0, vec![2])]);
    pair.pull().unwrap();
    assert_eq!(current(), 2);
    pair.there.rollback(&debian).unwrap();
    let pointed = pair.pull().unwrap().pointed;
    assert_eq!(pointed, ["debian@1".parse().unwrap()]);
    assert_eq!(current(), 1);
    pair.there
        .set_current(&"debian@2".parse().unwrap())
        .unwrap();
    pair.pull().unwrap();
    assert_eq!(current(), 2);
    // A pointer that is damaged here is put right.
    let link = pair.here.root().join("debian/current");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("nonsense", &link).unwrap();
    pair.pull().unwrap();
    assert_eq!(current(), 2);
}

/// A version that is current there and cannot come leaves the pointer here where it is.
#[test]
fn current_does_not_point_to_what_is_not_here() {
    let pair = Pair::new();
    let first = publish(&pair.there, "debian", MIB, &[(0, vec![1])]);
    pair.pull().unwrap();
    let second = publish(&pair.there, "debian", MIB, &[(0, vec![2])]);
    let path = second.disk_path();
    fs::remove_file(&path).unwrap();
    let outcome = pair.pull().unwrap();
    assert!(outcome.copied.is_empty() && outcome.pointed.is_empty());
    let failed = format!("{:#}", outcome.failed[0]);
    assert!(failed.contains("the other server"), "{failed}");
    assert_eq!(
        pair.here.current(first.image()).unwrap(),
        Some(first.number())
    );
}

#[test]
fn what_was_removed_there_goes_here_unless_it_is_needed() {
    let pair = Pair::new();
    let versions: Vec<_> = (1..=4)
        .map(|fill| publish(&pair.there, "debian", MIB, &[(0, vec![fill])]))
        .collect();
    pair.pull().unwrap();
    for version in &versions[..3] {
        pair.there.remove(&version.reference(), [], false).unwrap();
    }
    let copy = |index: usize| pair.here.find(versions[index].id()).unwrap();
    let served = copy(1).unwrap().open().unwrap();
    let bound = |id| id == versions[2].id();
    let outcome = pull_from(&pair.there, |mut stream| {
        pull_with(&pair.here, &mut stream, &bound, Bytes::new(0)).unwrap()
    });
    assert_eq!(outcome.removed, [versions[0].reference()]);
    assert_eq!(copy(0), None);
    assert!(copy(1).is_some() && copy(2).is_some() && copy(3).is_some());

    drop(served);
    assert_eq!(pair.pull().unwrap().removed.len(), 2);
    assert!(copy(1).is_none() && copy(2).is_none() && copy(3).is_some());
}

/// The image too, once its last version is gone.
#[test]
fn the_last_version_of_an_image_goes_as_well() {
    let pair = Pair::new();
    let version = publish(&pair.there, "debian", MIB, &[]);
    pair.pull().unwrap();
    pair.there.remove(&version.reference(), [], true).unwrap();
    pair.pull().unwrap();
    assert!(pair.here.list().unwrap().is_empty());
}

/// As when the disk of the other server is not mounted, or the version was built here before the roles changed.
#[test]
fn what_the_other_server_merely_does_not_have_stays() {
    let pair = Pair::new();
    let version = publish(&pair.there, "debian", MIB, &[]);
    pair.pull().unwrap();
    let blank = Catalogue::open(pair.path("blank")).unwrap();
    let outcome = pull_from(&blank, |mut stream| pull_all(&pair.here, &mut stream));
    assert!(outcome.unwrap().removed.is_empty());
    assert_copied(&version, &pair.here);
}

/// A disk as it is in use: ext4, imported, and changed by e2fsprogs.
#[test]
fn an_imported_filesystem_and_its_next_version() {
    let pair = Pair::new();
    let disk = pair.path("disk.img");
    let root = pair.path("root");
    fs::create_dir(&root).unwrap();
    for seed in 0..40 {
        fs::write(root.join(seed.to_string()), noise(seed, 100_000)).unwrap();
    }
    run(
        "mke2fs",
        &["-q", "-t", "ext4", "-d", text(&root), text(&disk), "64M"],
    );
    import_ext4(&pair, &disk);
    let first = pair.pull().unwrap();
    let news = pair.path("news");
    fs::write(&news, noise(99, 10_000)).unwrap();
    let write = format!("write {} news", text(&news));
    run("debugfs", &["-w", "-R", &write, text(&disk)]);
    let version = import_ext4(&pair, &disk);
    let second = pair.pull().unwrap();
    assert_same(&pair.there, &pair.here);
    let copy = pair.here.find(version.id()).unwrap().unwrap();
    run("e2fsck", &["-fn", text(&copy.disk_path())]);
    assert!(first.received > 4 * MIB, "{}", first.received);
    assert!(second.received < MIB, "{} bytes came", second.received);
}

fn import_ext4(pair: &Pair, disk: &Path) -> Version {
    let (kernel, initrd) = (pair.path("kernel"), pair.path("initrd"));
    // What the import takes for a Linux kernel.
    let mut image = noise(5, 200_000);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    fs::write(&kernel, image).unwrap();
    fs::write(&initrd, b"070701 an archive").unwrap();
    let what = Import {
        image: "taken".parse().unwrap(),
        disk: disk.to_owned(),
        boot_files: Some(BootFiles { kernel, initrd }),
        cmdline: None,
        description: String::new(),
    };
    let staging = pair.there.stage(VersionId::random()).unwrap();
    let cancel = Cancel::new().unwrap();
    let staged = import(staging, &what, SystemTime::UNIX_EPOCH, &Quiet, &cancel);
    pair.there.publish(staged.unwrap()).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {said}");
}
