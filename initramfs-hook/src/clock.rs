//! The real clock, the real wait and real chance; everything else is handed them.

use std::time::Duration;

use rustix::event::{PollFd, poll};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::link::Now;

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// The time for deadlines.
pub fn now() -> Now {
    Now(read(ClockId::Monotonic))
}

/// Time since the kernel started, sleep included.
pub fn uptime() -> Duration {
    read(ClockId::Boottime)
}

/// A number that differs from machine to machine, for spreading attempts. Not for secrets: early after power-on the
/// kernel may not have gathered enough chance for those, and waiting for it would delay the boot.
pub fn seed() -> u64 {
    let mut bytes = [0; 8];
    let filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::INSECURE);
    match filled {
        Ok(_) => u64::from_ne_bytes(bytes),
        // A kernel before 5.6: the moment of power-on differs enough.
        Err(_) => uptime().as_nanos() as u64,
    }
}

/// Waits until one of `fds` has something, or until `deadline`.
pub fn wait(fds: &mut [PollFd<'_>], deadline: Option<Now>) {
    let timeout = deadline.map(|at| {
        let pause = at.since(now());
        Timespec {
            tv_sec: pause.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: pause.subsec_nanos().into(),
        }
    });
    // A signal only makes the loop come round early.
    let _ = poll(fds, timeout.as_ref());
}
