//! TLS between foreign clients and `bootroom export`, with certificates of `bootroom pki`.

mod nbd_common;

use std::{fs, path::Path, process::Command};

use bootroom_tests::binary;
use nbd_common::{Export, Place, SIZE, run, wait_for};

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
    let uri = format!(
        "nbds://localhost:{}?tls-certificates={}",
        export.port,
        place.path("client").display()
    );
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
