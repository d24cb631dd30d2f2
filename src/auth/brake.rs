//! Brake: lets each key do a thing so often and no oftener.
//!
//! GCRA (ITU-T I.371) over a fixed number of cells that keys are hashed to with a secret of this process. So memory is
//! bounded whatever keys a stranger makes up, and nobody can aim at another's cell; two keys share one by chance.
//!
//! Why not `governor`: a try can be given back here (a right password is no guess), and the moment is an argument.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use actors::ids::Timestamp;

/// Keys are hashed to so many cells of 8 bytes; memory that was never touched costs nothing.
const CELLS: usize = 1 << 16;

/// How often each key may do a thing.
#[derive(Debug)]
pub struct Brake {
    /// Per cell, the moment at which it is fully rested, in microseconds.
    cells: Mutex<Box<[u64]>>,
    hasher: RandomState,
    interval: u64,
    burst: u64,
}

impl Brake {
    /// Allows `burst` at once and one more each `interval`.
    #[must_use]
    pub fn new(interval: Duration, burst: u32) -> Self {
        let interval = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX / 4).max(1);
        Self {
            cells: Mutex::new(vec![0; CELLS].into_boxed_slice()),
            hasher: RandomState::new(),
            interval,
            burst: interval.saturating_mul(u64::from(burst.max(1))),
        }
    }

    /// Takes one try, or says after what time there is one.
    pub fn take<K: Hash>(&self, key: &K, now: Timestamp) -> Result<(), Duration> {
        let now = now.0.saturating_mul(1_000);
        self.with_cell(key, |cell| {
            // A clock set back must not lock a key out for longer than the burst takes.
            let rested = (*cell).clamp(now, now.saturating_add(self.burst));
            let next = rested.saturating_add(self.interval);
            let early = next.saturating_sub(now.saturating_add(self.burst));
            if early > 0 {
                return Err(Duration::from_micros(early));
            }
            *cell = next;
            Ok(())
        })
    }

    /// Gives a try back that was taken: it was not of the kind that is slowed.
    pub fn give_back<K: Hash>(&self, key: &K) {
        self.with_cell(key, |cell| *cell = cell.saturating_sub(self.interval));
    }

    fn with_cell<K: Hash, T>(&self, key: &K, act: impl FnOnce(&mut u64) -> T) -> T {
        let place = usize::try_from(self.hasher.hash_one(key) % CELLS as u64).unwrap_or_default();
        // A panic elsewhere cannot leave a number half written.
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut cells[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    fn at(ms: u64) -> Timestamp {
        Timestamp(START.0 + ms)
    }

    #[test]
    fn a_burst_passes_and_then_one_each_interval() {
        let brake = Brake::new(Duration::from_secs(6), 3);
        for _ in 0..3 {
            assert_eq!(brake.take(&"alice", at(0)), Ok(()));
        }
        assert_eq!(brake.take(&"alice", at(0)), Err(Duration::from_secs(6)));
        assert_eq!(brake.take(&"alice", at(5_999)), Err(Duration::from_millis(1)));
        assert_eq!(brake.take(&"alice", at(6_000)), Ok(()));
        assert_eq!(brake.take(&"alice", at(6_000)), Err(Duration::from_secs(6)));
    }

    #[test]
    fn keys_do_not_slow_each_other() {
        let brake = Brake::new(Duration::from_secs(6), 1);
        assert_eq!(brake.take(&"alice", at(0)), Ok(()));
        let free = (0..100).filter(|i| brake.take(&format!("user-{i}"), at(0)).is_ok()).count();
        assert!(free > 95, "{free}");
    }

    #[test]
    fn a_try_given_back_can_be_taken_again() {
        let brake = Brake::new(Duration::from_secs(6), 1);
        for _ in 0..10 {
            assert_eq!(brake.take(&"alice", at(0)), Ok(()));
            brake.give_back(&"alice");
        }
    }

    #[test]
    fn a_clock_set_back_locks_nobody_out_for_long() {
        let brake = Brake::new(Duration::from_secs(6), 1);
        assert_eq!(brake.take(&"alice", at(86_400_000)), Ok(()));
        assert_eq!(brake.take(&"alice", at(0)), Err(Duration::from_secs(6)));
    }
}
