//! Waiting: who waits for posts of which groups, and what is asked for them. Pure.
//!
//! What is asked for follows from what is wanted: each range once, however many wait for it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Lacking, Source};
use crate::ids::{GroupId, Seq, SessionId, ShardId};
use crate::message::Entry;
use crate::packet::Fetch;
use crate::shard::posts::Wanted;

/// Without an answer for so long, it is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Entries of all who wait, some 40 MiB; more are refused.
const ENTRIES_MAX: usize = 256 * 1024;

/// Who waits; each for one thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whom {
    /// A session, for a page, or one that its client asked for.
    Session(SessionId, bool),
    /// Who asked a question.
    Asker(SessionId, u32),
}

/// Somebody who waits for posts.
pub(super) struct Waiting {
    pub(super) lacking: Lacking,
    pub(super) entries: Vec<Entry>,
    pub(super) wanted: Vec<Wanted>,
    /// Since when; none before the next tick.
    pub(super) since: Option<Duration>,
}

/// What is asked for.
struct Asked {
    ticket: u64,
    source: Source,
    /// When it was asked; none before the next tick.
    at: Option<Duration>,
}

impl Asked {
    /// Asks for a range of a group's posts.
    fn tell(
        &self,
        from: ShardId,
        group: &GroupId,
        (first, last): (Seq, Seq),
        ask: &mut impl FnMut(Fetch, Source),
    ) {
        let (ticket, group) = (self.ticket, group.clone());
        ask(Fetch { from, ticket, group, first, last }, self.source);
    }
}

/// A group that is waited for.
#[derive(Default)]
struct Of {
    waiting: BTreeSet<Whom>,
    asked: BTreeMap<(Seq, Seq), Asked>,
}

/// All who wait.
#[derive(Default)]
pub(super) struct Waiters {
    tickets: u64,
    all: BTreeMap<Whom, Waiting>,
    groups: BTreeMap<GroupId, Of>,
    entries: usize,
}

impl Waiters {
    pub(super) fn waits(&self, whom: Whom) -> bool {
        self.all.contains_key(&whom)
    }

    /// Questions that wait.
    pub(super) fn askers(&self) -> usize {
        let asks = |whom: &&Whom| matches!(whom, Whom::Asker(..));
        self.all.keys().filter(asks).count()
    }

    pub(super) const fn has_room(&self, entries: usize) -> bool {
        self.entries + entries <= ENTRIES_MAX
    }

    /// Who waits for posts of a group.
    pub(super) fn of(&self, group: &GroupId) -> Vec<Whom> {
        self.groups.get(group).map_or_else(Vec::new, |of| of.waiting.iter().copied().collect())
    }

    pub(super) fn get(&self, whom: Whom) -> Option<&Waiting> {
        self.all.get(&whom)
    }

    /// Somebody waits, for one thing instead of another if they did already.
    pub(super) fn put(&mut self, whom: Whom, waiting: Waiting) {
        drop(self.take(whom));
        for (group, ..) in &waiting.wanted {
            self.groups.entry(group.clone()).or_default().waiting.insert(whom);
        }
        self.entries += waiting.entries.len();
        self.all.insert(whom, waiting);
    }

    /// Somebody waits no longer, or is about to wait for less.
    pub(super) fn take(&mut self, whom: Whom) -> Option<Waiting> {
        let waiting = self.all.remove(&whom)?;
        self.entries -= waiting.entries.len();
        for (group, ..) in &waiting.wanted {
            if let Some(of) = self.groups.get_mut(group) {
                of.waiting.remove(&whom);
            }
        }
        Some(waiting)
    }

