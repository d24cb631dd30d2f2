//! Reader: answers questions about the valid generation, and checks every value it hands out.

use std::io::ErrorKind;
use std::time::Duration;

use rustix::io::Errno;

use super::layout::{self, PREFIX, Value};
use super::{Chunk, Disk, Last, Pairs, Reply, StoreError, value_log};
use crate::codec::BadBytes;
use crate::ids::ShardId;
use crate::store::error::io;

/// How often a read that was overtaken by a change begins again.
const TRIES: usize = 3;

/// How long a read waits for what the system lacks, and how long before each new try.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

pub(super) enum Read {
    Load { shard: ShardId, keys: Vec<Vec<u8>>, reply: Reply<Vec<Option<Vec<u8>>>> },
    Export { shard: ShardId, after: Option<Vec<u8>>, bytes_max: usize, reply: Reply<Chunk> },
}

impl Read {
    pub(super) fn answer(self, disk: &Disk) {
        match self {
            Self::Load { shard, keys, reply } => reply(disk.load(shard, &keys)),
            Self::Export { shard, after, bytes_max, reply } => {
                reply(disk.export(shard, after.as_deref(), bytes_max));
            }
        }
    }

    pub(super) fn refuse(self) {
        match self {
            Self::Load { reply, .. } => reply(Err(StoreError::Stopped)),
            Self::Export { reply, .. } => reply(Err(StoreError::Stopped)),
        }
    }
}

impl Disk {
    fn load(&self, shard: ShardId, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        for _ in 0..TRIES {
            let Some((generation, _)) = self.generation(shard) else { break };
            let values =
                keys.iter().map(|own| self.value(&layout::key(shard, generation, own))).collect();
            // A snapshot that came in between took the keys away under our hands.
            if self.generation(shard).is_some_and(|(now, _)| now == generation) {
                return values;
            }
        }
        Err(StoreError::Replaced { shard })
    }

    /// Reads a value. What is moved meanwhile is looked for again, and what the system lacks for a moment is waited for.
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        for _ in 0..TRIES {
            let value = self.db.get(key).map_err(self.failed())?;
            let Some(value) = value else { return Ok(None) };
            if let Some(value) = self.unseal(key, &value)? {
                return Ok(Some(value));
            }
        }
        Err(self.bad(key, BadBytes::Gone))
    }

    /// The value behind what stood under a key; `None` when it has been moved since.
    fn unseal(&self, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let place = match layout::open(key, value).map_err(|why| self.bad(key, why))? {
            Value::Here(bytes) => return Ok(Some(bytes.to_vec())),
            Value::InLog(place) => place,
        };
        let dir = value_log::dir_of(&self.dir);
        let file = value_log::path_of(&dir, place.file);
        let bad = |why| {
            let (dir, key) = (file.clone(), layout::readable(key));
            StoreError::BadValue { dir, key, why }
        };
        let mut patience = PATIENCE;
        loop {
            match value_log::read(&dir, key, place) {
                Ok(read) => return read.map(Some).map_err(bad),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                // Too many open files: others close theirs.
                Err(error) if passes(&error) && !patience.is_zero() => {
                    patience = patience.saturating_sub(PAUSE);
                    pause();
                }
                Err(error) => return Err(io("read", &file)(error)),
            }
        }
    }

    /// The value of a pair that was just seen; `None` when it is gone.
    fn value_seen(&self, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.unseal(key, value)? {
            None => self.value(key),
            value => Ok(value),
        }
    }

    pub(super) fn bad(&self, key: &[u8], why: BadBytes) -> StoreError {
        StoreError::BadValue { dir: self.dir.clone(), key: layout::readable(key), why }
    }

    fn export(
        &self,
        shard: ShardId,
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> Result<Chunk, StoreError> {
        for _ in 0..TRIES {
            let Some((generation, at)) = self.generation(shard) else { break };
            let chunk = self.chunk(shard, generation, after, bytes_max);
            if self.generation(shard) == Some((generation, at)) {
                return chunk.map(|chunk| Chunk { at, ..chunk });
            }
        }
        Err(StoreError::Replaced { shard })
    }

    fn chunk(
        &self,
        shard: ShardId,
        generation: u32,
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> Result<Chunk, StoreError> {
        // The least key after `after` is `after` with a zero byte.
        let from = match after {
            Some(own) => layout::key(shard, generation, &[own, &[0]].concat()),
            None => layout::key(shard, generation, b""),
        };
        let to = layout::key(shard, generation + 1, b"");
        let (mut chunk, mut bytes) = (Chunk::default(), 0);
        for item in self.db.range(from..to) {
            let (key, value) = item.map_err(self.failed())?;
            let Some(value) = self.value_seen(&key, &value)? else { continue };
            bytes += key.len() + value.len();
            if bytes > bytes_max && !chunk.pairs.is_empty() {
                return Ok(chunk);
            }
            chunk.pairs.push((key[PREFIX..].to_vec(), value));
        }
        chunk.last = Last::Yes;
        Ok(chunk)
    }

    pub(super) fn scan_keys(
        &self,
        shard: ShardId,
        prefix: &[u8],
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let Some((generation, _)) = self.generation(shard) else { return Ok(Vec::new()) };
        let prefix = layout::key(shard, generation, prefix);
        let keys = self.db.scan_prefix(prefix).keys();
        keys.map(|key| key.map(|key| key[PREFIX..].to_vec()).map_err(self.failed())).collect()
    }

    pub(super) fn scan(&self, shard: ShardId, prefix: &[u8]) -> Result<Pairs, StoreError> {
        let Some((generation, _)) = self.generation(shard) else { return Ok(Vec::new()) };
        let mut pairs = Vec::new();
        for item in self.db.scan_prefix(layout::key(shard, generation, prefix)) {
            let (key, value) = item.map_err(self.failed())?;
            let value = self.value_seen(&key, &value)?;
            pairs.extend(value.map(|value| (key[PREFIX..].to_vec(), value)));
        }
        Ok(pairs)
    }
}

/// Whether an error of the system says nothing about the disk.
fn passes(error: &std::io::Error) -> bool {
    let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::AGAIN];
    Errno::from_io_error(error).is_some_and(|errno| passing.contains(&errno))
}

#[expect(clippy::disallowed_methods, reason = "nothing tells that others have closed their files")]
fn pause() {
    std::thread::sleep(PAUSE);
}
