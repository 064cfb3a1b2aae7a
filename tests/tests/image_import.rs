//! A built image, seen by other programs, taken out as qcow2 and in again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bootroom_tests::{binary, image};
use serde_json::Value;

fn bootroom(data: &Path, arguments: &[&str]) -> Output {
    let mut command = binary::command(arguments);
    command
        .arg("--data")
        .arg(data)
        .output()
        .expect("bootroom runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The current version of an image.
fn current(data: &Path, name: &str) -> Value {
    let output = bootroom(data, &["image", "list", "--json"]);
    let images: Vec<Value> = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    let image = images
        .iter()
        .find(|image| image["name"] == name)
        .expect(name);
    let versions = image["versions"].as_array().expect("a list");
    let current = versions.iter().find(|version| version["current"] == true);
    current.expect("one version is current").clone()
}

fn file(version: &Value, key: &str) -> PathBuf {
    version[key].as_str().expect("a path").into()
}

fn disk(version: &Value) -> PathBuf {
    file(version, "kernel").with_file_name("disk.raw")
}

fn run(program: &str, arguments: &[&str], path: &Path) -> Output {
    let output = Command::new(program).args(arguments).arg(path).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}"))
}

#[test]
fn e2fsck_finds_no_fault_in_a_built_disk() {
    let built = current(&image::shared(), image::NAME);
    let checked = run("e2fsck", &["-f", "-n"], &disk(&built));
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
    assert!(
        built["stored_bytes"].as_u64() < Some(1 << 30),
        "it is thin: {built}"
    );
}

#[test]
fn a_qcow2_copy_comes_back_as_the_same_version() {
    let shared = image::shared();
    let built = current(&shared, image::NAME);
    let dir = tempfile::tempdir().expect("a directory");
    let (copy, data) = (dir.path().join("copy.qcow2"), dir.path().join("data"));
    let source = disk(&built);
    let source = source.to_str().expect("the path is text");
    assert!(
        run("qemu-img", &["convert", "-O", "qcow2", source], &copy)
            .status
            .success()
    );

    let copy = copy.to_str().expect("the path is text");
    let imported = bootroom(&data, &["image", "import", copy, "--name", "copied"]);
    assert!(imported.status.success(), "{}", said(&imported));
    let imported = current(&data, "copied");
    assert_eq!(imported["digest"], built["digest"]);
    for key in ["kernel", "initrd"] {
        let contents = [&imported, &built].map(|version| fs::read(file(version, key)).expect(key));
        assert!(
            contents[0] == contents[1],
            "the {key} read out of the disk is another"
        );
    }
    assert!(bootroom(&data, &["image", "verify"]).status.success());

    let asked = bootroom(&data, &["image", "rm", "copied@1"]);
    assert_eq!(asked.status.code(), Some(1));
    assert!(said(&asked).contains("--yes"), "{}", said(&asked));
    assert!(
        bootroom(&data, &["image", "rm", "copied@1", "--yes"])
            .status
            .success()
    );
    assert!(!disk(&imported).exists());
}
