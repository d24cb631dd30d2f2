//! Cids: what a mailbox remembers of its owner's own messages, so that an id never stands for two of them.
//!
//! A retry is recognised where the message went (`ledger`). Only the sender's own mailbox can tell that an id was used for
//! somebody else: it learns of each message with the copy it is sent.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::index::Index;
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

/// The ids in use, oldest first, and what each stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cids {
    rows: VecDeque<Row>,
    /// How many rows have ever gone; the absolute number of `rows[0]`.
    gone: u64,
    /// The newest row of each id, by absolute number.
    by_cid: Index,
}

impl Cids {
    /// Builds the list from its stored rows, the first of which has the absolute number `gone`.
    #[must_use]
    pub fn restore(gone: u64, rows: VecDeque<Row>) -> Self {
        let mut cids = Self { rows, gone, by_cid: Index::default() };
        for at in gone..gone + cids.rows.len() as u64 {
            cids.note(at);
        }
        cids
    }

    fn row(&self, at: u64) -> Option<&Row> {
        self.rows.get(usize::try_from(at.checked_sub(self.gone)?).ok()?)
    }

    /// Makes a row be found by its id, instead of an older one with the same.
    fn note(&mut self, at: u64) {
        let Self { rows, gone, by_cid } = self;
        by_cid.insert(at, |at| u128::from(rows[(at - *gone) as usize].cid.cid));
    }

    /// A message with this id was accepted. Of two different ones at the same time the first counts.
    pub(super) fn push(&mut self, cid: CidUse, at: Timestamp, expiry: Duration) {
        let known = self.find(cid);
        if known.is_none_or(|row| row.cid == cid || row.at.after(expiry) <= at) {
            self.rows.push_back(Row { cid, at });
            self.note(self.gone + self.rows.len() as u64 - 1);
        }
    }

    fn find(&self, cid: CidUse) -> Option<&Row> {
        let key_of = |at: u64| u128::from(self.rows[(at - self.gone) as usize].cid.cid);
        self.row(self.by_cid.find(u128::from(cid.cid), key_of)?)
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
        (self.rows.len() <= max).then(|| self.rows.iter().map(|row| row.cid.short()).collect())
    }

    /// When the oldest row came.
    #[must_use]
    pub fn oldest_at(&self) -> Option<Timestamp> {
        self.rows.front().map(|row| row.at)
    }

    /// Forgets the oldest rows that are `old`.
    pub(super) fn forget(&mut self, old: impl Fn(&Row) -> bool) {
        while let Some(row) = self.rows.front().filter(|row| old(row)) {
            self.by_cid.remove(u128::from(row.cid.cid), self.gone);
            self.rows.pop_front();
            self.gone += 1;
        }
        let Self { rows, gone, by_cid } = self;
        by_cid.shrink(|at| u128::from(rows[(at - *gone) as usize].cid.cid));
    }

    /// The absolute number of the oldest row.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.gone
    }

    /// Rows from an absolute number on.
    pub fn from(&self, first: u64) -> impl Iterator<Item = &Row> {
        let skip = usize::try_from(first.saturating_sub(self.gone)).unwrap_or(usize::MAX);
        self.rows.range(skip.min(self.rows.len())..)
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        const ROW_AND_INDEX: usize = 40;
        self.rows.len() * ROW_AND_INDEX
    }

    pub(super) fn check(&self) {
        assert!(self.rows.iter().is_sorted_by_key(|row| row.at), "rows in order");
        assert!(self.by_cid.rows().all(|at| at >= self.gone), "only what is there is found");
    }
}
