//! Becoming a process that survives everything around it: the end of the initramfs, systemd's last round of kills,
//! memory pressure, and the absence of the very disk it serves.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;

use rustix::fs::MemfdFlags;
use rustix::mm::MlockAllFlags;

use crate::console::Console;
use crate::sys::{self, Side};

/// systemd leaves a process alone at shutdown and at switch-root if its first argument begins with this
/// (systemd's "Storage Daemons for the Root File System").
const MARK: &str = "@bootroom-attach";
/// Memory kept ready for reconnecting, in bytes.
const SPARE_HEAP: usize = 256 << 10;

/// Runs this program again from memory and with the marked name, so that no file of any filesystem is in use by it.
/// Returns only if that failed, or if it has happened already.
pub fn rerun_from_memory(args: &[OsString]) -> io::Result<()> {
    if args
        .first()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"@"))
    {
        sys::set_name(c"bootroom-attach");
        return Ok(());
    }
    let copy = copy_of_self().unwrap_or_else(|_| "/proc/self/exe".into());
    Err(std::process::Command::new(copy)
        .arg0(MARK)
        .args(&args[1..])
        .exec())
}

/// The path of a copy in memory. The descriptor stays open across the exec, and is closed by it.
fn copy_of_self() -> io::Result<OsString> {
    let memory = rustix::fs::memfd_create("bootroom-attach", MemfdFlags::CLOEXEC)?;
    let mut memory = File::from(memory);
    io::copy(&mut File::open("/proc/self/exe")?, &mut memory)?;
    let fd = OwnedFd::from(memory);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::mem::forget(fd);
    Ok(path.into())
}

/// The starter's end of the line over which the agent says how it went.
pub struct Word(File);

/// The agent's end.
pub struct Speaker(File);

/// Splits off the agent. The starter gets the [`Word`] to wait for, the agent the [`Speaker`].
pub fn split() -> io::Result<Result<Word, Speaker>> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match sys::fork()? {
        Side::Parent(_) => Ok(Ok(Word(read.into()))),
        Side::Child => {
            rustix::process::setsid()?;
            Ok(Err(Speaker(write.into())))
        }
    }
}

impl Word {
    /// Waits until the agent has said how it went.
    pub fn wait(mut self) -> Result<(), String> {
        let mut said = String::new();
        let read = self.0.read_to_string(&mut said);
        match said.strip_suffix('\n') {
            Some("ok") => Ok(()),
            Some(reason) => Err(reason.to_owned()),
            None => Err(read
                .err()
                .map_or_else(|| "the agent died".to_owned(), |e| e.to_string())),
        }
    }
}

impl Speaker {
    /// Says how it went. Nobody may be listening any more.
    pub fn say(mut self, outcome: Result<(), &str>) {
        let line = outcome.err().unwrap_or("ok").replace('\n', " ");
        let _ = self.0.write_all(format!("{line}\n").as_bytes());
    }
}

/// Makes the process fit to serve a root disk. What cannot be had is returned as warnings: a disk without locked
/// memory is better than no disk.
pub fn fortify() -> Vec<String> {
    sys::keep_heap(SPARE_HEAP);
    for signal in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGPIPE,
        libc::SIGTSTP,
    ] {
        sys::ignore(signal);
    }
    let steps = [
        (
            "lock its memory",
            rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)
                .map_err(Into::into),
        ),
        (
            "be spared when memory runs out",
            std::fs::write("/proc/self/oom_score_adj", "-1000"),
        ),
        (
            "be treated as part of the disk's way",
            sys::become_io_flusher(),
        ),
        ("leave its directory", std::env::set_current_dir("/")),
    ];
    steps
        .into_iter()
        .filter_map(|(what, done)| Some(format!("the agent cannot {what}: {}", done.err()?)))
        .collect()
}

/// Lets go of the standard streams: the kernel log takes their place.
pub fn release_streams(console: &mut Console) -> io::Result<()> {
    console.detach();
    if let Some(kmsg) = console.kmsg() {
        for number in 0..3 {
            sys::replace_stream(kmsg.as_fd(), number)?;
        }
    }
    Ok(())
}
