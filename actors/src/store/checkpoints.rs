//! Checkpoints: the state of all shards as of a few seconds ago, so that the journal before it may
//! go.
//!
//! Owns      `<data>/state/<n>`, one sled database with the value log beside it; `<n>` is the newest, older ones were
//!           set aside.
//! Promises  a shard's changes and the index they stand at appear together or not at all; `done`
//!           comes after a real flush; a value that was damaged is an error, never an answer; a
//!           snapshot that is being received is invisible until it is whole.
//! Never     holds the only copy of anything confirmed since the last `done`: the journal has that.
//! Fails by  setting the directory aside when sled does not open (the replicas refill from their
//!           peers), and by calling `fatal` when a write fails.
//!
//! Why `<n>`: a hanging `sled::open` cannot be stopped, and it may still write by path; so a path
//! is never used for a second database.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use super::error::io;
use super::{Fatal, LogStart, StoreError};
use crate::ids::ShardId;

mod collecting;
pub(super) mod layout;
mod opening;
mod reader;
pub(super) mod value_log;
mod writer;

pub use layout::VALUE_BYTES_MAX;
pub(super) use opening::{Opened, open};

const READERS: usize = 2;

/// Keys, as the shard sees them, with their values.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Who takes part in a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Replicas {
    /// Ids of those who vote.
    pub voters: Vec<u64>,
    /// Ids of those who only listen.
    pub learners: Vec<u64>,
}

/// One shard's changes since its last checkpoint. Values and `head` are at most `VALUE_BYTES_MAX`
/// long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The shard.
    pub shard: ShardId,
    /// The last log entry whose effects are in it.
    pub at: LogStart,
    /// Who takes part, as of that entry.
    pub replicas: Replicas,
    /// The shard's own head; stored beside the index.
    pub head: Vec<u8>,
    /// Keys with their new values.
    pub puts: Pairs,
    /// Keys that go.
    pub deletes: Vec<Vec<u8>>,
}

/// What is known of a shard's checkpoint without reading it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ShardImage {
    /// Which of the shard's key ranges is the valid one; a received snapshot becomes the next.
    pub generation: u32,
    /// The last log entry whose effects are in it.
    pub at: LogStart,
    /// Who takes part, as of that entry.
    pub replicas: Replicas,
    /// The shard's own head.
    pub head: Vec<u8>,
}

/// A part of a shard's checkpoint on its way to another node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunk {
    /// The index the checkpoint stood at; when it differs from the first chunk's, begin again.
    pub at: LogStart,
    /// Keys and values, in order.
    pub pairs: Pairs,
    /// Whether nothing follows.
    pub last: Last,
}

/// Whether a chunk is the last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Last {
    /// More follows, after this chunk's last key.
    #[default]
    No,
    /// This was all.
    Yes,
}

/// Called with the shards, and the indexes they now stand at, that are on disk.
pub type Stored = Box<dyn FnOnce(Vec<(ShardId, u64)>) + Send>;

/// Called with the answer to one question.
pub type Reply<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

/// A handle to the checkpoints; clones share it. Ends when the last one is dropped or at `close`.
#[derive(Clone)]
pub struct Checkpoints(Arc<Shared>);

struct Shared {
    disk: Disk,
    orders: Sender<writer::Order>,
    reads: Mutex<Option<Sender<reader::Read>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What all threads share: the database and which generation of each shard is valid.
#[derive(Clone)]
struct Disk {
    db: sled::Db,
    dir: PathBuf,
    images: Arc<RwLock<BTreeMap<ShardId, ShardImage>>>,
}

/// How the checkpoints are kept.
#[derive(Clone)]
pub struct CheckpointOptions {
    /// Memory sled may use for its cache, in bytes. Warm state lives with the shards, so little is
    /// enough.
    pub cache_bytes: u64,
    /// How long opening may take before the directory is set aside.
    pub open_within: Duration,
    /// The least time between two flushes; checkpoints that come meanwhile share the next.
    pub flush_every: Duration,
    /// How long a file of the value log becomes, in bytes.
    pub value_file_bytes: u64,
    /// Called once when a write failed.
    pub fatal: Fatal,
}

impl CheckpointOptions {
    /// 6 MiB of cache, a minute to open, two flushes a second, long values in files of 64 MiB.
    #[must_use]
    pub fn new(fatal: Fatal) -> Self {
        Self {
            cache_bytes: 6 << 20,
            open_within: Duration::from_secs(60),
            flush_every: Duration::from_millis(500),
            value_file_bytes: 64 << 20,
            fatal,
        }
    }
}

impl Checkpoints {
    fn start(
        disk: Disk,
        log: value_log::ValueLog,
        found: opening::Found,
        options: CheckpointOptions,
    ) -> Result<Self, StoreError> {
        let (orders, inbox) = channel();
        let (reads, questions) = channel::<reader::Read>();
        let questions = Arc::new(Mutex::new(questions));
        let (dir, mut threads) = (disk.dir.clone(), Vec::new());
        let mut spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
            thread.map(|thread| threads.push(thread)).map_err(io("start a thread for", &dir))
        };
        let writer = writer::Writer::new(disk.clone(), log, found, options);
        spawn("checkpoints", Box::new(move || writer.run(&inbox)))?;
        for _ in 0..READERS {
            let (disk, questions) = (disk.clone(), Arc::clone(&questions));
            spawn("checkpoint-reads", Box::new(move || answer_all(&disk, &questions)))?;
        }
        let (reads, threads) = (Mutex::new(Some(reads)), Mutex::new(threads));
        Ok(Self(Arc::new(Shared { disk, orders, reads, threads })))
    }

