//! Image versions on both servers: the standby pulls what it lacks, the primary answers.
//!
//! Must never show a version that is not whole, put another version in the place of one, or delete one that the other
//! server does not say it has removed itself.
//!
//! # Protocol
//!
//! Over any stream that keeps order; who the peer is, is settled before. One side asks, the other answers; nothing is
//! said unasked, and questions are answered in the order in which they came. Numbers are little-endian. Each message
//! is a frame:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the body, 1 to 65600 |
//! | 4 | CRC-32C of the body |
//! | 4 | CRC-32C of the 8 bytes before |
//! | length | body: one byte for the kind, then the fields |
//!
//! | kind | question | fields | answer |
//! |---|---|---|---|
//! | 1 | `Hello` | `BRimages`; u16 oldest and u16 newest protocol that the asking side speaks | `Hello`, or `Refused` and the end |
//! | 2 | `List` | | any number of `Version`, then of `Removed`, then `End` |
//! | 3 | `Sums` | file; u32 first chunk; u32 how many, 1 to 1024 | `Sums` or `Refused` |
//! | 4 | `Chunks` | file; u32 for each chunk that is wanted, 1 to 1024 | a `Chunk` for each, in that order; a `Refused` instead of one is the last |
//! | 5 | `Holds` | UUIDs of versions that the asking side has, at most 1024 | `End` |
//!
//! | kind | answer | fields |
//! |---|---|---|
//! | 11 | `Hello` | u16 protocol that is spoken from here on: the newest that both know |
//! | 12 | `Version` | u8, 1 if the image's bare name means it; its `version.json`, at most 65536 bytes |
//! | 13 | `Removed` | UUIDs of versions that were here and were removed, at most 1024 |
//! | 14 | `End` | |
//! | 15 | `Sums` | u32 first chunk; for each chunk u8 0 (zeros), or u8 1 and its BLAKE3 digest (32 bytes) |
//! | 16 | `Chunk` | u32 which; its bytes |
//! | 17 | `Refused` | why, in words: at most 1024 bytes of UTF-8 |
//!
//! `file` is the version's UUID (16 bytes) and a u8: 0 disk, 1 kernel, 2 initrd. A chunk is 65536 bytes of a file, or
//! what is left at its end. `Hello` comes first, and once. This is protocol 1.
//!
//! # What holds a copy to its original
//!
//! A frame's checksum finds a damaged message before it is understood; a chunk's digest, a chunk that is not what the
//! list of digests said; the digests in `version.json`, held against the whole files before a version is published,
//! a list of digests that was wrong. `version.json` itself is copied byte by byte.
//!
//! # What is copied, and what is here
//!
//! A chunk comes over the stream only if neither an earlier, interrupted try nor one of the versions of the same image
//! with the nearest numbers has it at the same place. (Digests are not looked up at other places: builds and commits
//! keep blocks where they are, and an index would cost a read of every version here.)
//!
//! A version that the other server does not have stays, unless that server says that it has removed it: a catalogue
//! that is not mounted over there, or a version built just before a change of roles, must not cost the only copy.

mod conn;
mod files;
mod listing;
mod pull;
mod serve;
mod wire;

#[cfg(test)]
mod tests;

pub use listing::lacking;
pub use pull::{Outcome, Pull, pull, say_held};
pub use serve::serve;
