//! Foreign NBD clients against `bootroom export`, on a file, on copies for each connection, and on a kept overlay.

mod nbd_common;

use std::process::Command;

use nbd_common::{Export, Place, SIZE, nbdsh, run};

fn modes(place: &Place) -> [Vec<String>; 3] {
    let overlay = place.path("overlay").to_str().unwrap().to_owned();
    [
        vec![],
        vec!["--cow".into()],
        vec!["--overlay".into(), overlay],
    ]
}

fn each_mode(test: impl Fn(&Place, &Export)) {
    for number in 0..3 {
        let place = Place::new();
        let arguments = modes(&place)[number].clone();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        test(&place, &Export::start(&place.image(), &arguments));
    }
}

#[test]
fn nbdcopy_and_qemu_img_see_the_image() {
    each_mode(|place, export| {
        let copy = place.path("copy.img");
        run(Command::new("nbdcopy").arg(export.uri()).arg(&copy));
        run(Command::new("cmp").arg(&copy).arg(place.image()));
        run(Command::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", "raw", &export.uri()])
            .arg(place.image()));
    });
}

#[test]
fn nbdinfo_sees_the_hole() {
    each_mode(|_, export| {
        let map = run(Command::new("nbdinfo").args(["--map", "--totals", &export.uri()]));
        let hole = map
            .lines()
            .find(|line| line.contains("hole,zero"))
            .expect("no hole in the map");
        assert!(hole.contains(&(SIZE - (16 << 20)).to_string()), "{map}");
        assert_eq!(
            run(Command::new("nbdinfo").args(["--size", &export.uri()])).trim(),
            SIZE.to_string()
        );
    });
}

#[test]
fn qemu_io_reads_back_what_it_did() {
    each_mode(|_, export| {
        let mut qemu = Command::new("qemu-io");
        qemu.args(["-f", "raw"]);
        for command in [
            "write -P 7 1M 2M",
            "read -P 7 1M 2M",
            "write -z 1M 64k",
            "read -P 0 1M 64k",
            "write -z -u 2M 100k",
            "read -P 0 2M 100k",
            "write -P 9 1234 777",
            "read -P 9 1234 777",
            "write -f -P 3 40M 1M",
            "read -P 3 40M 1M",
            "discard 8M 1M",
            "flush",
        ] {
            qemu.args(["-c", command]);
        }
        let said = run(qemu.arg(export.uri()));
        assert!(!said.contains("failed"), "{said}");
    });
}

#[test]
fn a_large_write_arrives_whole_and_a_large_read_too() {
    each_mode(|_, export| {
        nbdsh(
            &export.uri(),
            "import os\nh = nbd.NBD(); h.connect_uri(uri)\n\
             data = os.urandom(24 * 1024 * 1024)\n\
             h.pwrite(data, 12345 * 512); assert h.pread(len(data), 12345 * 512) == data\n\
             h.pwrite(data[:3000001], 77); assert h.pread(3000001, 77) == data[:3000001]",
        );
    });
}

#[test]
fn errors_are_those_of_the_specification() {
    each_mode(|_, export| {
        nbdsh(
            &export.uri(),
            "import errno\nh = nbd.NBD(); h.set_strict_mode(0); h.connect_uri(uri); size = h.get_size()\n\
             def fails(code, call):\n\
             \ttry: call()\n\
             \texcept nbd.Error as e: assert e.errnum == code, e\n\
             \telse: assert False, code\n\
             fails(errno.EINVAL, lambda: h.pread(512, size))\n\
             fails(errno.ENOSPC, lambda: h.pwrite(b'x' * 512, size))\n\
             fails(errno.ENOSPC, lambda: h.zero(512, size))\n\
             fails(errno.EINVAL, lambda: h.trim(512, size))\n\
             fails(errno.EINVAL, lambda: h.pread(512, 0, nbd.CMD_FLAG_NO_HOLE))\n\
             assert len(h.pread(512, 0)) == 512",
        );
    });
}

#[test]
fn read_only_refuses_every_write() {
    let place = Place::new();
    let export = Export::start(&place.image(), &["--read-only"]);
    nbdsh(
        &export.uri(),
        "import errno\nh = nbd.NBD(); h.set_strict_mode(0); h.connect_uri(uri)\nassert h.is_read_only()\n\
         for call in (lambda: h.pwrite(b'x' * 512, 0), lambda: h.zero(512, 0), lambda: h.trim(512, 0)):\n\
         \ttry: call()\n\
         \texcept nbd.Error as e: assert e.errnum == errno.EPERM, e\n\
         \telse: assert False",
    );
}

#[test]
fn a_kept_overlay_leaves_the_file_alone_and_survives_kill_9() {
    let place = Place::new();
    let before = std::fs::read(place.image()).unwrap();
    let overlay = place.path("overlay");
    let arguments = ["--overlay", overlay.to_str().unwrap()];
    let mut first = Export::start(&place.image(), &arguments);
    nbdsh(
        &first.uri(),
        "h = nbd.NBD(); h.connect_uri(uri); h.pwrite(b'kept' * 1024, 4096)",
    );
    first.signal("KILL");
    assert!(!first.ended());
    let second = Export::start(&place.image(), &arguments);
    nbdsh(
        &second.uri(),
        "h = nbd.NBD(); h.connect_uri(uri); assert h.pread(4096, 4096) == b'kept' * 1024",
    );
    assert!(
        std::fs::read(place.image()).unwrap() == before,
        "the file below the overlay changed"
    );
}