    /// Writes the changes of some shards, each shard's in one step, and has them flushed soon.
    /// When the store has failed or is closed `done` is never called.
    pub fn write(&self, checkpoints: Vec<Checkpoint>, done: Stored) {
        self.order(writer::Order::Write(checkpoints, done));
    }

    /// Reads values; `None` for keys that are not there.
    pub fn load(&self, shard: ShardId, keys: Vec<Vec<u8>>, reply: Reply<Vec<Option<Vec<u8>>>>) {
        self.ask(reader::Read::Load { shard, keys, reply });
    }

    /// Reads the next keys and values of a checkpoint, up to about `bytes_max`, at least one pair.
    /// Changes between two chunks show in `Chunk::at`: hold the shard's checkpoints meanwhile.
    pub fn export(
        &self,
        shard: ShardId,
        after: Option<Vec<u8>>,
        bytes_max: usize,
        reply: Reply<Chunk>,
    ) {
        self.ask(reader::Read::Export { shard, after, bytes_max, reply });
    }

    /// What each shard's checkpoint says of itself, as of now.
    #[must_use]
    pub fn image(&self, shard: ShardId) -> Option<ShardImage> {
        self.0.disk.image(shard)
    }

    /// All keys with this prefix; blocks, for opening time.
    pub fn scan_keys(&self, shard: ShardId, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        self.0.disk.scan_keys(shard, prefix)
    }

    /// All keys with this prefix and their values; blocks, for opening time.
    pub fn scan(&self, shard: ShardId, prefix: &[u8]) -> Result<Pairs, StoreError> {
        self.0.disk.scan(shard, prefix)
    }

    /// Begins to receive a snapshot beside the valid checkpoint; drops what was received before.
    pub fn import_begin(&self, shard: ShardId, reply: Reply<()>) {
        self.order(writer::Order::ImportBegin { shard, reply });
    }

    /// Takes a part of the snapshot.
    pub fn import_chunk(&self, shard: ShardId, pairs: Pairs, reply: Reply<()>) {
        self.order(writer::Order::ImportChunk { shard, pairs, reply });
    }

    /// Makes the received snapshot, durably and in one step, the shard's checkpoint.
    /// `image.generation` is ignored.
    pub fn import_finish(&self, shard: ShardId, image: ShardImage, reply: Reply<()>) {
        self.order(writer::Order::ImportFinish { shard, image, reply });
    }

    /// Drops what was received.
    pub fn import_abort(&self, shard: ShardId) {
        self.order(writer::Order::ImportAbort { shard });
    }

    /// Writes what is waiting and ends the threads.
    pub fn close(&self) {
        self.0.close();
    }

    fn order(&self, order: writer::Order) {
        if let Err(refused) = self.0.orders.send(order) {
            refused.0.refuse();
        }
    }

    fn ask(&self, read: reader::Read) {
        let reads = self.0.reads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match reads {
            Some(reads) => {
                if let Err(refused) = reads.send(read) {
                    refused.0.refuse();
                }
            }
            None => read.refuse(),
        }
    }
}

impl Disk {
    fn image(&self, shard: ShardId) -> Option<ShardImage> {
        self.images.read().unwrap_or_else(PoisonError::into_inner).get(&shard).cloned()
    }

    fn generation(&self, shard: ShardId) -> Option<(u32, LogStart)> {
        let images = self.images.read().unwrap_or_else(PoisonError::into_inner);
        images.get(&shard).map(|image| (image.generation, image.at))
    }

    fn failed(&self) -> impl Fn(sled::Error) -> StoreError + use<> {
        let dir = self.dir.clone();
        move |source| StoreError::Checkpoints { dir: dir.clone(), source }
    }
}

impl Shared {
    fn close(&self) {
        let _ = self.orders.send(writer::Order::Close);
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut held = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = std::mem::take(&mut *held);
        drop(held);
        // The last handle may be dropped by a callback on one of these threads.
        let here = std::thread::current().id();
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != here) {
            let _ = thread.join();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

fn answer_all(disk: &Disk, questions: &Mutex<Receiver<reader::Read>>) {
    loop {
        let next = questions.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(read) = next else { return };
        read.answer(disk);
    }
}

#[cfg(test)]
impl Checkpoints {
    /// Counts everything in the database, leftovers and images included.
    pub(super) fn raw_keys(&self) -> usize {
        self.0.disk.db.iter().count()
    }

    /// Changes a stored value behind the checksum's back.
    pub(super) fn raw_damage(&self, shard: ShardId, own: &[u8]) {
        let generation = self.image(shard).map_or(0, |image| image.generation);
        self.raw_flip(&layout::key(shard, generation, own));
    }

    /// Changes a shard's image behind the checksum's back.
    pub(super) fn raw_damage_image(&self, shard: ShardId) {
        self.raw_flip(&layout::prefix(shard, layout::IMAGE));
    }

    fn raw_flip(&self, key: &[u8]) {
        let db = &self.0.disk.db;
        let mut value = db.get(key).ok().flatten().map(|value| value.to_vec()).unwrap_or_default();
        if let Some(byte) = value.last_mut() {
            *byte ^= 1;
        }
        assert!(db.insert(key, value).is_ok() && db.flush().is_ok());
    }
}
