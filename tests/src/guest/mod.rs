//! A small machine for the client agent: Debian's kernel, busybox, the agent, and a load that checks itself. It boots
//! in a few seconds and has its root in memory, so that it can watch what happens to its network disk.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::binary;
use crate::console::{Answer, Console};
use crate::deadline::wait_for;
use crate::namespace::Namespace;

pub mod disk;
pub mod initramfs;
pub mod kernel;
pub mod lab;
pub mod outage;
pub mod pki;
pub mod relay;
pub mod root;
pub mod scene;

/// Where the guest finds services of the host's loopback address.
pub const HOST: &str = "10.0.2.2";
/// How long the guest may take to come up.
const BOOT_LIMIT: Duration = Duration::from_secs(90);

const MODULES: [&str; 9] = [
    "virtio_pci",
    "virtio_net",
    "nbd",
    "tls",
    "gcm",
    "ctr",
    "ghash_generic",
    "aesni_intel",
    "overlay",
];

const INIT: &str = "#!/bin/sh
export PATH=/bin:/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs run /run
for m in /lib/modules/*; do insmod $m 2>/dev/null; done
ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
stty -echo </dev/ttyS0
echo guest-'ready'
while :; do PS1= setsid cttyhack sh; done
";

/// A running guest.
pub struct Guest {
    child: Child,
    console: Console,
    monitor: UnixStream,
    /// Holds the sockets and the transcript.
    _directory: TempDir,
}

/// What the load inside the guest has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadLog {
    /// Pauses between two good writes that were longer than 300 ms.
    pub gaps: Vec<Duration>,
    /// Errors that the load was given.
    pub errors: Vec<String>,
    /// Good writes, errors, wrong blocks; once the load has ended.
    pub done: Option<[u64; 3]>,
}

impl LoadLog {
    /// The longest pause.
    pub fn longest(&self) -> Duration {
        self.gaps.iter().copied().max().unwrap_or_default()
    }
}

impl Guest {
    /// Boots a guest that has its root in memory; `extra` are further files for it, as path and content.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn boot(extra: &[(&str, Vec<u8>)]) -> Self {
        Self::boot_as(extra, |hardware| hardware)
    }

    /// The same, on other hardware.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn boot_as<'a>(
        extra: &[(&str, Vec<u8>)],
        change: impl FnOnce(Hardware<'a>) -> Hardware<'a>,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let kernel = kernel::Kernel::get();
        let initrd = directory.path().join("initrd");
        std::fs::write(&initrd, archive(&kernel, extra)).expect("the initramfs can be written");
        let hardware = change(Hardware::new(&kernel.image, &initrd));
        let guest = Self::power_on(&hardware);
        guest.console.expect("guest-ready\r\n", BOOT_LIMIT);
        guest
    }

    /// Boots a guest from a root disk of [`root::make`], and waits for its shell.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn boot_root(hardware: &Hardware<'_>) -> Self {
        let guest = Self::power_on(hardware);
        guest.console.expect("guest-ready\r\n", BOOT_LIMIT * 2);
        guest
    }

    /// Switches a guest on.
    ///
    /// # Panics
    /// When QEMU does not start.
    pub fn power_on(hardware: &Hardware<'_>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = |name: &str| directory.path().join(name);
        let listen = |name: &str| UnixListener::bind(socket(name)).expect("a socket can be bound");
        let (serial, monitor) = (listen("serial"), listen("monitor"));
        let child = qemu(hardware, &socket("serial"), &socket("monitor"))
            .spawn()
            .expect("QEMU starts");
        let console = serial.accept().expect("QEMU connects").0;
        let monitor = monitor.accept().expect("QEMU connects").0;
        let transcript = transcript(&directory);
        Self {
            child,
            console: Console::new(console, &transcript),
            monitor,
            _directory: directory,
        }
    }

    /// Logs in at a Debian guest's console.
    ///
    /// # Panics
    /// When its prompt does not come.
    pub fn log_in(&mut self, hostname: &str) {
        let limit = crate::room::BOOT_LIMIT;
        self.console.log_in(hostname, crate::image::PASSWORD, limit);
        self.run("export PAGER=cat SYSTEMD_PAGER=cat");
    }

    /// Types a line without waiting for what it comes to.
    ///
    /// # Panics
    /// When the guest takes no input.
    pub fn type_line(&mut self, line: &str) {
        self.console.type_line(line);
    }

    /// Runs a shell command that must succeed; returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&mut self, command: &str) -> String {
        self.console.run(command)
    }

    /// Runs a shell command, whatever it comes to.
    pub fn try_run(&mut self, command: &str) -> Answer {
        self.console.try_run(command)
    }

    /// Waits until the console says `needle`.
    ///
    /// # Panics
    /// When it does not within `limit`.
    pub fn expect(&self, needle: &str, limit: Duration) -> String {
        self.console.expect(needle, limit)
    }

    /// Plugs the network cable in or out.
    ///
    /// # Panics
    /// When QEMU does not listen.
    pub fn set_link(&mut self, up: bool) {
        let state = if up { "on" } else { "off" };
        writeln!(self.monitor, "set_link net0 {state}").expect("QEMU's monitor listens");
    }

    /// Starts the load on a file of the mounted filesystem, and waits until it is at work.
    ///
    /// # Panics
    /// When it does not begin.
    pub fn start_load(&mut self, file: &str) {
        self.run(&format!(
            "rm -f /run/load.*; (load {file} >/run/load.out 2>&1 &)"
        ));
        self.wait_for_writes(1);
    }

    /// Good writes so far.
    pub fn writes(&mut self) -> u64 {
        self.try_run("cat /run/load.ops")
            .text
            .trim()
            .parse()
            .unwrap_or(0)
    }

    /// Waits until the load has done `more` good writes from now on.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_for_writes(&mut self, more: u64) {
        let before = self.writes();
        wait_for("the load to write", Duration::from_secs(60), || {
            (self.writes() >= before + more).then_some(())
        });
    }

    /// What the load has seen until now.
    pub fn load_log(&mut self) -> LoadLog {
        let text = self.try_run("cat /run/load.log").text;
        let mut log = LoadLog::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["gap", _, length] => log
                    .gaps
                    .push(Duration::from_millis(length.parse().expect("a number"))),
                ["done", numbers @ ..] => {
                    let numbers: Vec<u64> = numbers
                        .iter()
                        .map(|n| n.parse().expect("a number"))
                        .collect();
                    log.done = numbers.try_into().ok();
                }
                ["error" | "wrong", ..] => log.errors.push(line.to_owned()),
                _ => {}
            }
        }
        log
    }

    /// Forgets the pauses so far.
    pub fn clear_log(&mut self) {
        self.run("truncate -s 0 /run/load.log");
    }

    /// Ends the load, which then checks all that it wrote; returns what it has seen.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop_load(&mut self) -> LoadLog {
        self.run("touch /run/load.stop");
        wait_for(
            "the load to check its work",
            Duration::from_secs(60),
            || Some(self.load_log()).filter(|log| log.done.is_some()),
        )
    }

    /// Waits until the machine has switched itself off or reset itself.
    ///
    /// # Panics
    /// When it does not within `limit`.
    pub fn wait_for_end(&mut self, limit: Duration) {
        wait_for("the guest to end", limit, || {
            self.child.try_wait().expect("QEMU can be waited for")
        });
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `$BOOTROOM_TRANSCRIPT` keeps what the guest said.
fn transcript(directory: &TempDir) -> PathBuf {
    std::env::var_os("BOOTROOM_TRANSCRIPT")
        .map_or_else(|| directory.path().join("transcript"), PathBuf::from)
}

/// What a guest is made of.
#[derive(Clone)]
pub struct Hardware<'a> {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initrd: PathBuf,
    /// The kernel command line, besides the console.
    pub append: String,
    /// Megabytes of memory.
    pub memory: u32,
    /// What its network card is plugged into, as QEMU's `-netdev` has it without the id.
    pub network: String,
    /// Where QEMU runs, if not in the test's own network.
    pub namespace: Option<&'a Namespace>,
}

impl Hardware<'_> {
    /// A small machine that finds services of the host's loopback address at [`HOST`].
    pub fn new(kernel: &Path, initrd: &Path) -> Self {
        Self {
            kernel: kernel.to_owned(),
            initrd: initrd.to_owned(),
            append: String::new(),
            memory: 256,
            network: "user".to_owned(),
            namespace: None,
        }
    }
}

fn qemu(hardware: &Hardware<'_>, serial: &Path, monitor: &Path) -> Command {
    const QEMU: &str = "qemu-system-x86_64";
    let mut qemu = hardware
        .namespace
        .map_or_else(|| Command::new(QEMU), |namespace| namespace.command(QEMU));
    // `max` has AES and random numbers in hardware, as every real machine has.
    qemu.args(["-accel", "tcg", "-cpu", "max", "-display", "none"])
        .args(["-nodefaults", "-m", &hardware.memory.to_string()])
        .args(["-netdev", &format!("{},id=net0", hardware.network)])
        .args(["-device", "virtio-net-pci,netdev=net0,romfile="])
        .arg("-serial")
        .arg(format!("unix:{}", serial.display()))
        .arg("-monitor")
        .arg(format!("unix:{}", monitor.display()))
        .arg("-kernel")
        .arg(&hardware.kernel)
        .arg("-initrd")
        .arg(&hardware.initrd)
        .arg("-append")
        .arg(format!("console=ttyS0 quiet panic=1 {}", hardware.append))
        .arg("-no-reboot")
        .stdin(Stdio::null());
    qemu
}

fn archive(kernel: &kernel::Kernel, extra: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = initramfs::Archive::default();
    for directory in [
        "bin",
        "sbin",
        "dev",
        "proc",
        "sys",
        "run",
        "mnt",
        "tmp",
        "lib",
        "lib/modules",
        "lib64",
        "etc",
        "usr",
        "usr/lib",
        "lib/x86_64-linux-gnu",
    ] {
        archive.directory(directory);
    }
    archive.file("init", INIT.as_bytes());
    archive.file(
        "bin/busybox",
        &std::fs::read("/bin/busybox").expect("busybox-static is installed"),
    );
    archive.link("bin/sh", "busybox");
    archive.file(
        "bin/load",
        &std::fs::read(load()).expect("the load was built"),
    );
    archive.file(
        "sbin/bootroom-attach",
        &std::fs::read(agent()).expect("the agent was built"),
    );
    if Path::new("/usr/sbin/nbd-client").exists() {
        archive.program("sbin/nbd-client", Path::new("/usr/sbin/nbd-client"));
    }
    for (at, module) in kernel.modules(&MODULES).iter().enumerate() {
        archive.file(
            &format!("lib/modules/{at:02}.ko"),
            &std::fs::read(module).expect("the module is readable"),
        );
    }
    for (path, content) in extra {
        archive.file(path, content);
    }
    archive.finish()
}

/// The static agent: `$BOOTROOM_AGENT`, or the one built now.
///
/// # Panics
/// When it does not build.
pub fn agent() -> &'static Path {
    static AGENT: OnceLock<PathBuf> = OnceLock::new();
    AGENT.get_or_init(|| {
        if let Some(path) = std::env::var_os("BOOTROOM_AGENT") {
            return path.into();
        }
        let script = binary::workspace().join("initramfs-hook/packaging/build-agent.sh");
        assert!(
            Command::new(script)
                .status()
                .expect("the script runs")
                .success(),
            "the agent does not build"
        );
        binary::workspace().join("target/agent/bootroom-attach")
    })
}

/// The load, compiled for the guest.
fn load() -> &'static Path {
    static LOAD: OnceLock<PathBuf> = OnceLock::new();
    LOAD.get_or_init(|| {
        let directory = binary::target().join("guest");
        std::fs::create_dir_all(&directory).expect("target is writable");
        let (source, built) = (
            binary::workspace().join("tests/src/guest/load.rs"),
            directory.join("load"),
        );
        // Under a name of its own first: tests in other processes may be reading it.
        let fresh = directory.join(format!("load-{}", std::process::id()));
        let compiled = Command::new("rustc")
            .args([
                "--edition",
                "2024",
                "-O",
                "-C",
                "target-feature=+crt-static",
                "-o",
            ])
            .args([&fresh, &source])
            .status();
        assert!(
            compiled.expect("rustc runs").success(),
            "the load does not compile"
        );
        std::fs::rename(&fresh, &built).expect("a rename within target");
        built
    })
}
