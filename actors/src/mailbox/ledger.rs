//! Ledger: what a mailbox remembers of each message it took, for as long as a retry may come.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::rows::{Keyed, Rows};
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

impl Keyed for Row {
    fn key(&self) -> u128 {
        self.key
    }
}

/// The rows, oldest first, and where to find them by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    rows: Rows<Row>,
}

impl Ledger {
    /// Builds a ledger from its stored rows, the first of which has the absolute number `gone`.
    #[must_use]
    pub fn restore(gone: u64, rows: VecDeque<Row>) -> Self {
        Self { rows: Rows::restore(gone, rows) }
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
        self.rows.find(Self::key(from, cid)).filter(|row| row.from == *from)
    }

    pub(super) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Rows of entries after `after`, up to and including `to`.
    pub fn between(&self, after: Number, to: Number) -> impl Iterator<Item = &Row> {
        let rows = self.rows.all();
        let from = rows.partition_point(|row| row.n <= after);
        rows.range(from..).take_while(move |row| row.n <= to)
    }

    /// The newest entry of the oldest rows that all fulfil `old`.
    pub(super) fn newest_where(&self, old: impl Fn(&Row) -> bool) -> Number {
        let count = self.rows.all().partition_point(old);
        count.checked_sub(1).and_then(|i| self.rows.all().get(i)).map_or(Number(0), |row| row.n)
    }

    /// When the oldest remembered message was accepted.
    #[must_use]
    pub fn oldest_at(&self) -> Option<Timestamp> {
        self.rows.all().front().map(|row| row.at)
    }

    /// Forgets the oldest rows that are `old`, of entries up to `done`.
    pub(super) fn forget(&mut self, old: impl Fn(&Row) -> bool, done: Number) {
        self.rows.forget(|row| old(row) && row.n <= done);
    }

    /// The absolute number of the oldest row.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.rows.first()
    }

    /// The absolute number after the newest row.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.rows.end()
    }

    /// Rows from an absolute number on.
    pub fn from(&self, first: u64) -> impl Iterator<Item = &Row> {
        self.rows.from(first)
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        const ROW_AND_INDEX: usize = 152;
        self.rows.all().len() * ROW_AND_INDEX
    }

    pub(super) fn check(&self) {
        let ordered = |(a, b): (&Row, &Row)| a.n < b.n && a.at <= b.at;
        let rows = self.rows.all();
        assert!(rows.iter().zip(rows.iter().skip(1)).all(ordered), "rows in order");
        assert_eq!(self.rows.found().count(), rows.len(), "one key per row");
    }
}
