//! Versions that come from another server.

mod common;

use std::fs;

use common::{DISK, published};
use images::{
    Binding, Cancel, Catalogue, Copied, Copying, ErrorKind, Original, Part, Quiet, Version,
    VersionId,
};
use tempfile::TempDir;

/// Two servers.
struct Pair {
    _dir: TempDir,
    there: Catalogue,
    here: Catalogue,
}

fn pair() -> Pair {
    let dir = tempfile::tempdir().unwrap();
    let open = |name| Catalogue::open(dir.path().join(name)).unwrap();
    let (there, here) = (open("there"), open("here"));
    Pair {
        _dir: dir,
        there,
        here,
    }
}

fn copy_files(from: &Version, to: &Copying) {
    for part in Part::ALL {
        // Not `fs::copy`, which takes the permissions along.
        fs::write(to.path(part), fs::read(from.file(part).path).unwrap()).unwrap();
    }
}

fn finish(copying: Copying, original: &Original) -> images::Result<Copied> {
    copying.finish(original.clone(), &Quiet, &Cancel::new().unwrap())
}

fn copy(version: &Version, to: &Catalogue) -> images::Result<Version> {
    let original = Original::of(version)?;
    let copying = to.stage_copy(version.id())?;
    copy_files(version, &copying);
    to.publish_copy(finish(copying, &original)?)
}

fn copies_left(catalogue: &Catalogue) -> usize {
    let names = fs::read_dir(catalogue.root()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".copy-")).count()
}

#[test]
fn a_copy_is_the_same_version_and_not_current() {
    let Pair { _dir, there, here } = pair();
    published(&there, "debian", 1);
    let second = published(&there, "debian", 2);
    let copied = copy(&second, &here).unwrap();
    assert_eq!(copied.to_string(), "debian@2");
    assert_eq!(copied.id(), second.id());
    assert_eq!(copied.digest(), second.digest());
    copied.verify(&Quiet, &Cancel::new().unwrap()).unwrap();
    let record = |version: &Version| fs::read(version.dir().join("version.json")).unwrap();
    assert_eq!(record(&copied), record(&second));
    assert_eq!(here.current(copied.image()).unwrap(), None);
    assert_eq!(copies_left(&here), 0);
    // The next version that is built here gets a number of its own.
    assert_eq!(published(&here, "debian", 3).to_string(), "debian@3");
}

/// A key that this release does not know stays in the copy's record.
#[test]
fn what_a_later_release_records_goes_along() {
    let Pair { _dir, there, here } = pair();
    let version = published(&there, "debian", 1);
    let text = String::from_utf8(Original::of(&version).unwrap().text().to_vec()).unwrap();
    let text = text.replacen('{', "{\n  \"colour\": \"green\",", 1);
    let original = Original::parse(text.as_bytes()).unwrap();
    let copying = here.stage_copy(version.id()).unwrap();
    copy_files(&version, &copying);
    let copied = here
        .publish_copy(finish(copying, &original).unwrap())
        .unwrap();
    let record = fs::read_to_string(copied.dir().join("version.json")).unwrap();
    assert_eq!(record, text);
}

#[test]
fn a_copy_that_differs_is_refused_and_stays_for_the_next_try() {
    let Pair { _dir, there, here } = pair();
    let version = published(&there, "debian", 1);
    let original = Original::of(&version).unwrap();
    for part in Part::ALL {
        let copying = here.stage_copy(version.id()).unwrap();
        copy_files(&version, &copying);
        let path = copying.path(part);
        let mut content = fs::read(&path).unwrap();
        *content.last_mut().unwrap() ^= 1;
        fs::write(&path, content).unwrap();
        let error = finish(copying, &original).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.to_string().contains(part.name()), "{error}");
        assert!(
            error.to_string().contains("image verify debian@1"),
            "{error}"
        );
        assert!(here.list().unwrap().is_empty());
        assert_eq!(copies_left(&here), 1);
    }
    // A start of the server does not throw it away.
    Catalogue::open(here.root()).unwrap();
    assert_eq!(copies_left(&here), 1);
    copy(&version, &here).unwrap();
    assert_eq!(copies_left(&here), 0);
}

/// A crash between the sealing and the publishing leaves protected files and a record.
#[test]
fn a_try_that_was_cut_short_at_its_very_end_goes_on() {
    let Pair { _dir, there, here } = pair();
    let version = published(&there, "debian", 1);
    let copied = copy(&version, &here).unwrap();
    let left = here.root().join(format!(".copy-{}", version.id()));
    fs::rename(copied.dir(), &left).unwrap();
    let copying = here.stage_copy(version.id()).unwrap();
    let mode =
        |path| std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions());
    assert_eq!(mode(copying.path(Part::Disk)) & 0o222, 0o200);
    let original = Original::of(&version).unwrap();
    let copied = here
        .publish_copy(finish(copying, &original).unwrap())
        .unwrap();
    copied.verify(&Quiet, &Cancel::new().unwrap()).unwrap();
}

