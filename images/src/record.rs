//! `version.json`: what is recorded beside each version's files.
//!
//! One JSON object, at most 64 KiB:
//!
//! | key           | value                                                                        |
//! |---------------|------------------------------------------------------------------------------|
//! | `format`      | number; 1. A reader refuses any greater one and reads nothing else of it       |
//! | `id`          | UUID of the version, the same on every server that has a copy                  |
//! | `image`       | image name; must be the name of the directory's parent                         |
//! | `number`      | version number, from 1; must be the directory's name                           |
//! | `created`     | seconds since 1970 UTC                                                         |
//! | `description` | free text for people; may be empty                                             |
//! | `cmdline`     | words this version adds to the kernel command line; may be empty               |
//! | `disk`        | `{"size": bytes, "digest": BLAKE3 in hex}` of `disk.raw`                       |
//! | `kernel`      | the same of `vmlinuz`                                                          |
//! | `initrd`      | the same of `initrd.img`                                                       |
//!
//! All keys are required; unknown ones are ignored, so a later release may add some without a
//! new format number when an older one may safely not know them.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use overlay::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::ids::{Bytes, ImageName, VersionId, VersionNumber};

/// The format of `version.json` that this crate writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// No honest record is larger; a damaged one must not fill memory.
pub(crate) const RECORD_MAX: u64 = 64 << 10;

/// Size and content of one file of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub size: Bytes,
    pub digest: Digest,
}

/// The content of `version.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub format: u32,
    pub id: VersionId,
    pub image: ImageName,
    pub number: VersionNumber,
    pub created: u64,
    pub description: String,
    pub cmdline: String,
    pub disk: FileRecord,
    pub kernel: FileRecord,
    pub initrd: FileRecord,
}

/// The bytes of the record in an open file, all that can be honest of them.
pub(crate) fn text_of(file: &File, path: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(RECORD_MAX)
        .read_to_end(&mut text)
        .at("read", path)?;
    Ok(text)
}

/// Read first, so that a newer format is named as such whatever else it holds.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

impl Record {
    /// Reads the record from an open file; `path` is for messages.
    pub fn read(file: &File, path: &Path) -> Result<Self> {
        Self::parse(&text_of(file, path)?, path)
    }

    pub fn parse(text: &[u8], path: &Path) -> Result<Self> {
        let FormatOnly { format } = serde_json::from_slice(text).map_err(|e| damaged(path, e))?;
        if format > FORMAT {
            return Err(Error::new(
                ErrorKind::NewerFormat,
                format!(
                    "{} has format {format}, this bootroom reads up to {FORMAT}: \
                     use the newer bootroom that wrote it",
                    path.display()
                ),
            ));
        }
        serde_json::from_slice(text).map_err(|error| damaged(path, error))
    }

    /// The text of the record, for people to read too.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("strings and numbers are valid JSON");
        text.push(b'\n');
        text
    }
}

fn damaged(path: &Path, source: serde_json::Error) -> Error {
    let context = format!("{} is damaged: publish the image again", path.display());
    Error::new(ErrorKind::Damaged, context).because(source)
}
