//! Anchor: how far the newest file of rewritten entries is surely on disk.
//!
//! While purging, raft-engine writes several batches and flushes once; a power cut may leave a hole
//! before a good batch there, which costs nothing, since what was being moved is still in the old
//! files. Only below the anchor, set after each purge, is a bad batch damage. An anchor that is too
//! low finds less, so it is not flushed itself.
//!
//! ```text
//! rewrite.anchor   sealed (file number u64, offset u64)
//! ```

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::StoreError;
use super::scan::{BATCH_HEAD, FILE_HEAD, REWRITE, batch_length, files};
use crate::codec;
use crate::store::error::io;

const FILE: &str = "rewrite.anchor";
const VERSION: u8 = 1;

/// A place in the rewritten files: everything before it was flushed.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
pub(super) struct Anchor {
    pub(super) file: u64,
    pub(super) offset: u64,
}

impl Anchor {
    /// Reads the anchor; none, or one that cannot be read, is the beginning.
    pub(super) fn read(dir: &Path) -> Self {
        let bytes = std::fs::read(dir.join(FILE)).unwrap_or_default();
        codec::open(VERSION, &bytes).unwrap_or_default()
    }

    /// Moves to the end of the newest file; everything there must have been flushed.
    pub(super) fn advance(&mut self, dir: &Path) -> Result<(), StoreError> {
        let Some((file, path)) = files(dir, REWRITE)?.pop() else { return Ok(()) };
        let from = if file == self.file { self.offset } else { FILE_HEAD as u64 };
        let end = end(&path, from).map_err(io("read", &path))?;
        let next = Self { file, offset: end };
        if next <= *self {
            return Ok(());
        }
        let (fresh, target) = (dir.join("rewrite.anchor.new"), dir.join(FILE));
        std::fs::write(&fresh, codec::seal(VERSION, &next)).map_err(io("write", &fresh))?;
        std::fs::rename(&fresh, &target).map_err(io("rename", &fresh))?;
        *self = next;
        Ok(())
    }
}

/// Hops from head to head until there is none.
fn end(path: &Path, from: u64) -> std::io::Result<u64> {
    let mut file = File::open(path)?;
    let (size, mut at) = (file.metadata()?.len(), from);
    loop {
        let mut head = [0; BATCH_HEAD];
        if size.saturating_sub(at) < BATCH_HEAD as u64 {
            return Ok(at);
        }
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut head)?;
        let length = batch_length(&head).filter(|length| *length <= size - at);
        let Some(length) = length else { return Ok(at) };
        at += length;
    }
}