#[test]
fn copies_for_each_connection_are_apart() {
    let place = Place::new();
    let export = Export::start(&place.image(), &["--cow"]);
    nbdsh(
        &export.uri(),
        "a = nbd.NBD(); a.connect_uri(uri); b = nbd.NBD(); b.connect_uri(uri)\n\
         before = b.pread(4096, 0); a.pwrite(b'a' * 4096, 0)\n\
         assert b.pread(4096, 0) == before; assert a.pread(4096, 0) == b'a' * 4096",
    );
}

/// P6: what the older connection still sends is not applied, and it is closed.
#[test]
fn the_newest_connection_takes_an_overlay_over() {
    let place = Place::new();
    let overlay = place.path("overlay");
    let export = Export::start(&place.image(), &["--overlay", overlay.to_str().unwrap()]);
    nbdsh(
        &export.uri(),
        "old = nbd.NBD(); old.connect_uri(uri); old.pwrite(b'1' * 4096, 0)\n\
         new = nbd.NBD(); new.connect_uri(uri)\n\
         assert new.pread(4096, 0) == b'1' * 4096\n\
         try: old.pwrite(b'2' * 4096, 0)\n\
         except nbd.Error: pass\n\
         else: assert False, 'the older connection was answered'\n\
         assert new.pread(4096, 0) == b'1' * 4096",
    );
}

#[test]
fn block_status_answers_several_contexts_and_one_extent() {
    let place = Place::new();
    let overlay = place.path("overlay");
    let export = Export::start(&place.image(), &["--overlay", overlay.to_str().unwrap()]);
    nbdsh(
        &export.uri(),
        "h = nbd.NBD(); h.add_meta_context('base:allocation'); h.add_meta_context('qemu:allocation-depth')\n\
         h.connect_uri(uri); h.pwrite(b'x' * 4096, 0); got = {}\n\
         def f(context, offset, entries, err): got.setdefault(context, entries)\n\
         h.block_status(1 << 20, 0, f)\n\
         assert got['qemu:allocation-depth'][:2] == [4096, 1], got\n\
         assert got['qemu:allocation-depth'][3] == 2, got\n\
         assert got['base:allocation'][1] == 0, got\n\
         got.clear(); h.block_status(1 << 20, 0, f, nbd.CMD_FLAG_REQ_ONE)\n\
         assert got['qemu:allocation-depth'] == [4096, 1], got\n\
         assert len(got['base:allocation']) == 2, got",
    );
}

#[test]
fn sigterm_answers_what_is_under_way_and_ends_well() {
    let place = Place::new();
    let mut export = Export::start(&place.image(), &[]);
    let mut socket = nbd_common::transmitting(export.port);
    use std::io::{Read, Write};
    socket
        .write_all(&nbd_common::request(0, 1, 0, 4096))
        .unwrap();
    let mut answer = vec![0; 16 + 4096];
    socket.read_exact(&mut answer).unwrap();
    export.signal("TERM");
    assert!(nbd_common::read_to_close(&mut socket).is_empty());
    assert!(export.ended());
}

#[test]
fn a_unix_socket_serves_and_is_removed() {
    let place = Place::new();
    let path = place.path("nbd.sock");
    let image = place.image();
    let mut child = bootroom_tests::binary::command(&["export", image.to_str().unwrap(), "--unix"])
        .arg(&path)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    nbd_common::wait_for("the socket", || path.exists().then_some(()));
    let uri = format!("nbd+unix:///?socket={}", path.display());
    assert_eq!(
        run(Command::new("nbdinfo").args(["--size", &uri])).trim(),
        SIZE.to_string()
    );
    run(Command::new("kill").arg(child.id().to_string()));
    assert!(nbd_common::wait_for("the end", || child.try_wait().unwrap()).success());
    assert!(!path.exists());
}

#[test]
fn a_passed_socket_is_served() {
    let place = Place::new();
    let bootroom = bootroom_tests::binary::bootroom();
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = probe.local_addr().unwrap().port();
    drop(probe);
    let mut activate = Command::new("systemd-socket-activate");
    activate
        .args(["-l", &format!("127.0.0.1:{port}")])
        .arg(bootroom)
        .arg("export")
        .arg(place.image());
    let mut child = activate
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    nbd_common::wait_for("the socket", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let size = run(Command::new("nbdinfo").args(["--size", &format!("nbd://127.0.0.1:{port}")]));
    assert_eq!(size.trim(), SIZE.to_string());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn fio_verifies_what_it_wrote() {
    each_mode(|place, export| {
        let mut fio = Command::new("fio");
        fio.args([
            "--name=verify",
            "--ioengine=nbd",
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=32",
            "--size=16m",
        ]);
        fio.args([
            "--verify=crc32c",
            "--do_verify=1",
            "--fsync=64",
            &format!("--uri={}", export.uri()),
        ]);
        run(fio.current_dir(place.path("")));
    });
}
