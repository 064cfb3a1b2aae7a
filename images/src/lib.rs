//! Images and their immutable versions: catalogue, builds, verification.
//!
//! Must never change a published version.
