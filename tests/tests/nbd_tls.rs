//! TLS between foreign clients and `bootroom export`, with certificates of `bootroom pki`.

mod nbd_common;

use std::{fs, path::Path, process::Command};

use bootroom_tests::binary;
use nbd_common::{Export, Place, SIZE, nbdsh, run, wait_for};

/// A site's certificates, with those of client `r12-01` where libnbd looks for them.
fn pki(place: &Place) {
    let dir = place.path("pki");
    let dir = dir.to_str().unwrap();
    run(&mut binary::command(&[
        "pki",
        "init",
        "--dir",
        dir,
        "--host",
        "localhost",
        "--host",
        "127.0.0.1",
    ]));
    run(&mut binary::command(&[
        "pki", "issue", "r12-01", "--dir", dir,
    ]));
    let client = place.path("client");
    fs::create_dir(&client).unwrap();
    let pki = Path::new(dir);
    for (from, to) in [
        ("ca.pem", "ca-cert.pem"),
        ("clients/r12-01.pem", "client-cert.pem"),
        ("clients/r12-01.key", "client-key.pem"),
    ] {
        fs::copy(pki.join(from), client.join(to)).unwrap();
    }
}

fn secure(place: &Place, export: &Export, folder: &str) -> Command {
    let folder = place.path(folder);
    let mut info = Command::new("nbdinfo");
    info.args([
        "--size",
        &format!(
            "nbds://localhost:{}?tls-certificates={}",
            export.port,
            folder.display()
        ),
    ]);
    info
}

fn secure_uri(place: &Place, export: &Export) -> String {
    format!(
        "nbds://localhost:{}?tls-certificates={}",
        export.port,
        place.path("client").display()
    )
}

fn start(place: &Place, arguments: &[&str]) -> Export {
    pki(place);
    let dir = place.path("pki");
    let all = [&["--pki", dir.to_str().unwrap()], arguments].concat();
    Export::start(&place.image(), &all)
}

#[test]
fn required_tls_serves_nobody_in_plain() {
    let place = Place::new();
    let export = start(&place, &["--tls", "required"]);
    assert_eq!(
        run(&mut secure(&place, &export, "client")).trim(),
        SIZE.to_string()
    );
    assert!(
        !Command::new("nbdinfo")
            .arg(export.uri())
            .output()
            .unwrap()
            .status
            .success()
    );
}

#[test]
fn a_copy_over_tls_is_the_image() {
    let place = Place::new();
    let export = start(&place, &["--tls", "on"]);
    let uri = secure_uri(&place, &export);
    run(Command::new("nbdcopy").arg(uri).arg(place.path("copy.img")));
    run(Command::new("cmp")
        .arg(place.path("copy.img"))
        .arg(place.image()));
    run(Command::new("nbdinfo").arg(export.uri()));
}

