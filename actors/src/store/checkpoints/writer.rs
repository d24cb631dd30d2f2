//! Writer: the one thread that changes the checkpoints; removes leftovers when it has nothing
//! better to do.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::layout::{self, IMAGE};
use super::opening::Found;
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
    disk: Disk,
    fatal: Fatal,
    /// The generation that a shard's incoming snapshot is written to.
    staging: BTreeMap<ShardId, u32>,
    /// The highest generation that was ever used, so that none is used twice.
    highest: BTreeMap<ShardId, u32>,
    trash: VecDeque<(ShardId, u32)>,
    /// Written, not flushed.
    waiting: Vec<(Vec<(ShardId, u64)>, Stored)>,
    /// Each flush of sled is several of the disk, which the journal waits for: not more often than this.
    flush_every: Duration,
    flushed: Instant,
}

enum Next {
    Go,
    End,
}

impl Writer {
    pub(super) fn new(disk: Disk, found: Found, options: CheckpointOptions) -> Self {
        let images = found.images.iter().map(|(shard, image)| (*shard, image.generation));
        let mut highest = BTreeMap::new();
        for (shard, generation) in images.chain(found.trash.iter().copied()) {
            let known = highest.entry(shard).or_insert(generation);
            *known = generation.max(*known);
        }
        Self {
            disk,
            fatal: options.fatal,
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
            (true, true) => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            Ok(order) => return Ok(Some(order)),
            Err(RecvTimeoutError::Disconnected) => return Ok(Some(Order::Close)),
            Err(RecvTimeoutError::Timeout) if self.trash.is_empty() => {}
            Err(RecvTimeoutError::Timeout) => self.remove_some()?,
        }
        Ok(None)
    }

    fn perform(&mut self, order: Order) -> Result<Next, StoreError> {
        match order {
            Order::Write(checkpoints, done) => self.write(checkpoints, done)?,
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

    fn write(&mut self, checkpoints: Vec<Checkpoint>, done: Stored) -> Result<(), StoreError> {
        let mut stored = Vec::with_capacity(checkpoints.len());
        for checkpoint in checkpoints {
            let (shard, image) = self.apply(checkpoint)?;
            stored.push((shard, image.at.index));
        }
        self.waiting.push((stored, done));
        Ok(())
    }

    /// Makes durable what was written, and says so.
    fn flush(&mut self) -> Result<(), StoreError> {
        self.disk.db.flush().map_err(self.disk.failed())?;
        self.flushed = clock::monotonic();
        for (stored, done) in std::mem::take(&mut self.waiting) {
            done(stored);
        }
        Ok(())
    }

    /// Writes one shard's changes and its image in one atomic batch.
    fn apply(&mut self, checkpoint: Checkpoint) -> Result<(ShardId, ShardImage), StoreError> {
        let Checkpoint { shard, at, replicas, head, puts, deletes } = checkpoint;
        let before = self.disk.generation(shard);
        // Invariant: a shard's checkpoints only move forward.
        debug_assert!(before.is_none_or(|(_, before)| before.index <= at.index), "{shard}");
        let generation = before.map_or_else(|| self.fresh(shard), |(generation, _)| generation);
        let image = ShardImage { generation, at, replicas, head };
        let mut batch = sled::Batch::default();
        for own in &deletes {
            batch.remove(layout::key(shard, generation, own));
        }
        put_all(&mut batch, shard, generation, &puts);
        batch.insert(&layout::prefix(shard, IMAGE), layout::seal_image(shard, &image));
        self.disk.db.apply_batch(batch).map_err(self.disk.failed())?;
        self.show(shard, image.clone());
        Ok((shard, image))
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
        let Some(generation) = self.staging.get(&shard) else {
            return Ok(Err(StoreError::NotImporting { shard }));
        };
        let mut batch = sled::Batch::default();
        put_all(&mut batch, shard, *generation, pairs);
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
        let before = self.disk.generation(shard);
        self.show(shard, image);
        self.trash.extend(before.map(|(generation, _)| (shard, generation)));
        Ok(Ok(()))
    }

    fn abort(&mut self, shard: ShardId) {
        let staged = self.staging.remove(&shard);
        self.trash.extend(staged.map(|generation| (shard, generation)));
    }

    fn remove_some(&mut self) -> Result<(), StoreError> {
        let Some((shard, generation)) = self.trash.front().copied() else { return Ok(()) };
        let mut batch = sled::Batch::default();
        let mut count = 0;
        for key in self.disk.db.scan_prefix(layout::prefix(shard, generation)).keys() {
            batch.remove(key.map_err(self.disk.failed())?);
            count += 1;
            if count == TRASH_KEYS {
                break;
            }
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

fn put_all(batch: &mut sled::Batch, shard: ShardId, generation: u32, pairs: &[(Vec<u8>, Vec<u8>)]) {
    for (own, bytes) in pairs {
        let key = layout::key(shard, generation, own);
        let value = layout::seal(&key, bytes);
        batch.insert(key, value);
    }
}

/// Lets other threads go before this one and those it starts, as sled does for its writes: no message waits for a
/// checkpoint.
pub(super) fn yield_to_others() {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "checkpoints are written at the priority of everything else");
    }
}
