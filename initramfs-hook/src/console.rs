//! What the agent says, where a person can read it: the kernel log, which the console shows.
//!
//! Opened once, before the root filesystem can go away; writing to it never blocks and needs no file.

use std::fs::{File, OpenOptions};
use std::io::Write;

/// How urgent a line is. `quiet` on the kernel command line shows only [`Level::Error`] and above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Somebody has to do something.
    Error = 3,
    /// Worth knowing when something is odd.
    Warning = 4,
    /// The normal course.
    Info = 6,
}

/// The way to the person in front of the machine.
#[derive(Debug)]
pub struct Console {
    kmsg: Option<File>,
    /// Until the agent is on its own, whoever started it sees the lines as well.
    stderr: bool,
}

impl Console {
    /// Opens the kernel log; without one (a container), only standard error is used.
    pub fn open() -> Self {
        Self {
            kmsg: OpenOptions::new().write(true).open("/dev/kmsg").ok(),
            stderr: true,
        }
    }

    /// One with nobody in front of it.
    #[cfg(test)]
    pub fn unseen() -> Self {
        Self {
            kmsg: None,
            stderr: false,
        }
    }

    /// Stops writing to standard error.
    pub fn detach(&mut self) {
        self.stderr = false;
    }

    /// The kernel log itself, to take the place of the standard streams.
    pub fn kmsg(&self) -> Option<&File> {
        self.kmsg.as_ref()
    }

    /// Says one line. Control characters are replaced: a server's text may end up here.
    pub fn say(&mut self, level: Level, text: &str) {
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(400)
            .collect();
        if let Some(kmsg) = &mut self.kmsg {
            // One write is one record. The log refuses lines that come too fast; nothing is lost but the line.
            let _ = kmsg.write_all(format!("<{}>bootroom: {text}\n", level as u8).as_bytes());
        }
        if self.stderr {
            eprintln!("bootroom: {text}");
        }
    }
}
