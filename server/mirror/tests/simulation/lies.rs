//! Rules taken out, by lying to the machine: each must be found out by the simulation.

/// What the world around the machine does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// Nothing.
    None,
    /// Answers leave without a lease.
    NoLease,
    /// An answer comes for each change before the standby has it: no longer shipped before applied.
    ShipWithoutWaiting,
    /// An answer comes for each flush before the standby has flushed.
    FlushWithoutWaiting,
    /// The witness lets an outdated server take over.
    OutdatedMayLead,
    /// The witness does not look at the revision.
    SwapWithoutCompare,
    /// What the standby says may differ is dropped on the way.
    DirtyForgotten,
    /// Both servers always claim that their lists are complete: nothing is ever compared by checksum.
    AlwaysComplete,
    /// A server does not learn that it lost power.
    PowerCutUnseen,
    /// A durable state is called durable before it is.
    PersistLater,
    /// The target of a resync does not keep in mind that it is inconsistent, and the witness not that it is outdated.
    NeverInconsistent,
    /// Checksums are the same for whatever they are of.
    SumsAgree,
    /// The disk keeps nothing of what a resync overwrites.
    NothingKept,
    /// Who has begun to go back greets as if it had not.
    BackUnsaid,
    /// No disk is ever taken to hang.
    HangUnseen,
}

/// Those that must be caught.
pub const LIES: [Lie; 14] = [
    Lie::NoLease,
    Lie::ShipWithoutWaiting,
    Lie::FlushWithoutWaiting,
    Lie::OutdatedMayLead,
    Lie::SwapWithoutCompare,
    Lie::DirtyForgotten,
    Lie::AlwaysComplete,
    Lie::PowerCutUnseen,
    Lie::PersistLater,
    Lie::NeverInconsistent,
    Lie::SumsAgree,
    Lie::NothingKept,
    Lie::BackUnsaid,
    Lie::HangUnseen,
];
