//! `kill -9` at any moment: what is listed is whole, and nothing else stays.

mod common;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{published, staged};
use images::{Cancel, Catalogue, Image, Quiet, Version, VersionId};

/// Tells this test binary to work on the catalogue at the path until it is killed.
const WORK: &str = "BOOTROOM_TEST_CATALOGUE";
const ROUNDS: u64 = 40;

/// Not a test of its own: what the killed process does.
#[test]
#[ignore = "run and killed by a_killed_publisher_leaves_whole_versions_only"]
fn worker() {
    let catalogue = Catalogue::open(std::env::var_os(WORK).unwrap()).unwrap();
    println!("working");
    for fill in (0..=255).cycle() {
        let version = published(&catalogue, "debian", fill);
        let older = catalogue.list().unwrap().remove(0).versions;
        if older.len() > 3 {
            catalogue.remove(&older[0].reference(), [], false).unwrap();
        }
        println!("published {version}");
    }
}

fn start_worker(root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "worker", "--nocapture"])
        .env(WORK, root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills a worker some time after it has published `count` versions; returns the number of the
/// last one that it told us of.
fn killed_worker(root: &Path, count: usize, then: Duration) -> Option<u32> {
    let mut worker = start_worker(root);
    let mut lines = BufReader::new(worker.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let mut told = Vec::new();
    lines
        .by_ref()
        .find(|line| line.ends_with("working"))
        .expect("the worker begins");
    told.extend(lines.by_ref().take(count));
    let moment = Instant::now() + then;
    while Instant::now() < moment {
        std::hint::spin_loop();
    }
    worker.kill().unwrap();
    worker.wait().unwrap();
    told.extend(lines);
    told.iter()
        .filter_map(|line| line.strip_prefix("published debian@")?.parse().ok())
        .next_back()
}

fn check_whole(version: &Version) {
    version.verify(&Quiet, &Cancel::new().unwrap()).unwrap();
    let disk = fs::read(version.disk_path()).unwrap();
    assert!(
        disk.iter().all(|&byte| byte == disk[0]),
        "{version} is a mixture"
    );
}

#[test]
fn a_killed_publisher_leaves_whole_versions_only() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("images");
    let mut owners = HashMap::new();
    for round in 0..ROUNDS {
        // Publishing one takes a few milliseconds: this reaches into every step of it.
        let then = Duration::from_micros(round * 731 % 20_000);
        let told = killed_worker(&root, round as usize % 3, then);
        let catalogue = Catalogue::open(&root).unwrap();
        for image in catalogue.list().unwrap() {
            check_image(&image, &mut owners);
        }
        let lost = told.filter(|number| !owners.contains_key(number));
        assert_eq!(lost, None, "published, and gone");
        check_nothing_else(&root);
    }
    assert!(
        owners.len() > 20,
        "only {} versions: the killed did no work",
        owners.len()
    );
}

/// Every version is whole, no number was given to another one before, the pointer is good.
fn check_image(image: &Image, owners: &mut HashMap<u32, VersionId>) {
    assert!(image.damaged.is_empty(), "{:?}", image.damaged);
    for version in &image.versions {
        check_whole(version);
        let owner = *owners.entry(version.number().get()).or_insert(version.id());
        assert_eq!(
            owner,
            version.id(),
            "number {} was given twice",
            version.number()
        );
    }
    let exists = |current| {
        image
            .versions
            .iter()
            .any(|version| version.number() == current)
    };
    assert!(
        image.current.is_none_or(exists),
        "{:?} is current and not there",
        image.current
    );
}

fn check_nothing_else(root: &Path) {
    for entry in fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(name == ".lock" || name == "debian", "{name:?} is left");
    }
}

/// Not a test of its own: what the traced process does.
#[test]
#[ignore = "run by everything_is_on_disk_before_it_is_seen"]
fn publish_once() {
    let catalogue = Catalogue::open(std::env::var_os(WORK).unwrap()).unwrap();
    catalogue.publish(staged(&catalogue, "debian", 1)).unwrap();
}

