//! Writer: the journal's thread. Takes all that waits, writes it in one batch with one flush,
//! answers, repeats.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use raft::eraftpb::{ConfState, Entry, HardState};
use raft_engine::{Command, LogBatch};

use super::anchor::Anchor;
use super::pulse::{Pulse, weight};
use super::recover::{CONF, HARD, START, START_VERSION};
use super::{
    Durability, Engine, Entries, Fatal, JournalOptions, LogStart, Order, Record, Recovered,
    StoreError, Written,
};
use crate::ids::ShardId;
use crate::store::error::io;
use crate::{clock, codec};

/// Entry bytes after which a batch takes no more submissions; bounds how long one flush takes.
const BATCH_BYTES_MAX: u64 = 8 << 20;

/// What the writer shares with the handles.
pub(super) struct Signs {
    pub(super) pulse: Arc<Pulse>,
    pub(super) pinned: Arc<Mutex<BTreeSet<ShardId>>>,
    pub(super) stopped: Arc<AtomicBool>,
}

pub(super) struct Writer {
    dir: PathBuf,
    engine: Arc<Engine>,
    shards: BTreeMap<ShardId, Known>,
    sync: bool,
    fatal: Fatal,
    signs: Signs,
    purge: Option<(Sender<()>, JoinHandle<()>)>,
    purge_every: Duration,
    purged: Instant,
    failed: Arc<AtomicBool>,
    /// Held while old files are purged. raft-engine moves entries from old files as it saw them;
    /// when a region is overwritten or begun anew meanwhile, it panics. Everything else may run
    /// beside it.
    purging: Arc<Mutex<()>>,
    /// Whether the batch being staged does either.
    rewrites: bool,
}

/// What the writer must remember of a shard's log to check and to repeat it.
#[derive(Default)]
struct Known {
    start: LogStart,
    last: u64,
    hard_state: HardState,
    /// The commit index moved but was not written.
    commit_waits: bool,
    conf_state: Option<ConfState>,
}

type Submission = (Vec<Record>, Written);

impl Writer {
    pub(super) fn new(
        dir: &Path,
        engine: Engine,
        recovered: &BTreeMap<ShardId, Recovered>,
        options: JournalOptions,
        signs: Signs,
    ) -> Result<Self, StoreError> {
        let (engine, failed) = (Arc::new(engine), Arc::new(AtomicBool::new(false)));
        let purging = Arc::default();
        let (purge, wanted) = channel();
        let purger = Purger {
            dir: dir.to_owned(),
            engine: Arc::clone(&engine),
            fatal: Arc::clone(&options.fatal),
            pinned: Arc::clone(&signs.pinned),
            failed: Arc::clone(&failed),
            purging: Arc::clone(&purging),
            anchor: Anchor::read(dir),
        };
        let purger = std::thread::Builder::new()
            .name("journal-purge".to_owned())
            .spawn(move || purger.run(&wanted))
            .map_err(io("start a thread for", dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            engine,
            shards: recovered.iter().map(|(shard, log)| (*shard, Known::of(log))).collect(),
            sync: options.durability == Durability::Disk,
            fatal: options.fatal,
            signs,
            purge: Some((purge, purger)),
            purge_every: options.purge_every,
            purged: clock::monotonic(),
            failed,
            purging,
            rewrites: false,
        })
    }

    pub(super) fn run(mut self, inbox: &Receiver<Order>) {
        let ended = self.serve(inbox);
        self.signs.stopped.store(true, Ordering::Release);
        if let Err(error) = ended {
            self.failed.store(true, Ordering::Release);
            tracing::error!(%error, "the journal cannot go on");
            (self.fatal)(error);
            // Dropping the engine would write to a disk that is no longer trusted.
            std::mem::forget(Arc::clone(&self.engine));
        }
        // The directory is free again only when the purger has let go of it too.
        if let Some((purge, purger)) = self.purge.take() {
            drop(purge);
            let _ = purger.join();
        }
    }

    fn serve(&mut self, inbox: &Receiver<Order>) -> Result<(), StoreError> {
        let mut batch = LogBatch::default();
        while let Ok(order) = inbox.recv() {
            let (submissions, open) = gather(order, inbox);
            for (records, _) in &submissions {
                self.stage_all(&mut batch, records)?;
            }
            if !open {
                self.stage_commits(&mut batch)?;
            }
            self.write(&mut batch)?;
            self.answer(submissions);
            if !open {
                break;
            }
        }
        Ok(())
    }

