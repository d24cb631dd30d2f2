//! Index: finds a row by its key, in nine bytes or so a row.
//!
//! It holds numbers of rows, not keys: whoever asks tells the key of a row. A tree with the keys in it took three times the
//! memory, and a search met main memory at each of its levels. Clients have a hand in the keys, so where a key goes is
//! drawn anew by each process; nothing can be seen of it from outside.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

use hashbrown::HashTable;

static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Numbers of rows, by keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Index(HashTable<u64>);

impl PartialEq for Index {
    /// It follows from the rows.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Index {}

impl Index {
    /// The row with this key. `key_of` tells the key of any row that is noted, here and below.
    pub(super) fn find(&self, key: u128, key_of: impl Fn(u64) -> u128) -> Option<u64> {
        self.0.find(SEED.hash_one(key), |row| key_of(*row) == key).copied()
    }

    /// Notes a row, in the place of the one with the same key, if there is one.
    pub(super) fn insert(&mut self, row: u64, key_of: impl Fn(u64) -> u128) {
        let key = key_of(row);
        let hash = SEED.hash_one(key);
        match self.0.find_mut(hash, |known| key_of(*known) == key) {
            Some(known) => *known = row,
            None => drop(self.0.insert_unique(hash, row, |row| SEED.hash_one(key_of(*row)))),
        }
    }

    /// Forgets a row with this key, if it is the one noted.
    pub(super) fn remove(&mut self, key: u128, row: u64) {
        if let Ok(known) = self.0.find_entry(SEED.hash_one(key), |known| *known == row) {
            known.remove();
        }
    }

    /// Gives back room, once most rows have gone.
    pub(super) fn shrink(&mut self, key_of: impl Fn(u64) -> u128) {
        if self.0.len() * 4 < self.0.capacity() {
            self.0.shrink_to_fit(|row| SEED.hash_one(key_of(*row)));
        }
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = u64> {
        self.0.iter().copied()
    }
}
