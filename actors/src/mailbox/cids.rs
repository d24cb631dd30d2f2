//! Cids: what a mailbox remembers of its owner's own messages, so that an id never stands for two of them.
//!
//! A retry is recognised where the message went (`ledger`). Only the sender's own mailbox can tell that an id was used for
//! somebody else: it learns of each message with the copy it is sent.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rows::{Keyed, Rows};
use super::rules::Now;
use crate::ids::Timestamp;
use crate::message::CidUse;

/// A `cid` the owner used, and when the copy of its message came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What it stands for.
    pub cid: CidUse,
    /// When the mailbox learnt it.
    pub at: Timestamp,
}

impl Keyed for Row {
    fn key(&self) -> u128 {
        u128::from(self.cid.cid)
    }
}

/// The ids in use, oldest first, and what each stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cids {
    rows: Rows<Row>,
}

impl Cids {
    /// Builds the list from its stored rows, the first of which has the absolute number `gone`.
    #[must_use]
    pub fn restore(gone: u64, rows: VecDeque<Row>) -> Self {
        Self { rows: Rows::restore(gone, rows) }
    }

    /// A message with this id was accepted. Of two different ones at the same time the first counts.
    pub(super) fn push(&mut self, cid: CidUse, at: Timestamp, expiry: Duration) {
        let known = self.find(cid);
        if known.is_none_or(|row| row.cid == cid || row.at.after(expiry) <= at) {
            self.rows.push(Row { cid, at });
        }
    }

    fn find(&self, cid: CidUse) -> Option<&Row> {
        self.rows.find(u128::from(cid.cid))
    }

    /// Whether the id stands for another message.
    #[must_use]
    pub fn clash(&self, cid: CidUse, now: Now) -> bool {
        let known = self.find(cid).filter(|row| row.at.after(now.policy.expiry) > now.cautious);
        known.is_some_and(|row| row.cid.clashes(cid))
    }

    /// All ids in their short form, unless they are more than `max`.
    #[must_use]
    pub fn short(&self, max: usize) -> Option<Vec<u32>> {
        let rows = self.rows.all();
        (rows.len() <= max).then(|| rows.iter().map(|row| row.cid.short()).collect())
    }

    /// When the oldest row came.
    #[must_use]
    pub fn oldest_at(&self) -> Option<Timestamp> {
        self.rows.all().front().map(|row| row.at)
    }

    /// Forgets the oldest rows that are `old`.
    pub(super) fn forget(&mut self, old: impl Fn(&Row) -> bool) {
        self.rows.forget(old);
    }

    /// The absolute number of the oldest row.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.rows.first()
    }

    /// Rows from an absolute number on.
    pub fn from(&self, first: u64) -> impl Iterator<Item = &Row> {
        self.rows.from(first)
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        const ROW_AND_INDEX: usize = 40;
        self.rows.all().len() * ROW_AND_INDEX
    }

    pub(super) fn check(&self) {
        assert!(self.rows.all().iter().is_sorted_by_key(|row| row.at), "rows in order");
        assert!(self.rows.found().all(|at| at >= self.rows.first()), "only what is there is found");
    }
}
