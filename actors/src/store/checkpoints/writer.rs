//! Writer: the one thread that changes the checkpoints; removes leftovers when it has nothing
//! better to do.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::collecting::{Collector, Moved};
use super::layout::{self, IMAGE, VALUE_BYTES_MAX};
use super::opening::Found;
use super::value_log::{self, ValueLog};
use super::{Checkpoint, CheckpointOptions, Disk, Pairs, Reply, ShardImage, StoreError, Stored};
use crate::clock;
use crate::ids::ShardId;
use crate::store::Fatal;

/// Keys of a leftover generation that are removed at a time, so that a checkpoint never waits long.
const TRASH_KEYS: usize = 256;

/// Of the writing threads, where 0 is that of the others (on Linux each thread has its own). At 5 a thread still gets a
/// quarter of a core that another wants whole.
const NICENESS: i32 = 5;

pub(super) enum Order {
    Write(Vec<Checkpoint>, Stored),
    ImportBegin { shard: ShardId, reply: Reply<()> },
    ImportChunk { shard: ShardId, pairs: Pairs, reply: Reply<()> },
    ImportFinish { shard: ShardId, image: ShardImage, reply: Reply<()> },
    ImportAbort { shard: ShardId },
    Close,
}

impl Order {
    pub(super) fn refuse(self) {
        match self {
            Self::ImportBegin { reply, .. }
            | Self::ImportChunk { reply, .. }
            | Self::ImportFinish { reply, .. } => reply(Err(StoreError::Stopped)),
            Self::Write(..) | Self::ImportAbort { .. } | Self::Close => {}
        }
    }
}

pub(super) struct Writer {
    pub(super) disk: Disk,
    pub(super) log: ValueLog,
    pub(super) collector: Collector,
    fatal: Fatal,
    /// The generation of each shard's newest checkpoint, written or waiting.
    generations: BTreeMap<ShardId, u32>,
    /// The generation that a shard's incoming snapshot is written to.
    staging: BTreeMap<ShardId, u32>,
    /// The highest generation that was ever used, so that none is used twice.
    highest: BTreeMap<ShardId, u32>,
    trash: VecDeque<(ShardId, u32)>,
    /// To be written with the next flush: what is in the value log must be on disk before a key points to it.
    waiting: Vec<(Vec<Checkpoint>, Stored)>,
    /// Each flush of sled is several of the disk, which the journal waits for: not more often than this.
    flush_every: Duration,
    flushed: Instant,
}

/// One shard's changes, and what then is known of it.
struct Change {
    shard: ShardId,
    image: ShardImage,
    values: Values,
}

/// Keys with what will stand under them; `None` for those that go.
type Values = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

enum Next {
    Go,
    End,
}

