//! Comparing both sides while they are in step, beside the clients' changes: finds what should not be there, and sends it
//! again.
//!
//! A piece that differs goes onto the list of what must be sent, and from there the way of a resync. So nothing about who
//! may be promoted depends on it, and one that is broken off leaves nothing behind.

use crate::{Blocks, Item, Moment, Notice, Seq, Ticket, Work, operation::Footprint};

use super::{
    Job, Node, Progress,
    changes::{Change, Content},
    pace::FEWEST,
    pieces::pieces,
    session::{Phase, Purpose, Session},
};

/// What a comparison of both sides found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Blocks that were compared.
    pub blocks: u64,
    /// What differed, in whole pieces.
    pub differing: Blocks,
    /// Blocks that the primary could not read.
    pub unread: u64,
    /// It did not come to its end.
    pub stopped: bool,
}

/// A comparison under way.
#[derive(Debug)]
pub(super) struct Verify {
    begun: Moment,
    /// Surveys that have not come: this server's, the standby's.
    surveys: (bool, bool),
    /// Blocks whose turn has not come.
    todo: Blocks,
    findings: Findings,
}

impl Node {
    /// What the last comparison that this server led has found.
    pub fn findings(&self) -> Option<&Findings> {
        self.findings.as_ref()
    }

    /// The operator wants both sides compared.
    pub(super) fn verify(&mut self) {
        let now = self.now;
        let begun = |session: &&mut Session| session.phase == Phase::Paired;
        let Some(session) = self.session_mut().filter(begun) else {
            self.note(Notice::VerifyStopped);
            return;
        };
        if session.verify.is_some() {
            return;
        }
        session.verify = Some(Verify {
            begun: now,
            surveys: (true, true),
            todo: Blocks::default(),
            findings: Findings::default(),
        });
        let id = session.id;
        self.ship(Item::Survey, Purpose::Survey);
        self.work(Job::Survey(id), Work::Survey);
    }

    pub(super) fn verifying(&mut self) -> Option<&mut Verify> {
        self.session_mut()?.verify.as_mut()
    }

    /// Keeps some pieces under way, and notices the end.
    pub(super) fn go_on_verifying(&mut self) {
        let surveyed = |verify: &mut Verify| verify.surveys == (false, false);
        // What differs is sent again before more is looked at.
        let ready = self.verifying().is_some_and(surveyed) && self.dirty.unsent.is_empty();
        if !ready || !self.brings_up() {
            return;
        }
        let most = self.config.chunks.min(FEWEST);
        let room = most.saturating_sub(self.pieces_under_way());
        let size = self.config.chunk;
        let Some(verify) = self.verifying() else {
            return;
        };
        let volumes = verify.todo.volumes();
        let all = volumes.flat_map(|(of, set)| pieces(set, size).map(move |range| (of, range)));
        let next: Vec<_> = all.take(room).collect();
        for &(volume, range) in &next {
            verify.todo.remove(volume, range);
        }
        for (volume, range) in next {
            let footprint = Footprint::of(volume, range);
            self.enqueue(Change::new(Content::Check(volume, range), footprint));
        }
        self.start_changes();
        self.end_verifying();
    }

    fn end_verifying(&mut self) {
        let under_way = self.pieces_under_way() > 0 || !self.dirty.unsent.is_empty();
        let over = |verify: &mut Verify| verify.todo.is_empty();
        if under_way || !self.verifying().is_some_and(over) {
            return;
        }
        let ended = self.session_mut().and_then(|session| session.verify.take());
        if let Some(Verify { findings, .. }) = ended {
            self.note(Notice::Verified {
                blocks: findings.blocks,
                differing: findings.differing.len(),
            });
            self.findings = Some(findings);
        }
    }

    /// The blocks that one side has of its own.
    pub(super) fn verify_surveyed(&mut self, blocks: &Blocks, here: bool) {
        if let Some(verify) = self.verifying() {
            verify.todo.merge(blocks);
            match here {
                true => verify.surveys.0 = false,
                false => verify.surveys.1 = false,
            }
        }
    }

    /// Both sides have said what they hold of a piece.
    pub(super) fn checked(&mut self, ticket: Ticket, seq: Option<Seq>, equal: bool) {
        let Some((volume, range)) = self.end_piece(ticket) else {
            return;
        };
        // A change that failed here has made it differ: that is known, and sent again anyway.
        let found = !equal && self.dirty.differs(volume, range);
        if let Some(seq) = seq.filter(|_| equal) {
            // The standby has it on its list since it was asked for the checksum: it is told when it may drop it.
            self.dirty.push(volume, seq, range);
        }
        if let Some(verify) = self.verifying() {
            verify.findings.blocks += range.blocks();
            if found {
                verify.findings.differing.insert(volume, range);
            }
        }
    }

    /// It cannot be read here.
    pub(super) fn check_failed(&mut self, ticket: Ticket) {
        let Some((_, range)) = self.end_piece(ticket) else {
            return;
        };
        if let Some(verify) = self.verifying() {
            verify.findings.unread += range.blocks();
        }
    }

    /// The session is over, or this server's survey has failed.
    pub(super) fn stop_verifying(&mut self, verify: Option<Verify>) {
        if let Some(Verify { findings, .. }) = verify {
            self.findings = Some(Findings {
                stopped: true,
                ..findings
            });
            self.note(Notice::VerifyStopped);
        }
    }
}

impl Verify {
    /// How far it is.
    pub(super) fn progress(&self, now: Moment) -> Progress {
        Progress {
            compare: true,
            done: self.findings.blocks,
            left: self.todo.len(),
            since: now.since(self.begun),
        }
    }
}
