//! Familiar: remembers who has shown the right password from where, so that strangers' guesses do not lock them out there.
//!
//! Of each user and address a fingerprint lies in one of a fixed number of cells, found by a secret of this process; a newer
//! one takes the place of an older. So memory is bounded, and whoever is forgotten is only slowed again as everybody is.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};

/// Cells of 8 bytes; memory that was never touched costs nothing.
const CELLS: usize = 1 << 16;

/// Who has shown the right password from where.
#[derive(Debug)]
pub struct Familiar {
    cells: Mutex<Box<[u64]>>,
    hasher: RandomState,
}

impl Default for Familiar {
    fn default() -> Self {
        let cells = Mutex::new(vec![0; CELLS].into_boxed_slice());
        Self { cells, hasher: RandomState::new() }
    }
}

impl Familiar {
    /// Remembers a key.
    pub fn remember<K: Hash>(&self, key: &K) {
        self.with_cell(key, |cell, print| *cell = print);
    }

    /// Whether a key is remembered; of one that is not this is true with a chance of 2⁻⁴⁷.
    pub fn knows<K: Hash>(&self, key: &K) -> bool {
        self.with_cell(key, |cell, print| *cell == print)
    }

    fn with_cell<K: Hash, T>(&self, key: &K, act: impl FnOnce(&mut u64, u64) -> T) -> T {
        let hash = self.hasher.hash_one(key);
        let place = usize::try_from(hash % CELLS as u64).unwrap_or_default();
        // A panic elsewhere cannot leave a number half written.
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        // An empty cell is nobody's.
        act(&mut cells[place], hash | 1 << 63)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_there_is_known_there_and_nowhere_else() {
        let familiar = Familiar::default();
        familiar.remember(&("alice", 7));
        assert!(familiar.knows(&("alice", 7)));
        assert!(!familiar.knows(&("alice", 8)) && !familiar.knows(&("bob", 7)));
        let strangers = (0..100_000).filter(|i| familiar.knows(&("mallory", i))).count();
        assert_eq!(strangers, 0);
    }
}
