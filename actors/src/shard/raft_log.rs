//! Raft log: what the Raft library reads of its own log; in memory from the last compaction on.
//!
//! Writing to disk is the journal's work; this is its mirror in memory. Entries leave it by compaction, once a
//! checkpoint covers them; a replica that needs older ones gets the checkpoint itself.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

/// A place in a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// The entry's index.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
}

/// The log of one replica.
#[derive(Debug, Default)]
pub struct RaftLog {
    hard_state: HardState,
    conf_state: ConfState,
    /// The entry before the first one here.
    start: Place,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The newest checkpoint, which a replica that fell behind can be sent, and who took part as of it.
    image: Option<(Place, ConfState)>,
    wanted: Cell<bool>,
}

impl RaftLog {
    /// Builds a log from what the journal (or, after it, a checkpoint) holds; `conf_state` is as of the newest entry
    /// whose effects are in the state.
    #[must_use]
    pub fn restore(
        hard_state: HardState,
        conf_state: ConfState,
        start: Place,
        entries: Vec<Entry>,
    ) -> Self {
        let bytes = entries.iter().map(weight).sum();
        let entries = entries.into();
        Self { hard_state, conf_state, start, entries, bytes, ..Self::default() }
    }

    pub(super) fn append(&mut self, new: &[Entry]) {
        let Some(first) = new.first() else { return };
        // Invariant: what replaces entries begins among them or right behind them.
        debug_assert!(first.index > self.start.index && first.index <= self.last().index + 1);
        while self.last().index >= first.index {
            let Some(gone) = self.entries.pop_back() else {
                break;
            };
            self.bytes -= weight(&gone);
        }
        self.bytes += new.iter().map(weight).sum::<usize>();
        self.entries.extend(new.iter().cloned());
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// The configuration as of the newest entry applied.
    #[must_use]
    pub const fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    pub(super) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Drops entries up to and including `index`; answers where the log now starts.
    pub(super) fn compact(&mut self, index: u64) -> Place {
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            let Some(gone) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= weight(&gone);
            self.start = Place { index: gone.index, term: gone.term };
        }
        self.start
    }

    /// Forgets everything: a checkpoint up to `place` was taken over from another replica.
    pub(super) fn reset(&mut self, place: Place, conf_state: ConfState) {
        self.entries.clear();
        self.bytes = 0;
        self.start = place;
        self.image = Some((place, conf_state.clone()));
        self.conf_state = conf_state;
        self.hard_state.commit = self.hard_state.commit.max(place.index);
        self.hard_state.term = self.hard_state.term.max(place.term);
    }

    pub(super) fn set_image(&mut self, place: Place, conf_state: ConfState) {
        self.image = Some((place, conf_state));
    }

    /// Whether a replica needs a checkpoint and there was none new enough; asking resets it.
    pub(super) fn take_wanted(&self) -> bool {
        self.wanted.replace(false)
    }

    /// The newest entry.
    #[must_use]
    pub fn last(&self) -> Place {
        self.entries
            .back()
            .map_or(self.start, |entry| Place { index: entry.index, term: entry.term })
    }

    /// The index of the first entry still here.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.start.index + 1
    }

    /// The oldest index so that the entries behind it take at most `bytes`.
    pub(super) fn tail_from(&self, bytes: usize, count: u64) -> u64 {
        let mut left = bytes;
        let mut from = self.last().index;
        for entry in self.entries.iter().rev() {
            let Some(rest) = left.checked_sub(weight(entry)) else {
                break;
            };
            if self.last().index - entry.index >= count {
                break;
            }
            left = rest;
            from = entry.index - 1;
        }
        from
    }

    /// Bytes of all entries.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn at(&self, index: u64) -> Option<&Entry> {
        let skip = index.checked_sub(self.first())?;
        self.entries.get(usize::try_from(skip).ok()?)
    }
}

fn weight(entry: &Entry) -> usize {
    const FIXED: usize = 128;
    FIXED + entry.data.len()
}

impl Storage for RaftLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(StorageError::Compacted.into());
        }
        let most = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0_u64;
        let mut found = Vec::new();
        for index in low..high {
            let Some(entry) = self.at(index) else { break };
            size += weight(entry) as u64;
            if size > most && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.start.index {
            return Ok(self.start.term);
        }
        if index < self.start.index {
            return Err(StorageError::Compacted.into());
        }
        self.at(index).map(|entry| entry.term).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().index)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let needed = request_index.max(self.start.index);
        // Whoever is no member as of the checkpoint would refuse it.
        let fits = |image: &&(Place, ConfState)| {
            let (at, conf) = image;
            at.index >= needed && conf.voters.iter().chain(&conf.learners).any(|id| *id == to)
        };
        let Some((image, conf_state)) = self.image.as_ref().filter(fits) else {
            self.wanted.set(true);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = image.index;
        metadata.term = image.term;
        metadata.set_conf_state(conf_state.clone());
        Ok(snapshot)
    }
}