/// Not a test of its own: what is run where the disk is small.
#[test]
#[ignore = "run by a_full_disk_costs_the_new_version_only"]
fn fill_the_disk() {
    let root = PathBuf::from(std::env::var_os(WORK).unwrap());
    let catalogue = Catalogue::open(&root).unwrap();
    let mut owners = HashMap::new();
    // Ever less room, so that each of the steps is the one that finds none.
    let mut ballast = fs::File::create(root.join("ballast")).unwrap();
    let mut refused = 0;
    for fill in 0..=255 {
        refused += u32::from(!try_to_publish(&catalogue, fill));
        for image in catalogue.list().unwrap() {
            check_image(&image, &mut owners);
        }
        let _ = ballast.write_all(&[1; 4096]);
    }
    assert!(
        refused > 0 && owners.len() > 1,
        "{refused} refused, {} published",
        owners.len()
    );
    drop(ballast);
    fs::remove_file(root.join("ballast")).unwrap();
    check_nothing_else(&root);
    let oldest = catalogue.list().unwrap()[0].versions[0].reference();
    catalogue.remove(&oldest, [], false).unwrap();
    published(&catalogue, "debian", 0);
}

/// Whether there was room for it.
fn try_to_publish(catalogue: &Catalogue, fill: u8) -> bool {
    let Ok(staging) = catalogue.stage(VersionId::random()) else {
        return false;
    };
    if common::write(&staging, fill).is_err() {
        return false;
    }
    let staged = common::finish(staging, "debian", fill);
    staged.and_then(|staged| catalogue.publish(staged)).is_ok()
}

#[test]
fn a_full_disk_costs_the_new_version_only() {
    let dir = tempfile::tempdir().unwrap();
    let script =
        "mount -t tmpfs -o size=1M none \"$1\" && exec \"$2\" --ignored --exact fill_the_disk";
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .args([dir.path(), &std::env::current_exe().unwrap()])
        .env(WORK, dir.path())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

/// What a power cut leaves is decided by the order of the steps, which `strace` shows.
#[test]
fn everything_is_on_disk_before_it_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let steps = trace_of_publishing(dir.path());
    let step = |wanted: &str| {
        let place = steps.iter().position(|step| step == wanted);
        place.unwrap_or_else(|| panic!("no {wanted:?} in {steps:#?}"))
    };
    let entered = step("rename STAGING -> debian/1");
    for file in ["/disk.raw", "/vmlinuz", "/initrd.img", "/version.json", ""] {
        assert!(
            step(&format!("sync STAGING{file}")) < entered,
            "{file} too late: {steps:#?}"
        );
    }
    assert!(
        step("rename debian/.last.new -> debian/.last") < entered,
        "{steps:#?}"
    );
    let pointed = step("rename debian/.current.new -> debian/current");
    assert!(
        steps[entered..pointed]
            .iter()
            .any(|step| step == "sync debian"),
        "{steps:#?}"
    );
    assert!(
        steps[pointed..].iter().any(|step| step == "sync debian"),
        "{steps:#?}"
    );
}

/// `sync PATH` and `rename PATH -> PATH` in order, with paths relative to the catalogue.
fn trace_of_publishing(dir: &Path) -> Vec<String> {
    let (root, trace) = (dir.join("images"), dir.join("trace"));
    let status = Command::new("strace")
        .args([
            "-f",
            "-y",
            "-s",
            "1000",
            "-e",
            "trace=fsync,fdatasync,rename,renameat,renameat2",
        ])
        .arg("-o")
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "publish_once"])
        .env(WORK, &root)
        .stdout(Stdio::null())
        .status()
        .expect("strace runs: apt-get install strace");
    assert!(status.success());
    let text = fs::read_to_string(&trace).unwrap();
    let done = text.lines().filter(|line| line.ends_with(" = 0"));
    done.map(|line| step_of(line, root.to_str().unwrap()))
        .collect()
}

fn step_of(line: &str, root: &str) -> String {
    let paths = line
        .split(['<', '>', '"'])
        .filter_map(|part| part.strip_prefix(root));
    let paths: Vec<_> = paths
        .map(|path| named(path.trim_start_matches('/')))
        .collect();
    let verb = if line.contains("sync(") {
        "sync"
    } else {
        "rename"
    };
    format!("{verb} {}", paths.join(" -> "))
}

/// The staging's name is random.
fn named(path: &str) -> String {
    let (first, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
    if first.starts_with(".staging-") {
        format!("STAGING{rest}")
    } else {
        path.to_owned()
    }
}
