//! Copying a disk without its zeros.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::cancel::Cancel;
use crate::error::{IoContext, Result};
use crate::ids::Bytes;
use crate::progress::{Progress, report};

/// What an overlay and most host filesystems keep apart.
const BLOCK: usize = 4096;
/// Bytes of one read.
const CHUNK: usize = 1 << 20;

/// Copies `source` to a new file at `target`, leaving holes where it holds zeros.
pub(super) fn sparse(
    source: &File,
    path: &Path,
    target: &Path,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<()> {
    let size = source.metadata().at("look at", path)?.len();
    let copy = File::create_new(target).at("write", target)?;
    copy.set_len(size).at("write", target)?;
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < size {
        cancel.check()?;
        let chunk = &mut buffer[..(size - at).min(CHUNK as u64) as usize];
        source.read_exact_at(chunk, at).at("read", path)?;
        write_blocks(&copy, chunk, at).at("write", target)?;
        at += chunk.len() as u64;
        report(progress, Bytes::new(at), Bytes::new(size));
    }
    round_up(target)
}

fn write_blocks(copy: &File, chunk: &[u8], at: u64) -> std::io::Result<()> {
    for (index, block) in chunk.chunks(BLOCK).enumerate() {
        if block.iter().any(|&byte| byte != 0) {
            copy.write_all_at(block, at + (index * BLOCK) as u64)?;
        }
    }
    Ok(())
}

/// Lengthens a disk to whole blocks; a filesystem does not mind a few bytes behind its end.
pub(super) fn round_up(disk: &Path) -> Result<()> {
    let file = File::options().write(true).open(disk).at("open", disk)?;
    let size = file.metadata().at("look at", disk)?.len();
    file.set_len(size.next_multiple_of(BLOCK as u64))
        .at("lengthen", disk)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::progress::Quiet;

    #[test]
    fn zeros_become_holes_and_all_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let mut content = vec![0; 3 * CHUNK + 100];
        content[2 * CHUNK + 5] = 7;
        content[3 * CHUNK + 99] = 9;
        std::fs::write(&from, &content).unwrap();
        let source = File::open(&from).unwrap();
        sparse(&source, &from, &to, &Quiet, &Cancel::new().unwrap()).unwrap();
        content.resize(3 * CHUNK + BLOCK, 0);
        assert!(std::fs::read(&to).unwrap() == content);
        let stored = std::fs::metadata(&to).unwrap().blocks() * 512;
        assert!(stored <= 8 * BLOCK as u64, "{stored} bytes stored");
    }
}
