//! Named exports of a running server: who may open what, and how. And `bootroom export` of an image version.

mod nbd_common;

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use bootroom_tests::{binary, deadline};
use nbd_common::{
    nbdsh, run,
    site::{LIMIT, ROOM, Running, Site, import_image},
};

const MODES: &str = r#"
[listeners.local]
unix = "@/nbd.sock"
[exports.cluster]
file = "@/one"
mode = "read-write"
shared = true
allow = ["10.79.0.0/24", "unix"]
[exports.alone]
file = "@/two"
mode = "read-write"
allow = ["10.79.0.0/24", "unix"]
[exports.copies]
file = "@/three"
mode = "copy-on-write"
quota = "1MiB"
allow = ["10.79.0.0/24"]
[exports.tiny]
image = "tiny"
mode = "copy-on-write"
allow = ["unix"]
[exports.pinned]
image = "tiny@1"
allow = ["*"]
"#;

#[test]
fn shared_alone_and_copied_exports_keep_what_they_promise() {
    let site = Site::new(MODES);
    import_image(&site);
    let site = site.start();
    // What one connection was told is written is there for the other, whose flush is for both.
    run(&mut site.shell(
        "a, b = nbd.NBD(), nbd.NBD()\n\
         a.connect_uri('nbd://10.79.0.1/cluster'); b.connect_uri('nbd+unix:///cluster?socket=@/nbd.sock')\n\
         assert a.can_multi_conn() and b.can_multi_conn()\n\
         a.pwrite(b'a' * 4096, 0); assert b.pread(4096, 0) == b'a' * 4096\n\
         b.flush(); assert open('@/one', 'rb').read(4096) == b'a' * 4096",
    ));
    // Who has a disk alone keeps it until it leaves.
    run(&mut site.shell(
        "uri = 'nbd://10.79.0.1/alone'\n\
         a = nbd.NBD(); a.connect_uri(uri); assert not a.can_multi_conn()\n\
         a.pwrite(b'a' * 4096, 0)\n\
         b = nbd.NBD()\n\
         try: b.connect_uri(uri)\n\
         except nbd.Error as e: assert 'policy' in e.string, e\n\
         else: assert False, 'two writers'\n\
         assert a.pread(4096, 0) == b'a' * 4096\n\
         a.shutdown()",
    ));
    deadline::wait_for("the disk to be free", LIMIT, || {
        site.opens("nbd://10.79.0.1/alone").then_some(())
    });
    // Each connection has a copy of its own, of so much and no more, and the file stays as it was.
    run(&mut site.shell(
        "a, b = nbd.NBD(), nbd.NBD()\n\
         for h in a, b: h.connect_uri('nbd://10.79.0.1/copies')\n\
         a.pwrite(b'a' * 4096, 0); b.pwrite(b'b' * 4096, 0)\n\
         assert a.pread(4096, 0) == b'a' * 4096 and b.pread(4096, 0) == b'b' * 4096\n\
         try: a.pwrite(b'a' * 2097152, 0)\n\
         except nbd.Error as e: assert e.errno == 'ENOSPC', e\n\
         else: assert False, 'above the quota'\n\
         assert open('@/three', 'rb').read(4096) == bytes(4096)",
    ));
    deadline::wait_for("the copies to be gone", LIMIT, || {
        let store = fs::read_dir(site.path("data/scratch")).ok()?;
        let left = store.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
        let overlays = left.filter(|entry| entry.as_ref().unwrap().path().is_dir());
        (overlays.count() == 0).then_some(())
    });
    run(&mut site.shell(
        "h = nbd.NBD(); h.connect_uri('nbd://10.79.0.1/pinned'); assert h.can_multi_conn()",
    ));
    let said = run(Command::new("qemu-io").args([
        "-f",
        "raw",
        "-c",
        "write -P 7 1M 64k",
        "-c",
        "read -P 7 1M 64k",
        &site.expand("nbd+unix:///tiny?socket=@/nbd.sock"),
    ]));
    assert!(!said.contains("failed"), "{said}");
    run(site
        .there("nbdcopy", &["nbd://10.79.0.1/pinned", "@/copy"])
        .stderr(Stdio::null()));
    let disk = site.path("disk");
    run(Command::new("cmp").arg(site.path("copy")).arg(&disk));
}

const TLS: &str = r#"
[listeners.secure]
address = "10.79.1.1:10810"
tls = "MODE"
[exports.open]
file = "@/one"
allow = ["*"]
[exports.sealed]
file = "@/two"
allow = ["10.79.0.0/24"]
tls = "required"
[exports.secret]
file = "@/three"
certificates = ["nas"]
"#;

/// A CA, the server's certificate, and two clients' in folders as libnbd wants them.
fn make_certificates(site: &Site) {
    let dir = site.path("data/pki");
    let pki = |arguments: &[&str]| {
        run(binary::command(arguments).arg("--dir").arg(&dir));
    };
    // The server sees that its own certificate has to name the listener's address as well.
    pki(&["pki", "init", "--host", "10.79.0.1"]);
    for name in ["nas", "other"] {
        pki(&["pki", "issue", name]);
        let folder = site.path(name);
        fs::create_dir(&folder).unwrap();
        fs::copy(dir.join("ca.pem"), folder.join("ca-cert.pem")).unwrap();
        for (ending, to) in [("pem", "client-cert.pem"), ("key", "client-key.pem")] {
            let from = dir.join(format!("clients/{name}.{ending}"));
            fs::copy(from, folder.join(to)).unwrap();
        }
    }
}

