//! Store: what this node remembers when it is switched off.
//!
//! Owns      the data directory: `node.id` (whose it is), `births` (which life of it), `LOCK`,
//!           `journal/` (the log of all shards) and `state/` (their checkpoints). One process works
//!           in it at a time.
//! Promises  what was answered as written survives a power cut; what cannot be read is an error
//!           that names the file and says what to do; another node's data is refused, never
//!           changed.
//! Never     blocks an actor: all writing and reading is on threads of its own, answers come by
//!           callback. Knows nothing of mailboxes: logs are Raft's entries, checkpoints are keys
//!           and bytes.
//! Fails by  calling `fatal`, after which nothing is answered any more; the process stops and
//!           starts from disk. Lost checkpoints are set aside and refilled from peers. A lost
//!           journal is the end of this birth: where the other nodes can fill another, journal and
//!           checkpoints are set aside and a new birth begins, else the directory is refused.
//!
//! Why two libraries: the journal is flushed for every check mark and read only at the start, which
//! raft-engine does at a few µs an entry; checkpoints are written every few seconds and read by
//! key, which sled does.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use raft::eraftpb::{ConfState, HardState};

use crate::ids::ShardId;

mod births;
mod checkpoints;
mod error;
mod fsync;
mod identity;
mod journal;
#[cfg(test)]
mod tests;

pub use births::{Births, Book, Known};
use checkpoints::Opened;
pub use checkpoints::{
    Checkpoint, CheckpointOptions, Checkpoints, Chunk, Last, Pairs, Replicas, Reply, ShardImage,
    Stored, VALUE_BYTES_MAX,
};
pub use error::StoreError;
pub use fsync::{install_real_fsync, real_fsync_installed};
pub use identity::{ClusterId, FORMAT, Identity, StoreId, Wanted};
pub use journal::{
    Durability, Fatal, Journal, JournalOptions, JournalStats, LogStart, Record, Recovered, Written,
};

/// What to do when sled's flush cannot be made real.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskTrust {
    /// Refuse to open.
    #[default]
    Proven,
    /// Go on: a power cut may lose checkpoints whose log is already gone.
    Unsafe,
}

/// What to do when the journal is damaged or gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LostJournal {
    /// Refuse to open: nobody else has enough to fill a new replica.
    #[default]
    Refuse,
    /// Set it aside with the checkpoints, and begin another birth, which the other nodes fill.
    BearAgain,
}

/// How the store is kept.
#[derive(Clone)]
pub struct StoreOptions {
    /// The journal.
    pub journal: JournalOptions,
    /// The checkpoints.
    pub checkpoints: CheckpointOptions,
    /// What to do when sled's flush cannot be made real.
    pub disk: DiskTrust,
    /// What to do when the journal is damaged or gone.
    pub lost_journal: LostJournal,
}

impl StoreOptions {
    /// The defaults; `fatal` is called once when the disk fails and must stop the process.
    #[must_use]
    pub fn new(fatal: Fatal) -> Self {
        Self {
            journal: JournalOptions::new(Fatal::clone(&fatal)),
            checkpoints: CheckpointOptions::new(fatal),
            disk: DiskTrust::Proven,
            lost_journal: LostJournal::Refuse,
        }
    }
}

/// An open data directory.
pub struct Store {
    /// Whose it is.
    pub identity: Identity,
    /// Which birth of the node this is, and which others it knows, as of opening.
    pub births: Births,
    /// Where they are kept.
    pub book: Book,
    /// The log of all shards.
    pub journal: Journal,
    /// Their checkpoints.
    pub checkpoints: Checkpoints,
    _lock: File,
}

/// What one shard can start from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ShardRecovery {
    /// Votes and log; `None` when this replica never wrote any.
    pub journal: Option<Recovered>,
    /// Its checkpoint.
    pub image: Option<ShardImage>,
    /// Whether image and log together are the whole state.
    pub state: Wholeness,
}

