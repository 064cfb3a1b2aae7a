//! The servers that are compared, and how they are started.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use super::interrupt;

/// The processors: the server gets the first, the load the second.
pub const SERVER_CPU: &str = "0";
const LOAD_CPU: usize = 1;
/// Size of the image.
pub const IMAGE: u64 = 1 << 30;

/// A server under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `bootroom export --overlay`.
    Bootroom,
    /// The same with another build, named in BOOTROOM_BEFORE.
    Before,
    /// `bootroom export --cow`.
    BootroomCow,
    /// nbdkit's file plugin.
    NbdkitFile,
    /// nbdkit's file plugin below its cow filter.
    NbdkitCow,
    /// qemu-nbd on the raw file.
    QemuRaw,
    /// qemu-nbd on a qcow2 over the raw file.
    QemuQcow2,
    /// nbd-server.
    NbdServer,
    /// nbd-server with copyonwrite.
    NbdServerCow,
    /// The bare server.
    Limit,
}

impl Kind {
    /// All that are compared.
    pub const ALL: [Self; 8] = [
        Self::Bootroom,
        Self::NbdkitFile,
        Self::NbdkitCow,
        Self::QemuRaw,
        Self::QemuQcow2,
        Self::NbdServer,
        Self::NbdServerCow,
        Self::Limit,
    ];

    /// For the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bootroom => "bootroom",
            Self::Before => "before",
            Self::BootroomCow => "bootroom cow",
            Self::NbdkitFile => "nbdkit",
            Self::NbdkitCow => "nbdkit cow",
            Self::QemuRaw => "qemu raw",
            Self::QemuQcow2 => "qemu qcow2",
            Self::NbdServer => "nbd-server",
            Self::NbdServerCow => "nbd-srv cow",
            Self::Limit => "limit",
        }
    }

    /// Whether it counts as a peer.
    pub fn is_peer(self) -> bool {
        !matches!(
            self,
            Self::Bootroom | Self::Before | Self::BootroomCow | Self::Limit
        )
    }

    /// Whether what is written outlives the connection, so that a flush is a promise.
    pub fn keeps_changes(self) -> bool {
        !matches!(
            self,
            Self::NbdkitCow | Self::NbdServerCow | Self::BootroomCow
        )
    }

    /// Name of the export.
    pub fn export(self) -> &'static str {
        if matches!(self, Self::NbdServer | Self::NbdServerCow) {
            "disk"
        } else {
            ""
        }
    }
}

/// The images: one that stays as it is below overlays, one that is written in place.
pub struct Images {
    dir: tempfile::TempDir,
}

impl Images {
    /// Makes them, warm in the page cache.
    pub fn make() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in("/var/tmp")?;
        interrupt::made(dir.path().to_owned());
        let images = Self { dir };
        let mut block = vec![0u8; 1 << 20];
        for path in [images.base(), images.raw()] {
            let file = fs::File::create(&path)?;
            for number in 0..IMAGE >> 20 {
                let mut state = number + 1;
                for word in block.chunks_exact_mut(8) {
                    state = state
                        .wrapping_mul(6364136223846793005)
                        .wrapping_add(1442695040888963407);
                    word.copy_from_slice(&state.to_le_bytes());
                }
                std::io::Write::write_all(&mut &file, &block)?;
            }
            file.sync_all()?;
        }
        Ok(images)
    }

    /// The folder, for other things.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Stays as it is.
    pub fn base(&self) -> PathBuf {
        self.dir().join("base.img")
    }

    /// Removes what a server on `port` wrote, to spare the disk.
    pub fn forget(&self, port: u16) {
        // Most kinds leave nothing.
        let _ = fs::remove_dir_all(self.overlay(port));
        let _ = fs::remove_file(self.qcow2(port));
    }

    fn overlay(&self, port: u16) -> PathBuf {
        self.dir().join(format!("overlay-{port}"))
    }

    fn qcow2(&self, port: u16) -> PathBuf {
        self.dir().join(format!("overlay-{port}.qcow2"))
    }

    fn raw(&self) -> PathBuf {
        self.dir().join("raw.img")
    }
}

/// A running server; killed in the end.
pub struct Server {
    child: Child,
    /// Of a server that became a daemon.
    daemon: Option<u32>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.pid().to_string()).status();
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        interrupt::ended(self.child.id());
        self.daemon.iter().for_each(|pid| interrupt::ended(*pid));
    }
}

impl Server {
    /// Starts one on a fresh overlay, and waits until it takes connections.
    pub fn start(kind: Kind, images: &Images, port: u16) -> anyhow::Result<Self> {
        let starting = || format!("starting {}", kind.name());
        let mut server = Self::spawn(command(kind, images, port)?, port).with_context(starting)?;
        if matches!(kind, Kind::NbdServer | Kind::NbdServerCow) {
            // It becomes a daemon, and says who it is once that is done.
            let file = images.dir().join(format!("{port}.pid"));
            let pid = patiently(|| Ok(fs::read_to_string(&file)?.trim().parse()?));
            let pid = pid.with_context(starting)?;
            interrupt::started(pid);
            server.daemon = Some(pid);
        }
        Ok(server)
    }

