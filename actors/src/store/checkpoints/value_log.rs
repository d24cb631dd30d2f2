//! Value log: long values, one behind the other in files of their own; sled only holds where they are.
//!
//! Owns      `<data>/state/<n>/values/<file>`. Records are added to the newest file until it is long enough; after that it
//!           never changes, and goes when nothing in it is needed any more.
//! Promises  what was added before a `sync` is on disk after it; a damaged value is an error, never an answer.
//! Never     decides what is needed: a record that no key points to is dead.
//! Fails by  an error of the system, after which nothing more must be added.
//!
//! Why: a leaf of sled has room for 16 values and is written as a whole whenever it splits. With runs of 16 KiB in it
//! each byte was written three times, and a checkpoint took four times the processor time. Long values apart from the keys
//! are the idea of WiscKey (Lu and others, FAST 2016).
//!
//! ```text
//! record  crc32 of key and value, u32 LE | length of the key u16 LE | length of the value u32 LE | key | value
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::layout;
use crate::codec::BadBytes;
use crate::store::StoreError;
use crate::store::error::{self, sync_dir};

/// Values of at least so many bytes lie here. Shorter ones are still growing, and would be dead soon.
const LONG: usize = 16 * 1024;

const HEAD: usize = 10;
/// Keys hold a shard, a name and a number.
const KEY_BYTES_MAX: usize = 1024;
/// Far above what is written, so that a walk tells records from rubbish.
const RECORD_VALUE_BYTES_MAX: usize = 16 << 20;
/// Records wait in memory for a write of this size.
const WRITE_BYTES: usize = 256 * 1024;

/// Whether a value belongs here.
pub(super) fn takes(key: &[u8], value: &[u8]) -> bool {
    (LONG..=RECORD_VALUE_BYTES_MAX).contains(&value.len()) && key.len() <= KEY_BYTES_MAX
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: u64,
    pub(super) at: u64,
    pub(super) length: u32,
}

/// What a file holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// How long it is.
    pub(super) bytes: u64,
    /// How much of it keys are known to point to.
    pub(super) live: u64,
}

/// The files, and the end of the newest.
pub(super) struct ValueLog {
    dir: PathBuf,
    file_bytes: u64,
    files: BTreeMap<u64, Usage>,
    newest: Option<Newest>,
    /// The number of the next file: none is used twice, or a reader could meet another record where it looks for one that
    /// was moved.
    next: u64,
}

struct Newest {
    number: u64,
    path: PathBuf,
    file: File,
    waiting: Vec<u8>,
    /// Something was added since the last `sync`.
    changed: bool,
}

/// The directory of a database's long values.
pub(super) fn dir_of(database: &Path) -> PathBuf {
    database.join("values")
}

pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016}"))
}

impl ValueLog {
    /// Finds the files. What a process before this one wrote is never added to: it may have ended in the middle of a record.
    pub(super) fn open(dir: PathBuf, file_bytes: u64) -> Result<Self, StoreError> {
        std::fs::create_dir_all(&dir).map_err(error::io("create directory", &dir))?;
        let mut files = BTreeMap::new();
        for item in std::fs::read_dir(&dir).map_err(error::io("list", &dir))? {
            let item = item.map_err(error::io("list", &dir))?;
            let number = item.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(number) = number else { continue };
            let bytes = item.metadata().map_err(error::io("look at", &item.path()))?.len();
            files.insert(number, Usage { bytes, live: 0 });
        }
        let next = files.keys().next_back().map_or(1, |last| last + 1);
        Ok(Self { dir, file_bytes, files, newest: None, next })
    }

