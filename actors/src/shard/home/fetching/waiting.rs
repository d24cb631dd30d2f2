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
    /// By the first and the last post of what they wait for; of those that begin together the longest first.
    waiting: BTreeMap<(Seq, Reverse<Seq>), BTreeSet<Whom>>,
    /// No range is longer, from its first to its last.
    longest: u64,
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

    /// Who waits for posts of a group that are among those that came, from the first to the last, or are gone up to one.
    pub(super) fn concerned(
        &self,
        group: &GroupId,
        came: Option<(Seq, Seq)>,
        gone: Seq,
    ) -> BTreeSet<Whom> {
        let Some(of) = self.groups.get(group) else { return BTreeSet::new() };
        let beginning = |from: Seq, to: Seq| {
            of.waiting.range((from, Reverse(Seq(u64::MAX)))..=(to, Reverse(Seq(0))))
        };
        let came = came.into_iter().flat_map(|(first, last)| {
            let reaching = beginning(Seq(first.0.saturating_sub(of.longest)), last);
            reaching.filter(move |((_, Reverse(end)), _)| *end >= first)
        });
        let gone = beginning(Seq(0), gone);
        came.chain(gone).flat_map(|(_, whoms)| whoms).copied().collect()
    }

    pub(super) fn get(&self, whom: Whom) -> Option<&Waiting> {
        self.all.get(&whom)
    }

    /// Somebody waits, for one thing instead of another if they did already.
    pub(super) fn put(&mut self, whom: Whom, waiting: Waiting) {
        drop(self.take(whom));
        for (group, first, last) in &waiting.wanted {
            let of = self.groups.entry(group.clone()).or_default();
            of.waiting.entry((*first, Reverse(*last))).or_default().insert(whom);
            of.longest = of.longest.max(last.0.saturating_sub(first.0));
        }
        self.entries += waiting.entries.len();
        self.all.insert(whom, waiting);
    }

    /// Somebody waits no longer, or is about to wait for less.
    pub(super) fn take(&mut self, whom: Whom) -> Option<Waiting> {
        let waiting = self.all.remove(&whom)?;
        self.entries -= waiting.entries.len();
        for (group, first, last) in &waiting.wanted {
            let Some(of) = self.groups.get_mut(group) else { continue };
            let range = (*first, Reverse(*last));
            let Some(whoms) = of.waiting.get_mut(&range) else { continue };
            whoms.remove(&whom);
            if whoms.is_empty() {
                of.waiting.remove(&range);
            }
            if of.waiting.is_empty() {
                of.longest = 0;
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
        let mut outer: Vec<(Seq, Seq)> = Vec::new();
        for (first, Reverse(last)) in of.waiting.keys() {
            // What lies within another range comes with it.
            if outer.last().is_none_or(|(_, covered)| last > covered) {
                outer.push((*first, *last));
            }
        }
        of.asked.retain(|range, _| outer.binary_search(range).is_ok());
        if of.asked.len() == outer.len() {
            return;
        }
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
            for ((first, Reverse(last)), whoms) in &of.waiting {
                let range = (group.clone(), *first, *last);
                assert!(last.0 - first.0 <= of.longest && !whoms.is_empty());
                assert!(whoms.iter().all(|whom| self.all[whom].wanted.contains(&range)));
            }
        }
        for (whom, waiting) in &self.all {
            for (group, first, last) in &waiting.wanted {
                let of = &self.groups[group].waiting;
                assert!(of[&(*first, Reverse(*last))].contains(whom), "it is found");
                let mut asked = self.groups[group].asked.keys();
                assert!(asked.any(|(from, to)| from <= first && last <= to), "it is asked for");
            }
        }
    }
}
