//! The live timeline: which machine reached which step, and when.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A step on the way from power-on to login, in the order a machine takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The firmware got an address.
    Dhcp,
    /// The firmware fetched a boot loader. QEMU's own network ROM is iPXE already and skips this.
    Tftp,
    /// iPXE fetched this machine's boot script.
    Ipxe,
    /// The kernel was fetched.
    Kernel,
    /// The initramfs was fetched.
    Initramfs,
    /// The root disk is attached.
    Attached,
    /// The serial console asks who wants to log in.
    Login,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 7] = [
        Self::Dhcp,
        Self::Tftp,
        Self::Ipxe,
        Self::Kernel,
        Self::Initramfs,
        Self::Attached,
        Self::Login,
    ];

    /// The step's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dhcp => "dhcp",
            Self::Tftp => "tftp",
            Self::Ipxe => "ipxe",
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
            Self::Attached => "attached",
            Self::Login => "login",
        }
    }

    /// The step of this name in the server's trace, which also has steps that the timeline does not show.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "initrd" => Some(Self::Initramfs),
            name => Self::ALL.into_iter().find(|step| step.name() == name),
        }
    }
}

/// When each machine reached each step, counted from its own power-on.
#[derive(Debug, Default)]
pub struct Timeline {
    reached: BTreeMap<String, BTreeMap<Step, Duration>>,
}

impl Timeline {
    /// A timeline of machines that have reached nothing yet.
    pub fn new(machines: impl IntoIterator<Item = String>) -> Self {
        Self {
            reached: machines
                .into_iter()
                .map(|name| (name, BTreeMap::new()))
                .collect(),
        }
    }

    /// Notes that a machine reached a step. Says whether that was news: a step counts the first time, and only for
    /// a machine of this timeline.
    pub fn record(&mut self, machine: &str, step: Step, at: Duration) -> bool {
        let Some(steps) = self.reached.get_mut(machine) else {
            return false;
        };
        if steps.contains_key(&step) {
            return false;
        }
        steps.insert(step, at);
        true
    }

    /// When a machine reached a step, if it has.
    pub fn at(&self, machine: &str, step: Step) -> Option<Duration> {
        self.reached.get(machine)?.get(&step).copied()
    }

    /// The table: a heading and a line for each machine. `now` is what a machine still on its way shows last.
    fn table(&self, now: Duration) -> Vec<String> {
        let heading = Step::ALL
            .iter()
            .map(|step| format!("{:>11}", step.name()))
            .collect::<String>();
        let mut lines = vec![format!("{:<10}{heading}", "seconds")];
        lines.extend(
            self.reached
                .iter()
                .map(|(name, steps)| row(name, steps, now)),
        );
        lines
    }
}

fn row(name: &str, steps: &BTreeMap<Step, Duration>, now: Duration) -> String {
    let last = steps.keys().next_back().copied();
    let cells = Step::ALL
        .iter()
        .map(|step| cell(*step, steps.get(step), last, now))
        .collect::<String>();
    format!("{name:<10}{cells}")
}

/// A time where the step was reached, a dash where it was passed over, the running clock in the last column.
fn cell(step: Step, reached: Option<&Duration>, last: Option<Step>, now: Duration) -> String {
    let text = match reached {
        Some(at) => format!("{:.1}", at.as_secs_f64()),
        None if last.is_some_and(|last| last > step) => "-".to_owned(),
        None if step == Step::Login => format!("({:.0})", now.as_secs_f64()),
        None => String::new(),
    };
    format!("{text:>11}")
}

/// A timeline on its way to the screen: redrawn in place on a terminal, a line for each step elsewhere.
#[derive(Clone)]
pub struct Board(Arc<Mutex<Screen>>);

struct Screen {
    timeline: Timeline,
    powered: BTreeMap<String, Instant>,
    started: Instant,
    terminal: bool,
    live: bool,
    drawn: usize,
}

