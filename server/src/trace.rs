//! The boot trace: every machine's steps with their times, from its first DISCOVER to its login.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::Ipv4Addr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use pxe::{Event, Happening, Mac, Outcome, Stage, trace::Stuck};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::config::units::ClientName;

/// Steps that are remembered of one machine.
const STEPS_EACH: usize = 64;
/// What the protocols saw of one machine, at most.
const EVENTS_EACH: usize = 128;
/// Silence that is normal between the initramfs and the disk: a slow machine unpacks and looks for its hardware.
const ATTACH_PATIENCE: Duration = Duration::from_secs(90);
/// A machine that is stuck for so long was most likely switched off.
const GONE: Duration = Duration::from_secs(3600);
/// Other DHCP servers that are remembered, and for how long after their last answer.
const MOST_SERVERS: usize = 16;
const SERVER_SEEN: Duration = Duration::from_secs(1800);
/// Characters of an advice that tell it from another; what follows may count.
const GIST: usize = 24;
/// Steps after which a machine has its disk.
const ARRIVED: [&str; 4] = ["attached", "up", "reconnected", "shutdown"];
/// Characters of a detail; some of it comes from the network.
const LONGEST_DETAIL: usize = 256;
/// Machines whose steps are remembered.
const MACHINES: usize = 4096;
/// Steps that a slow listener may lag behind before it misses some.
const BACKLOG: usize = 4096;

/// One step of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// The client's name; its address before it has one.
    pub client: String,
    /// Which machine.
    pub mac: Mac,
    /// What: `discover`, `dhcp`, `tftp`, `ipxe`, `kernel`, `initramfs`, `identity`, `attached`, `up`, and what goes wrong;
    /// `stuck` with the advice.
    pub step: String,
    /// More about it, for people.
    pub detail: String,
}

impl Step {
    /// The step that is advice and no step of the machine's own.
    pub const STUCK: &str = "stuck";

    /// A step that happens now.
    pub fn new(mac: Mac, client: Option<&ClientName>, step: &str, detail: &str) -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let client = client.map_or_else(|| mac.to_string(), ToString::to_string);
        let time_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Step {
            time_ms,
            client,
            mac,
            step: step.into(),
            detail: detail.chars().take(LONGEST_DETAIL).collect(),
        }
    }
}

/// A machine that goes no further, as people are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckView {
    /// The client's name; its address before it has one.
    pub client: String,
    /// Which machine.
    pub mac: Mac,
    /// The step it is at.
    pub step: String,
    /// For how long, in seconds.
    pub seconds: u64,
    /// What is likely wrong, and what to look at.
    pub advice: String,
}

/// What is remembered of one machine.
#[derive(Default)]
struct Machine {
    steps: VecDeque<Step>,
    /// What the boot protocols saw of the present boot, for advice.
    events: VecDeque<Event>,
    last: Option<Instant>,
    /// It has its disk: what happens on the network from now on is no boot.
    arrived: bool,
    /// The step and the beginning of the advice that were told last.
    told: Option<(&'static str, String)>,
}

impl Machine {
    fn add(&mut self, step: Step) {
        if ARRIVED.contains(&step.step.as_str()) {
            self.arrived = true;
            self.told = None;
            self.events.clear();
        }
        if self.steps.len() == STEPS_EACH {
            self.steps.pop_front();
        }
        if step.step != Step::STUCK {
            self.last = Some(Instant::now());
        }
        self.steps.push_back(step);
    }

    fn note(&mut self, event: Event) {
        let begins = matches!(event.what, Happening::Discover { stage, .. } if stage != Stage::Os);
        self.arrived &= !begins;
        let progress = |event: &Event| matches!(event.what, Happening::TransferProgress { .. });
        // One after the other says nothing that the last does not say.
        if progress(&event) && self.events.back().is_some_and(progress) {
            self.events.pop_back();
        }
        if self.events.len() == EVENTS_EACH {
            self.events.pop_front();
        }
        self.last = Some(event.at);
        self.events.push_back(event);
    }

    fn stuck(&self, now: Instant) -> Option<Stuck> {
        if self.arrived {
            return None;
        }
        let events: Vec<Event> = self.events.iter().cloned().collect();
        let found = pxe::trace::stuck(&events, now);
        found
            .or_else(|| self.refused(now))
            .or_else(|| unattached(events.last()?, now))
    }

