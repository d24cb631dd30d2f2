//! Rows: what a mailbox remembers for a while, oldest first, each numbered and found by its key in nine bytes or so.
//!
//! The index holds numbers of rows, not keys. A tree with the keys in it took three times the memory, and a search met main
//! memory at each of its levels. Clients have a hand in the keys, so where a key goes is drawn anew by each process; nothing
//! can be seen of it from outside.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

use hashbrown::HashTable;

static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// What is found by a key.
pub(super) trait Keyed {
    /// The key.
    fn key(&self) -> u128;
}

/// Rows, and where to find them by key. Of several with one key the newest is found.
#[derive(Debug, Clone)]
pub(super) struct Rows<T> {
    rows: VecDeque<T>,
    /// How many rows have ever gone; the absolute number of `rows[0]`.
    gone: u64,
    by_key: HashTable<u64>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { rows: VecDeque::new(), gone: 0, by_key: HashTable::new() }
    }
}

impl<T: PartialEq> PartialEq for Rows<T> {
    /// The index follows from the rows.
    fn eq(&self, other: &Self) -> bool {
        (self.gone, &self.rows) == (other.gone, &other.rows)
    }
}

impl<T: Eq> Eq for Rows<T> {}

impl<T: Keyed> Rows<T> {
    /// Takes up stored rows, the first of which has the absolute number `gone`.
    pub(super) fn restore(gone: u64, rows: VecDeque<T>) -> Self {
        let mut restored = Self { rows, gone, by_key: HashTable::new() };
        (gone..restored.end()).for_each(|at| restored.note(at));
        restored
    }

    pub(super) fn push(&mut self, row: T) {
        self.rows.push_back(row);
        self.note(self.end() - 1);
    }

    /// Makes a row be found by its key, instead of an older one with the same.
    fn note(&mut self, at: u64) {
        let Self { rows, gone, by_key } = self;
        let key_of = |at: u64| rows[(at - *gone) as usize].key();
        let key = key_of(at);
        let hash = SEED.hash_one(key);
        match by_key.find_mut(hash, |known| key_of(*known) == key) {
            Some(known) => *known = at,
            None => drop(by_key.insert_unique(hash, at, |at| SEED.hash_one(key_of(*at)))),
        }
    }

    /// The newest row with this key.
    pub(super) fn find(&self, key: u128) -> Option<&T> {
        let row = |at: u64| &self.rows[(at - self.gone) as usize];
        self.by_key.find(SEED.hash_one(key), |at| row(*at).key() == key).map(|at| row(*at))
    }

    /// Forgets the oldest rows that are `old`.
    pub(super) fn forget(&mut self, old: impl Fn(&T) -> bool) {
        let Self { rows, gone, by_key } = self;
        while let Some(row) = rows.pop_front_if(|row| old(row)) {
            if let Ok(known) = by_key.find_entry(SEED.hash_one(row.key()), |at| *at == *gone) {
                known.remove();
            }
            *gone += 1;
        }
        if by_key.len() * 4 < by_key.capacity() {
            by_key.shrink_to_fit(|at| SEED.hash_one(rows[(*at - *gone) as usize].key()));
        }
    }

    /// The absolute number of the oldest row.
    pub(super) const fn first(&self) -> u64 {
        self.gone
    }

    /// The absolute number after the newest row.
    pub(super) fn end(&self) -> u64 {
        self.gone + self.rows.len() as u64
    }

    /// Rows from an absolute number on.
    pub(super) fn from(&self, first: u64) -> impl Iterator<Item = &T> {
        let skip = usize::try_from(first.saturating_sub(self.gone)).unwrap_or(usize::MAX);
        self.rows.range(skip.min(self.rows.len())..)
    }

    /// All rows.
    pub(super) const fn all(&self) -> &VecDeque<T> {
        &self.rows
    }

    /// The absolute numbers of the rows that are found, in no order.
    pub(super) fn found(&self) -> impl Iterator<Item = u64> {
        self.by_key.iter().copied()
    }
}
