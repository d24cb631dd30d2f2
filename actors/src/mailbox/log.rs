//! Log: a user's numbered entries; the newest in memory, older ones in sealed segments on disk.
//!
//! Posts to large groups that came together are kept as one entry that stands for all of them, in memory as on disk.
//!
//! *Logically* a log is its numbers (`low`, `head`) and the entries between them; replicas agree on those. *Where* an
//! entry lies is each replica's own business: `Sealed` lists what its checkpoints hold.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::ids::{Number, Timestamp};
use crate::message::Entry;

/// A run of entries that is on disk under one key and never changes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sealed {
    /// Its oldest entry; names the key.
    pub first: Number,
    /// Its newest entry.
    pub last: Number,
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// These entries (none: there is nothing newer).
    Entries(Vec<Entry>),
    /// The next entries are on disk, in this segment.
    OnDisk(Sealed),
}

/// A user's numbered entries.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// Entries up to here are gone.
    low: Number,
    /// The newest entry.
    head: Number,
    newest_at: Timestamp,
    /// On disk, oldest first; may overlap `warm`.
    pub(super) sealed: VecDeque<Sealed>,
    /// In memory: the newest ones, up to `head`.
    pub(super) warm: VecDeque<Entry>,
}

impl PartialEq for Log {
    /// Compares what replicas must agree on.
    fn eq(&self, other: &Self) -> bool {
        (self.low, self.head, self.newest_at) == (other.low, other.head, other.newest_at)
    }
}

impl Eq for Log {}

impl Log {
    /// Builds a log from what a checkpoint holds.
    #[must_use]
    pub fn restore(
        low: Number,
        head: Number,
        newest_at: Timestamp,
        sealed: VecDeque<Sealed>,
        warm: VecDeque<Entry>,
    ) -> Self {
        Self { low, head, newest_at, sealed, warm }
    }

    /// Entries up to here are gone.
    #[must_use]
    pub const fn low(&self) -> Number {
        self.low
    }

    /// The newest entry.
    #[must_use]
    pub const fn head(&self) -> Number {
        self.head
    }

    /// When the newest entry was accepted.
    #[must_use]
    pub const fn newest_at(&self) -> Timestamp {
        self.newest_at
    }

    pub(super) fn push(&mut self, entry: Entry) {
        // Invariant: numbers have no gaps, so a reader can tell "nothing yet" from "lost".
        debug_assert_eq!(entry.n, self.head.next());
        self.head = entry.last();
        self.newest_at = entry.at;
        self.warm.push_back(entry);
    }

    /// Drops entries up to and including `n`.
    pub(super) fn drop_to(&mut self, n: Number) {
        self.low = self.low.max(n.min(self.head));
        self.let_go(self.low);
        if self.warm.is_empty() {
            self.warm.shrink_to(4);
        }
    }

    /// Lets go of what is in memory up to `n`.
    fn let_go(&mut self, n: Number) {
        while self.warm.front().is_some_and(|entry| entry.n <= n) {
            let rest = self.warm.pop_front().and_then(|entry| entry.after(n));
            if let Some(rest) = rest {
                self.warm.push_front(rest);
            }
        }
    }

    /// The oldest entry in memory, or the next one to come.
    pub(super) fn warm_from(&self) -> Number {
        self.warm.front().map_or(self.head.next(), |entry| entry.n)
    }

    /// Entries after `after`, at most `count` and about `bytes`.
    #[must_use]
    pub fn read(&self, after: Number, count: usize, bytes: usize) -> Found {
        let first = after.max(self.low).next();
        if first > self.head {
            return Found::Entries(Vec::new());
        }
        if first < self.warm_from() {
            let holds = |s: &&Sealed| s.first <= first && first <= s.last;
            if let Some(segment) = self.sealed.iter().find(holds) {
                return Found::OnDisk(*segment);
            }
        }
        let skip = self.warm.partition_point(|entry| entry.last() < first);
        Found::Entries(page(self.warm.range(skip..), Number(first.0 - 1), count, bytes))
    }

    /// Entries in memory that are newer than every sealed one.
    pub(super) fn unsealed(&self) -> impl Iterator<Item = &Entry> {
        let sealed = self.sealed.back().map_or(Number(0), |s| s.last);
        let skip = self.warm.partition_point(|entry| entry.last() <= sealed);
        self.warm.range(skip..)
    }

    /// Lets go of entries in memory that are on disk.
    pub(super) fn cool(&mut self, sealed_to: Number) {
        self.let_go(sealed_to);
        self.warm.shrink_to(4);
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.warm.iter().map(Entry::weight).sum::<usize>() + self.sealed.len() * size_of::<Sealed>()
    }

    pub(super) fn check(&self) {
        let mut entries = self.warm.iter();
        if let Some(first) = entries.next() {
            assert!(first.n > self.low, "nothing in memory that is gone");
            let last = entries.fold(first.last(), |before, entry| {
                assert_eq!(entry.n, before.next(), "no gaps");
                entry.last()
            });
            assert_eq!(last, self.head, "memory ends at the head");
        }
        let sealed = self.sealed.back().map_or(self.low, |s| s.last);
        assert!(self.warm_from() <= sealed.max(self.low).next(), "all is in memory or on disk");
    }
}

/// Takes the single entries after `after` that `entries` stand for: at most `count` and about `bytes`, at least one.
pub fn page<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    after: Number,
    count: usize,
    bytes: usize,
) -> Vec<Entry> {
    let mut left = bytes;
    let mut page = Vec::new();
    let wanted = entries.filter_map(|entry| entry.clone().after(after));
    for entry in wanted.flat_map(Entry::each).take(count) {
        let weight = entry.weight();
        if weight > left && !page.is_empty() {
            break;
        }
        left = left.saturating_sub(weight);
        page.push(entry);
    }
    page
}
