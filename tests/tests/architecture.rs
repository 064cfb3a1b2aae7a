//! The crates depend on one another as ARCHITECTURE.md says, and the top level stays as short as it was laid out.

use std::{collections::BTreeSet, fs, path::PathBuf};

/// Each crate and the crates of this workspace that it may use.
const ARROWS: [(&str, &[&str]); 8] = [
    ("server", &["images", "mirror", "nbd", "overlay", "pxe"]),
    ("server/nbd", &[]),
    ("server/mirror", &[]),
    ("overlay", &[]),
    ("pxe", &[]),
    ("images", &["overlay"]),
    ("initramfs-hook", &["nbd"]),
    ("tests", &[]),
];

const TOP_LEVEL: [&str; 11] = [
    "ARCHITECTURE.md",
    "Cargo.lock",
    "Cargo.toml",
    "Makefile",
    "README.md",
    "images",
    "initramfs-hook",
    "overlay",
    "pxe",
    "server",
    "tests",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn workspace_crates_used_by(folder: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let siblings = [
        "bootroom",
        "bootroom-attach",
        "images",
        "mirror",
        "nbd",
        "overlay",
        "pxe",
    ];
    let used = manifest
        .get("dependencies")
        .and_then(toml::Value::as_table)
        .unwrap();
    used.keys()
        .filter(|name| siblings.contains(&name.as_str()))
        .cloned()
        .collect()
}

#[test]
fn crates_know_only_whom_they_may_know() {
    for (folder, allowed) in ARROWS {
        let used = workspace_crates_used_by(folder);
        let allowed: BTreeSet<_> = allowed.iter().map(ToString::to_string).collect();
        assert!(
            used.is_subset(&allowed),
            "{folder} uses {used:?}, may use {allowed:?}"
        );
    }
}

#[test]
fn the_top_level_stays_short() {
    let entries = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let names = entries.map(|name| name.to_string_lossy().into_owned());
    let shown: BTreeSet<_> = names
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    let wanted: BTreeSet<_> = TOP_LEVEL.iter().map(ToString::to_string).collect();
    assert_eq!(shown, wanted);
}
