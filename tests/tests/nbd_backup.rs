//! Incremental backup by foreign tools: a full copy of a snapshot, more writes, an increment with the changed blocks
//! only, and what is restored from both compared byte for byte. The README's examples, with a disk in use meanwhile.

mod nbd_common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bootroom_tests::binary;
use nbd_common::{Export, Place, SIZE, nbdsh, run};

/// Bytes that the writes between the two snapshots touch, in whole blocks of 4 KiB.
const CHANGED: u64 = 8192 + 4096 + (1 << 20) + (64 << 10) + (16 << 10);

/// Every kind of change: an unaligned write, one into the hole, zeros, a trim, and the same bytes once more.
const WRITES: &str = "import os\nh = nbd.NBD(); h.connect_uri(uri)\n\
     h.pwrite(b'u' * 100, 4096 * 100 - 50)\n\
     h.pwrite(os.urandom(4096), 40 << 20)\n\
     h.zero(1 << 20, 2 << 20)\n\
     h.trim(64 << 10, 8 << 20)\n\
     h.pwrite(h.pread(16 << 10, 12 << 20), 12 << 20)\n\
     h.flush()";

struct Scene {
    place: Place,
    export: Export,
}

impl Scene {
    /// A served overlay with a snapshot `monday`, some writes after it, and a snapshot `tuesday`; `between` is done
    /// before those writes. What comes after tuesday is no business of the backup.
    fn new(between: impl Fn(&Scene)) -> Self {
        let place = Place::new();
        let overlay = place.path("overlay");
        let export = Export::start(&place.image(), &["--overlay", overlay.to_str().unwrap()]);
        let scene = Self { place, export };
        nbdsh(&scene.export.uri(), &WRITES.replace("<< 20", "<< 19"));
        scene.snapshot("take", &["monday"]);
        between(&scene);
        nbdsh(&scene.export.uri(), WRITES);
        scene.snapshot("take", &["tuesday"]);
        let more = "h = nbd.NBD(); h.connect_uri(uri)\nfor at in range(0, 48 << 20, 1 << 20): h.pwrite(b'later' * 999, at)";
        nbdsh(&scene.export.uri(), more);
        scene
    }

    fn snapshot(&self, verb: &str, rest: &[&str]) -> String {
        let overlay = self.place.path("overlay");
        let mut command = binary::command(&["snapshot", verb]);
        run(command.args(rest).arg("--overlay").arg(overlay))
    }