    /// The machine was told why it cannot boot.
    fn refused(&self, now: Instant) -> Option<Stuck> {
        let own = |step: &&Step| step.step != Step::STUCK;
        let step = self.steps.iter().rfind(own)?;
        if step.step != "refused" {
            return None;
        }
        Some(Stuck {
            step: "script",
            since: now.saturating_duration_since(self.last?),
            advice: step.detail.clone(),
        })
    }
}

/// The initramfs was sent whole, and its disk was never asked for.
fn unattached(last: &Event, now: Instant) -> Option<Stuck> {
    let Happening::TransferEnd { path, outcome, .. } = &last.what else {
        return None;
    };
    let since = now.saturating_duration_since(last.at);
    let sent = path.ends_with("/initrd.img") && *outcome == Outcome::Complete;
    (sent && since >= ATTACH_PATIENCE).then(|| Stuck {
        step: "attach",
        since,
        advice: "kernel and initrd arrived, and it never asked for its disk: see its screen; the kernel may lack a \
                 driver for its network card or its console, or a firewall drops the NBD port"
            .into(),
    })
}

/// Makes room: the quarter of the machines that has not been heard of for longest goes. One at a time would mean to look
/// through all of them for every packet of a flood.
fn forget_quietest(all: &mut HashMap<Mac, Machine>) {
    let mut heard: Vec<_> = all.iter().map(|(mac, m)| (m.last, *mac)).collect();
    let quarter = heard.len() / 4;
    let (_, last, _) = heard.select_nth_unstable(quarter);
    let last = *last;
    all.retain(|mac, machine| (machine.last, *mac) > last);
}

/// The steps of all machines, whoever listens to them, and what is wrong with the network.
pub struct Trace {
    machines: Mutex<HashMap<Mac, Machine>>,
    listeners: broadcast::Sender<Step>,
    others: Mutex<BTreeMap<Ipv4Addr, Instant>>,
}

impl Default for Trace {
    fn default() -> Self {
        Trace {
            machines: Mutex::default(),
            listeners: broadcast::channel(BACKLOG).0,
            others: Mutex::default(),
        }
    }
}

impl Trace {
    /// Adds a step; never blocks on a listener.
    pub fn add(&self, step: Step) {
        tracing::info!(client = %step.client, mac = %step.mac, "{}: {}", step.step, step.detail);
        self.with(step.mac, |machine| machine.add(step.clone()));
        // An error only says that nobody listens.
        let _ = self.listeners.send(step);
    }

    /// Notes what the boot protocols saw of a machine, for advice.
    pub fn note(&self, mac: Mac, event: Event) {
        self.with(mac, |machine| machine.note(event));
    }

    fn with(&self, mac: Mac, change: impl FnOnce(&mut Machine)) {
        let mut all = self.machines.lock();
        if !all.contains_key(&mac) && all.len() >= MACHINES {
            forget_quietest(&mut all);
        }
        change(all.entry(mac).or_default());
    }

    /// What a machine did lately, oldest first.
    pub fn of(&self, mac: Mac) -> Vec<Step> {
        let machines = self.machines.lock();
        let steps = machines.get(&mac).map(|machine| &machine.steps);
        steps.into_iter().flatten().cloned().collect()
    }

    /// Forgets a machine.
    pub fn forget(&self, mac: Mac) {
        self.machines.lock().remove(&mac);
    }

    /// What keeps a machine from booting on, if anything does.
    pub fn stuck(&self, mac: Mac, now: Instant) -> Option<Stuck> {
        self.machines.lock().get(&mac)?.stuck(now)
    }

    /// Every machine that is stuck, but for those that were most likely switched off.
    pub fn all_stuck(&self, now: Instant) -> Vec<(Mac, Stuck)> {
        let machines = self.machines.lock();
        let stuck = machines
            .iter()
            .filter_map(|(mac, machine)| Some((*mac, machine.stuck(now)?)));
        stuck.filter(|(_, stuck)| stuck.since < GONE).collect()
    }

    /// The machines that got stuck since this was asked last; each is told once for every step it is stuck at.
    pub fn newly_stuck(&self, now: Instant) -> Vec<(Mac, Stuck)> {
        let mut found = self.all_stuck(now);
        let mut machines = self.machines.lock();
        found.retain(|(mac, stuck)| {
            let gist = (stuck.step, stuck.advice.chars().take(GIST).collect());
            machines.get_mut(mac).is_some_and(|machine| {
                let new = machine.told.as_ref() != Some(&gist);
                machine.told = Some(gist);
                new
            })
        });
        found
    }