/// Whether a replica's state can be rebuilt from its own disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wholeness {
    /// Yes: the log goes on where the image (or nothing) stands.
    #[default]
    Whole,
    /// No: the log's beginning is gone and the image with it. Votes count; state must come from a
    /// peer.
    Lost,
}

/// What the data directory held.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovery {
    /// Every shard of which there is anything.
    pub shards: BTreeMap<ShardId, ShardRecovery>,
    /// True when the checkpoints did not open and were set aside.
    pub checkpoints_lost: bool,
}

impl Store {
    /// Takes the directory, compares its identity, and opens journal and checkpoints.
    pub fn open(
        dir: &Path,
        wanted: &Wanted,
        options: StoreOptions,
    ) -> Result<(Self, Recovery), StoreError> {
        if options.disk == DiskTrust::Proven && !real_fsync_installed() {
            return Err(StoreError::FlushNotReal);
        }
        std::fs::create_dir_all(dir).map_err(error::io("create directory", dir))?;
        let lock = identity::lock(dir)?;
        let book = Book::of(dir);
        let journal_dir = dir.join("journal");
        let (identity, births, data) = match Identity::read(dir)? {
            Some(mut identity) => {
                identity.check(dir, wanted)?;
                let mut births = book.open(&mut identity, wanted, &journal_dir)?;
                let data = Data::open_of(dir, &mut births, &book, wanted.node_id, &options)?;
                (identity, births, data)
            }
            None => {
                let identity = Identity::draw(wanted)?;
                let data = Data::open(dir, &options)?;
                if !data.is_empty() {
                    return Err(StoreError::IdentityMissing { file: identity::file(dir) });
                }
                let births = Births::new(identity.store_id);
                births::mark(&journal_dir, births.birth)?;
                book.keep(&births)?;
                // Written last, so that a directory with an identity always has all the rest.
                identity.write(dir)?;
                (identity, births, data)
            }
        };
        let Data { journal, logs, checkpoints: opened } = data;
        let mut repeats = Vec::new();
        let shards = join(logs, opened.images, &mut repeats);
        journal.write(repeats, Arc::new(|_| ()));
        let recovery = Recovery { shards, checkpoints_lost: opened.set_aside.is_some() };
        let checkpoints = opened.checkpoints;
        let store = Self { identity, births, book, journal, checkpoints, _lock: lock };
        Ok((store, recovery))
    }

    /// Writes what is waiting and ends all threads.
    pub fn close(&self) {
        self.journal.close();
        self.checkpoints.close();
    }
}

/// Journal and checkpoints, open.
struct Data {
    journal: Journal,
    logs: BTreeMap<ShardId, Recovered>,
    checkpoints: Opened,
}

impl Data {
    fn open(dir: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        let (file, options) = (dir.join("journal"), options.clone());
        let (journal, logs) = Journal::open(&file, options.journal)?;
        let checkpoints = checkpoints::open(dir, options.checkpoints)?;
        let data = Self { journal, logs, checkpoints };
        if data.logs.is_empty() && !data.checkpoints.images.is_empty() {
            data.close();
            let why = "it is empty but there are checkpoints".to_owned();
            return Err(StoreError::JournalDamaged { file, at: 0, why });
        }
        Ok(data)
    }

    /// Opens what a directory of this birth holds. When that is lost, it is set aside and another birth begins, if that
    /// is allowed; and what a birth has that has not taken part in anything yet is never its own.
    fn open_of(
        dir: &Path,
        births: &mut Births,
        book: &Book,
        me: crate::ids::NodeId,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        let journal = dir.join("journal");
        let opened = match births.incarnation {
            Some(_) if !births::is_marked(&journal, births.birth)? => {
                Err(StoreError::JournalMissing { dir: journal.clone() })
            }
            _ => Self::open(dir, options),
        };
        match (opened, births.incarnation) {
            (Ok(data), Some(_)) => return Ok(data),
            (Ok(data), None) if data.is_empty() => {
                births::mark(&journal, births.birth)?;
                return Ok(data);
            }
            (Ok(data), None) => data.close(),
            (Err(error), _) if !error.is_lost_journal() => return Err(error),
            (Err(error), Some(_)) if options.lost_journal == LostJournal::Refuse => {
                return Err(error);
            }
            (Err(error), _) => {
                tracing::error!(%error, "the votes and the log of this node are lost")
            }
        }
        // First of all nothing of it may count any more; a crash behind this line goes on here.
        if births.incarnation.is_some() {
            births.bear_again(me);
            book.keep(births)?;
        }
        let aside = births::set_aside(dir)?;
        tracing::error!(
            aside = ?aside,
            "the damaged data is set aside; this node begins anew and is filled by the others"
        );
        let data = Self::open(dir, options)?;
        births::mark(&journal, births.birth)?;
        Ok(data)
    }