    /// Adds a record; it is on disk after the next `sync`.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<Place, StoreError> {
        let newest = match &mut self.newest {
            Some(newest) => newest,
            None => {
                let number = self.next;
                self.next += 1;
                self.files.insert(number, Usage::default());
                self.newest.insert(Newest::create(&self.dir, number)?)
            }
        };
        let usage = self.files.entry(newest.number).or_default();
        let (file, at) = (newest.number, usage.bytes);
        let length = newest.append(key, value);
        usage.bytes += u64::from(length);
        if newest.waiting.len() >= WRITE_BYTES {
            newest.write()?;
        }
        if usage.bytes >= self.file_bytes {
            self.sync()?;
            self.newest = None;
        }
        Ok(Place { file, at, length })
    }

    /// Makes durable what was added.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        let Some(newest) = &mut self.newest else { return Ok(()) };
        if std::mem::take(&mut newest.changed) {
            newest.write()?;
            newest.file.sync_data().map_err(error::io("sync", &newest.path))?;
        }
        Ok(())
    }

    /// A key points to this record now.
    pub(super) fn lives(&mut self, place: Place) {
        if let Some(usage) = self.files.get_mut(&place.file) {
            usage.live += u64::from(place.length);
        }
    }

    /// No key does any more.
    pub(super) fn dies(&mut self, place: Place) {
        if let Some(usage) = self.files.get_mut(&place.file) {
            usage.live = usage.live.saturating_sub(u64::from(place.length));
        }
    }

    /// What is known of a file.
    pub(super) fn usage(&self, file: u64) -> Usage {
        self.files.get(&file).copied().unwrap_or_default()
    }

    /// The file with the least in it that is needed, of those that do not grow any more and are at least half dead.
    pub(super) fn emptiest(&self, skipped: impl Fn(u64) -> bool) -> Option<u64> {
        let newest = self.newest.as_ref().map(|newest| newest.number);
        let candidates = self.files.iter().filter(|(number, usage)| {
            Some(**number) != newest && usage.live * 2 <= usage.bytes && !skipped(**number)
        });
        candidates.min_by_key(|(_, usage)| usage.live).map(|(number, _)| *number)
    }

    /// Removes a file.
    pub(super) fn remove(&mut self, file: u64) -> Result<(), StoreError> {
        let path = path_of(&self.dir, file);
        self.files.remove(&file);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

impl Newest {
    /// Makes a file that the directory surely knows, before any key points to it.
    fn create(dir: &Path, number: u64) -> Result<Self, StoreError> {
        let path = path_of(dir, number);
        let file = File::create_new(&path).map_err(error::io("create", &path))?;
        sync_dir(dir)?;
        Ok(Self { number, path, file, waiting: Vec::new(), changed: false })
    }

    fn append(&mut self, key: &[u8], value: &[u8]) -> u32 {
        // Invariant: lengths fit into the head.
        debug_assert!(takes(key, value));
        self.changed = true;
        self.waiting.extend(layout::checksum(key, value).to_le_bytes());
        self.waiting.extend((key.len() as u16).to_le_bytes());
        self.waiting.extend((value.len() as u32).to_le_bytes());
        self.waiting.extend(key);
        self.waiting.extend(value);
        (HEAD + key.len() + value.len()) as u32
    }

    fn write(&mut self) -> Result<(), StoreError> {
        self.file.write_all(&self.waiting).map_err(error::io("write", &self.path))?;
        self.waiting.clear();
        Ok(())
    }
}

/// Reads the value that a key points to.
///
/// # Errors
/// Of the system; `NotFound` also when the record was moved meanwhile. Inside: that the record is damaged or another's.
pub(super) fn read(dir: &Path, key: &[u8], place: Place) -> io::Result<Result<Vec<u8>, BadBytes>> {
    let longest = HEAD + KEY_BYTES_MAX + RECORD_VALUE_BYTES_MAX;
    if place.length as usize > longest {
        return Ok(Err(BadBytes::Malformed));
    }
    let mut record = vec![0; place.length as usize];
    match File::open(path_of(dir, place.file))?.read_exact_at(&mut record, place.at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(Err(BadBytes::Short(record.len())));
        }
        read => read?,
    }
    let fits = |header: Header| header.key == key.len() && header.length() == record.len();
    if !Header::of(&record).is_some_and(fits) || !record[HEAD..].starts_with(key) {
        return Ok(Err(BadBytes::Malformed));
    }
    let value = record.split_off(HEAD + key.len());
    if record[..4] != layout::checksum(key, &value).to_le_bytes() {
        return Ok(Err(BadBytes::Checksum));
    }
    Ok(Ok(value))
}

struct Header {
    key: usize,
    value: usize,
}

impl Header {
    /// Reads the beginning of a record; `None` for what cannot be one.
    fn of(bytes: &[u8]) -> Option<Self> {
        let (key, value) = (bytes.get(4..6)?, bytes.get(6..HEAD)?);
        let key = usize::from(u16::from_le_bytes(key.try_into().ok()?));
        let value = u32::from_le_bytes(value.try_into().ok()?) as usize;
        let can_be = (1..=KEY_BYTES_MAX).contains(&key) && value <= RECORD_VALUE_BYTES_MAX;
        can_be.then_some(Self { key, value })
    }

    const fn length(&self) -> usize {
        HEAD + self.key + self.value
    }
}

/// A look at each record of a file, one after the other, without its value.
pub(super) struct Walk {
    pub(super) number: u64,
    file: File,
    at: u64,
    bytes: u64,
}

impl Walk {
    pub(super) fn begin(dir: &Path, number: u64) -> io::Result<Self> {
        let file = File::open(path_of(dir, number))?;
        let bytes = file.metadata()?.len();
        Ok(Self { number, file, at: 0, bytes })
    }

    /// The key of the next record, and where that is; `None` when there is none, or what follows is no record.
    pub(super) fn next(&mut self) -> io::Result<Option<(Vec<u8>, Place)>> {
        if self.at >= self.bytes {
            return Ok(None);
        }
        let mut start = [0; HEAD + KEY_BYTES_MAX];
        let there = usize::try_from(self.bytes - self.at).unwrap_or(usize::MAX).min(start.len());
        self.file.read_exact_at(&mut start[..there], self.at)?;
        let Some(header) = Header::of(&start[..there]) else { return Ok(None) };
        let length = header.length();
        if self.at + length as u64 > self.bytes {
            return Ok(None);
        }
        let place = Place { file: self.number, at: self.at, length: length as u32 };
        self.at += length as u64;
        Ok(Some((start[HEAD..HEAD + header.key].to_vec(), place)))
    }
}

/// For fuzzing: reads the beginning of a record.
pub(in crate::store) fn fuzz(bytes: &[u8]) -> bool {
    Header::of(bytes).is_some_and(|header| header.length() <= bytes.len())
}