    fn uri(&self, snapshot: &str) -> String {
        format!("{}/snapshot/{snapshot}", self.export.uri())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// What the snapshot holds, read by another tool than the one under trial.
    fn expect(&self, restored: &Path) {
        let truth = self.path("truth.raw");
        let _ = fs::remove_file(&truth);
        run(Command::new("nbdcopy").arg(self.uri("tuesday")).arg(&truth));
        run(Command::new("cmp").arg(&truth).arg(restored));
    }
}

fn qemu_img(arguments: &[&str], files: &[&Path]) -> String {
    run(Command::new("qemu-img").args(arguments).args(files))
}

/// Where the snapshot differs from the one before, by qemu-img: its `data` is false where the bitmap's bit is set.
fn dirty_by_qemu_img(export: &Export) -> Vec<(u64, u64)> {
    let options = format!(
        "driver=nbd,host=127.0.0.1,port={},export=snapshot/tuesday,x-dirty-bitmap=qemu:dirty-bitmap:monday",
        export.port
    );
    let map = qemu_img(&["map", "--output=json", "--image-opts", &options], &[]);
    let map: Vec<serde_json::Value> = serde_json::from_str(&map).unwrap();
    let dirty = map.iter().filter(|extent| extent["data"] == false);
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    dirty
        .map(|extent| (number(&extent["start"]), number(&extent["length"])))
        .collect()
}

#[test]
fn qemu_img_keeps_an_increment_in_a_qcow2_over_the_full_copy() {
    let full = |scene: &Scene| {
        let full = scene.path("monday.qcow2");
        qemu_img(
            &["convert", "-f", "raw", "-O", "qcow2", &scene.uri("monday")],
            &[&full],
        );
    };
    let scene = Scene::new(full);
    let dirty = dirty_by_qemu_img(&scene.export);
    assert_eq!(dirty.iter().map(|(_, length)| length).sum::<u64>(), CHANGED);
    // Reading with copy-on-read brings the changed blocks, and no others, into a qcow2 over the snapshot.
    let increment = scene.path("tuesday.qcow2");
    let over = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=4k",
        "-F",
        "raw",
        "-b",
    ];
    let uri = scene.uri("tuesday");
    qemu_img(&[&over[..], &[&uri]].concat(), &[&increment]);
    let mut copy = Command::new("qemu-io");
    copy.args(["-C", "-f", "qcow2"]);
    for (start, length) in &dirty {
        copy.args(["-c", &format!("read {start} {length}")]);
    }
    run(copy.arg(&increment));
    let full = scene.path("monday.qcow2");
    let base = ["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b"];
    qemu_img(
        &[&base[..], &[full.to_str().unwrap()]].concat(),
        &[&increment],
    );
    let size = fs::metadata(&increment).unwrap().len();
    assert!(
        size < CHANGED + (512 << 10),
        "the increment has {size} bytes"
    );
    let restored = scene.path("restored.raw");
    qemu_img(
        &["convert", "-f", "qcow2", "-O", "raw"],
        &[&increment, &restored],
    );
    scene.expect(&restored);
}

/// Brings a copy of `monday` up to `tuesday`, and prints how many bytes that took.
const UPDATE: &str = "h = nbd.NBD(); h.add_meta_context('qemu:dirty-bitmap:monday'); h.connect_uri(uri)\n\
     changed = []\n\
     def extents(context, at, entries, error):\n\
     \tfor length, dirty in zip(entries[::2], entries[1::2]):\n\
     \t\tif dirty: changed.append((at, length))\n\
     \t\tat += length\n\
     \tglobal end; end = at\n\
     end = 0\n\
     while end < h.get_size(): h.block_status(h.get_size() - end, end, extents)\n\
     copy = open(sys.argv[2], 'r+b')\n\
     for at, length in changed: copy.seek(at); copy.write(h.pread(length, at))\n\
     print(sum(length for at, length in changed))";

#[test]
fn nbdcopy_makes_the_full_copy_and_nbdsh_brings_it_up_to_date() {
    let copy = |scene: &Scene| scene.path("copy.raw");
    let scene = Scene::new(|scene| {
        run(Command::new("nbdcopy")
            .arg(scene.uri("monday"))
            .arg(copy(scene)));
    });
    let program = format!("import sys, nbd\nuri = sys.argv[1]\n{UPDATE}");
    let mut update = Command::new("/usr/bin/python3");
    update.args(["-c", &program, &scene.uri("tuesday")]);
    let moved = run(update.arg(copy(&scene)));
    assert_eq!(moved.trim(), CHANGED.to_string());
    scene.expect(&copy(&scene));
}

/// What the disk itself says changed since a snapshot grows with it, and outlives the server.
#[test]
fn the_changes_since_a_snapshot_outlive_kill_9() {
    let place = Place::new();
    let overlay = place.path("overlay");
    let arguments = ["--overlay", overlay.to_str().unwrap()];
    let mut export = Export::start(&place.image(), &arguments);
    run(binary::command(&["snapshot", "take", "monday"]).args(arguments));
    nbdsh(&export.uri(), WRITES);
    export.signal("KILL");
    assert!(!export.ended());
    let export = Export::start(&place.image(), &arguments);
    assert_eq!(dirty(&export.uri()), CHANGED);
    // The snapshot is there, and there is nothing between it and itself.
    let listed = run(binary::command(&["snapshot", "list", "--json"]).args(arguments));
    assert!(listed.contains("\"monday\""), "{listed}");
    let truth = place.path("monday.raw");
    let uri = format!("{}/snapshot/monday", export.uri());
    run(Command::new("nbdcopy").arg(uri).arg(&truth));
    run(Command::new("cmp").arg(&truth).arg(place.image()));
}