impl Writer {
    pub(super) fn new(disk: Disk, log: ValueLog, found: Found, options: CheckpointOptions) -> Self {
        let images = found.images.iter().map(|(shard, image)| (*shard, image.generation));
        let generations: BTreeMap<_, _> = images.collect();
        let mut highest = generations.clone();
        for (shard, generation) in found.trash.iter().copied() {
            let known = highest.entry(shard).or_insert(generation);
            *known = generation.max(*known);
        }
        Self {
            disk,
            log,
            collector: Collector::new(),
            fatal: options.fatal,
            generations,
            staging: BTreeMap::new(),
            highest,
            trash: found.trash.into(),
            waiting: Vec::new(),
            flush_every: options.flush_every,
            flushed: clock::monotonic(),
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Order>) {
        yield_to_others();
        // sled panics on some failures of the disk; that is a failed write like any other.
        let served = catch_unwind(AssertUnwindSafe(|| self.serve(inbox)));
        let panicked = || sled::Error::Io(std::io::Error::other("sled panicked"));
        if let Err(error) = served.unwrap_or_else(|_| Err(self.disk.failed()(panicked()))) {
            tracing::error!(%error, "checkpoints cannot be written");
            (self.fatal)(error);
        }
    }

    fn serve(&mut self, inbox: &Receiver<Order>) -> Result<(), StoreError> {
        loop {
            let Some(order) = self.next(inbox)? else { continue };
            if let Next::End = self.perform(order)? {
                return self.flush();
            }
        }
    }

    /// The next order; `None` when something else was done instead.
    fn next(&mut self, inbox: &Receiver<Order>) -> Result<Option<Order>, StoreError> {
        let due = self.flushed + self.flush_every;
        let left = due.saturating_duration_since(clock::monotonic());
        if !self.waiting.is_empty() && left.is_zero() {
            self.flush()?;
        }
        let next = match (self.trash.is_empty(), self.waiting.is_empty()) {
            (false, _) => inbox.recv_timeout(Duration::ZERO),
            (true, false) => inbox.recv_timeout(left),
            (true, true) if self.can_collect() => inbox.recv_timeout(self.flush_every),
            (true, true) => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            Ok(order) => return Ok(Some(order)),
            Err(RecvTimeoutError::Disconnected) => return Ok(Some(Order::Close)),
            Err(RecvTimeoutError::Timeout) if self.has_trash() => self.remove_some()?,
            Err(RecvTimeoutError::Timeout) if self.waiting.is_empty() => self.flush()?,
            Err(RecvTimeoutError::Timeout) => {}
        }
        Ok(None)
    }

    /// Whether leftovers are still to be removed.
    pub(super) fn has_trash(&self) -> bool {
        !self.trash.is_empty()
    }

    fn perform(&mut self, order: Order) -> Result<Next, StoreError> {
        match order {
            Order::Write(checkpoints, done) => self.waiting.push((checkpoints, done)),
            Order::ImportBegin { shard, reply } => {
                self.begin(shard);
                reply(Ok(()));
            }
            Order::ImportChunk { shard, pairs, reply } => reply(self.chunk(shard, &pairs)?),
            Order::ImportFinish { shard, image, reply } => reply(self.finish(shard, image)?),
            Order::ImportAbort { shard } => self.abort(shard),
            Order::Close => return Ok(Next::End),
        }
        Ok(Next::Go)
    }

    /// Writes what waits and makes it durable, and says so.
    fn flush(&mut self) -> Result<(), StoreError> {
        let Moved { moves, emptied } = self.move_some()?;
        let (mut changes, mut answers) = (Vec::new(), Vec::new());
        for (checkpoints, done) in std::mem::take(&mut self.waiting) {
            let stored: Vec<_> = checkpoints.iter().map(|one| (one.shard, one.at.index)).collect();
            for checkpoint in checkpoints {
                changes.push(self.prepare(checkpoint)?);
            }
            answers.push((stored, done));
        }
        self.log.sync()?;
        for change in changes {
            self.apply(change)?;
        }
        self.redirect(moves)?;
        self.count_some()?;
        self.disk.db.flush().map_err(self.disk.failed())?;
        self.flushed = clock::monotonic();
        self.free(emptied)?;
        for (stored, done) in answers {
            done(stored);
        }
        Ok(())
    }

    /// What one shard's changes write; what is long goes to the value log now.
    fn prepare(&mut self, checkpoint: Checkpoint) -> Result<Change, StoreError> {
        let Checkpoint { shard, at, replicas, head, puts, deletes } = checkpoint;
        let known = self.generations.get(&shard).copied();
        let generation = known.unwrap_or_else(|| self.fresh(shard));
        self.generations.insert(shard, generation);
        let deletes = deletes.iter().map(|own| (layout::key(shard, generation, own), None));
        let mut values: Values = deletes.collect();
        values.extend(self.seal_all(shard, generation, &puts)?);
        Ok(Change { shard, image: ShardImage { generation, at, replicas, head }, values })
    }

    /// Keys with what will stand under them.
    fn seal_all(
        &mut self,
        shard: ShardId,
        generation: u32,
        pairs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<Values, StoreError> {
        let sealed = pairs.iter().map(|(own, bytes)| {
            let key = layout::key(shard, generation, own);
            let value = self.seal(&key, bytes)?;
            Ok((key, Some(value)))
        });
        sealed.collect()
    }

    /// What stands under a key: the value, or where in the value log it was added.
    fn seal(&mut self, key: &[u8], bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
        // Invariant: callers cut what is longer into several values.
        debug_assert!(bytes.len() <= VALUE_BYTES_MAX, "a value of {} bytes", bytes.len());
        if !value_log::takes(key, bytes) {
            return Ok(layout::seal(key, bytes));
        }
        self.log.add(key, bytes).map(|place| layout::seal_place(key, place))
    }

    /// Writes one shard's changes and its image in one atomic batch.
    fn apply(&mut self, Change { shard, image, values }: Change) -> Result<(), StoreError> {
        // Invariant: a shard's checkpoints only move forward.
        debug_assert!(
            self.disk.image(shard).is_none_or(|before| before.at.index <= image.at.index),
            "{shard}"
        );
        let mut batch = sled::Batch::default();
        self.fill(&mut batch, values)?;
        batch.insert(&layout::prefix(shard, IMAGE), layout::seal_image(shard, &image));
        self.disk.db.apply_batch(batch).map_err(self.disk.failed())?;
        self.show(shard, image);
        Ok(())
    }

    fn fill(&mut self, batch: &mut sled::Batch, values: Values) -> Result<(), StoreError> {
        for (key, value) in values {
            self.count_change(&key, value.as_deref())?;
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        Ok(())
    }

    fn begin(&mut self, shard: ShardId) {
        self.abort(shard);
        let generation = self.fresh(shard);
        self.staging.insert(shard, generation);
    }

    fn chunk(
        &mut self,
        shard: ShardId,
        pairs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<Result<(), StoreError>, StoreError> {
        let Some(generation) = self.staging.get(&shard).copied() else {
            return Ok(Err(StoreError::NotImporting { shard }));
        };
        let values = self.seal_all(shard, generation, pairs)?;
        // Keys may point to what is not on disk yet: before it is, nothing says that they count.
        let mut batch = sled::Batch::default();
        self.fill(&mut batch, values)?;
        self.disk.db.apply_batch(batch).map_err(self.disk.failed())?;
        Ok(Ok(()))
    }

    fn finish(
        &mut self,
        shard: ShardId,
        image: ShardImage,
    ) -> Result<Result<(), StoreError>, StoreError> {
        let Some(generation) = self.staging.remove(&shard) else {
            return Ok(Err(StoreError::NotImporting { shard }));
        };
        let image = ShardImage { generation, ..image };
        // First what the image points to, then the image.
        self.flush()?;
        let key = layout::prefix(shard, IMAGE);
        let value = layout::seal_image(shard, &image);
        self.disk.db.insert(key, value).map_err(self.disk.failed())?;
        self.flush()?;
        let before = self.generations.insert(shard, generation);
        self.show(shard, image);
        self.trash.extend(before.map(|before| (shard, before)));
        Ok(Ok(()))
    }

    fn abort(&mut self, shard: ShardId) {
        let staged = self.staging.remove(&shard);
        self.trash.extend(staged.map(|generation| (shard, generation)));
    }

    fn remove_some(&mut self) -> Result<(), StoreError> {
        let Some((shard, generation)) = self.trash.front().copied() else { return Ok(()) };
        let keys = self.disk.db.scan_prefix(layout::prefix(shard, generation)).keys();
        let keys: Result<Vec<_>, _> = keys.take(TRASH_KEYS).collect();
        let keys = keys.map_err(self.disk.failed())?;
        let (mut batch, count) = (sled::Batch::default(), keys.len());
        for key in keys {
            self.count_change(&key, None)?;
            batch.remove(key);
        }
        self.disk.db.apply_batch(batch).map_err(self.disk.failed())?;
        if count < TRASH_KEYS {
            self.trash.pop_front();
        }
        Ok(())
    }

    fn fresh(&mut self, shard: ShardId) -> u32 {
        let highest = self.highest.entry(shard).or_default();
        *highest += 1;
        *highest
    }

    fn show(&self, shard: ShardId, image: ShardImage) {
        self.disk.images.write().unwrap_or_else(PoisonError::into_inner).insert(shard, image);
    }
}

/// Lets other threads go before this one and those it starts, as sled does for its writes: no message waits for a
/// checkpoint.
pub(super) fn yield_to_others() {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "checkpoints are written at the priority of everything else");
    }
}
