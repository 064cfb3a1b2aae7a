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

/// What TLS sends is read by the server itself: a base that is cut short meanwhile must not kill it (P4).
#[test]
fn a_base_truncated_under_a_reply_over_tls_is_an_error_of_the_request() {
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
         while not h.aio_in_flight() == 0 and not h.aio_peek_command_completed(): h.poll(20000)\n\
         try: h.aio_command_completed(cookie)\n\
         except nbd.Error as e: assert e.errno == 'EIO', e\n\
         assert len(h.pread(4096, 0)) == 4096",
        place.image()
    );
    nbdsh(&uri, &script);
    assert!(export.is_alive());
}