    fn stage_all(&mut self, batch: &mut LogBatch, records: &[Record]) -> Result<(), StoreError> {
        for record in records {
            let known = self.shards.entry(record.shard).or_default();
            known.check(record)?;
            self.rewrites |= known.is_rewritten_by(record);
            known
                .stage(batch, record)
                .map_err(|error| write_failed(&self.dir, error.to_string()))?;
        }
        Ok(())
    }

    /// At a clean end also the commit indexes are written, which saves Raft from learning them
    /// again.
    fn stage_commits(&mut self, batch: &mut LogBatch) -> Result<(), StoreError> {
        for (shard, known) in self.shards.iter_mut().filter(|(_, known)| known.commit_waits) {
            known.commit_waits = false;
            batch
                .put_message(region(*shard), HARD.to_vec(), &known.hard_state)
                .map_err(|error| write_failed(&self.dir, error.to_string()))?;
        }
        Ok(())
    }

    fn write(&mut self, batch: &mut LogBatch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let purging = Arc::clone(&self.purging);
        let alone = std::mem::take(&mut self.rewrites)
            .then(|| purging.lock().unwrap_or_else(PoisonError::into_inner));
        let began = clock::monotonic();
        let (engine, sync) = (&self.engine, self.sync);
        // raft-engine panics when a flush fails; that must not look like an answer either.
        let bytes = match catch_unwind(AssertUnwindSafe(|| engine.write(batch, sync))) {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(write_failed(&self.dir, error.to_string())),
            Err(panic) => return Err(write_failed(&self.dir, panic_text(panic.as_ref()))),
        };
        drop(alone);
        let now = clock::monotonic();
        let took = now.saturating_duration_since(began);
        self.signs.pulse.wrote(bytes, engine.get_used_size(), took);
        if now.saturating_duration_since(self.purged) >= self.purge_every {
            self.purged = now;
            if let Some((purge, _)) = &self.purge {
                let _ = purge.send(());
            }
        }
        if self.failed.load(Ordering::Acquire) {
            return Err(write_failed(&self.dir, "purging old files failed".to_owned()));
        }
        Ok(())
    }

    /// Calls each `done` once, in order; neighbours that share one are answered together.
    fn answer(&self, submissions: Vec<Submission>) {
        let mut waiting: Option<(Written, Vec<(ShardId, u64)>)> = None;
        for (records, done) in submissions {
            let entries = records.iter().map(|record| record.entries.len() as u64).sum();
            self.signs.pulse.answered(records.len() as u64, entries, weight(&records));
            let tickets = records.iter().map(|record| (record.shard, record.ticket));
            match &mut waiting {
                Some((same, all)) if Arc::ptr_eq(same, &done) => all.extend(tickets),
                other => {
                    if let Some((done, all)) = other.replace((done, tickets.collect())) {
                        done(all);
                    }
                }
            }
        }
        if let Some((done, all)) = waiting {
            done(all);
        }
    }
}

impl Known {
    fn of(log: &Recovered) -> Self {
        Self {
            start: log.start,
            last: log.entries.last().map_or(log.start.index, |entry| entry.index),
            hard_state: log.hard_state.clone(),
            commit_waits: false,
            conf_state: log.conf_state.clone(),
        }
    }

    /// raft-engine panics on a log with holes, after it has written it: so nothing of the kind may
    /// reach it.
    fn check(&self, record: &Record) -> Result<(), StoreError> {
        let (mut first, mut last) = match record.reset {
            Some(start) => (start.index + 1, start.index),
            None => (self.start.index + 1, self.last),
        };
        let shard = record.shard;
        let misuse =
            |rule, index, first, last| Err(StoreError::Misuse { shard, rule, index, first, last });
        for (at, Entry { index, .. }) in record.entries.iter().enumerate() {
            let fits =
                if at == 0 { (first..=last + 1).contains(index) } else { *index == last + 1 };
            if !fits {
                return misuse("entries must follow the log without a gap", *index, first, last);
            }
            last = *index;
        }
        if let Some(to) = record.compact {
            if to.index > last {
                return misuse("only what is in the log can be compacted", to.index, first, last);
            }
            first = first.max(to.index + 1);
        }
        // Invariant: a log is empty or begins right after its start.
        debug_assert!(first <= last + 1);
        Ok(())
    }

