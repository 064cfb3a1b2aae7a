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
    verified: Mutex<Option<SystemTime>>,
}

impl Chronicle {
    /// Something happened.
    pub fn note(&self, notice: Notice) {
        if matches!(notice, Notice::Verified { .. } | Notice::VerifyStopped) {
            *self.verified.lock() = Some(SystemTime::now());
        }
        let mut recent = self.recent.lock();
        if recent.len() == KEPT {
            recent.pop_front();
        }
        recent.push_back((SystemTime::now(), notice));
    }

    /// When the last comparison of both sides ended.
    pub fn verified(&self) -> Option<SystemTime> {
        *self.verified.lock()
    }

    /// What happened lately, newest last.
    pub fn recent(&self) -> Vec<(SystemTime, Notice)> {
        self.recent.lock().iter().copied().collect()
    }
}