/// Bytes that changed since `monday`, by nbdinfo.
fn dirty(uri: &str) -> u64 {
    let arguments = ["--json", "--totals", "--map=qemu:dirty-bitmap:monday", uri];
    let totals = run(Command::new("nbdinfo").args(arguments));
    let totals: Vec<serde_json::Value> = serde_json::from_str(&totals).unwrap();
    let dirty = totals.iter().find(|total| total["type"] == 1);
    dirty.map_or(0, |total| total["size"].as_u64().unwrap())
}

/// A backup that began must not be told "nothing changed" since a snapshot that is no longer there.
#[test]
fn contexts_are_listed_by_wildcard_and_a_dropped_snapshot_is_an_error() {
    let place = Place::new();
    let overlay = place.path("overlay");
    let arguments = ["--overlay", overlay.to_str().unwrap()];
    let export = Export::start(&place.image(), &arguments);
    let take = |name: &str| run(binary::command(&["snapshot", "take", name]).args(arguments));
    take("monday");
    take("tuesday");
    let script = format!(
        "import errno, subprocess\n\
         def listed(*queries):\n\
         \tnames = []; h = nbd.NBD(); h.set_opt_mode(True); h.connect_uri(uri)\n\
         \tfor query in queries: h.add_meta_context(query)\n\
         \th.opt_list_meta_context(lambda name: names.append(name)); h.opt_abort(); return names\n\
         bitmaps = ['qemu:dirty-bitmap:monday', 'qemu:dirty-bitmap:tuesday']\n\
         assert listed('qemu:') == ['qemu:allocation-depth'] + bitmaps, listed('qemu:')\n\
         assert listed('qemu:dirty-bitmap:') == bitmaps\n\
         assert listed('qemu:dirty-bitmap:tuesday') == bitmaps[1:]\n\
         assert listed('qemu:dirty-bitmap:sunday') == []\n\
         assert listed() == ['base:allocation', 'qemu:allocation-depth'] + bitmaps\n\
         h = nbd.NBD(); [h.add_meta_context(each) for each in bitmaps + ['base:allocation']]; h.connect_uri(uri)\n\
         got = {{}}\n\
         def keep(context, at, entries, error): got[context] = entries\n\
         h.pwrite(b'x' * 4096, 4096); h.block_status({SIZE}, 0, keep)\n\
         assert got[bitmaps[0]] == got[bitmaps[1]] == [4096, 0, 4096, 1, {SIZE} - 8192, 0], got\n\
         got.clear(); h.block_status({SIZE}, 0, keep, nbd.CMD_FLAG_REQ_ONE)\n\
         assert got[bitmaps[0]] == [4096, 0] and len(got['base:allocation']) == 2, got\n\
         for verb in ('drop', 'take'):\n\
         \tsubprocess.run([sys.argv[2], 'snapshot', verb, 'monday', '--overlay', sys.argv[3]] + ['--yes'] * (verb == 'drop'), check=True)\n\
         try: h.block_status({SIZE}, 0, keep)\n\
         except nbd.Error as e: assert e.errnum == errno.EIO, e\n\
         else: assert False, 'it was answered from another snapshot of the same name'\n\
         assert h.pread(4096, 4096) == b'x' * 4096"
    );
    let program = format!("import sys, nbd\nuri = sys.argv[1]\n{script}");
    let mut judge = Command::new("/usr/bin/python3");
    judge.args(["-c", &program, &export.uri()]);
    run(judge.arg(binary::bootroom()).arg(&overlay));
}
