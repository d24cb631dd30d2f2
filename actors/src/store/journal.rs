//! Journal: the log of all shards of this node, flushed to disk before anything is confirmed.
//!
//! Owns      `<data>/journal`, a raft-engine with one region per shard (region = shard + 1).
//! Promises  `done` is called in the order of submission and only after everything submitted up to
//!           then is on disk; what waits while one batch is flushed shares the next flush; a torn
//!           last batch is cut at opening, any damage before it is an error.
//! Never     answers after a failed write, and never reads while running: who needs the log keeps
//!           it in memory.
//! Fails by  calling `fatal` and writing nothing any more; the process must stop and start again
//!           from disk.
//!
//! A vote and a term are flushed; a commit index alone is not (Raft learns it again) and rides with
//! the next record of its shard. So every write is followed by a flush and only the last batch of a
//! file can be torn.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use raft::eraftpb::{ConfState, Entry, HardState};
use raft_engine::{Config, ReadableSize, RecoveryMode};

use super::StoreError;
use super::error::io;
use crate::codec;
use crate::ids::ShardId;

mod ahead;
mod anchor;
mod pulse;
mod recover;
mod scan;
mod writer;

pub use pulse::JournalStats;
use pulse::Pulse;

/// Called with the tickets of records that are on disk, in order.
pub type Written = Arc<dyn Fn(Vec<(ShardId, u64)>) + Send + Sync>;

/// Called once when the disk can no longer be trusted; must stop the process.
pub type Fatal = Arc<dyn Fn(StoreError) + Send + Sync>;

/// A place in a log: everything up to and with `index` is before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogStart {
    /// Index of the last entry that is not in the log any more; 0 at birth.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What one shard wants on disk. Parts are carried out in the order of the fields; all may be
/// absent.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The shard.
    pub shard: ShardId,
    /// Handed back when the record, and all before it, are on disk.
    pub ticket: u64,
    /// A snapshot was installed: forget the whole log; it goes on after this.
    pub reset: Option<LogStart>,
    /// Entries to append, without gaps; those with the same or a higher index are overwritten.
    pub entries: Vec<Entry>,
    /// A checkpoint holds everything up to this: the log before it may go.
    pub compact: Option<LogStart>,
    /// Term, vote and commit index.
    pub hard_state: Option<HardState>,
    /// Who takes part in the shard.
    pub conf_state: Option<ConfState>,
}

/// What the journal holds of one shard.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovered {
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// Where the log begins.
    pub start: LogStart,
    /// All entries after it, without gaps.
    pub entries: Vec<Entry>,
    /// Who takes part in the shard, if it was ever recorded.
    pub conf_state: Option<ConfState>,
}

/// When a record counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When it is flushed to the disk.
    #[default]
    Disk,
    /// When the operating system has it: a power cut loses it. For experiments only.
    Memory,
}

/// How the journal is kept.
#[derive(Clone)]
pub struct JournalOptions {
    /// When a record counts as written.
    pub durability: Durability,
    /// Size of one file, in bytes. Bounds what one purge frees at a time.
    pub file_bytes: u64,
    /// Size of all files above which old ones are purged, in bytes. Bounds disk use and the time to
    /// open.
    pub journal_bytes: u64,
    /// How often old files are looked through at the most.
    pub purge_every: Duration,
    /// Called once when the journal cannot go on.
    pub fatal: Fatal,
}

/// A handle to the journal; clones share it. Ends when the last one is dropped or at `close`.
#[derive(Clone)]
pub struct Journal(Arc<Shared>);

