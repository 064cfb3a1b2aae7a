//! What goes into a [`crate::Node`] and what comes out.

use bytes::Bytes;

use crate::{
    BlockRange, Blocks, ConnectionId, Durable, Message, Op, RequestId, Term, Ticket, VolumeId,
    WitnessAnswer, WitnessRequest,
};

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Time passed. Due at least once every [`crate::Timing::ping`].
    Tick,
    /// From the other server.
    Received(Message),
    /// The transport lost its connections.
    LinkDown,
    /// From the witness.
    Witness(WitnessAnswer),
    /// From a client, or from the server itself on behalf of one.
    Request(Request),
    /// A disk work has ended.
    Done(Ticket, Result<Yield, Fault>),
    /// This state is durable.
    Persisted(PersistId),
    /// From the operator.
    Command(Command),
}

/// A client's request. Reads do not come here: see [`crate::Node::may_answer`].
#[derive(Debug, Clone)]
pub struct Request {
    /// Comes back with the answer.
    pub id: RequestId,
    /// The connection and its volume; `None` for the server's own changes of metadata.
    pub from: Option<(VolumeId, ConnectionId)>,
    /// What is asked.
    pub ask: Ask,
}

/// What a client may ask.
#[derive(Debug, Clone)]
pub enum Ask {
    /// To be the one that uses the volume.
    Attach,
    /// A change.
    Change(Op),
    /// Everything answered so far to disk.
    Flush,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Done, with what the mode promises.
    Done,
    /// No space: ENOSPC.
    NoSpace,
    /// The disk failed: EIO.
    Failed,
    /// This server is not primary: close the connection, never an error.
    NotPrimary,
    /// A newer connection has the volume.
    Evicted,
}

/// What a disk work brought.
#[derive(Debug, Clone)]
pub enum Yield {
    /// It is done.
    Nothing,
    /// Content of blocks, or all metadata.
    Data(Bytes),
    /// A checksum.
    Sum(u64),
    /// Blocks that have content of their own.
    Blocks(Blocks),
    /// There is no such volume (any more).
    Gone,
    /// Nothing was done: what this server had of these blocks is damaged and was put aside. The next attempt begins without it.
    Lost(Blocks),
}

/// How a disk work failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No space; nothing was changed.
    NoSpace,
    /// Anything else; what was to be changed may have been, or not.
    Broken,
}

/// A demand of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Become primary. `force`: although answered writes may be lost, or the witness is another.
    Promote {
        /// Although it may lose something.
        force: bool,
    },
    /// Become primary as by force, with what this server held before the resync that has not ended.
    GoBack,
    /// Primary: let the standby take over, as soon as nothing is under way.
    HandOver,
    /// Take the witness that answers for the one that counts, though it is not the agreed one.
    AcceptWitness,
    /// Throw this server's own changes away and take the other's data.
    Discard,
    /// Primary: compare both sides, and send again what differs.
    Verify,
}

/// One replacement of the durable state. They end in the order in which they were asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PersistId(pub u64);

/// Something that the caller shall do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Send this to the other server.
    Send(Message),
    /// Ask the witness.
    Ask(WitnessRequest),
    /// Work of the disk; its end is reported with the ticket.
    Disk(Ticket, Work),
    /// Make this durable.
    Persist(PersistId, Box<Durable>),
    /// Answer a request.
    Reply(RequestId, Reply),
    /// Close all clients' connections, without an answer to what they asked.
    CloseClients,
    /// For log, status and events.
    Note(Notice),
}

/// Work of the disk.
#[derive(Debug, Clone)]
pub enum Work {
    /// A change: done when it survives the end of the process.
    Apply(Op),
    /// Content of blocks from the other server.
    Restore {
        /// Which volume.
        volume: VolumeId,
        /// Which blocks.
        range: BlockRange,
        /// Their content.
        data: Bytes,
    },
    /// All metadata from the other server, to take the place of what is here. Durable when done. Brings [`Yield::Lost`] if
    /// volumes are here that cannot be read.
    ReplaceMetadata(Bytes),
    /// All metadata. Brings [`Yield::Data`].
    ReadMetadata,
    /// Everything as it was before the resync that has not ended. Durable when done. May be done in part and again.
    GoBack,
    /// What was kept of that is not needed any more.
    Forget,
    /// Everything that was done to this volume before, to disk.
    Flush(VolumeId),
    /// Content of blocks. Brings [`Yield::Data`] or [`Yield::Gone`].
    Read {
        /// Which volume.
        volume: VolumeId,
        /// Which blocks.
        range: BlockRange,
    },
    /// Checksum of blocks. Brings [`Yield::Sum`] or [`Yield::Gone`].
    Sum {
        /// Which volume.
        volume: VolumeId,
        /// Which blocks.
        range: BlockRange,
    },
    /// Blocks of all volumes that were ever changed, also those that read as zeros again, and those that would differ from
    /// the base after a power cut only. Brings [`Yield::Blocks`].
    Survey,
}

impl Work {
    /// Whether it changes what is on the disk.
    pub(crate) fn changes(&self) -> bool {
        matches!(
            self,
            Self::Apply(_)
                | Self::Restore { .. }
                | Self::ReplaceMetadata(_)
                | Self::GoBack
                | Self::Forget
        )
    }
}

/// Something worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// This server is primary from now on.
    Primary(Term),
    /// It is no longer.
    Deposed(Term),
    /// The standby is lost; the clients wait.
    PeerLost,
    /// Going on without a standby.
    GoingAlone,
    /// A resync of so many blocks begins, or all by checksum.
    Resync {
        /// Blocks to send.
        blocks: u64,
        /// Whether everything is compared.
        compare: bool,
    },
    /// Blocks could not be read here, for the first time on that volume: the standby gets everything else meanwhile.
    Unreadable {
        /// Which volume.
        volume: VolumeId,
        /// Where: not all of these need be damaged.
        range: BlockRange,
    },
    /// Both servers hold the same.
    Paired,
    /// Both servers have changes of their own: one must discard its own.
    SplitBrain,
    /// The witness is not the one that was agreed on: it lost its memory, or was exchanged.
    StrangeWitness,
    /// A promotion was refused.
    NotPromotable(WhyNot),
    /// Handing over was refused: the standby does not hold everything, or the witness has not been told yet that it does.
    NotHandedOver,
    /// Both sides were compared; what differed was sent again.
    Verified {
        /// Blocks that were compared.
        blocks: u64,
        /// Blocks in the pieces that differed.
        differing: u64,
    },
    /// A comparison was broken off, or cannot be begun: both servers have to be in step for it.
    VerifyStopped,
    /// The disk failed the session with the primary.
    StandbyFailed,
    /// What this server held before the resync is not kept any more: there is no room for both.
    KeptNoLonger,
    /// This server's disk hangs. A primary whose standby holds everything gives way.
    DiskHangs,
}

/// Why a server is not promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyNot {
    /// It is the target of a resync that has not ended.
    Inconsistent,
    /// It misses answered writes.
    Outdated,
    /// It lost power, and the other server may hold more.
    RolledBack,
    /// In mode `async` the standby may be behind.
    Lagging,
    /// It never had data.
    Empty,
    /// The other server is primary, and has it as its standby.
    Led,
    /// The other server has become primary, which was not known when the promotion was demanded.
    Overtaken,
    /// The witness that answers is not the agreed one.
    StrangeWitness,
    /// Nothing is kept from before a resync.
    NothingKept,
    /// The disk did not go back to what it held before the resync.
    NotBack,
}
