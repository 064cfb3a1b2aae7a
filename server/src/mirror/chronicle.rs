//! What a pair went through lately, for whoever asks.

use std::{collections::VecDeque, time::SystemTime};

use mirror::Notice;
use parking_lot::Mutex;

/// How much is kept.
const KEPT: usize = 16;

/// Notices, newest last.
#[derive(Default)]
pub struct Chronicle {
    recent: Mutex<VecDeque<(SystemTime, Notice)>>,
}

impl Chronicle {
    /// Something happened.
    pub fn note(&self, notice: Notice) {
        let mut recent = self.recent.lock();
        if recent.len() == KEPT {
            recent.pop_front();
        }
        recent.push_back((SystemTime::now(), notice));
    }

    /// What happened lately, newest last.
    pub fn recent(&self) -> Vec<(SystemTime, Notice)> {
        self.recent.lock().iter().copied().collect()
    }
}
