//! Scan: tells a torn end of the journal from damage, before raft-engine may cut anything.
//!
//! raft-engine cuts the newest file at its first bad batch, good ones behind it or not, and drops
//! files before a gap in their numbering. Every appended batch is flushed before the next is written,
//! so only the very last can be torn: a bad one with a good one behind it, or in an older file, is
//! damage. What cannot be told is damage to the very last batch from a torn one; then this replica
//! alone forgets it. Rewritten files are flushed less often: see `anchor`.
//!
//! ```text
//! file:   58 bytes of magic text | version u64 | alignment u64 | batches
//! batch:  (length << 8 | compression) u64 | offset of footer u64
//!         | [entries | crc32] | footer | crc32 ^ file number
//! ```
//! Head numbers are big endian, checksums little endian (raft-engine 0.4, format version 2).

use std::path::{Path, PathBuf};

use super::anchor::Anchor;
use super::{Durability, StoreError};
use crate::store::error::io;

const MAGIC: &[u8] = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5";
/// What follows the magic text in every file this program writes: format version 2, no alignment.
const VERSION: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
const CRC: usize = 4;

/// Suffix of the files that records are appended to.
pub(super) const APPEND: &str = ".raftlog";
/// Suffix of the files that purging moves old entries to.
pub(super) const REWRITE: &str = ".rewrite";
/// Bytes before a file's first batch.
pub(super) const FILE_HEAD: usize = MAGIC.len() + 16;
/// Bytes of a batch's head.
pub(super) const BATCH_HEAD: usize = 16;

/// Bytes that looking for a good batch may checksum; past it the file is called damaged.
const SEARCH_BYTES_MAX: usize = 4 << 30;

/// How a file is allowed to end.
#[derive(Clone, Copy)]
enum End {
    /// After a good batch.
    Whole,
    /// In one bad batch.
    Torn,
    /// In any way after this offset.
    Open(u64),
}

/// Refuses a journal that is damaged anywhere but at its end.
pub(super) fn check(dir: &Path, durability: Durability) -> Result<(), StoreError> {
    let end = match durability {
        Durability::Disk => End::Torn,
        // Without flushes a power cut leaves anything.
        Durability::Memory => End::Open(0),
    };
    check_queue(&files(dir, APPEND)?, end)?;
    let (anchor, rewritten) = (Anchor::read(dir), files(dir, REWRITE)?);
    let newest = rewritten.last().map_or(0, |(number, _)| *number);
    if newest < anchor.file {
        return Err(damaged(dir, 0, "the newest file of rewritten entries is missing"));
    }
    check_queue(&rewritten, End::Open(if newest == anchor.file { anchor.offset } else { 0 }))
}

fn check_queue(files: &[(u64, PathBuf)], newest: End) -> Result<(), StoreError> {
    for (at, (number, path)) in files.iter().enumerate() {
        if at > 0 && files[at - 1].0 + 1 != *number {
            return Err(damaged(path, 0, "the file before it is missing"));
        }
        check_file(path, *number, if at + 1 == files.len() { newest } else { End::Whole })?;
    }
    Ok(())
}