    /// Another DHCP server answers on this network. Says whether that is news.
    pub fn note_server(&self, server: Ipv4Addr, now: Instant) -> bool {
        let mut others = self.others.lock();
        let known = others.len() >= MOST_SERVERS || others.contains_key(&server);
        if others.len() < MOST_SERVERS || others.contains_key(&server) {
            others.insert(server, now);
        }
        !known
    }

    /// The other DHCP servers that answered lately.
    pub fn servers(&self, now: Instant) -> Vec<Ipv4Addr> {
        let mut others = self.others.lock();
        others.retain(|_, seen| now.saturating_duration_since(*seen) < SERVER_SEEN);
        others.keys().copied().collect()
    }

    /// All steps from now on.
    pub fn listen(&self) -> broadcast::Receiver<Step> {
        self.listeners.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn sent(path: &str, at: Instant) -> Event {
        let what = Happening::TransferEnd {
            protocol: pxe::Protocol::Http,
            path: path.into(),
            done: 1,
            outcome: Outcome::Complete,
        };
        Event {
            at,
            mac: Some(MAC),
            ip: None,
            what,
        }
    }

    fn discover(at: Instant) -> Event {
        let what = Happening::Discover {
            stage: Stage::Pxe,
            arch: None,
        };
        Event {
            what,
            ..sent("", at)
        }
    }

    #[test]
    fn a_machine_that_never_attaches_is_told_once_and_until_it_does() {
        let trace = Trace::default();
        let start = Instant::now();
        trace.note(MAC, discover(start));
        trace.note(MAC, sent("images/debian/1/initrd.img", start));
        let soon = start + ATTACH_PATIENCE - Duration::from_secs(1);
        let late = start + ATTACH_PATIENCE;
        assert!(trace.newly_stuck(soon).is_empty());
        let stuck = trace.newly_stuck(late);
        assert!(stuck[0].1.advice.contains("NBD port"), "{stuck:?}");
        assert!(trace.newly_stuck(late).is_empty());
        assert_eq!(trace.all_stuck(late).len(), 1);
        assert!(trace.all_stuck(start + GONE).is_empty());
        trace.add(Step::new(MAC, None, "attached", ""));
        assert_eq!(trace.stuck(MAC, late), None);
    }

    #[test]
    fn a_machine_that_runs_is_not_stuck_and_one_that_starts_again_may_be() {
        let trace = Trace::default();
        let start = Instant::now();
        trace.add(Step::new(MAC, None, "up", ""));
        let renewing = Happening::Discover {
            stage: Stage::Os,
            arch: None,
        };
        let event = Event {
            what: renewing,
            ..discover(start)
        };
        trace.note(MAC, event);
        let late = start + Duration::from_secs(60);
        assert_eq!(trace.stuck(MAC, late), None);
        trace.note(MAC, discover(start));
        assert!(trace.stuck(MAC, late).is_some());
    }

    #[test]
    fn a_refusal_is_shown_with_its_reason() {
        let trace = Trace::default();
        trace.add(Step::new(MAC, None, "refused", "no image `x`"));
        let stuck = trace.stuck(MAC, Instant::now()).unwrap();
        assert_eq!(stuck.advice, "no image `x`");
    }

    #[test]
    fn strangers_and_progress_take_bounded_room() {
        let trace = Trace::default();
        let now = Instant::now();
        for n in 0..3 * u32::try_from(MACHINES).unwrap() {
            let [a, b, c, d] = n.to_be_bytes();
            trace.note(Mac([2, 9, a, b, c, d]), discover(now));
            // Who is heard of again and again stays.
            trace.note(MAC, discover(now + Duration::from_nanos(n.into())));
            assert!(trace.machines.lock().len() <= MACHINES);
        }
        assert!(trace.machines.lock().len() > MACHINES / 2);
        (0..1000).for_each(|_| trace.note(MAC, discover(now)));
        assert_eq!(trace.machines.lock()[&MAC].events.len(), EVENTS_EACH);
    }

    #[test]
    fn a_server_is_news_once_and_forgotten_when_silent() {
        let trace = Trace::default();
        let now = Instant::now();
        let server = Ipv4Addr::new(10, 0, 0, 9);
        assert!(trace.note_server(server, now));
        assert!(!trace.note_server(server, now));
        assert_eq!(trace.servers(now), [server]);
        assert!(trace.servers(now + SERVER_SEEN).is_empty());
    }
}
