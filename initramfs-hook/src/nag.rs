//! When to speak during an outage: soon once, then rarely, and always with the latest reason.

use std::time::Duration;

use crate::link::Now;

/// After how long of waiting to speak; the last pause repeats.
const SPEAK_AT: [Duration; 4] = [
    Duration::from_secs(3),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(300),
];

/// The voice during one outage.
#[derive(Debug)]
pub struct Nag {
    since: Now,
    spoken: usize,
    next: Option<Now>,
    trouble: String,
}

impl Nag {
    /// An outage that begins now: the disk is not attached yet.
    pub fn new(now: Now) -> Self {
        // Room for any reason from the start: this is written to when memory may be short.
        let mut nag = Self {
            since: now,
            spoken: 0,
            next: None,
            trouble: String::with_capacity(512),
        };
        nag.begin(now, "no answer yet");
        nag
    }

    /// An outage begins.
    pub fn begin(&mut self, now: Now, trouble: &str) {
        (self.since, self.spoken, self.next) = (now, 0, Some(now.after(SPEAK_AT[0])));
        self.note(trouble);
    }

    /// The outage is over.
    pub fn end(&mut self) {
        self.next = None;
        self.note("");
    }

    /// Notes the latest reason.
    pub fn note(&mut self, trouble: &str) {
        self.trouble.clear();
        self.trouble.push_str(trouble);
    }

    /// Whether this reason differs from the latest one.
    pub fn is_new(&self, trouble: &str) -> bool {
        self.trouble != trouble
    }

    /// The latest reason.
    pub fn trouble(&self) -> &str {
        &self.trouble
    }

    /// When to look again.
    pub fn deadline(&self) -> Option<Now> {
        self.next
    }

    /// The line to say, if it is time for one.
    pub fn due(&mut self, now: Now) -> Option<String> {
        self.next.filter(|&at| at <= now)?;
        self.spoken += 1;
        let pause = SPEAK_AT[self.spoken.min(SPEAK_AT.len() - 1)];
        self.next = Some(now.after(pause));
        Some(format!(
            "{} (for {} s so far)",
            self.trouble,
            now.since(self.since).as_secs()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_soon_then_rarely_with_the_latest_reason() {
        let at = |s| Now(Duration::from_secs(s));
        let mut nag = Nag::new(at(0));
        assert_eq!(nag.due(at(2)), None);
        nag.note("connection refused");
        assert_eq!(
            nag.due(at(3)).unwrap(),
            "connection refused (for 3 s so far)"
        );
        assert_eq!(nag.due(at(4)), None);
        let spoken = (4..3600).filter(|&s| nag.due(at(s)).is_some()).count();
        assert!((10..16).contains(&spoken), "{spoken} lines in an hour");
        nag.end();
        assert_eq!(nag.deadline(), None);
    }
}