#[test]
fn a_number_that_is_taken_is_a_conflict_and_nothing_is_overwritten() {
    let Pair { _dir, there, here } = pair();
    let theirs = published(&there, "debian", 1);
    let ours = published(&here, "debian", 2);
    let original = Original::of(&theirs).unwrap();
    let error = here.place_for(&original).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    for wanted in [
        theirs.id().to_string(),
        ours.id().to_string(),
        "bootroom image rm --force debian@1".to_owned(),
    ] {
        assert!(error.to_string().contains(&wanted), "{error}");
    }
    assert_eq!(
        copy(&theirs, &here).unwrap_err().kind(),
        ErrorKind::Conflict
    );
    assert_eq!(here.find(ours.id()).unwrap(), Some(ours.clone()));
    ours.verify(&Quiet, &Cancel::new().unwrap()).unwrap();

    here.remove(&ours.reference(), [], true).unwrap();
    copy(&theirs, &here).unwrap();
}

#[test]
fn a_version_that_is_here_already_is_not_copied_twice() {
    let Pair { _dir, there, here } = pair();
    let version = published(&there, "debian", 1);
    let first = copy(&version, &here).unwrap();
    let original = Original::of(&version).unwrap();
    assert_eq!(here.place_for(&original).unwrap(), Some(first.clone()));
    assert_eq!(copy(&version, &here).unwrap(), first);
    assert_eq!(copies_left(&here), 0);
}

#[test]
fn two_cannot_copy_the_same_version_at_once() {
    let Pair { _dir, here, .. } = pair();
    let id = VersionId::random();
    let first = here.stage_copy(id).unwrap();
    assert_eq!(here.stage_copy(id).unwrap_err().kind(), ErrorKind::InUse);
    // Nor is it forgotten meanwhile.
    assert_eq!(here.forget_copies(&|_| false).unwrap(), 0);
    drop(first);
    here.stage_copy(id).unwrap();
    assert_eq!(here.forget_copies(&|wanted| wanted == id).unwrap(), 0);
    assert_eq!(here.forget_copies(&|_| false).unwrap(), 1);
    assert_eq!(copies_left(&here), 0);
}

#[test]
fn records_that_no_catalogue_can_hold_are_refused() {
    let Pair { _dir, there, .. } = pair();
    let version = published(&there, "debian", 1);
    let text = String::from_utf8(Original::of(&version).unwrap().text().to_vec()).unwrap();
    let kind = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        Original::parse(text.replacen(from, to, 1).as_bytes())
            .unwrap_err()
            .kind()
    };
    let size = format!("\"size\": {DISK}");
    assert_eq!(
        kind("\"format\": 1", "\"format\": 2"),
        ErrorKind::NewerFormat
    );
    assert_eq!(kind("\"debian\"", "\"../debian\""), ErrorKind::Damaged);
    assert_eq!(kind("\"rw\"", "\"rw\\nboot\""), ErrorKind::Invalid);
    assert_eq!(kind(&size, "\"size\": 0"), ErrorKind::Invalid);
    assert_eq!(kind(&size, "\"size\": 4095"), ErrorKind::Invalid);
    assert_eq!(kind(&size, "\"size\": 17592186048512"), ErrorKind::Invalid);
    assert_eq!(
        kind("\"size\": 8", "\"size\": 4294967297"),
        ErrorKind::Invalid
    );
    let long = vec![b' '; (64 << 10) + 1];
    assert_eq!(
        Original::parse(&long).unwrap_err().kind(),
        ErrorKind::Invalid
    );
}

#[test]
fn what_was_removed_is_remembered() {
    let Pair { _dir, there, .. } = pair();
    let versions: Vec<_> = (1..=3)
        .map(|fill| published(&there, "debian", fill))
        .collect();
    assert!(there.removed().unwrap().is_empty());
    let bound = Binding {
        overlay: "525400120001-debian".to_owned(),
        version: versions[0].id(),
    };
    there
        .remove(&versions[0].reference(), [bound], false)
        .unwrap_err();
    assert!(there.removed().unwrap().is_empty(), "it is still there");
    for version in &versions {
        there.remove(&version.reference(), [], true).unwrap();
    }
    let ids: Vec<_> = versions.iter().map(Version::id).collect();
    assert_eq!(there.removed().unwrap(), ids);
}
