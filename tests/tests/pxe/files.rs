//! curl, atftp, tftp-hpa and busybox fetch files.

use crate::net::{Pair, text};

fn served() -> (Pair, Vec<u8>) {
    let pair = Pair::new();
    let content: Vec<u8> = (0..1_500_000u32).map(|i| (i * 31 % 251) as u8).collect();
    pair.file("blob", &content);
    pair.file("empty", b"");
    pair.file("even", &content[..1432 * 32]);
    pair.client.ip("addr add 10.77.0.50/24 dev c0");
    (pair, content)
}

/// Runs a client that writes to the file `out`, and compares.
fn fetch(pair: &Pair, program: &str, args: &[&str], expected: &[u8]) {
    drop(std::fs::remove_file(pair.path("out")));
    let output = pair.run(program, args);
    let got = std::fs::read(pair.path("out")).unwrap_or_default();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        text(&output)
    );
    assert!(
        got == expected,
        "{program} {args:?}: {} bytes, not {}",
        got.len(),
        expected.len()
    );
}

#[test]
fn every_tftp_client_with_every_size() {
    let (pair, content) = served();
    let server = pair.serve(&["nodhcp"]);
    for (name, content) in [
        ("blob", &content[..]),
        ("empty", b""),
        ("even", &content[..1432 * 32]),
    ] {
        let url = format!("tftp://10.77.0.1/{name}");
        for size in ["8", "512", "1024", "1432", "65464"] {
            // Eight bytes at a time, the large file would take too long; and curl 7.88 fails on every empty file.
            if (name, size) != ("blob", "8") && name != "empty" {
                fetch(
                    &pair,
                    "curl",
                    &["-sSf", "--tftp-blksize", size, "-o", "out", &url],
                    content,
                );
            }
        }
        if name != "empty" {
            fetch(
                &pair,
                "curl",
                &["-sSf", "--tftp-no-options", "-o", "out", &url],
                content,
            );
        }
        for window in ["1", "4", "16", "64", "200"] {
            let window = format!("windowsize {window}");
            let args = [
                "--option",
                "blksize 1432",
                "--option",
                &window,
                "-g",
                "-r",
                name,
                "-l",
                "out",
                "10.77.0.1",
            ];
            fetch(&pair, "atftp", &args, content);
        }
        let get = ["-m", "binary", "10.77.0.1", "-c", "get", name, "out"];
        fetch(&pair, "tftp", &get, content);
        fetch(
            &pair,
            "busybox",
            &["tftp", "-g", "-r", name, "-l", "out", "10.77.0.1"],
            content,
        );
        fetch(
            &pair,
            "busybox",
            &[
                "tftp",
                "-b",
                "1400",
                "-g",
                "-r",
                name,
                "-l",
                "out",
                "10.77.0.1",
            ],
            content,
        );
    }
    server.stop();
}

#[test]
fn tftp_refuses_what_it_must() {
    let (pair, _) = served();
    let server = pair.serve(&["nodhcp"]);
    let said = text(&pair.run(
        "busybox",
        &["tftp", "-g", "-r", "nothing", "-l", "out", "10.77.0.1"],
    ));
    assert!(said.contains("not found"), "{said}");
    server.saw("NotFound Tftp nothing");
    let said = text(&pair.run(
        "busybox",
        &[
            "tftp",
            "-g",
            "-r",
            "../../etc/passwd",
            "-l",
            "out",
            "10.77.0.1",
        ],
    ));
    assert!(said.contains("not allowed"), "{said}");
    std::fs::write(pair.path("mine"), b"x").expect("the file is written");
    let said = text(&pair.run(
        "busybox",
        &["tftp", "-p", "-l", "mine", "-r", "blob", "10.77.0.1"],
    ));
    assert!(said.contains("read-only"), "{said}");
    server.stop();
}

#[test]
fn answers_come_from_the_address_that_was_asked() {
    let (pair, content) = served();
    pair.server.ip("addr add 10.77.0.9/24 dev s0");
    // The example listens on one address; TFTP on every address of the interface is asked for by 0.0.0.0.
    let server = pair.serve(&["tftp-any", "nodhcp"]);
    for address in ["10.77.0.1", "10.77.0.9"] {
        let get = ["-m", "binary", address, "-c", "get", "blob", "out"];
        fetch(&pair, "tftp", &get, &content);
    }
    server.stop();
}

#[test]
fn http_serves_files_parts_of_them_and_nothing_else() {
    let (pair, content) = served();
    let server = pair.serve(&["nodhcp"]);
    let url = "http://10.77.0.1/blob";
    fetch(&pair, "curl", &["-sf", "-o", "out", url], &content);
    fetch(
        &pair,
        "curl",
        &["-sf", "-r", "1000-1999", "-o", "out", url],
        &content[1000..2000],
    );
    fetch(
        &pair,
        "curl",
        &["-sf", "-r", "-7", "-o", "out", url],
        &content[content.len() - 7..],
    );
    // Two files over one connection.
    let twice = text(&pair.run("curl", &["-sfv", "-o", "out", url, "-o", "out2", url]));
    assert!(twice.contains("Re-using existing connection"), "{twice}");
    let head = text(&pair.run("curl", &["-sfI", url]));
    assert!(
        head.contains("Content-Length: 1500000") && head.contains("Accept-Ranges: bytes"),
        "{head}"
    );
    let status = |args: &[&str]| {
        text(&pair.run(
            "curl",
            &[&["-s", "-o", "out", "-w", "%{http_code}"], args].concat(),
        ))
    };
    assert_eq!(
        status(&["--path-as-is", "http://10.77.0.1/../../etc/passwd"]),
        "400"
    );
    assert_eq!(
        status(&["http://10.77.0.1/%2e%2e/%2e%2e/etc/passwd"]),
        "400"
    );
    assert_eq!(status(&["http://10.77.0.1/nothing"]), "404");
    assert_eq!(status(&["-r", "1500000-", url]), "416");
    assert_eq!(status(&["-X", "DELETE", url]), "405");
    assert_eq!(
        status(&["-d", "body", "http://10.77.0.1/report/token/up"]),
        "204"
    );
    assert_eq!(
        status(&["-d", "body", "http://10.77.0.1/report/unknown"]),
        "404"
    );
    server.saw("report token/up b\"body\"");
    server.stop();
}
