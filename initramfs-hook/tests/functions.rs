//! The hooks' shared shell functions, run by the shells that they meet in an initramfs, with the built agent.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// `dash` is Debian's sh; busybox' ash is that of mkinitcpio and of initramfs-tools with busybox.
const SHELLS: [&[&str]; 2] = [&["dash"], &["busybox", "sh"]];

struct Stage {
    directory: TempDir,
}

impl Stage {
    fn new(cmdline: &str) -> Self {
        let stage = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        std::fs::write(stage.path("cmdline"), cmdline).unwrap();
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn run(&self, shell: &[&str], script: &str) -> Output {
        let functions = Path::new(env!("CARGO_MANIFEST_DIR")).join("lib/functions.sh");
        Command::new(shell[0])
            .args(&shell[1..])
            .args(["-eu", "-c", &format!(". {}\n{script}", functions.display())])
            .env("BR_AGENT", env!("CARGO_BIN_EXE_bootroom-attach"))
            .env("BR_CMDLINE", self.path("cmdline"))
            .env("BR_RUN", self.path("run"))
            .env("BR_SYS", self.path("sys"))
            .output()
            .unwrap()
    }

    fn says(&self, script: &str) -> Vec<String> {
        SHELLS
            .iter()
            .map(|shell| {
                let output = self.run(shell, script);
                let text = String::from_utf8(output.stdout).unwrap();
                assert!(
                    output.stderr.is_empty(),
                    "{shell:?}: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
                text.trim_end().to_owned()
            })
            .collect()
    }
}

#[test]
fn the_last_value_of_a_parameter_counts_and_nothing_is_expanded() {
    let stage = Stage::new("quiet a=1 bootroom.mtu=* a=2=3 ab=4\n");
    assert_eq!(
        stage.says("br_param a; br_param bootroom.mtu"),
        ["2=3\n*"; 2]
    );
    assert_eq!(stage.says("br_param b || echo none"), ["none"; 2]);
}

#[test]
fn a_boot_that_asks_for_nothing_is_left_alone() {
    for (cmdline, wanted) in [
        ("root=/dev/sda1 ro quiet", "no"),
        ("root=/dev/nfs nfsroot=10.0.0.1:/x", "no"),
        ("netroot=iscsi:10.0.0.1::::x", "no"),
    ] {
        assert_eq!(
            Stage::new(cmdline).says("if br_wanted; then echo yes; else echo no; fi"),
            [wanted; 2]
        );
    }
}

#[test]
fn the_root_device_is_the_command_lines_or_the_first() {
    let device = |cmdline| Stage::new(cmdline).says("br_root_device");
    assert_eq!(device("root=/dev/nbd0p2 nbdroot=h/x"), ["/dev/nbd0p2"; 2]);
    assert_eq!(device("root=LABEL=root nbdroot=h/x"), ["LABEL=root"; 2]);
    assert_eq!(device("root=nbd:h:1/x"), ["/dev/nbd0"; 2]);
}

#[test]
fn the_interface_is_protected_from_every_manager() {
    for shell in SHELLS {
        let stage = Stage::new("");
        std::fs::create_dir_all(stage.path("run/bootroom")).unwrap();
        let output = stage.run(shell, "br_keep_interface enp3s0 52:54:00:12:00:01");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            stage
                .read("run/systemd/network/00-bootroom.network")
                .contains("MACAddress=52:54:00:12:00:01\n\n[Link]\nUnmanaged=yes")
        );
        assert!(
            stage
                .read("run/NetworkManager/conf.d/00-bootroom.conf")
                .ends_with("match-device=mac:52:54:00:12:00:01\nmanaged=0\n")
        );
        assert!(
            stage
                .read("run/systemd/system/networking.service.d/00-bootroom.conf")
                .contains("ExecStart=/sbin/ifup -a --read-environment --exclude=enp3s0\n")
        );
        let masked = std::fs::read_link(stage.path("run/systemd/system/ifup@enp3s0.service"));
        assert_eq!(masked.unwrap(), Path::new("/dev/null"));
        assert_eq!(stage.read("run/bootroom/interface"), "enp3s0\n");
    }
}

#[test]
fn name_servers_reach_resolv_conf_or_resolved_but_a_link_is_never_replaced() {
    for shell in SHELLS {
        let stage = Stage::new("");
        std::fs::create_dir_all(stage.path("root/etc")).unwrap();
        let script = format!(
            "br_resolv_conf {} room.lan 10.0.0.1 0.0.0.0 10.0.0.2",
            stage.path("root").display()
        );
        assert!(stage.run(shell, &script).status.success());
        let line = "f+ /etc/resolv.conf 0644 root root - nameserver 10.0.0.1\\nnameserver 10.0.0.2\\nsearch room.lan\\n\n";
        assert_eq!(stage.read("run/tmpfiles.d/bootroom.conf"), line);
        assert!(
            stage
                .read("run/systemd/resolved.conf.d/10-bootroom.conf")
                .contains("DNS=10.0.0.1 10.0.0.2\n")
        );

        std::fs::remove_file(stage.path("run/tmpfiles.d/bootroom.conf")).unwrap();
        std::os::unix::fs::symlink("../run/x", stage.path("root/etc/resolv.conf")).unwrap();
        assert!(stage.run(shell, &script).status.success());
        assert!(!stage.path("run/tmpfiles.d/bootroom.conf").exists());
    }
}

#[test]
fn an_interface_with_a_link_is_not_waited_for_and_a_mtu_is_set() {
    let stage = Stage::new("bootroom.mtu=1400");
    std::fs::create_dir_all(stage.path("sys/class/net/eth0")).unwrap();
    std::fs::write(stage.path("sys/class/net/eth0/carrier"), "1\n").unwrap();
    assert_eq!(
        stage.says("br_set_mtu eth0; br_wait_carrier eth0; echo done"),
        ["done"; 2]
    );
    assert_eq!(stage.read("sys/class/net/eth0/mtu"), "1400\n");
}

#[test]
fn an_unknown_overlay_mode_is_named() {
    let stage = Stage::new("bootroom.overlay=zram");
    let said = stage.says("br_overlay /nowhere || echo failed");
    assert!(
        said[0].contains("bootroom.overlay=zram is unknown") && said[0].ends_with("failed"),
        "{said:?}"
    );
    assert_eq!(
        Stage::new("").says("br_overlay /nowhere && echo untouched"),
        ["untouched"; 2]
    );
}
