//! Images and their immutable versions: the catalogue, builds, imports and verification.
//!
//! An *image* is a name (`debian`); a *version* (`debian@3`) is one immutable build of it: a root
//! disk, a kernel and an initrd, known by a UUID and by their BLAKE3 digests. The
//! [`Catalogue`] keeps them in one directory, whose layout and crash rules the
//! `layout` module describes; `version.json` is described in the `record` module.
//!
//! What this crate must never do: change a byte of a published version, let an unfinished version
//! be seen under a number, give one number to two versions, or remove a version that somebody
//! serves or that an overlay is bound to.
//!
//! ```no_run
//! use std::time::SystemTime;
//! use images::{Cancel, Catalogue, Quiet, VersionId, build};
//!
//! # fn main() -> images::Result<()> {
//! let catalogue = Catalogue::open("/var/lib/bootroom/images")?;
//! let recipe = build::Recipe::new("debian".parse()?);
//! let staging = catalogue.stage(VersionId::random())?;
//! let staged = build::debian(staging, &recipe, SystemTime::now(), &Quiet, &Cancel::new()?)?;
//! let version = catalogue.publish(staged)?;
//! let disk = version.open()?; // the base of overlays; in use until dropped
//! println!("{version}: {}", disk.size());
//! # Ok(())
//! # }
//! ```

pub mod build;
mod cancel;
mod catalogue;
mod copies;
mod digest;
mod disk;
mod error;
mod ids;
pub mod import;

mod layout;
mod progress;
mod record;
mod remove;
mod staging;
mod version;

pub use cancel::Cancel;
pub use catalogue::{Catalogue, Damaged, Image};
pub use copies::{Copied, Copying, Original, Part};
pub use disk::VersionDisk;
pub use error::{Error, ErrorKind, Result};
pub use ids::{Bytes, ImageName, ImageRef, VersionId, VersionNumber};
pub use overlay::Digest;
pub use progress::{Progress, Quiet};
pub use record::FORMAT;
pub use remove::Binding;
pub use staging::{Details, Staged, Staging};
pub use version::{BootFile, Version};
