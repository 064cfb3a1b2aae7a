//! Servers of others as our clients: nbdkit's `nbd` plugin and qemu-nbd, each giving our export out anew. What goes
//! through them must arrive, and what they say of it be what we said.

mod nbd_common;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nbd_common::{Export, Place, SIZE, nbdsh, run, wait_for};

/// One who stands between; killed when dropped.
struct Between {
    child: Child,
    socket: PathBuf,
}

impl Between {
    fn start(socket: PathBuf, command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let between = Self {
            child: child.unwrap_or_else(|error| panic!("{command:?}: {error}")),
            socket,
        };
        wait_for("the one between to listen", || {
            std::os::unix::net::UnixStream::connect(&between.socket).ok()
        });
        between
    }

    fn nbdkit(place: &Place, uri: &str) -> Self {
        let socket = place.path("nbdkit.sock");
        let mut command = Command::new("nbdkit");
        command.args(["-f", "-U"]).arg(&socket);
        Self::start(socket, command.args(["nbd", &format!("uri={uri}")]))
    }

    fn qemu_nbd(place: &Place, uri: &str) -> Self {
        let socket = place.path("qemu.sock");
        let mut command = Command::new("qemu-nbd");
        command.args([
            "--persistent",
            "--discard=unmap",
            "--shared=8",
            "-f",
            "raw",
            "-k",
        ]);
        Self::start(socket.clone(), command.arg(&socket).arg(uri))
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The allocation of a whole disk, by nbdinfo; pieces of equal kind are one.
fn totals(uri: &str) -> String {
    run(Command::new("nbdinfo").args(["--map", "--totals", uri]))
}

fn fio(place: &Place, uri: &str) {
    let mut fio = Command::new("fio");
    fio.args([
        "--name=verify",
        "--ioengine=nbd",
        "--rw=randwrite",
        "--bsrange=512-128k",
        "--iodepth=16",
        "--size=16m",
        "--verify=crc32c",
        "--do_verify=1",
        "--fsync=64",
    ]);
    run(fio.arg(format!("--uri={uri}")).current_dir(place.path("")));
}

fn compare(one: &str, other: &str) {
    run(Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw", one, other]));
}

/// Every command through the one between; what it left is read from us directly.
const COMMANDS: &str = "import os, errno\nh = nbd.NBD(); h.set_strict_mode(0); h.connect_uri(uri)\n\
     d = nbd.NBD(); d.connect_uri(sys.argv[2])\n\
     data = os.urandom(3 << 20)\n\
     h.pwrite(data, 5 << 20); h.flush(); assert d.pread(len(data), 5 << 20) == data\n\
     h.pwrite(data[:512], 20 << 20, nbd.CMD_FLAG_FUA); assert d.pread(512, 20 << 20) == data[:512]\n\
     h.zero(1 << 20, 6 << 20); assert d.pread(1 << 20, 6 << 20) == bytes(1 << 20)\n\
     h.trim(64 << 10, 1 << 20); h.flush(); assert d.pread(64 << 10, 1 << 20) == h.pread(64 << 10, 1 << 20)\n\
     h.cache(1 << 20, 0) if h.can_cache() else None\n\
     big = h.pread(32 << 20, 0); assert big == d.pread(32 << 20, 0)\n\
     try: h.pread(512, h.get_size())\n\
     except nbd.Error as e: assert e.errnum == errno.EINVAL, e\n\
     else: assert False";

fn goes_through(between: fn(&Place, &str) -> Between) {
    let place = Place::new();
    // A file is given out to many at once: the direct look need not take it from the one between.
    let export = Export::start(&place.image(), &[]);
    let between = between(&place, &export.uri());
    let size = run(Command::new("nbdinfo").args(["--size", &between.uri()]));
    assert_eq!(size.trim(), SIZE.to_string());
    assert_eq!(totals(&between.uri()), totals(&export.uri()));
    let program = format!("import sys, nbd\nuri = sys.argv[1]\n{COMMANDS}");
    let mut judge = Command::new("/usr/bin/python3");
    run(judge.args(["-c", &program, &between.uri(), &export.uri()]));
    fio(&place, &between.uri());
    compare(&between.uri(), &export.uri());
    let copy: &Path = &place.path("copy.raw");
    run(Command::new("nbdcopy").arg(between.uri()).arg(copy));
    run(Command::new("cmp").arg(copy).arg(place.image()));
}

#[test]
fn nbdkits_nbd_plugin_is_a_client() {
    goes_through(Between::nbdkit);
}

#[test]
fn qemu_nbd_is_a_client() {
    goes_through(Between::qemu_nbd);
}

/// They see a disk that refuses writes as one, and the rest of its errors as they are.
#[test]
fn a_read_only_export_is_one_behind_others_too() {
    let place = Place::new();
    let export = Export::start(&place.image(), &["--read-only"]);
    let between = Between::nbdkit(&place, &export.uri());
    nbdsh(
        &between.uri(),
        "import errno\nh = nbd.NBD(); h.set_strict_mode(0); h.connect_uri(uri); assert h.is_read_only()\n\
         try: h.pwrite(b'x' * 512, 0)\n\
         except nbd.Error as e: assert e.errnum == errno.EPERM, e\n\
         else: assert False",
    );
    compare(&between.uri(), &export.uri());
}