    fn is_rewritten_by(&self, record: &Record) -> bool {
        let overwrites = |entry: &Entry| entry.index <= self.last;
        record.reset.is_some() || record.entries.first().is_some_and(overwrites)
    }

    fn stage(&mut self, batch: &mut LogBatch, record: &Record) -> raft_engine::Result<()> {
        let region = region(record.shard);
        let mut touched = false;
        if let Some(start) = record.reset {
            // Clean also forgets the states: they are put again below.
            batch.add_command(region, Command::Clean);
            (self.start, self.last, touched) = (start, start.index, true);
            batch.put(region, START.to_vec(), codec::seal(START_VERSION, &start))?;
            if let Some(conf_state) = record.conf_state.as_ref().or(self.conf_state.as_ref()) {
                batch.put_message(region, CONF.to_vec(), conf_state)?;
            }
        }
        if let Some(last) = record.entries.last() {
            batch.add_entries::<Entries>(region, &record.entries)?;
            (self.last, touched) = (last.index, true);
        }
        if let Some(start) = record.compact.filter(|start| start.index > self.start.index) {
            // The entry at the start itself stays. raft-engine may forget a compaction but keep
            // copies of old entries; a live entry behind them is what tells it, at opening, that
            // they are gone.
            batch.add_command(region, Command::Compact { index: start.index });
            batch.put(region, START.to_vec(), codec::seal(START_VERSION, &start))?;
            (self.start, touched) = (start, true);
        }
        if let Some(conf_state) = &record.conf_state {
            batch.put_message(region, CONF.to_vec(), conf_state)?;
            (self.conf_state, touched) = (Some(conf_state.clone()), true);
        }
        if let Some(hard_state) = &record.hard_state {
            let (old, new) = (&self.hard_state, hard_state);
            touched |= old.term != new.term || old.vote != new.vote;
            self.commit_waits |= old.commit != new.commit;
            self.hard_state = hard_state.clone();
        }
        if touched {
            batch.put_message(region, HARD.to_vec(), &self.hard_state)?;
            self.commit_waits = false;
        }
        Ok(())
    }
}

/// Frees old files beside the writer, so that no flush waits for it.
struct Purger {
    dir: PathBuf,
    engine: Arc<Engine>,
    fatal: Fatal,
    pinned: Arc<Mutex<BTreeSet<ShardId>>>,
    failed: Arc<AtomicBool>,
    purging: Arc<Mutex<()>>,
    anchor: Anchor,
}

impl Purger {
    fn run(mut self, wanted: &Receiver<()>) {
        while wanted.recv().is_ok() {
            if let Err(error) = self.purge() {
                self.failed.store(true, Ordering::Release);
                tracing::error!(%error, "old files of the journal cannot be purged");
                (self.fatal)(error);
                std::mem::forget(self.engine);
                return;
            }
        }
    }

    fn purge(&mut self) -> Result<(), StoreError> {
        let alone = self.purging.lock().unwrap_or_else(PoisonError::into_inner);
        let purge = AssertUnwindSafe(|| self.engine.purge_expired_files());
        let regions = match catch_unwind(purge) {
            Ok(Ok(regions)) => regions,
            Ok(Err(error)) => return Err(write_failed(&self.dir, error.to_string())),
            Err(panic) => return Err(write_failed(&self.dir, panic_text(panic.as_ref()))),
        };
        drop(alone);
        self.anchor.advance(&self.dir)?;
        let shards = regions.into_iter().filter_map(|region| u16::try_from(region - 1).ok());
        *self.pinned.lock().unwrap_or_else(PoisonError::into_inner) = shards.map(ShardId).collect();
        Ok(())
    }
}

/// Takes what waits, up to a bound; false when it is time to end.
fn gather(first: Order, inbox: &Receiver<Order>) -> (Vec<Submission>, bool) {
    let (mut submissions, mut bytes, mut next) = (Vec::new(), 0, Some(first));
    while let Some(order) = next {
        let Order::Write(records, done) = order else { return (submissions, false) };
        bytes += weight(&records);
        submissions.push((records, done));
        next = if bytes < BATCH_BYTES_MAX { inbox.try_recv().ok() } else { None };
    }
    (submissions, true)
}

fn region(shard: ShardId) -> u64 {
    u64::from(shard.0) + 1
}

fn write_failed(dir: &Path, why: String) -> StoreError {
    StoreError::JournalWrite { dir: dir.to_owned(), why }
}

/// The text a panic carried.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}