#[test]
fn a_client_without_certificate_or_with_a_revoked_one_is_refused() {
    let place = Place::new();
    let export = start(&place, &["--tls", "required", "--client-certificates"]);
    let opens = |folder: &str| {
        secure(&place, &export, folder)
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(opens("client"));
    fs::create_dir(place.path("nobody")).unwrap();
    fs::copy(
        place.path("client/ca-cert.pem"),
        place.path("nobody/ca-cert.pem"),
    )
    .unwrap();
    assert!(!opens("nobody"));
    let dir = place.path("pki");
    run(&mut binary::command(&[
        "pki",
        "revoke",
        "r12-01",
        "--dir",
        dir.to_str().unwrap(),
    ]));
    export.signal("HUP");
    wait_for("the revocation to count", || {
        (!opens("client")).then_some(())
    });
}

/// What TLS sends is read by the server itself: a base that is cut short meanwhile must not kill it (P4). Where the reply
/// had begun its connection ends, as without TLS; whoever asks again is told.
#[test]
fn a_base_truncated_under_a_reply_over_tls_ends_no_more_than_its_connection() {
    let place = Place::new();
    let mut export = start(&place, &["--tls", "on", "--cow"]);
    let uri = secure_uri(&place, &export);
    let script = format!(
        "import os, select\n\
         h = nbd.NBD(); h.set_uri_allow_local_file(True); h.connect_uri(uri)\n\
         buffer = nbd.Buffer(16 << 20)\n\
         cookie = h.aio_pread(buffer, 0)\n\
         assert select.select([h.aio_get_fd()], [], [], 20)[0]\n\
         os.truncate({:?}, 4096)\n\
         try:\n\
         \x20   while h.aio_in_flight() and not h.aio_peek_command_completed(): h.poll(20000)\n\
         except nbd.Error: pass\n\
         try: h.aio_command_completed(cookie)\n\
         except nbd.Error as e: assert e.errno in ('EIO', 'ENOTCONN') or h.aio_is_dead() or h.aio_is_closed(), e\n\
         again = nbd.NBD(); again.set_uri_allow_local_file(True); again.connect_uri(uri)\n\
         assert len(again.pread(4096, 0)) == 4096\n\
         try: again.pread(1 << 20, 8 << 20); assert False\n\
         except nbd.Error as e: assert e.errno == 'EIO', e",
        place.image()
    );
    nbdsh(&uri, &script);
    assert!(export.is_alive());
}

/// The beginning of a record holds back none of the replies to what came before it.
#[test]
fn replies_over_tls_do_not_wait_for_the_next_request() {
    let place = Place::new();
    let export = start(&place, &["--tls", "on"]);
    let script = "\
import socket, ssl, struct, sys
port, ca = int(sys.argv[1].split('|')[0]), sys.argv[1].split('|')[1]
raw = socket.create_connection(('127.0.0.1', port), 20)
def exactly(read, count):
    data = b''
    while len(data) < count: data += read(count - len(data))
    return data
exactly(raw.recv, 18)
raw.sendall(struct.pack('>I', 3) + b'IHAVEOPT' + struct.pack('>II', 5, 0))
exactly(raw.recv, 20)
inside, outside = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = ssl.create_default_context(cafile=ca).wrap_bio(inside, outside, server_hostname='localhost')
def pump(act):
    while True:
        try:
            result = act()
            raw.sendall(outside.read())
            return result
        except ssl.SSLWantReadError:
            raw.sendall(outside.read())
            data = raw.recv(65536)
            assert data, 'the server closed'
            inside.write(data)
pump(tls.do_handshake)
def record(data):
    tls.write(data)
    return outside.read()
raw.sendall(record(b'IHAVEOPT' + struct.pack('>II', 1, 0)))
exactly(lambda n: pump(lambda: tls.read(n)), 10)
command = lambda number, length: struct.pack('>IHHQQI', 0x25609513, 0, number, 7, 0, length)
filling = 4096 - 22 - 28 - 28
first = record(command(1, filling) + bytes(filling) + command(3, 0))
assert len(first) == 4096, len(first)
raw.sendall(first + record(command(3, 0))[:3])
raw.settimeout(15)
exactly(lambda n: pump(lambda: tls.read(n)), 2 * 16)
";
    let ca = place.path("pki/ca.pem");
    let arguments = format!("{}|{}", export.port, ca.display());
    run(Command::new("/usr/bin/python3").args(["-c", script, &arguments]));
}

/// OpenSSL asks for new keys in both directions, again and again, and reads the image all the while.
#[test]
fn keys_change_when_openssl_asks() {
    const ROUNDS: usize = 20;
    let place = Place::new();
    let export = start(&place, &["--tls", "on"]);
    let script = "\
import socket, struct, subprocess, sys, threading
port, ca, image, rounds = sys.argv[1:]
def exactly(read, count):
    data = b''
    while len(data) < count:
        more = read(count - len(data))
        assert more, 'the end'
        data += more
    return data
server = socket.create_connection(('127.0.0.1', int(port)), 20)
exactly(server.recv, 18)
server.sendall(struct.pack('>I', 3) + b'IHAVEOPT' + struct.pack('>II', 5, 0))
exactly(server.recv, 20)
# openssl knows how to begin TLS in many protocols, and NBD is none of them.
listener = socket.create_server(('127.0.0.1', 0))
connect = '127.0.0.1:%d' % listener.getsockname()[1]
client = subprocess.Popen(['timeout', '60', 'openssl', 's_client', '-connect', connect, '-servername', 'localhost',
    '-CAfile', ca, '-verify_return_error', '-tls1_3', '-quiet', '-no_ign_eof'],
    bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
near = listener.accept()[0]
def carry(source, sink):
    while data := source.recv(65536): sink.sendall(data)
for ends in (near, server), (server, near): threading.Thread(target=carry, args=ends, daemon=True).start()
def change_key(command):
    # What it reads together with a command is lost.
    client.stdin.write(command)
    while b'KEYUPDATE' not in (line := client.stderr.readline()): assert line, 'the end'
client.stdin.write(b'IHAVEOPT' + struct.pack('>II', 1, 0))
exactly(client.stdout.read, 10)
expected = open(image, 'rb').read()
for number in range(int(rounds)):
    change_key(b'K\\n' if number % 2 else b'k\\n')
    at = number * 65536
    client.stdin.write(struct.pack('>IHHQQI', 0x25609513, 0, 0, number, at, 65536))
    assert exactly(client.stdout.read, 16)[8:] == struct.pack('>Q', number)
    assert exactly(client.stdout.read, 65536) == expected[at:at + 65536]
client.kill()
";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script, &export.port.to_string()]);
    python.args([place.path("pki/ca.pem"), place.image()]);
    run(python.arg(ROUNDS.to_string()));
}

/// 1.2 must be had by whoever has nothing newer.
#[test]
fn both_versions_of_tls_are_spoken() {
    let place = Place::new();
    let export = start(&place, &["--tls", "required"]);
    let options = format!(
        "driver=nbd,host=localhost,port={},tls-creds=tls",
        export.port
    );
    let client = place.path("client");
    for version in ["1.2", "1.3"] {
        let credentials = format!(
            "tls-creds-x509,id=tls,endpoint=client,dir={},priority=NORMAL:-VERS-ALL:+VERS-TLS{version}",
            client.display()
        );
        let copy = place.path("copy.img");
        let mut convert = Command::new("qemu-img");
        convert.args([
            "convert",
            "-O",
            "raw",
            "--object",
            &credentials,
            "--image-opts",
            &options,
        ]);
        run(convert.arg(&copy));
        run(Command::new("cmp").arg(&copy).arg(place.image()));
    }
}
