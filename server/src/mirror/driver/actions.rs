//! What the machine says is to be done, sorted into what is done under its lock and what after it.

use mirror::{Action, Notice, Reply, Ticket, Work};

use super::{Core, Mirror};
use crate::{mirror::store::volume_of, service::Ended};

/// What is done once the lock is free.
#[derive(Default)]
pub struct Todo {
    pub replies: Vec<(Ended, Reply)>,
    pub works: Vec<(Ticket, Work)>,
}

impl Mirror {
    pub(super) fn sort(&self, core: &mut Core, action: Action, todo: &mut Todo) {
        match action {
            Action::Send(message) => self.queue(&message),
            Action::Ask(request) => {
                if let Some(witness) = self.witness.get() {
                    witness.ask(request);
                }
            }
            Action::Disk(ticket, work) => todo.works.push((ticket, work)),
            Action::Persist(id, state) => self.persister.put(id, *state),
            Action::Reply(id, reply) => {
                let waiting = core.waiting.remove(&id);
                todo.replies.extend(waiting.map(|ended| (ended, reply)));
            }
            Action::CloseClients => self.close_clients(core, todo),
            Action::Note(notice) => self.note(notice),
        }
    }

    fn queue(&self, message: &mirror::Message) {
        let Some(outgoing) = self.outgoing.get() else {
            return;
        };
        if let Err(error) = outgoing.put(message) {
            tracing::error!("a message to the other server was not sent: {error}");
        }
    }

    /// Nothing is answered any more. Who waits is told so in the terms of this process: connections close then.
    pub(super) fn close_clients(&self, core: &mut Core, todo: &mut Todo) {
        self.gate.close();
        let waiting = std::mem::take(&mut core.waiting).into_values();
        todo.replies
            .extend(waiting.map(|ended| (ended, Reply::NotPrimary)));
        self.reign.send_modify(|reign| {
            reign.number += 1;
            reign.ours = false;
        });
    }

    fn note(&self, notice: Notice) {
        let text = self.say(notice);
        match notice {
            Notice::SplitBrain
            | Notice::StrangeWitness
            | Notice::StandbyFailed
            | Notice::DiskHangs
            | Notice::Unreadable { .. } => tracing::error!("{text}"),
            Notice::Verified { differing: 1.., .. }
            | Notice::VerifyStopped
            | Notice::PeerLost
            | Notice::Deposed(_)
            | Notice::NotPromotable(_)
            | Notice::KeptNoLonger
            | Notice::NotHandedOver => tracing::warn!("{text}"),
            _ => tracing::info!("{text}"),
        }
        self.chronicle.note(notice);
        let _ = self.notices.send(notice);
    }
}

/// Works of one volume share their turn. A survey looks at all volumes, which takes its time: no metadata waits for it.
pub(super) fn lane_of(work: &Work) -> String {
    match (volume_of(work), work) {
        (Some(volume), _) => format!("volume {}", volume.0),
        (None, Work::Survey) => "survey".into(),
        (None, _) => "metadata".into(),
    }
}

/// Blocks in words.
pub fn say_blocks(first: u64, count: u64) -> String {
    match count {
        1 => format!("block {first}"),
        _ => format!("blocks {first} to {}", first + count.saturating_sub(1)),
    }
}

