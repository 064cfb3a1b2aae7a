//! What the control API says about the pair; also what `bootroom standby status --json` prints.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// What a server of a pair is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoleView {
    /// It serves the room.
    Primary,
    /// It follows the other one.
    Standby,
    /// Neither.
    Seeking,
}

/// One server of a pair, as it sees itself and the other one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairView {
    /// The release that runs.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// `A`, the one with the lower address, or `B`.
    pub server: String,
    /// Where this server listens for the other one.
    pub listen: SocketAddr,
    /// Where the other one listens for this one.
    pub peer: SocketAddr,
    /// `sync` or `async`.
    pub mode: String,
    /// In mode `async`: changes that the standby may be behind.
    pub most_behind: Option<usize>,
    /// `continue` or `suspend`.
    pub alone: String,
    /// What it is.
    pub role: RoleView,
    /// Number of the reign that it knows of.
    pub term: u64,
    /// Whether there is a connection to the other server.
    pub linked: bool,
    /// How long ago it was heard of.
    pub heard_seconds: Option<f64>,
    /// Both servers hold the same, and the standby can take over.
    pub paired: bool,
    /// Its data are whole: not half old and half new.
    pub consistent: bool,
    /// What it held before the resync that has not ended is kept, and can be gone back to.
    #[serde(default)]
    pub kept: Option<KeptView>,
    /// It has no data of the pair.
    pub empty: bool,
    /// It lost power and may lack what was not flushed.
    pub rolled_back: bool,
    /// Why the machines have to wait, if they have to.
    pub suspended: Option<String>,
    /// How long this server's disk has ended nothing, if that is too long.
    #[serde(default)]
    pub disk_hangs_seconds: Option<f64>,
    /// Primary: how far the standby is behind.
    pub lag: LagView,
    /// The standby is being brought up.
    pub resync: Option<ProgressView>,
    /// Both sides are being compared.
    pub verify: Option<ProgressView>,
    /// The last comparison of both sides since this server started.
    pub last_verify: Option<VerifyView>,
    /// Disks that this primary cannot read, somewhere; the standby has everything else of them, or gets it.
    #[serde(default)]
    pub unreadable: Vec<UnreadableView>,
    /// Files of keys and certificates on this server that the other one does not get, each with the reason.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// Both servers have changes of their own; the disks that this one changed by itself.
    pub split_brain: Option<Vec<DifferingView>>,
    /// Who decides; a person if none.
    pub witness: Option<WitnessView>,
    /// Image versions on their way from the primary.
    pub images: ImagesView,
    /// Disks from the time when this server was alone, which would be deleted if it became a standby.
    #[serde(default)]
    pub own_disks: usize,
    /// Less than is good is free where this server keeps the machines' disks.
    #[serde(default)]
    pub low_on_space: bool,
    /// Folders of damaged disks, which were put aside here and taken from the other server as a whole.
    #[serde(default)]
    pub set_aside: Vec<PathBuf>,
    /// What is not as it should be, with what to do; nothing if all is well.
    pub problems: Vec<String>,
    /// What may need a look, though the machines and the pair are well.
    pub warnings: Vec<String>,
    /// What happened lately, newest last.
    pub recent: Vec<EventView>,
}

/// What a server held before a resync into it. Times in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptView {
    /// When the resync first changed something; nothing if it has not yet.
    pub begun: Option<u64>,
    /// When a disk was last changed before.
    pub last_change: Option<u64>,
}

/// How far the standby is behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LagView {
    /// Items on their way to it.
    pub items: usize,
    /// Bytes of content in them.
    pub bytes: u64,
    /// Bytes of all messages that have not left yet.
    pub unsent_bytes: u64,
    /// How long the oldest has waited for its answer.
    pub seconds: f64,
}

/// How far something is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProgressView {
    /// Whether everything is compared by checksum.
    pub compare: bool,
    /// Blocks of 4 KiB done.
    pub blocks_done: u64,
    /// Blocks left, as far as they are known.
    pub blocks_left: u64,
    /// How fast it goes.
    pub bytes_per_second: u64,
    /// Time left at that speed.
    pub seconds_left: Option<u64>,
}

/// How a comparison of both sides ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyView {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// Blocks compared.
    pub blocks: u64,
    /// Blocks in the pieces that differed, and were sent again.
    pub differing: u64,
    /// Blocks that the primary could not read.
    pub unread: u64,
    /// It did not come to its end: the standby was lost, or this server is primary no longer.
    pub stopped: bool,
    /// The disks that differed.
    pub disks: Vec<DifferingView>,
}

/// A disk that differs between the servers, or may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferingView {
    /// The overlay.
    pub overlay: String,
    /// Name of the machine, if it is known.
    pub client: Option<String>,
    /// Bytes that may differ, in whole blocks or, if noted while alone, in whole regions of 4 MiB.
    pub bytes: u64,
}

/// A disk that cannot be read somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableView {
    /// The overlay.
    pub overlay: String,
    /// Name of the machine, if it is known.
    pub client: Option<String>,
    /// Blocks of 4 KiB that could not be read, in pieces of up to 64: not all of these need be damaged.
    pub blocks: u64,
    /// The first of them.
    pub ranges: Vec<RangeView>,
}

/// Blocks of 4 KiB in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeView {
    /// The first, counted from 0.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// Who decides who is primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessView {
    /// Where it is.
    pub place: String,
    /// Why it does not answer, if it does not.
    pub trouble: Option<String>,
    /// It is another one than the one that was agreed on.
    pub strange: bool,
    /// Which server it has down as primary.
    pub primary: Option<String>,
    /// Which server it has down as lacking something.
    pub outdated: Option<String>,
}

/// Image versions on their way from the primary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagesView {
    /// Versions that this server lacks.
    pub lacking: usize,
    /// Parts of a thousand of the file under way.
    pub permille: Option<u16>,
    /// What keeps them from coming.
    pub trouble: Option<String>,
}

/// Something that happened to the pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// What.
    pub event: EventKind,
    /// The same for people.
    pub text: String,
}

/// What can happen to a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// This server became primary.
    Primary,
    /// It is primary no longer.
    Deposed,
    /// The standby is lost.
    PeerLost,
    /// Going on without a standby.
    GoingAlone,
    /// The standby is being brought up.
    Resync,
    /// A disk cannot be read.
    Unreadable,
    /// Both servers hold the same.
    Paired,
    /// Both servers have changes of their own.
    SplitBrain,
    /// Another witness than the agreed one answers.
    StrangeWitness,
    /// A promotion was refused.
    NotPromotable,
    /// Handing over was refused.
    NotHandedOver,
    /// Both sides were compared.
    Verified,
    /// Comparing them was broken off.
    VerifyStopped,
    /// This standby's disk failed.
    StandbyFailed,
    /// What it held before the resync is not kept any more.
    KeptNoLonger,
    /// This server's disk hangs.
    DiskHangs,
}

/// How `standby promote` is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromoteRequest {
    /// Although something may be lost.
    #[serde(default)]
    pub force: bool,
    /// With what it held before the resync that has not ended. Refused without `force`.
    #[serde(default)]
    pub before_resync: bool,
}

/// The demand was taken; what comes of it is in the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The term when it was asked.
    pub term: u64,
}

/// The pair in one line, for `bootroom status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairLine {
    /// What this server is.
    pub role: RoleView,
    /// Where the other one is.
    pub peer: SocketAddr,
    /// Number of the reign that it knows of.
    pub term: u64,
    /// Both servers hold the same, and the standby can take over.
    pub paired: bool,
    /// What is not as it should be.
    pub problems: Vec<String>,
}
