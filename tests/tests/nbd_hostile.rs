//! Peers that mean harm, or are broken: they may cost themselves, never the server or another client.

mod nbd_common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
};

use nbd_common::{Export, Place, SIZE, option, raw, read_to_close, request, run, transmitting};

/// The server still serves.
fn is_well(export: &mut Export) {
    assert!(export.is_alive());
    assert_eq!(
        run(Command::new("nbdinfo").args(["--size", &export.uri()])).trim(),
        SIZE.to_string()
    );
}

fn memory(export: &Export) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", export.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}

#[test]
fn a_flood_of_options_ends_the_connection() {
    let place = Place::new();
    let mut export = Export::start(&place.image(), &[]);
    let mut socket = raw(export.port);
    let flood: Vec<u8> = (0..2000).flat_map(|_| option(3, b"")).collect();
    let _ = socket.write_all(&flood);
    read_to_close(&mut socket);
    is_well(&mut export);
}

#[test]
fn huge_lengths_take_no_memory() {
    let place = Place::new();
    let mut export = Export::start(&place.image(), &[]);
    let before = memory(&export);
    let mut sockets: Vec<TcpStream> = Vec::new();
    for number in [1u32, 3, 6, 7, 9, 10, 99] {
        let mut socket = raw(export.port);
        let mut head = option(number, b"");
        head[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
        socket.write_all(&head).unwrap();
        sockets.push(socket);
    }
    for socket in &mut sockets {
        read_to_close(socket);
    }
    assert!(memory(&export) < before + (8 << 20));
    is_well(&mut export);
}

#[test]
fn a_name_longer_than_its_option_is_refused_politely() {
    let place = Place::new();
    let mut export = Export::start(&place.image(), &[]);
    let mut socket = raw(export.port);
    socket
        .write_all(&option(7, &[0, 0, 255, 255, b'a', 0, 0]))
        .unwrap();
    let mut reply = [0; 20];
    socket.read_exact(&mut reply).unwrap();
    assert_eq!(reply[12..16], (0x8000_0003u32).to_be_bytes());
    is_well(&mut export);
}

#[test]
fn unknown_client_flags_end_the_connection() {
    let place = Place::new();
    let mut export = Export::start(&place.image(), &[]);
    let mut socket = TcpStream::connect(("127.0.0.1", export.port)).unwrap();
    socket.write_all(&[0, 0, 1, 3]).unwrap();
    assert_eq!(read_to_close(&mut socket).len(), 18);
    is_well(&mut export);
}

#[test]
fn half_open_handshakes_do_not_keep_others_out_and_time_out() {
    let place = Place::new();
    let mut export = Export::start(&place.image(), &["--per-peer", "200"]);
    let mut sockets: Vec<_> = (0..100).map(|_| raw(export.port)).collect();
    is_well(&mut export);
    for socket in &mut sockets {
        read_to_close(socket);
    }
}

#[test]
fn connections_beyond_the_limit_are_turned_away() {
    let place = Place::new();
    let mut export = Export::start(&place.image(), &["--per-peer", "4"]);
    let held: Vec<_> = (0..4).map(|_| transmitting(export.port)).collect();
    let mut fifth = TcpStream::connect(("127.0.0.1", export.port)).unwrap();
    assert!(read_to_close(&mut fifth).is_empty());
    drop(held);
    nbd_common::wait_for("a place", || {
        Command::new("nbdinfo")
            .arg(export.uri())
            .output()
            .unwrap()
            .status
            .success()
            .then_some(())
    });
    is_well(&mut export);
}

/// A client that asks and never reads fills its own socket, and nothing else.
#[test]
fn a_client_that_never_reads_costs_only_itself() {
    let place = Place::new();
    let mut export = Export::start(&place.image(), &[]);
    let before = memory(&export);
    let mut greedy = transmitting(export.port);
    greedy
        .set_write_timeout(Some(std::time::Duration::from_millis(500)))
        .unwrap();
    let mut cookie = 0;
    while greedy.write_all(&request(0, cookie, 0, 1 << 20)).is_ok() && cookie < 100_000 {
        cookie += 1;
    }
    is_well(&mut export);
    assert!(
        memory(&export) < before + (96 << 20),
        "{} MiB",
        (memory(&export) - before) >> 20
    );
}

#[test]
fn a_wrong_magic_ends_the_connection() {
    let place = Place::new();
    let mut export = Export::start(&place.image(), &[]);
    let mut socket = transmitting(export.port);
    socket.write_all(&[0x55; 28]).unwrap();
    assert!(read_to_close(&mut socket).is_empty());
    is_well(&mut export);
}

#[test]
fn a_write_that_is_cut_off_leaves_the_server_well() {
    let place = Place::new();
    let mut export = Export::start(&place.image(), &[]);
    let mut socket = transmitting(export.port);
    socket.write_all(&request(1, 1, 0, 8 << 20)).unwrap();
    socket.write_all(&vec![7; 3 << 20]).unwrap();
    drop(socket);
    is_well(&mut export);
}

#[test]
fn an_overlong_payload_is_skipped_and_the_next_request_answered() {
    let place = Place::new();
    let mut export = Export::start(&place.image(), &[]);
    let mut socket = transmitting(export.port);
    socket.write_all(&request(1, 1, 0, 33 << 20)).unwrap();
    socket.write_all(&vec![7; 33 << 20]).unwrap();
    socket.write_all(&request(0, 2, 0, 16)).unwrap();
    let mut replies = [0; 16 + 16 + 16];
    socket.read_exact(&mut replies).unwrap();
    assert_eq!(replies[4..8], 22u32.to_be_bytes(), "EINVAL for the first");
    assert_eq!(replies[20..24], [0; 4], "success for the second");
    is_well(&mut export);
}

/// The file below is cut short while it is served: EIO to the request, the server lives (P4).
#[test]
fn a_truncated_base_is_an_error_of_the_request() {
    let place = Place::new();
    let overlay = place.path("overlay");
    let mut export = Export::start(&place.image(), &["--overlay", overlay.to_str().unwrap()]);
    let file = std::fs::File::options()
        .write(true)
        .open(place.image())
        .unwrap();
    file.set_len(1 << 20).unwrap();
    nbd_common::nbdsh(
        &export.uri(),
        "import errno\n\
         def reads(length):\n\
         \th = nbd.NBD(); h.connect_uri(uri)\n\
         \tassert len(h.pread(4096, 0)) == 4096\n\
         \ttry: h.pread(length, 8 << 20)\n\
         \texcept nbd.Error as e: return e.errnum\n\
         \tassert False, 'read past the end of the file'\n\
         assert reads(4096) == errno.EIO\n\
         for _ in range(2): last = reads(1 << 20)\n\
         assert last == errno.EIO, last",
    );
    is_well(&mut export);
}
