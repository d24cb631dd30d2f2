//! Ledger: what a mailbox remembers of each message it took, for as long as a retry may come.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::index::Index;
use crate::ids::{Cid, MessageId, Number, Seq, Timestamp, UserId};

/// What is remembered of one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Hash of sender and `cid`.
    pub key: u128,
    /// Hash of what a retry must repeat.
    pub fingerprint: u128,
    /// The id it was given.
    pub mid: MessageId,
    /// Its place in the conversation.
    pub seq: Seq,
    /// When it was accepted.
    pub at: Timestamp,
    /// Its number in the log.
    pub n: Number,
    /// Who sent it.
    pub from: UserId,
}

/// The rows, oldest first, and where to find them by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    rows: VecDeque<Row>,
    /// How many rows have ever gone; the absolute number of `rows[0]`.
    gone: u64,
    by_key: Index,
}

impl Ledger {
    /// Builds a ledger from its stored rows, the first of which has the absolute number `gone`.
    #[must_use]
    pub fn restore(gone: u64, rows: VecDeque<Row>) -> Self {
        let mut ledger = Self { rows, gone, by_key: Index::default() };
        for at in ledger.gone..ledger.end() {
            ledger.note(at);
        }
        ledger
    }

    fn row(&self, at: u64) -> Option<&Row> {
        self.rows.get(usize::try_from(at.checked_sub(self.gone)?).ok()?)
    }

    /// Makes a row be found by its key.
    fn note(&mut self, at: u64) {
        let Self { rows, gone, by_key } = self;
        by_key.insert(at, |at| rows[(at - *gone) as usize].key);
    }

    /// Names a message by who sent it and the id they gave it (XXH3, 128 bit).
    #[must_use]
    pub fn key(from: &UserId, cid: &Cid) -> u128 {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        hash.update(from.as_str().as_bytes());
        hash.update(b"/");
        hash.update(cid.as_str().as_bytes());
        hash.digest128()
    }

    /// What is remembered of this message.
    #[must_use]
    pub fn find(&self, from: &UserId, cid: &Cid) -> Option<&Row> {
        let key = Self::key(from, cid);
        let key_of = |at: u64| self.rows[(at - self.gone) as usize].key;
        let row = self.row(self.by_key.find(key, key_of)?)?;
        (row.from == *from).then_some(row)
    }

    pub(super) fn push(&mut self, row: Row) {
        self.rows.push_back(row);
        self.note(self.end() - 1);
    }

    /// Rows of entries after `after`, up to and including `to`.
    pub fn between(&self, after: Number, to: Number) -> impl Iterator<Item = &Row> {
        let from = self.rows.partition_point(|row| row.n <= after);
        self.rows.range(from..).take_while(move |row| row.n <= to)
    }

    /// The newest entry of the oldest rows that all fulfil `old`.
    pub(super) fn newest_where(&self, old: impl Fn(&Row) -> bool) -> Number {
        let count = self.rows.partition_point(old);
        count.checked_sub(1).and_then(|i| self.rows.get(i)).map_or(Number(0), |row| row.n)
    }

    /// When the oldest remembered message was accepted.
    #[must_use]
    pub fn oldest_at(&self) -> Option<Timestamp> {
        self.rows.front().map(|row| row.at)
    }

    /// Forgets the oldest rows that are `old`, of entries up to `done`.
    pub(super) fn forget(&mut self, old: impl Fn(&Row) -> bool, done: Number) {
        while let Some(row) = self.rows.front() {
            if !old(row) || row.n > done {
                break;
            }
            self.by_key.remove(row.key, self.gone);
            self.rows.pop_front();
            self.gone += 1;
        }
        let Self { rows, gone, by_key } = self;
        by_key.shrink(|at| rows[(at - *gone) as usize].key);
    }

    /// The absolute number of the oldest row.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.gone
    }

    /// The absolute number after the newest row.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.gone + self.rows.len() as u64
    }

    /// Rows from an absolute number on.
    pub fn from(&self, first: u64) -> impl Iterator<Item = &Row> {
        let skip = usize::try_from(first.saturating_sub(self.gone)).unwrap_or(usize::MAX);
        self.rows.range(skip.min(self.rows.len())..)
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        const ROW_AND_INDEX: usize = 152;
        self.rows.len() * ROW_AND_INDEX
    }

    pub(super) fn check(&self) {
        let ordered = |(a, b): (&Row, &Row)| a.n < b.n && a.at <= b.at;
        assert!(self.rows.iter().zip(self.rows.iter().skip(1)).all(ordered), "rows in order");
        assert_eq!(self.by_key.rows().count(), self.rows.len(), "one key per row");
    }
}