#[test]
fn certificates_open_what_names_them_and_count_from_the_reload_on() {
    let mut site = Site::new("");
    make_certificates(&site);
    site.write("room.toml", &TLS.replace("MODE", "on"));
    let mut site = site.start();
    let secure = |client: &str, export: &str| {
        format!("nbds://10.79.1.1:10810/{export}?tls-certificates=@/{client}")
    };
    let plain = "nbd://10.79.1.1:10810/";
    assert_eq!(site.list(plain), ["open"]);
    assert_eq!(site.list(&secure("other", "")), ["open", "sealed"]);
    assert_eq!(site.list(&secure("nas", "")), ["open", "sealed", "secret"]);
    assert!(site.opens(&secure("other", "sealed")));
    assert!(!site.opens(&format!("{plain}sealed")));
    assert!(site.opens(&secure("nas", "secret")));
    assert!(!site.opens(&secure("other", "secret")));
    // The room's own port speaks no TLS, and so has nothing of what needs it.
    assert_eq!(site.list(ROOM), ["open"]);
    assert!(!site.opens(&format!("{ROOM}/secret")));
    // Who is connected when its certificate is revoked is out from the reload on.
    let holds = |client: &str, export: &str| {
        let (uri, mark) = (secure(client, export), format!("@/{client}.mark"));
        let script = format!(
            "h = nbd.NBD(); h.set_uri_allow_local_file(True); h.connect_uri('{uri}')\n\
             open('{mark}', 'w').close()\n\
             while True: h.poll(-1); h.pread(512, 0)"
        );
        let mark = site.path(&format!("{client}.mark"));
        Running::start(site.shell(&script), mark)
    };
    let (out, stays) = (holds("nas", "secret"), holds("other", "sealed"));
    let dir = site.path("data/pki");
    run(binary::command(&["pki", "revoke", "nas", "--dir"]).arg(&dir));
    let text = "nobody has read the list of the revoked yet";
    assert!(site.opens(&secure("nas", "secret")), "{text}");
    site.write("room.toml", &TLS.replace("MODE", "required"));
    assert_eq!(site.reload()["exports"]["connections_ended"], 1);
    assert!(!out.end().status.success());
    assert!(stays.runs());
    assert!(!site.opens(&secure("nas", "secret")));
    assert!(site.opens(&secure("other", "sealed")));
    assert!(!site.opens(&format!("{plain}open")));
    fs::write(dir.join("server.pem"), "not a certificate").unwrap();
    let said = site.refused_reload();
    assert!(
        said.contains("server.pem") && said.contains("data = "),
        "{said}"
    );
    assert!(site.opens(&secure("other", "sealed")));
}

/// A child that does not outlive the test.
struct Mortal(Child);

impl Drop for Mortal {
    fn drop(&mut self) {
        // Both fail only for a child that is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines of the listening addresses that `bootroom export` prints first.
fn addresses(child: &mut Child, count: usize) -> Vec<String> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said: Vec<_> = lines.take(count).map(Result::unwrap).collect();
    let places = said
        .iter()
        .map(|line| line.strip_prefix("listening on ").unwrap());
    places.map(str::to_owned).collect()
}

#[test]
fn an_image_version_goes_out_by_every_address_and_socket_at_once() {
    let site = Site::new("");
    import_image(&site);
    let data = site.path("data");
    let mut command = binary::command(&["export", "tiny@1", "--cow", "--bind", "127.0.0.1"]);
    command
        .args(["--bind", "::1", "--port", "0"])
        .arg("--data")
        .arg(&data);
    let sockets = [site.path("a.sock"), site.path("b.sock")];
    for socket in &sockets {
        command.arg("--unix").arg(socket);
    }
    let mut server = Mortal(command.stdout(Stdio::piped()).spawn().unwrap());
    let places = addresses(&mut server.0, 4);
    let uris = [
        format!("nbd://{}", places[0]),
        format!("nbd://{}", places[1]),
        format!("nbd+unix:///?socket={}", places[2]),
        format!("nbd+unix:///?socket={}", places[3]),
    ];
    let script = format!(
        "all = [nbd.NBD() for uri in {uris:?}]\n\
         for h, uri in zip(all, {uris:?}): h.connect_uri(uri); assert h.pread(1024, 0) == bytes(1024)\n\
         for n, h in enumerate(all): h.pwrite(bytes([n]) * 4096, 0)\n\
         for n, h in enumerate(all): assert h.pread(4096, 0) == bytes([n]) * 4096"
    );
    nbdsh("", &script);
    let remove = |arguments: &[&str]| binary::command(arguments).arg("--data").arg(&data).output();
    let removed = remove(&["image", "rm", "tiny@1", "--yes"]).unwrap();
    assert!(!removed.status.success(), "a version in use was removed");
    run(Command::new("kill").arg(server.0.id().to_string()));
    let status = deadline::wait_for("it to end", LIMIT, || server.0.try_wait().unwrap());
    assert!(status.success(), "SIGTERM ended it with {status}");
    assert!(!sockets.iter().any(|socket| socket.exists()));
    assert_eq!(
        fs::read(site.path("data/images/tiny/1/disk.raw")).unwrap()[..1024],
        [0; 1024]
    );
    let unknown = remove(&["export", "other"]).unwrap();
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("other"));
}