    fn is_empty(&self) -> bool {
        self.logs.is_empty() && self.checkpoints.images.is_empty()
    }

    fn close(&self) {
        self.journal.close();
        self.checkpoints.checkpoints.close();
    }
}

/// Lays logs and images together; what the journal must still be told goes into `repeats`.
fn join(
    mut logs: BTreeMap<ShardId, Recovered>,
    images: BTreeMap<ShardId, ShardImage>,
    repeats: &mut Vec<Record>,
) -> BTreeMap<ShardId, ShardRecovery> {
    let mut shards = BTreeMap::new();
    for (shard, image) in images {
        // A new replica may receive a snapshot before it has anything to vote about.
        let log = logs.remove(&shard).unwrap_or_default();
        shards.insert(shard, fit(shard, log, image, repeats));
    }
    for (shard, log) in logs {
        let state = if log.start.index == 0 { Wholeness::Whole } else { Wholeness::Lost };
        shards.insert(shard, ShardRecovery { journal: Some(log), image: None, state });
    }
    shards
}

/// Lays log and image of one shard together; an image is committed state, so it wins over the log.
fn fit(
    shard: ShardId,
    mut log: Recovered,
    image: ShardImage,
    repeats: &mut Vec<Record>,
) -> ShardRecovery {
    let at = image.at;
    if at.index < log.start.index {
        tracing::error!(%shard, image = at.index, log = log.start.index, "checkpoint too old");
        return ShardRecovery { journal: Some(log), image: None, state: Wholeness::Lost };
    }
    if log.hard_state.term < at.term {
        log.hard_state = HardState { term: at.term, ..HardState::default() };
    }
    // The commit index is written late; what is in a checkpoint was committed.
    log.hard_state.commit = log.hard_state.commit.max(at.index);
    if log.term(at.index) != Some(at.term) {
        // A received snapshot was stored, and then the node stopped before the log was told.
        tracing::warn!(%shard, index = at.index, "the log goes on after a received snapshot");
        (log.start, log.hard_state.commit) = (at, at.index);
        log.entries.clear();
        let hard_state = Some(log.hard_state.clone());
        let Replicas { voters, learners } = image.replicas.clone();
        let conf_state = Some(ConfState::from((voters, learners)));
        repeats.push(Record {
            shard,
            reset: Some(at),
            hard_state,
            conf_state,
            ..Record::default()
        });
    }
    ShardRecovery { journal: Some(log), image: Some(image), state: Wholeness::Whole }
}

impl Recovered {
    /// The term of the entry at this index, if the log still knows it.
    #[must_use]
    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        let at = index.checked_sub(self.start.index + 1)?;
        self.entries.get(usize::try_from(at).ok()?).map(|entry| entry.term)
    }
}

/// For fuzzing: reads whatever a data directory may hold; answers whether it was any of it.
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    let record = checkpoints::value_log::fuzz(bytes);
    let (image, log) = (checkpoints::layout::fuzz(bytes), journal::fuzz(bytes));
    identity::fuzz(bytes) || births::fuzz(bytes) || record || image || log
}

/// For fuzzing: files and values as they are written.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = journal::seeds();
    seeds.extend([identity::seed(), births::seed(), checkpoints::layout::seed()]);
    seeds
}
