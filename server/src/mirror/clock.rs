//! The clock that leases and promises count on: it runs while the host sleeps, and nobody can set it.

use mirror::Moment;
use rustix::time::{ClockId, clock_gettime};

/// Now.
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    Moment(time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000)
}