impl Default for Board {
    /// A board on standard output that shows nothing yet.
    fn default() -> Self {
        let screen = Screen {
            timeline: Timeline::default(),
            powered: BTreeMap::new(),
            started: Instant::now(),
            terminal: std::io::stdout().is_terminal(),
            live: false,
            drawn: 0,
        };
        Self(Arc::new(Mutex::new(screen)))
    }
}

impl Board {
    /// Starts over with these machines, none of which has reached anything.
    pub fn restart(&self, machines: impl IntoIterator<Item = String>) {
        let mut screen = self.lock();
        screen.timeline = Timeline::new(machines);
        screen.powered.clear();
        screen.started = Instant::now();
        screen.live = true;
        screen.drawn = 0;
        screen.redraw();
    }

    /// Leaves what is on the screen as it is: others print below it from now on.
    pub fn finish(&self) {
        self.lock().live = false;
    }

    /// A machine was switched on: its clock starts.
    pub fn power_on(&self, machine: &str) {
        self.lock()
            .powered
            .insert(machine.to_owned(), Instant::now());
    }

    /// A machine reached a step just now.
    pub fn record(&self, machine: &str, step: Step, detail: &str) {
        let mut screen = self.lock();
        let Some(at) = screen.powered.get(machine).map(Instant::elapsed) else {
            return;
        };
        if screen.timeline.record(machine, step, at) {
            screen.show(machine, step, at, detail);
        }
    }

    /// When a machine reached a step, if it has.
    pub fn at(&self, machine: &str, step: Step) -> Option<Duration> {
        self.lock().timeline.at(machine, step)
    }

    /// Lets the clock on a terminal run.
    pub fn tick(&self) {
        self.lock().redraw();
    }

    fn lock(&self) -> MutexGuard<'_, Screen> {
        // The board is only shown: one that a panicking task left behind is still fit for that.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Screen {
    fn show(&mut self, machine: &str, step: Step, at: Duration, detail: &str) {
        if self.terminal {
            self.redraw();
        } else if self.live {
            let line = format!(
                "{:>8.1} s  {machine:<10} {:<10} {detail}",
                at.as_secs_f64(),
                step.name()
            );
            tell!("{}", line.trim_end());
        }
    }

    /// Draws the table over the one drawn before, while it is live and on a terminal.
    fn redraw(&mut self) {
        if !self.live || !self.terminal {
            return;
        }
        let lines = self.timeline.table(self.started.elapsed());
        let mut text = if self.drawn > 0 {
            format!("\x1b[{}A", self.drawn)
        } else {
            String::new()
        };
        for line in &lines {
            text.push_str(&format!("\r\x1b[2K{line}\n"));
        }
        self.drawn = lines.len();
        // A terminal that went away is no reason to stop the machines.
        let _ = std::io::stdout().write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_step_counts_once_and_only_for_known_machines() {
        let mut timeline = Timeline::new(["a".to_owned()]);
        assert!(timeline.record("a", Step::Dhcp, seconds(1)));
        assert!(!timeline.record("a", Step::Dhcp, seconds(2)));
        assert!(!timeline.record("stranger", Step::Dhcp, seconds(1)));
        assert_eq!(timeline.at("a", Step::Dhcp), Some(seconds(1)));
    }

    #[test]
    fn the_table_marks_skipped_steps_and_shows_the_clock_of_who_is_on_the_way() {
        let mut timeline = Timeline::new(["a".to_owned(), "b".to_owned()]);
        timeline.record("a", Step::Dhcp, seconds(1));
        timeline.record("a", Step::Ipxe, seconds(3));
        timeline.record("b", Step::Login, seconds(9));
        let table = timeline.table(seconds(20));
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&table[1]), ["a", "1.0", "-", "3.0", "(20)"]);
        assert_eq!(words(&table[2]), ["b", "-", "-", "-", "-", "-", "-", "9.0"]);
        assert!(table.iter().all(|line| line.len() <= 87));
    }

    #[test]
    fn every_step_is_found_by_its_name() {
        for step in Step::ALL {
            assert_eq!(Step::named(step.name()), Some(step));
        }
        assert_eq!(Step::named("initrd"), Some(Step::Initramfs));
        assert_eq!(Step::named("up"), None);
    }
}
