//! What is done when the benchmark is told to end: the servers go with it, also nbd-server, a daemon that no signal to
//! the terminal's processes reaches, and so do the images.

use std::{
    io::{PipeReader, Read, Write},
    os::fd::{IntoRawFd, RawFd},
    path::PathBuf,
    process::exit,
    sync::{
        Mutex,
        atomic::{AtomicI32, Ordering::Relaxed},
    },
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

/// What is there now and should not be left behind.
struct Mess {
    servers: Vec<u32>,
    folders: Vec<PathBuf>,
}

static MESS: Mutex<Mess> = Mutex::new(Mess {
    servers: Vec::new(),
    folders: Vec::new(),
});
/// Where the signal's number is written to.
static TOLD: AtomicI32 = AtomicI32::new(-1);

/// A server was started.
pub fn started(pid: u32) {
    MESS.lock().expect("nobody panics here").servers.push(pid);
}

/// It ended: its number may soon be another process's.
pub fn ended(pid: u32) {
    let mut mess = MESS.lock().expect("nobody panics here");
    mess.servers.retain(|server| *server != pid);
}

/// A folder was made.
pub fn made(folder: PathBuf) {
    MESS.lock()
        .expect("nobody panics here")
        .folders
        .push(folder);
}

/// From here on SIGINT, SIGTERM and SIGHUP end the benchmark in good order.
pub fn heed() -> anyhow::Result<()> {
    let (told, tell) = std::io::pipe()?;
    TOLD.store(tell.into_raw_fd(), Relaxed);
    thread::spawn(move || wait(told));
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler does nothing but an atomic load and a write(2), which are safe in a signal handler.
        let before = unsafe { libc::signal(signal, tell_of as *const () as libc::sighandler_t) };
        anyhow::ensure!(before != libc::SIG_ERR, "signal {signal} cannot be handled");
    }
    Ok(())
}

extern "C" fn tell_of(signal: libc::c_int) {
    let fd: RawFd = TOLD.load(Relaxed);
    let number = signal as u8;
    // SAFETY: the byte lives through the call, and the descriptor is never closed.
    unsafe { libc::write(fd, (&raw const number).cast(), 1) };
}

fn wait(mut told: PipeReader) {
    let mut signal = [0];
    if told.read_exact(&mut signal).is_err() {
        return;
    }
    // Held to the end: nothing is started any more.
    let mess = MESS.lock().expect("nobody panics here");
    for pid in &mess.servers {
        let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw);
        // It may have ended by itself.
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
    }
    for folder in &mess.folders {
        let _ = std::fs::remove_dir_all(folder);
    }
    let _ = writeln!(std::io::stderr(), "interrupted");
    exit(128 + i32::from(signal[0]));
}
