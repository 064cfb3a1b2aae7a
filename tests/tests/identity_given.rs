//! Who is given what of a machine's identity: the public part with the boot files, the secret one over TLS only, and both
//! until the boot has its disk.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bootroom_tests::machine::Firmware;
use bootroom_tests::room::{Plan, Room};

const SERVER: &str = "tls = \"required\"\nclient_certificates = \"required\"\nssh_host_keys = true";
const ONE: &str = "52-54-00-5c-00-01";
const TWO: &str = "52-54-00-5c-00-02";

/// A boot of a machine, as its boot loader knows it.
struct Boot<'a> {
    room: &'a Room,
    /// `client/NAME/TOKEN`
    disk: String,
    /// `identity/NAME/TOKEN`
    secret: String,
    /// Where the initrd was unpacked.
    identity: PathBuf,
    dir: tempfile::TempDir,
}

impl<'a> Boot<'a> {
    fn begin(room: &'a Room, mac: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = String::from_utf8(get(room, &format!("ipxe/{mac}")).stdout).unwrap();
        let after = |mark: &str| {
            let rest = script
                .split_once(mark)
                .unwrap_or_else(|| panic!("no {mark} in {script}"))
                .1;
            rest.split_whitespace().next().unwrap().to_owned()
        };
        let packed = get(
            room,
            &format!("identity/{}", after("http://10.78.0.1/identity/")),
        );
        unpack(&packed.stdout, dir.path());
        let boot = Self {
            room,
            disk: after("nbds://10.78.0.1:10809/"),
            secret: after("bootroom.identity="),
            identity: dir.path().join("bootroom.identity"),
            dir,
        };
        boot.lay_out_certificates();
        boot
    }

    /// As libnbd wants them.
    fn lay_out_certificates(&self) {
        let tls = self.identity.join("tls");
        for (from, to) in [
            ("ca.pem", "ca-cert.pem"),
            ("client.pem", "client-cert.pem"),
            ("client.key", "client-key.pem"),
        ] {
            fs::copy(tls.join(from), self.dir.path().join(to)).unwrap();
        }
    }

    /// Reads an export with this machine's certificate.
    fn read(&self, export: &str) -> Output {
        let folder = self.dir.path().display();
        let uri = format!("nbds://10.78.0.1/{export}?tls-certificates={folder}");
        nbdcopy(self.room, &uri)
    }
}

fn get(room: &Room, path: &str) -> Output {
    let url = format!("http://10.78.0.1/{path}");
    let output = room
        .namespace()
        .command("curl")
        .args(["-sS", "--fail", &url])
        .output();
    output.expect("curl runs")
}

fn nbdcopy(room: &Room, uri: &str) -> Output {
    let output = room
        .namespace()
        .command("nbdcopy")
        .args([uri, "-"])
        .output();
    output.expect("nbdcopy (package libnbd-bin) runs")
}

fn unpack(packed: &[u8], dir: &Path) {
    let mut cpio = Command::new("sh")
        .args([
            "-c",
            "gzip -dc | cpio --extract --quiet --no-absolute-filenames",
        ])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    cpio.stdin.take().unwrap().write_all(packed).unwrap();
    assert!(cpio.wait().unwrap().success());
}

#[test]
fn each_machine_gets_its_own_and_only_while_it_boots() {
    let clients = [("one", Firmware::Bios, ""), ("two", Firmware::Bios, "")];
    let plan = Plan {
        server: SERVER,
        // Machines without a lease of this server's are whoever they say.
        dhcp: Some("[dhcp]\nmode = \"off\"\n"),
        ..Plan::default()
    };
    let room = Room::with(plan, &clients);
    let (one, two) = (Boot::begin(&room, ONE), Boot::begin(&room, TWO));
    assert_eq!(
        fs::read_to_string(one.identity.join("hostname")).unwrap(),
        "one\n"
    );
    assert!(
        !one.identity.join("ssh/ssh_host_ed25519_key").exists(),
        "it came in plain"
    );
    let keys = [&one, &two].map(host_key_fits);
    assert_ne!(keys[0], keys[1]);
    others_get_nothing(&one, &two);

    let disk = nbdinfo(&one);
    assert!(
        disk.status.success(),
        "{}",
        String::from_utf8_lossy(&disk.stderr)
    );
    refused(&one.read(&one.secret), "its disk was attached");
    let token = one.secret.rsplit('/').next().unwrap();
    let again = get(&room, &format!("identity/{token}.cpio"));
    assert!(!again.status.success() && again.stdout.is_empty());
    assert_eq!(
        host_key_fits(&Boot::begin(&room, ONE)),
        keys[0],
        "the next boot has the same"
    );
}

/// OpenSSH derives the public key that came in plain from the private one that came over TLS. Returns it.
fn host_key_fits(boot: &Boot<'_>) -> String {
    let fetched = boot.read(&boot.secret);
    assert!(
        fetched.status.success(),
        "{}",
        String::from_utf8_lossy(&fetched.stderr)
    );
    let private = boot.identity.join("ssh/fetched");
    fs::write(&private, &fetched.stdout).unwrap();
    let only_mine = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&private, only_mine).unwrap();
    let derived = Command::new("ssh-keygen")
        .arg("-y")
        .arg("-f")
        .arg(&private)
        .output()
        .unwrap();
    let public = fs::read_to_string(boot.identity.join("ssh/ssh_host_ed25519_key.pub")).unwrap();
    assert_eq!(String::from_utf8(derived.stdout).unwrap(), public);
    public
}

fn others_get_nothing(one: &Boot<'_>, two: &Boot<'_>) {
    for export in [&one.secret, &one.disk] {
        refused(&two.read(export), "another machine's certificate");
        let plain = nbdcopy(one.room, &format!("nbd://10.78.0.1/{export}"));
        refused(&plain, "no TLS");
    }
    let renamed = one.secret.replace("/one/", "/two/");
    refused(&two.read(&renamed), "another machine's token");
}

fn nbdinfo(boot: &Boot<'_>) -> Output {
    let folder = boot.dir.path().display();
    let uri = format!("nbds://10.78.0.1/{}?tls-certificates={folder}", boot.disk);
    let output = boot
        .room
        .namespace()
        .command("nbdinfo")
        .args(["--size", &uri])
        .output();
    output.expect("nbdinfo (package libnbd-bin) runs")
}

fn refused(answer: &Output, why: &str) {
    assert!(
        !answer.status.success() && answer.stdout.is_empty(),
        "not refused: {why}"
    );
}