    /// Asks for what is wanted of a group and not asked for yet, and forgets what is wanted no more.
    pub(super) fn ask(
        &mut self,
        from: ShardId,
        group: &GroupId,
        ask: &mut impl FnMut(Fetch, Source),
    ) {
        let Some(of) = self.groups.get_mut(group) else { return };
        let wanted = of.waiting.iter().filter_map(|whom| self.all.get(whom));
        let wanted = wanted.flat_map(|waiting| &waiting.wanted);
        let ranges = wanted.filter(|(of, ..)| of == group);
        let ranges: BTreeSet<_> = ranges.map(|(_, first, last)| (*first, Reverse(*last))).collect();
        let mut outer: BTreeSet<(Seq, Seq)> = BTreeSet::new();
        for (first, Reverse(last)) in ranges {
            // What lies within another range comes with it.
            if outer.last().is_none_or(|(_, covered)| last > *covered) {
                outer.insert((first, last));
            }
        }
        of.asked.retain(|range, _| outer.contains(range));
        for range in outer {
            if of.asked.contains_key(&range) {
                continue;
            }
            self.tickets += 1;
            let asked = Asked { ticket: self.tickets, source: Source::Nearest, at: None };
            asked.tell(from, group, range, ask);
            of.asked.insert(range, asked);
        }
    }

    /// What was asked with this ticket was answered, and is still wanted as it was: whoever was nearest has none of it.
    pub(super) fn of_no_help(
        &mut self,
        from: ShardId,
        (group, ticket): (&GroupId, u64),
        ask: &mut impl FnMut(Fetch, Source),
    ) {
        let Some(of) = self.groups.get_mut(group) else { return };
        let mut asked = of.asked.iter_mut();
        if let Some((range, asked)) = asked.find(|(_, asked)| asked.ticket == ticket)
            && asked.source == Source::Nearest
        {
            self.tickets += 1;
            *asked = Asked { ticket: self.tickets, source: Source::Leader, at: None };
            asked.tell(from, group, *range, ask);
        }
    }

    /// Asks again for what was not answered, each time of another: there may be no leader, or no replica near.
    pub(super) fn again(
        &mut self,
        from: ShardId,
        now: Duration,
        ask: &mut impl FnMut(Fetch, Source),
    ) {
        self.groups.retain(|_, of| !of.waiting.is_empty());
        let is_due = |asked: &Asked| asked.at.is_some_and(|at| now >= at + AGAIN_AFTER);
        let due = self.groups.iter().filter(|(_, of)| of.asked.values().any(is_due));
        let due: Vec<GroupId> = due.map(|(group, _)| group.clone()).collect();
        // Whoever wanted it may have left, and what lies within it be wanted still.
        due.iter().for_each(|group| self.ask(from, group, ask));
        for (group, of) in &mut self.groups {
            for (range, asked) in &mut of.asked {
                let at = *asked.at.get_or_insert(now);
                if now < at + AGAIN_AFTER {
                    continue;
                }
                asked.source = match asked.source {
                    Source::Nearest => Source::Leader,
                    Source::Leader => Source::Nearest,
                };
                asked.at = Some(now);
                asked.tell(from, group, *range, ask);
            }
        }
    }

    /// Who has waited for too long; `most` says how long each may.
    pub(super) fn overdue(
        &mut self,
        now: Duration,
        most: impl Fn(&Lacking) -> Option<Duration>,
    ) -> Vec<Whom> {
        let mut overdue = Vec::new();
        for (whom, waiting) in &mut self.all {
            let since = *waiting.since.get_or_insert(now);
            if most(&waiting.lacking).is_some_and(|most| now >= since + most) {
                overdue.push(*whom);
            }
        }
        overdue
    }

    /// Panics when something that always holds does not.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.entries, self.all.values().map(|waiting| waiting.entries.len()).sum());
        for (group, of) in &self.groups {
            for whom in &of.waiting {
                let wanted = &self.all[whom].wanted;
                assert!(wanted.iter().any(|(of, ..)| of == group), "{group} is wanted");
            }
        }
        for waiting in self.all.values() {
            for (group, first, last) in &waiting.wanted {
                let mut asked = self.groups[group].asked.keys();
                assert!(asked.any(|(from, to)| from <= first && last <= to), "it is asked for");
            }
        }
    }
}
