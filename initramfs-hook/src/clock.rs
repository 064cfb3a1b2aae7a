//! The real clock and the real wait; everything else is handed the time.

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
