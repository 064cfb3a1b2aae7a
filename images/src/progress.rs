//! Telling a person how far a long job is.

use crate::ids::Bytes;

/// Hears about a long job. Called from the thread that does the job; must not block.
pub trait Progress: Send + Sync {
    /// A new phase begins, such as "Installing packages".
    fn phase(&self, name: &str);

    /// So far into the phase: `done` of `total`, each in `0.0..=1.0` of the phase.
    fn fraction(&self, fraction: f64);

    /// A line worth showing under the phase, such as the package being unpacked.
    fn detail(&self, line: &str);
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn phase(&self, _name: &str) {}
    fn fraction(&self, _fraction: f64) {}
    fn detail(&self, _line: &str) {}
}

/// Reports `done` of `total` bytes; an empty total counts as done.
pub(crate) fn report(progress: &dyn Progress, done: Bytes, total: Bytes) {
    let total = total.get().max(1) as f64;
    progress.fraction((done.get() as f64 / total).min(1.0));
}
