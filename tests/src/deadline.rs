//! Waiting for something to happen, never for time to pass.

use std::time::{Duration, Instant};

/// How often something that cannot wake us is looked at.
const GLANCE: Duration = Duration::from_millis(25);

/// Waits until `look` finds something.
///
/// # Panics
/// When the time is over; the message says what was waited for.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} for {what}");
        std::thread::sleep(GLANCE);
    }
}
