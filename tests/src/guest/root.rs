//! A small root disk: busybox, the load, the agent, and an init that says when it was reached.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// The first program of the root. `/run/mounted` holds when it began, in seconds since the kernel's start.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox cut -d ' ' -f 1 /proc/uptime >/run/mounted
export PATH=/bin:/sbin
stty -echo </dev/ttyS0
echo guest-'ready'
while :; do PS1= setsid cttyhack sh; done
";

/// Makes an ext4 filesystem of `megabytes` at `path`, ready to be a guest's root.
///
/// # Panics
/// When that fails.
pub fn make(path: &Path, megabytes: u64) {
    let tree = tempfile::tempdir().expect("a temporary directory");
    fill(tree.path());
    let file = fs::File::create(path).expect("the image can be made");
    file.set_len(megabytes << 20)
        .expect("the image can be sized");
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-d"])
        .args([tree.path(), path])
        .status();
    assert!(made.expect("mkfs.ext4 runs").success());
}

fn fill(tree: &Path) {
    for directory in [
        "bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc", "mnt",
    ] {
        fs::create_dir(tree.join(directory)).expect("a directory can be made");
    }
    let put = |from: &Path, to: &str| {
        fs::copy(from, tree.join(to)).expect("a program can be copied");
    };
    put(Path::new("/bin/busybox"), "bin/busybox");
    put(super::load(), "bin/load");
    put(super::agent(), "sbin/bootroom-attach");
    let programs = Command::new("/bin/busybox").arg("--list").output();
    let programs = programs.expect("busybox runs").stdout;
    for program in String::from_utf8_lossy(&programs).lines() {
        let taken = ["busybox", "init"].contains(&program);
        if !taken {
            symlink("busybox", tree.join("bin").join(program)).expect("a link can be made");
        }
    }
    // systemd, where it is in the initramfs, switches to nothing without it.
    fs::write(tree.join("etc/os-release"), "ID=guest\n").expect("a file can be written");
    let init = tree.join("sbin/init");
    fs::write(&init, INIT).expect("a file can be written");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&init, executable).expect("its mode can be set");
}