struct Shared {
    orders: Sender<Order>,
    pulse: Arc<Pulse>,
    pinned: Arc<Mutex<BTreeSet<ShardId>>>,
    stopped: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Order {
    Write(Vec<Record>, Written),
    Close,
}

type Engine = raft_engine::Engine<ahead::Ahead>;

/// Tells raft-engine where an entry's index is.
struct Entries;

impl raft_engine::MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

impl JournalOptions {
    /// Files of 64 MiB, purged above 256 MiB, flushed to disk.
    #[must_use]
    pub fn new(fatal: Fatal) -> Self {
        let (file_bytes, journal_bytes) = (64 << 20, 256 << 20);
        let purge_every = Duration::from_secs(1);
        Self { durability: Durability::Disk, file_bytes, journal_bytes, purge_every, fatal }
    }
}

impl Journal {
    /// Opens the journal, cutting a torn end; answers what it holds of each shard.
    pub fn open(
        dir: &Path,
        options: JournalOptions,
    ) -> Result<(Self, BTreeMap<ShardId, Recovered>), StoreError> {
        std::fs::create_dir_all(dir).map_err(io("create directory", dir))?;
        scan::check(dir, options.durability)?;
        let engine = recover::open(config(dir, &options), dir)?;
        super::error::sync_dir(dir)?;
        let recovered = recover::read(&engine, dir)?;
        let (orders, inbox) = channel();
        let (pulse, pinned) = (Arc::new(Pulse::default()), Arc::default());
        let stopped = Arc::new(AtomicBool::new(false));
        let writer = writer::Writer::new(
            dir,
            engine,
            &recovered,
            options,
            writer::Signs {
                pulse: Arc::clone(&pulse),
                pinned: Arc::clone(&pinned),
                stopped: Arc::clone(&stopped),
            },
        )?;
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&inbox))
            .map_err(io("start a thread for", dir))?;
        let thread = Mutex::new(Some(thread));
        let shared = Shared { orders, pulse, pinned, stopped, thread };
        Ok((Self(Arc::new(shared)), recovered))
    }

    /// Hands records over; `done` is called, on the journal's thread, once they are on disk.
    /// When the journal has failed or is closed nothing is called any more.
    pub fn write(&self, records: Vec<Record>, done: Written) {
        if records.is_empty() || self.0.stopped.load(Ordering::Acquire) {
            return;
        }
        self.0.pulse.submitted(&records);
        let _ = self.0.orders.send(Order::Write(records, done));
    }

    /// Bytes of entries that were handed over and are not yet on disk: the measure for
    /// back-pressure.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        self.0.pulse.waiting_bytes()
    }

    /// Shards whose old log keeps old files alive: checkpoint them, then compact.
    #[must_use]
    pub fn pinned(&self) -> BTreeSet<ShardId> {
        self.0.pinned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts since the start and the speed of the last seconds.
    #[must_use]
    pub fn stats(&self) -> JournalStats {
        self.0.pulse.stats()
    }

    /// Writes what is waiting and ends the thread.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Shared {
    fn close(&self) {
        let _ = self.orders.send(Order::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last handle may be dropped by a callback on the journal's own thread.
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

fn config(dir: &Path, options: &JournalOptions) -> Config {
    Config {
        dir: dir.to_string_lossy().into_owned(),
        // `AbsoluteConsistency` refuses even the zeros a kill leaves behind the last batch; this
        // mode cuts whatever follows the first bad batch of the newest file, so `scan` looks first.
        recovery_mode: RecoveryMode::TolerateTailCorruption,
        // One thread replays in order; with several, merging their results relies on more special
        // cases.
        recovery_threads: 1,
        // Processor time is scarcer than disk, and bodies are often encrypted.
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize(options.file_bytes),
        purge_threshold: ReadableSize(options.journal_bytes.max(options.file_bytes)),
        // A recycled file still holds old batches, and gaps in the numbering could not be told from
        // loss.
        enable_log_recycle: false,
        ..Config::default()
    }
}

/// For fuzzing: reads what the journal's files and values may hold; answers whether it was any of it.
pub(super) fn fuzz(bytes: &[u8]) -> bool {
    let start = codec::open_anyway::<LogStart>(recover::START_VERSION, bytes).is_some();
    scan::fuzz(bytes) || start
}

/// For fuzzing: a file, and the start of a log, as they are written.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    vec![scan::seed(), codec::seal(recover::START_VERSION, &LogStart { index: 5, term: 2 })]
}
