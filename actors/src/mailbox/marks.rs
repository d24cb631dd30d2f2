//! Marks: coarse notes of when a log had got how far, and of how many bytes of it no device has yet.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{Number, Timestamp};

/// Marks per span: how finely the ends of history and expiry are kept in time.
pub(super) const MARKS_PER_SPAN: u32 = 120;

/// Bytes that are counted together: a full mailbox of 64 MiB keeps 4,096 numbers, one of a few messages one.
const STEP_BYTES: u64 = 16 * 1024;

/// A moment, and how far something had got by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The beginning of the span the mark stands for.
    pub since: Timestamp,
    /// How far it had got at the end of that span.
    pub n: Number,
}

/// A span and one mark's on top: by then all is over that a mark stands for.
pub(super) fn to_the_end_of(span: Duration) -> Duration {
    span.saturating_add(span / MARKS_PER_SPAN)
}

/// Notes that `n` was reached at `at`, at most `MARKS_PER_SPAN` times per span.
pub(super) fn mark(marks: &mut VecDeque<Mark>, at: Timestamp, n: Number, span: Duration) {
    match marks.back_mut() {
        Some(last) if at < last.since.after(span / MARKS_PER_SPAN) => last.n = n,
        _ => marks.push_back(Mark { since: at, n }),
    }
}

/// How many bytes wait in a log, in steps of about `STEP_BYTES`: counted by the log alone, so alike on all replicas that
/// have counted from its beginning. For the quota of whoever leads; what a mailbox does with a command never rests on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    bytes: u64,
    /// The newest entry of each step and the bytes in it, oldest first.
    steps: VecDeque<(Number, u64)>,
}

impl Waiting {
    /// Bytes that wait: not less, and at most one step more.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A new entry waits.
    pub(super) fn push(&mut self, n: Number, bytes: usize) {
        let bytes = bytes as u64;
        self.bytes += bytes;
        match self.steps.back_mut() {
            Some((newest, size)) if *size + bytes <= STEP_BYTES => {
                (*newest, *size) = (n, *size + bytes);
            }
            _ => self.steps.push_back((n, bytes)),
        }
    }

    /// Entries up to `n` wait no longer; a step that is not over still counts whole.
    pub(super) fn drop_to(&mut self, n: Number) {
        while let Some((newest, size)) = self.steps.front()
            && *newest <= n
        {
            self.bytes -= size;
            self.steps.pop_front();
        }
        if self.steps.is_empty() {
            self.steps.shrink_to(1);
        }
    }

    /// Bytes in memory, about.
    #[must_use]
    pub(super) fn weight(&self) -> usize {
        self.steps.len() * size_of::<(Number, u64)>()
    }

    /// Panics when something that always holds does not; `entries` is how many wait.
    pub(super) fn check(&self, entries: u64) {
        assert_eq!(self.bytes, self.steps.iter().map(|(_, size)| size).sum::<u64>(), "all steps");
        assert!(self.steps.iter().is_sorted_by(|(a, _), (b, _)| a < b), "oldest first");
        assert!(entries > 0 || self.bytes == 0, "nothing waits in an empty mailbox");
    }
}