    /// Starts a command that will listen on `port`.
    pub fn spawn(mut command: Command, port: u16) -> anyhow::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut server = Self {
            child: command.spawn()?,
            daemon: None,
        };
        interrupt::started(server.child.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            match server.child.try_wait()? {
                Some(status) if !status.success() => bail!("it ended: {status}"),
                _ => {}
            }
            if Instant::now() > deadline {
                bail!("it does not listen on port {port}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.daemon.unwrap_or(self.child.id())
    }

    /// Processor time of the server and its children so far.
    pub fn cpu(&self) -> Duration {
        let mut pids = vec![self.pid()];
        pids.extend(children(self.pid()));
        Duration::from_nanos(pids.into_iter().map(run_time).sum())
    }

    /// As [`Server::cpu`], with threads and children that have ended; in hundredths of a second.
    pub fn cpu_of_all(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let fields = stat
            .rsplit(')')
            .next()
            .context("no fields")?
            .split_whitespace();
        let ticks: Result<Vec<u64>, _> = fields.skip(11).take(4).map(str::parse).collect();
        Ok(Duration::from_millis(ticks?.iter().sum::<u64>() * 10))
    }

    /// Resident memory in bytes, without what it shares with files.
    pub fn memory(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find(|line| line.starts_with("RssAnon"))
            .context("no RssAnon")?;
        let number = line.split_whitespace().nth(1).context("no number")?;
        Ok(number.parse::<u64>()? << 10)
    }
}

/// Tries again for some seconds: servers take a moment to start.
pub fn patiently<T>(mut work: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match work() {
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Nanoseconds that all threads of a process have run.
fn run_time(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    let of = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    tasks.flatten().filter_map(of).sum()
}

/// Keeps this process on the load's processor.
pub fn pin_load() -> anyhow::Result<()> {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(LOAD_CPU);
    Ok(rustix::thread::sched_setaffinity(None, &cpus)?)
}

/// A command on the server's processor.
pub fn pinned(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", SERVER_CPU, program]);
    command
}

fn command(kind: Kind, images: &Images, port: u16) -> anyhow::Result<Command> {
    let (base, raw) = (images.base(), images.raw());
    let port_text = port.to_string();
    let bootroom = match kind {
        Kind::Before => std::env::var_os("BOOTROOM_BEFORE")
            .context("BOOTROOM_BEFORE names no other build of bootroom")?
            .into(),
        _ => bootroom_tests::binary::bootroom(),
    };
    let bootroom = bootroom.to_str().context("path")?;
    let mut command = match kind {
        Kind::Bootroom | Kind::Before => {
            let mut command = pinned(bootroom);
            command
                .arg("export")
                .arg(&base)
                .arg("--overlay")
                .arg(images.overlay(port))
                .args(["--port", &port_text]);
            command
        }
        Kind::BootroomCow => {
            let mut command = pinned(bootroom);
            command
                .arg("export")
                .arg(&base)
                .args(["--cow", "--port", &port_text]);
            command
        }
        Kind::NbdkitFile => {
            let mut command = pinned("nbdkit");
            command.args(["-f", "-p", &port_text, "file"]).arg(&raw);
            command
        }
        Kind::NbdkitCow => {
            let mut command = pinned("nbdkit");
            command
                .args(["-f", "-p", &port_text, "--filter=cow", "file"])
                .arg(&base);
            command.env("TMPDIR", images.dir());
            command
        }
        Kind::QemuRaw => {
            let mut command = pinned("qemu-nbd");
            command
                .args([
                    "-t",
                    "-e",
                    "16",
                    "-p",
                    &port_text,
                    "-b",
                    "127.0.0.1",
                    "-f",
                    "raw",
                ])
                .arg(&raw);
            command
        }
        Kind::QemuQcow2 => {
            let mut command = pinned("qemu-nbd");
            let qcow2 = qcow2(images, port)?;
            command
                .args([
                    "-t",
                    "-e",
                    "16",
                    "-p",
                    &port_text,
                    "-b",
                    "127.0.0.1",
                    "-f",
                    "qcow2",
                ])
                .arg(qcow2);
            command
        }
        Kind::NbdServer | Kind::NbdServerCow => nbd_server(kind, images, port)?,
        Kind::Limit => {
            let myself = std::env::current_exe()?;
            let mut command = pinned(myself.to_str().context("path")?);
            command.arg("--bare").arg(&raw).arg(&port_text);
            command
        }
    };
    command.current_dir(images.dir());
    Ok(command)
}

fn qcow2(images: &Images, port: u16) -> anyhow::Result<PathBuf> {
    let path = images.qcow2(port);
    let mut create = Command::new("qemu-img");
    create
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .arg(images.base())
        .arg(&path);
    if !create.status()?.success() {
        bail!("qemu-img create failed");
    }
    Ok(path)
}

fn nbd_server(kind: Kind, images: &Images, port: u16) -> anyhow::Result<Command> {
    let cow = kind == Kind::NbdServerCow;
    let file = if cow { images.base() } else { images.raw() };
    let config = images.dir().join(format!("nbd-server-{port}.conf"));
    let text = format!(
        "[generic]\nuser = root\ngroup = root\nlistenaddr = 127.0.0.1\nport = {port}\n\
         [disk]\nexportname = {}\nflush = true\nfua = true\ncopyonwrite = {cow}\ncowdir = {}\n",
        file.display(),
        images.dir().display(),
    );
    fs::write(&config, text)?;
    let mut command = pinned("nbd-server");
    command
        .arg("-C")
        .arg(config)
        .arg("-p")
        .arg(images.dir().join(format!("{port}.pid")));
    Ok(command)
}
