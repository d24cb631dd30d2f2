//! Pulse: how fast the journal's disk is, as of the last seconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Record;
use crate::clock;

/// A quantile speaks of one to two of these.
const WINDOW: Duration = Duration::from_secs(5);

/// Four steps per doubling, from 1 µs to over an hour.
const STEPS: usize = 128;

/// Counts since the start and the speed of the last seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JournalStats {
    /// Batches written, each with one flush.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Entries in them.
    pub entries: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Entry bytes handed over and not yet on disk.
    pub waiting_bytes: u64,
    /// Size of the journal on disk, in whole files.
    pub disk_bytes: u64,
    /// Median time of one write with its flush, over the last seconds.
    pub write_p50: Duration,
    /// 99th percentile of the same.
    pub write_p99: Duration,
}

#[derive(Default)]
pub(super) struct Pulse {
    batches: AtomicU64,
    records: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    waiting: AtomicU64,
    disk: AtomicU64,
    windows: Mutex<Windows>,
}

struct Windows {
    began: Option<Instant>,
    now: [u32; STEPS],
    before: [u32; STEPS],
}

impl Default for Windows {
    fn default() -> Self {
        Self { began: None, now: [0; STEPS], before: [0; STEPS] }
    }
}

impl Pulse {
    pub(super) fn submitted(&self, records: &[Record]) {
        self.waiting.fetch_add(weight(records), Ordering::Relaxed);
    }

    pub(super) fn waiting_bytes(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Counts records that were answered.
    pub(super) fn answered(&self, records: u64, entries: u64, waited: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.waiting.fetch_sub(waited, Ordering::Relaxed);
    }

    /// Counts one batch that took this long, and the whole journal's size.
    pub(super) fn wrote(&self, bytes: usize, disk_bytes: usize, took: Duration) {
        self.disk.store(disk_bytes as u64, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.turn(clock::monotonic());
        windows.now[step(took)] += 1;
    }

    pub(super) fn stats(&self) -> JournalStats {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.turn(clock::monotonic());
        JournalStats {
            batches: self.batches.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
            entries: self.entries.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            waiting_bytes: self.waiting_bytes(),
            disk_bytes: self.disk.load(Ordering::Relaxed),
            write_p50: windows.quantile(50),
            write_p99: windows.quantile(99),
        }
    }
}

impl Windows {
    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(*self.began.get_or_insert(now));
        if age < WINDOW {
            return;
        }
        self.before = if age < 2 * WINDOW { self.now } else { [0; STEPS] };
        self.now = [0; STEPS];
        self.began = Some(now);
    }

    fn quantile(&self, percent: u64) -> Duration {
        let both = self.now.iter().zip(&self.before).map(|(a, b)| u64::from(a + b));
        let total: u64 = both.clone().sum();
        let mut left = (total * percent).div_ceil(100);
        for (step, count) in both.enumerate() {
            if count > 0 && count >= left {
                return edge(step);
            }
            left -= count;
        }
        Duration::ZERO
    }
}

/// Bytes of the entries' payloads.
pub(super) fn weight(records: &[Record]) -> u64 {
    records.iter().flat_map(|record| &record.entries).map(|entry| entry.data.len() as u64).sum()
}

fn step(took: Duration) -> usize {
    let micros = took.as_micros().max(1);
    let doubling = 127 - micros.leading_zeros() as usize;
    let quarter = if doubling < 2 { 0 } else { (micros >> (doubling - 2)) as usize & 3 };
    (doubling * 4 + quarter).min(STEPS - 1)
}

/// The upper edge of a step.
fn edge(step: usize) -> Duration {
    let (doubling, quarter) = (step / 4, step as u64 % 4);
    Duration::from_nanos(((1_u64 << doubling) * 250).saturating_mul(5 + quarter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_a_quarter_above_the_truth() {
        for micros in [1_u64, 4, 5, 7, 100, 999, 65_536, 1_000_000] {
            let took = Duration::from_micros(micros);
            let edge = edge(step(took));
            assert!(edge > took || micros < 4, "{micros}: {edge:?}");
            assert!(edge <= took * 2, "{micros}: {edge:?}");
        }
    }

    #[test]
    fn quantiles_of_nothing_are_zero() {
        assert_eq!(Pulse::default().stats(), JournalStats::default());
    }
}