/// The numbered files with this suffix, in order.
pub(super) fn files(dir: &Path, suffix: &str) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let mut files = Vec::new();
    for item in std::fs::read_dir(dir).map_err(io("list", dir))? {
        let path = item.map_err(io("list", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_suffix(suffix).and_then(|number| number.parse().ok());
        if let Some(number) = number {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn check_file(path: &Path, number: u64, end: End) -> Result<(), StoreError> {
    let bytes = std::fs::read(path).map_err(io("read", path))?;
    check_bytes(&bytes, path, number, end)
}

fn check_bytes(bytes: &[u8], path: &Path, number: u64, end: End) -> Result<(), StoreError> {
    let signature = (number & u64::from(u32::MAX)) as u32;
    // With a damaged version raft-engine would take the newest file for an empty one.
    let headed = bytes.starts_with(MAGIC) && bytes[MAGIC.len()..].starts_with(&VERSION);
    let mut at = if headed { FILE_HEAD } else { 0 };
    while headed && at < bytes.len() {
        match batch(&bytes[at..], signature) {
            Some(Batch { length, whole: true, .. }) => at += length,
            _ => break,
        }
    }
    if headed && at == bytes.len() {
        return Ok(());
    }
    match end {
        End::Whole => Err(damaged(path, at, "not the newest file and yet it ends in a bad batch")),
        End::Open(from) if (at as u64) < from => Err(damaged(path, at, "a bad batch")),
        End::Open(_) => Ok(()),
        // Footer and head are there and nothing follows: only the entries between were not
        // written yet.
        End::Torn if at > 0 && whole_but_for_entries(&bytes[at..], signature) => Ok(()),
        End::Torn => match good_batch_after(bytes, at + 1, signature) {
            None => Ok(()),
            Some(_) => Err(damaged(path, at, "a bad batch with a good one behind it")),
        },
    }
}

struct Batch {
    length: usize,
    footer_bytes: usize,
    whole: bool,
}

/// Reads one batch; `None` when its head is nonsense or its footer's checksum is wrong.
fn batch(bytes: &[u8], signature: u32) -> Option<Batch> {
    let head = head(bytes)?;
    let footer = &bytes[head.footer..head.length];
    if !sealed(footer, signature) {
        return None;
    }
    let entries = &bytes[BATCH_HEAD..head.footer];
    let whole = entries.is_empty() || sealed(entries, 0);
    Some(Batch { length: head.length, footer_bytes: footer.len(), whole })
}

/// The length of a batch, from its head, if that is well formed.
pub(super) fn batch_length(head: &[u8; BATCH_HEAD]) -> Option<u64> {
    parse(head).map(|head| head.length as u64)
}

struct Head {
    length: usize,
    footer: usize,
}

fn head(bytes: &[u8]) -> Option<Head> {
    let head = parse(bytes.first_chunk()?)?;
    (head.length <= bytes.len()).then_some(head)
}

fn parse(bytes: &[u8; BATCH_HEAD]) -> Option<Head> {
    let length = u64::from_be_bytes(bytes[..8].try_into().ok()?);
    let footer = u64::from_be_bytes(bytes[8..].try_into().ok()?);
    let (compression, length) = (length & 0xff, usize::try_from(length >> 8).ok()?);
    let footer = usize::try_from(footer).ok()?;
    let ends = footer.checked_add(CRC).is_some_and(|end| end < length);
    let shaped = compression <= 1 && footer >= BATCH_HEAD && ends;
    shaped.then_some(Head { length, footer })
}

fn sealed(bytes: &[u8], signature: u32) -> bool {
    let Some((body, crc)) = bytes.split_last_chunk::<CRC>() else { return false };
    crc32fast::hash(body) ^ signature == u32::from_le_bytes(*crc)
}

/// True when the last batch lost only entries and nothing but zeros follows it.
fn whole_but_for_entries(bytes: &[u8], signature: u32) -> bool {
    let Some(batch) = batch(bytes, signature) else { return false };
    bytes[batch.length..].iter().all(|byte| *byte == 0)
}

fn good_batch_after(bytes: &[u8], from: usize, signature: u32) -> Option<usize> {
    let mut spent = 0;
    for at in from..bytes.len().saturating_sub(BATCH_HEAD) {
        let Some(head) = head(&bytes[at..]) else { continue };
        spent += head.length - head.footer;
        let found = batch(&bytes[at..], signature);
        if found.is_some_and(|batch| batch.footer_bytes > CRC) || spent > SEARCH_BYTES_MAX {
            return Some(at);
        }
    }
    None
}

fn damaged(path: &Path, at: usize, why: &'static str) -> StoreError {
    StoreError::JournalDamaged { file: path.to_owned(), at: at as u64, why: why.to_owned() }
}

/// For fuzzing: looks through a file; answers whether it is a whole one.
pub(super) fn fuzz(bytes: &[u8]) -> bool {
    let check = |end| check_bytes(bytes, Path::new("1.raftlog"), 1, end).is_ok();
    let _torn = check(End::Torn) && check(End::Open(0));
    check(End::Whole)
}

/// For fuzzing: a file of two batches as it is written.
pub(super) fn seed() -> Vec<u8> {
    let sealed = |body: &[u8], signature: u32| {
        let crc = crc32fast::hash(body) ^ signature;
        [body, &crc.to_le_bytes()].concat()
    };
    let (entries, footer) = (sealed(b"some entries", 0), sealed(b"a footer", 1));
    let at = (BATCH_HEAD + entries.len()) as u64;
    let length = at + footer.len() as u64;
    let batch = [&(length << 8).to_be_bytes()[..], &at.to_be_bytes(), &entries, &footer].concat();
    [MAGIC, &VERSION, &batch, &batch].concat()
}
