//! The standby's side of a session: it does what it is told, in order, and keeps in mind what it did.

use std::{cmp::Ordering, collections::BTreeMap};

use crate::{
    Blocks, Body, Fault, Generation, Item, ItemAnswer, Moment, Notice, Seq, SessionId, Term, Work,
    Yield,
};

use super::{After, Job, Node};

/// More ranges than this are said in whole regions, or larger ones, so that they fit into a message.
const RANGES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Standby {
    session: SessionId,
    /// It has told the primary so, durably.
    opened: bool,
    next: Seq,
    /// What came before its turn.
    early: BTreeMap<Seq, Item>,
    heard: Moment,
}

impl Node {
    pub(super) fn begin_standby(&mut self, session: SessionId) {
        self.standby = Some(Standby {
            session,
            opened: false,
            next: Seq(1),
            early: BTreeMap::new(),
            heard: self.now,
        });
    }

    fn standby_in(&mut self, session: SessionId) -> Option<&mut Standby> {
        self.standby
            .as_mut()
            .filter(|standby| standby.session == session)
    }

    pub(super) fn say_opened(&mut self, session: SessionId) {
        let Some(standby) = self.standby_in(session) else {
            return;
        };
        standby.opened = true;
        let complete = self.durable.complete;
        let dirty = self.sayable(&self.dirty.unsent);
        self.send(Body::Opened {
            session,
            complete,
            dirty,
        });
    }

    /// The same or more, in so few ranges that they fit into a message.
    fn sayable(&self, blocks: &Blocks) -> Blocks {
        let (mut said, mut region) = (blocks.clone(), self.config.region);
        while said.ranges().nth(RANGES).is_some() {
            said = blocks.widened(region);
            region = region.saturating_mul(8);
        }
        said
    }

    pub(super) fn pinged(&mut self, term: Term, session: SessionId, number: u64, sent: Moment) {
        let (now, current) = (self.now, self.term);
        let until = now.after(self.config.timing.promise);
        let Some(standby) = self
            .standby_in(session)
            .filter(|s| s.opened && term == current)
        else {
            return;
        };
        standby.heard = now;
        self.promise_until = self.promise_until.max(until);
        self.send(Body::Pong {
            session,
            number,
            sent,
        });
    }

    pub(super) fn shipped(&mut self, term: Term, session: SessionId, seq: Seq, item: Item) {
        let (now, current) = (self.now, self.term);
        let most = self.config.window * 2;
        let Some(standby) = self.standby_in(session).filter(|_| term == current) else {
            return;
        };
        standby.heard = now;
        match seq.cmp(&standby.next) {
            Ordering::Less => {}
            Ordering::Equal => {
                standby.next.0 += 1;
                self.take(session, seq, item);
                self.take_early(session);
            }
            Ordering::Greater if standby.early.len() < most || standby.early.contains_key(&seq) => {
                standby.early.insert(seq, item);
            }
            Ordering::Greater => self.fail_standby(session, Fault::NoSpace),
        }
    }

    /// What came before its turn and has it now.
    fn take_early(&mut self, session: SessionId) {
        loop {
            let Some(standby) = self.standby_in(session) else {
                return;
            };
            let seq = standby.next;
            let Some(item) = standby.early.remove(&seq) else {
                return;
            };
            standby.next.0 += 1;
            self.take(session, seq, item);
        }
    }

    fn take(&mut self, session: SessionId, seq: Seq, item: Item) {
        self.keep_in_mind(seq, &item);
        let job = Job::Item(session, seq);
        match item {
            Item::Op(op) => self.work(job, Work::Apply(op)),
            Item::Restore {
                volume,
                range,
                data,
            } => self.work(
                job,
                Work::Restore {
                    volume,
                    range,
                    data,
                },
            ),
            Item::Metadata(all) => self.work(job, Work::ReplaceMetadata(all)),
            Item::Flush(volume) => self.work(job, Work::Flush(volume)),
            Item::Sum { volume, range } => self.work(job, Work::Sum { volume, range }),
            Item::Survey => self.work(job, Work::Survey),
            Item::Confirmed { volume, upto } => {
                self.dirty.confirm(volume, upto);
                self.answer_item(session, seq, ItemAnswer::Done);
            }
            Item::Synced { complete, history } => {
                self.become_consistent(session, seq, complete, history)
            }
            Item::Adopt(witness) => {
                self.durable.witness = Some(witness);
                self.asker.forget();
                self.persist(After::Item(session, seq));
            }
        }
    }

