//! Collecting: files of the value log in which little is needed any more are freed, a bit with every flush.
//!
//! What is needed of a file is moved behind the newest records, then it is removed. Which file is worth it is known by
//! counting: at first all keys are gone through, a slice at a time; what changes in the part that was is counted along.
//! A file goes only when both say so: no key was found for any of its records, and the count is zero.

use std::collections::BTreeSet;

use super::layout;
use super::value_log::{self, Place, Walk};
use super::writer::Writer;
use crate::store::StoreError;

/// Keys counted with a flush.
const COUNTED_KEYS: usize = 8_192;
/// Records looked at with a flush.
const RECORDS: usize = 8_192;
/// Bytes moved with a flush, about.
const MOVED_BYTES: u64 = 16 << 20;

/// How far counting and freeing are.
pub(super) struct Collector {
    counted: Counted,
    walk: Option<Walk>,
    /// Files of which something cannot be read, or whose count is wrong: they stay until the next start.
    stuck: BTreeSet<u64>,
}

enum Counted {
    /// All keys before this one.
    Before(Vec<u8>),
    All,
}

/// A value that was copied; its key still has to be told.
pub(super) struct Move {
    key: Vec<u8>,
    from: Place,
    to: Place,
}

/// What was copied with a flush, and the file of which nothing is needed after it.
#[derive(Default)]
pub(super) struct Moved {
    pub(super) moves: Vec<Move>,
    pub(super) emptied: Option<u64>,
}

impl Collector {
    pub(super) const fn new() -> Self {
        Self { counted: Counted::Before(Vec::new()), walk: None, stuck: BTreeSet::new() }
    }

    fn is_counted(&self, key: &[u8]) -> bool {
        match &self.counted {
            Counted::Before(next) => key < next.as_slice(),
            Counted::All => true,
        }
    }
}

impl Writer {
    /// What stands under a key is about to become `new`: counts what it pointed to as dead, and what it will as needed.
    pub(super) fn count_change(
        &mut self,
        key: &[u8],
        new: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        if !self.collector.is_counted(key) {
            return Ok(());
        }
        if let Some(place) = self.place_under(key)? {
            self.log.dies(place);
        }
        if let Some(place) = new.and_then(|new| layout::place_of(key, new)) {
            self.log.lives(place);
        }
        Ok(())
    }

    /// Where in the value log what stands under a key is, if it is there.
    fn place_under(&self, key: &[u8]) -> Result<Option<Place>, StoreError> {
        let value = self.disk.db.get(key).map_err(self.disk.failed())?;
        Ok(value.and_then(|value| layout::place_of(key, &value)))
    }

    /// Goes through some more keys, unless all were.
    pub(super) fn count_some(&mut self) -> Result<(), StoreError> {
        let Counted::Before(from) = &self.collector.counted else { return Ok(()) };
        let mut next = None;
        for item in self.disk.db.range(from.clone()..).take(COUNTED_KEYS) {
            let (key, value) = item.map_err(self.disk.failed())?;
            if let Some(place) = layout::place_of(&key, &value) {
                self.log.lives(place);
            }
            next = Some(key);
        }
        // The least key after another is that one with a zero byte.
        self.collector.counted =
            next.map_or(Counted::All, |last| Counted::Before([last.as_ref(), &[0]].concat()));
        Ok(())
    }

    /// Copies some of what is needed of a file with little in it. Before anything else is added: what is on its way to its
    /// keys must not be taken for dead.
    pub(super) fn move_some(&mut self) -> Result<Moved, StoreError> {
        let mut moved = Moved::default();
        let Some(mut walk) = self.next_walk() else { return Ok(moved) };
        let (number, dir) = (walk.number, value_log::dir_of(&self.disk.dir));
        let mut bytes = 0;
        for _ in 0..RECORDS {
            if bytes >= MOVED_BYTES {
                break;
            }
            let (key, from) = match walk.next() {
                Ok(Some(record)) => record,
                // What never was on disk may stand behind the last record; the count has the last word.
                Ok(None) => {
                    moved.emptied = Some(number);
                    return Ok(moved);
                }
                Err(error) => {
                    self.give_up(number, &error);
                    return Ok(moved);
                }
            };
            if self.place_under(&key)? != Some(from) {
                continue;
            }
            let read = value_log::read(&dir, &key, from).map_err(|error| error.to_string());
            let value = match read.and_then(|read| read.map_err(|why| why.to_string())) {
                Ok(value) => value,
                // Whoever reads it is told; nothing of the file may go.
                Err(why) => {
                    self.give_up(number, &why);
                    return Ok(moved);
                }
            };
            let to = self.log.add(&key, &value)?;
            bytes += u64::from(to.length);
            moved.moves.push(Move { key, from, to });
        }
        self.collector.walk = Some(walk);
        Ok(moved)
    }

    fn next_walk(&mut self) -> Option<Walk> {
        if let Some(walk) = self.collector.walk.take() {
            return Some(walk);
        }
        let number = self.worth_freeing()?;
        let walk = Walk::begin(&value_log::dir_of(&self.disk.dir), number);
        walk.inspect_err(|error| self.give_up(number, error)).ok()
    }

    /// The file that should be gone through next. None before all is counted, nor while leftovers still point to what may
    /// never have been on disk.
    fn worth_freeing(&self) -> Option<u64> {
        let is_counted = matches!(self.collector.counted, Counted::All) && !self.has_trash();
        let stuck = &self.collector.stuck;
        is_counted.then(|| self.log.emptiest(|number| stuck.contains(&number))).flatten()
    }

    /// Whether there is anything to count or to free.
    pub(super) fn can_collect(&self) -> bool {
        let is_under_way =
            self.collector.walk.is_some() || matches!(self.collector.counted, Counted::Before(_));
        is_under_way || self.worth_freeing().is_some()
    }

    /// Tells the keys of what was copied, unless they have changed since.
    pub(super) fn redirect(&mut self, moves: Vec<Move>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for Move { key, from, to } in moves {
            if self.place_under(&key)? == Some(from) {
                let value = layout::seal_place(&key, to);
                self.count_change(&key, Some(&value))?;
                batch.insert(key, value);
            }
        }
        self.disk.db.apply_batch(batch).map_err(self.disk.failed())
    }

    /// Removes a file of which nothing is needed. Only when that is on disk: until then keys there point to it.
    pub(super) fn free(&mut self, emptied: Option<u64>) -> Result<(), StoreError> {
        let Some(number) = emptied else { return Ok(()) };
        if self.log.usage(number).live > 0 {
            self.give_up(number, &"more of it is needed than was found in it");
            return Ok(());
        }
        self.log.remove(number)
    }

    fn give_up(&mut self, number: u64, why: &dyn std::fmt::Display) {
        let file = value_log::path_of(&value_log::dir_of(&self.disk.dir), number);
        tracing::warn!(file = %file.display(), %why, "a file of long values cannot be freed");
        self.collector.stuck.insert(number);
    }
}
