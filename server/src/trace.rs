//! The boot trace: every machine's steps with their times, from its first DISCOVER to its login.

use std::{
    collections::{HashMap, VecDeque},
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use pxe::Mac;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::config::units::ClientName;

/// Steps that are remembered of one machine.
const STEPS_EACH: usize = 64;
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
    /// What: `discover`, `dhcp`, `tftp`, `ipxe`, `kernel`, `initramfs`, `identity`, `attached`, `up`, and what goes wrong.
    pub step: String,
    /// More about it, for people.
    pub detail: String,
}

impl Step {
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

/// Makes room: the machine that has not been heard of for longest goes.
fn forget_quietest(all: &mut HashMap<Mac, VecDeque<Step>>) {
    let last = |steps: &VecDeque<Step>| steps.back().map(|step| step.time_ms);
    let quietest = all
        .iter()
        .min_by_key(|(_, steps)| last(steps))
        .map(|(mac, _)| *mac);
    quietest.and_then(|mac| all.remove(&mac));
}

/// The steps of all machines, and whoever listens to them.
pub struct Trace {
    steps: Mutex<HashMap<Mac, VecDeque<Step>>>,
    listeners: broadcast::Sender<Step>,
}

impl Default for Trace {
    fn default() -> Self {
        Trace {
            steps: Mutex::default(),
            listeners: broadcast::channel(BACKLOG).0,
        }
    }
}

impl Trace {
    /// Adds a step; never blocks on a listener.
    pub fn add(&self, step: Step) {
        tracing::info!(client = %step.client, mac = %step.mac, "{}: {}", step.step, step.detail);
        let mut all = self.steps.lock();
        if !all.contains_key(&step.mac) && all.len() >= MACHINES {
            forget_quietest(&mut all);
        }
        let steps = all.entry(step.mac).or_default();
        if steps.len() == STEPS_EACH {
            steps.pop_front();
        }
        steps.push_back(step.clone());
        // An error only says that nobody listens.
        let _ = self.listeners.send(step);
    }

    /// What a machine did lately, oldest first.
    pub fn of(&self, mac: Mac) -> Vec<Step> {
        self.steps
            .lock()
            .get(&mac)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// All steps from now on.
    pub fn listen(&self) -> broadcast::Receiver<Step> {
        self.listeners.subscribe()
    }
}