    /// Notes what this item may make different, until the primary says that it is on both disks.
    fn keep_in_mind(&mut self, seq: Seq, item: &Item) {
        let blocks = match item {
            Item::Op(op) => op.changes(),
            Item::Restore { volume, range, .. } | Item::Sum { volume, range } => {
                Some((*volume, *range))
            }
            _ => None,
        };
        if let Some((volume, range)) = blocks {
            self.dirty.push(volume, seq, range);
        }
    }

    /// The primary has sent everything, and both have flushed it.
    fn become_consistent(
        &mut self,
        session: SessionId,
        seq: Seq,
        complete: bool,
        history: Vec<Generation>,
    ) {
        self.dirty.unsent = Blocks::default();
        self.durable.marks = Blocks::default();
        self.keep_no_longer();
        self.durable.history = history;
        self.durable.shared = true;
        self.durable.paired = true;
        self.durable.complete = complete;
        self.durable.inconsistent = false;
        self.durable.rolled_back = false;
        self.split_brain = false;
        self.persist(After::Item(session, seq));
    }

    pub(super) fn item_done(&mut self, session: SessionId, seq: Seq, result: Result<Yield, Fault>) {
        if let Ok(Yield::Lost(blocks)) = &result {
            self.lose_blocks(blocks);
        }
        if self.standby_in(session).is_none() {
            return;
        }
        let answer = match result {
            Err(fault) => {
                self.make_room(fault);
                return self.fail_standby(session, fault);
            }
            Ok(Yield::Lost(_)) => return self.fail_standby(session, Fault::Broken),
            Ok(Yield::Sum(sum)) => ItemAnswer::Sum(sum),
            Ok(Yield::Blocks(blocks)) => ItemAnswer::Blocks(self.sayable(&blocks)),
            Ok(Yield::Gone | Yield::Nothing | Yield::Data(_)) => ItemAnswer::Done,
        };
        self.answer_item(session, seq, answer);
    }

    /// All of it has to come from the primary, also after a restart.
    fn lose_blocks(&mut self, lost: &Blocks) {
        self.dirty.unsent.merge(lost);
        self.durable.marks.merge(lost);
        self.durable.inconsistent = true;
        self.persist(After::Nothing);
    }

    pub(super) fn answer_item(&mut self, session: SessionId, seq: Seq, answer: ItemAnswer) {
        if self.standby_in(session).is_some() {
            self.send(Body::Ack {
                session,
                seq,
                answer,
            });
        }
    }

    /// The disk did not do it. Where it may have done half, these data must not be served.
    fn fail_standby(&mut self, session: SessionId, fault: Fault) {
        if fault == Fault::Broken {
            self.durable.inconsistent = true;
            self.persist(After::Nothing);
        }
        self.send(Body::Failed { session });
        self.leave_standby();
        self.rest_until = self.now.after(self.config.timing.rest);
        self.note(Notice::StandbyFailed);
    }

    pub(super) fn leave_standby(&mut self) {
        if self.standby.take().is_some() {
            self.dirty.all_unsent();
            self.hello_at = self.now;
        }
    }

    /// The primary is gone. What was promised to it still holds.
    pub(super) fn lose_primary(&mut self) {
        self.leave_standby();
    }

    /// The primary has made way: nobody relies on this server's promise any more.
    pub(super) fn yielded(&mut self, term: Term, session: SessionId) {
        let current = self.term;
        if self.standby_in(session).is_some_and(|s| s.opened) && term == current {
            self.leave_standby();
            self.promise_until = self.now;
            self.peer = None; // That it is the primary is no longer so.
            self.durable.last_primary = true; // First in turn.
            self.is_given(term);
        }
    }

    pub(super) fn check_primary_silence(&mut self) {
        let (now, most) = (self.now, self.config.timing.silence);
        if self
            .standby
            .as_ref()
            .is_some_and(|s| now.since(s.heard) >= most)
        {
            self.lose_primary();
        }
    }
}