/// A notice in words, with what to do where that is anybody's.
pub fn say(notice: Notice) -> String {
    match notice {
        Notice::Primary(term) => format!("this server is the primary from now on ({term})"),
        Notice::Deposed(term) => format!("this server is no longer the primary ({term})"),
        Notice::PeerLost => "the standby is lost; the machines wait until it is certain that it cannot be promoted".into(),
        Notice::GoingAlone => "going on without a standby".into(),
        Notice::Resync { blocks, compare: false } => {
            format!("bringing the standby up: {blocks} blocks")
        }
        Notice::Resync { compare: true, .. } => {
            "bringing the standby up: everything is compared".into()
        }
        Notice::Unreadable { .. } => say_unreadable("a disk"),
        Notice::DiskHangs => "this server's disk hangs: it ends nothing that it is asked to do. If the standby holds everything \
             it takes over; if it does not by itself, say `bootroom standby promote` there. Look at the storage of this \
             server (`dmesg`)"
            .into(),
        Notice::Paired => "both servers hold the same".into(),
        Notice::SplitBrain => "both servers have changes of their own: look at `bootroom standby status` on both, and say \
             `bootroom standby discard` on the one whose changes are to be given up"
            .into(),
        Notice::StrangeWitness => "the witness is not the one that was agreed on: it lost its record, or another was put in its \
             place. `bootroom standby accept-witness` if that is right"
            .into(),
        Notice::NotPromotable(why) => format!("not promoted: {}", say_why_not(why)),
        Notice::Verified { blocks, differing: 0 } => {
            format!("both sides were compared and hold the same: {blocks} blocks")
        }
        Notice::Verified { blocks, differing } => format!(
            "both sides were compared: of {blocks} blocks up to {differing} differed, and were sent to the standby again"
        ),
        Notice::VerifyStopped => "comparing both sides was broken off: they are in step no longer".into(),
        Notice::NotHandedOver => "the other server does not take over: it does not hold everything yet, or the witness was not told yet that it does".into(),
        Notice::KeptNoLonger => "there is no room for what this server held before the resync beside what it brings: it is \
             not kept any more, and the resync goes on"
            .into(),
        Notice::StandbyFailed => "the disk of this standby failed; it starts again in a moment".into(),
    }
}

/// That a disk, which is named in that way, cannot be read, with what to do.
pub(super) fn say_unreadable(disk: &str) -> String {
    format!(
        "{disk} cannot be read on this server, the only one that has all of it; the standby gets everything else. \
         `bootroom standby status` says what to do"
    )
}

fn say_why_not(why: mirror::WhyNot) -> &'static str {
    use mirror::WhyNot::{
        Empty, Inconsistent, Lagging, Led, NotBack, NothingKept, Outdated, Overtaken, RolledBack,
        StrangeWitness,
    };
    match why {
        Inconsistent => {
            "this server was being brought up when it lost the other one, so its disks are half old and half new"
        }
        Outdated => "the other server has gone on without this one, or is the primary now",
        Led => {
            "the other server is the primary and has this one as its standby: `bootroom standby handover` there has it make way; \
             or stop it"
        }
        StrangeWitness => {
            "the witness that answers is not the one that was agreed on: `bootroom standby accept-witness` if that is right"
        }
        Overtaken => {
            "the other server has become the primary, which was not known when this was said: say it again if it is to lose its \
             place"
        }
        RolledBack => {
            "this server lost power, and the other one may hold writes that this one lost"
        }
        Lagging => "in mode \"async\" this server may lack writes that the other one answered",
        NothingKept => "nothing is kept here from before a resync",
        NotBack => {
            "its disks did not all go back to what they were before the resync; the log says why. What is kept is kept: \
             mend that and say it again. If the other server is there after all, it is a rival now: \
             `bootroom standby promote --force` there, then `bootroom standby discard` here"
        }
        Empty => "this server has never had data of the pair",
    }
}

#[cfg(test)]
mod tests {
    use mirror::{BlockRange, VolumeId};

    use super::*;

    #[test]
    fn each_volume_has_a_turn_of_its_own() {
        let range = BlockRange { start: 0, end: 1 };
        let read = |volume| Work::Read {
            volume: VolumeId(volume),
            range,
        };
        assert_eq!(lane_of(&read(1)), lane_of(&Work::Flush(VolumeId(1))));
        assert_ne!(lane_of(&read(1)), lane_of(&read(2)));
        assert_ne!(lane_of(&read(1)), lane_of(&Work::Survey));
        assert_ne!(lane_of(&Work::ReadMetadata), lane_of(&Work::Survey));
    }
}
