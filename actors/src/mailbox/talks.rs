//! Talks: which conversation each entry of a log belongs to, so that chats and their pages are found without reading it.
//!
//! One number per entry, in the log's order. What there is to know of a conversation is found by walking these numbers
//! from an end: a log of 100,000 entries is 400 KB of them, and nothing has to be kept true beside them.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::ids::{Conversation, Number, Timestamp};
use crate::message::What;

/// Every so many entries it is noted when one came.
const TIMED_EVERY: u64 = 64;
/// The row of an entry that is part of no conversation.
const NONE: u32 = 0;

/// What an entry is in its conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A message of somebody else.
    Theirs,
    /// A message of the owner.
    Own,
    /// A change of a group.
    Change,
}

/// Which conversation each entry belongs to.
#[derive(Debug, Clone, Default)]
pub struct Talks {
    head: Head,
    ids: BTreeMap<Conversation, u32>,
    /// Of entry `first`, and those after it.
    rows: VecDeque<u32>,
}

/// The part that lies in a mailbox's head.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Entries up to here have no row.
    gone: Number,
    /// The conversations, in the order of their numbers.
    names: Vec<Conversation>,
    /// When some of the entries came.
    times: VecDeque<(Timestamp, Number)>,
}

/// A conversation in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// Which.
    pub conv: &'a Conversation,
    /// Its newest entry of any kind; the list is in this order.
    pub newest: Number,
    /// Its newest message.
    pub last: Option<Number>,
}

impl PartialEq for Talks {
    /// Compares what both have noted: a replica whose checkpoint is from before conversations were noted begins later.
    fn eq(&self, other: &Self) -> bool {
        let from = self.head.gone.max(other.head.gone);
        let noted = |talks: &Self| {
            let rows = talks.back(None, from, Number(u64::MAX), None);
            rows.map(|(n, part)| (n, part, talks.conv_of(n).cloned())).collect::<Vec<_>>()
        };
        noted(self) == noted(other)
    }
}

impl Eq for Talks {}

impl Talks {
    pub(super) fn restore(head: Head, rows: VecDeque<u32>) -> Self {
        let ids = (1..).zip(&head.names).map(|(id, conv)| (conv.clone(), id)).collect();
        Self { head, ids, rows }
    }

    /// Of a log that was begun before its conversations were noted.
    pub(super) fn from(head: Number) -> Self {
        Self { head: Head { gone: head, ..Head::default() }, ..Self::default() }
    }

    pub(super) const fn head(&self) -> &Head {
        &self.head
    }

    /// The number of the first row.
    pub(super) const fn first(&self) -> u64 {
        self.head.first()
    }

    /// Rows from number `start` on.
    pub(super) fn rows_from(&self, start: u64) -> impl Iterator<Item = &u32> {
        let skip = usize::try_from(start.saturating_sub(self.first())).unwrap_or(usize::MAX);
        self.rows.range(skip.min(self.rows.len())..)
    }

    /// The log's next entry, which ends with number `last`.
    pub(super) fn push(&mut self, (n, last): (Number, Number), at: Timestamp, what: &What) {
        let (conv, part) = match what {
            What::Message { from, .. } => (Some(Conversation::User(from.clone())), Part::Theirs),
            What::Post { group, .. } | What::Referred { group, .. } => {
                (Some(Conversation::Group(group.clone())), Part::Theirs)
            }
            What::Sent { conv, .. } => (Some(conv.clone()), Part::Own),
            What::Group { group, .. } => (Some(Conversation::Group(group.clone())), Part::Change),
            What::Receipt { .. } | What::Expired { .. } => (None, Part::Change),
        };
        let row = conv.map_or(NONE, |conv| self.id(conv) << 2 | part as u32);
        self.rows.extend((n.0..=last.0).map(|_| row));
        if self.head.times.back().is_none_or(|(_, timed)| n.0 >= timed.0 + TIMED_EVERY) {
            self.head.times.push_back((at, n));
        }
    }

    fn id(&mut self, conv: Conversation) -> u32 {
        if let Some(id) = self.ids.get(&conv) {
            return *id;
        }
        self.head.names.push(conv.clone());
        let id = u32::try_from(self.head.names.len()).unwrap_or(u32::MAX >> 2);
        self.ids.insert(conv, id);
        id
    }

    /// Entries up to `n` are gone.
    pub(super) fn drop_to(&mut self, n: Number) {
        let gone = n.0.saturating_sub(self.head.gone.0);
        let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(self.rows.len());
        self.rows.drain(..gone);
        self.head.gone = Number(self.head.gone.0 + gone as u64);
        while self.head.times.front().is_some_and(|(_, timed)| *timed <= n) {
            self.head.times.pop_front();
        }
        if self.rows.is_empty() {
            self.rows.shrink_to(4);
        }
    }

    /// All entries are gone, and with whom the owner spoke is nobody's business any more.
    pub(super) fn forget_names(&mut self) {
        debug_assert!(self.rows.is_empty(), "rows have names");
        self.head.names.clear();
        self.ids.clear();
    }

    /// The entries of one conversation, or of all, between two numbers (without them), newest first; see `mirror`.
    pub fn back(
        &self,
        conv: Option<&Conversation>,
        after: Number,
        before: Number,
        mirror: Option<&Conversation>,
    ) -> impl DoubleEndedIterator<Item = (Number, Part)> {
        let id = conv.map(|conv| self.ids.get(conv).copied());
        let mirror = self.mirror(mirror);
        let first = self.first();
        let clamp = |n: u64| {
            usize::try_from(n.saturating_sub(first)).unwrap_or(usize::MAX).min(self.rows.len())
        };
        let (from, to) = (clamp(after.0 + 1), clamp(before.0));
        let rows = self.rows.range(from.min(to)..to).enumerate().rev();
        rows.filter_map(move |(at, row)| {
            let (of, part) = once(read(*row)?, mirror);
            let wanted = id.is_none_or(|id| id == Some(of));
            wanted.then_some((Number(first + (from + at) as u64), part))
        })
    }

    /// The number of the owner's conversation with themselves. What they write there comes back to them, so it is in the log
    /// twice, and only the own copy is looked at.
    fn mirror(&self, conv: Option<&Conversation>) -> Option<u32> {
        self.ids.get(conv?).copied()
    }

    /// The conversation of an entry.
    fn conv_of(&self, n: Number) -> Option<&Conversation> {
        let at = usize::try_from(n.0.checked_sub(self.first())?).ok()?;
        let (id, _) = read(*self.rows.get(at)?)?;
        self.head.names.get(id as usize - 1)
    }

    /// The conversations whose newest entry is before a number, newest first.
    #[must_use]
    pub fn list(
        &self,
        before: Number,
        most: usize,
        mirror: Option<&Conversation>,
    ) -> Vec<Found<'_>> {
        let mirror = self.mirror(mirror);
        // Of each conversation, where it is in the list, or that it is not in this part of it.
        let mut seen: Vec<Option<Option<usize>>> = vec![None; self.head.names.len()];
        let mut list: Vec<Found<'_>> = Vec::new();
        let mut lacking = 0;
        for (at, row) in self.rows.iter().enumerate().rev() {
            let Some((id, part)) = read(*row).map(|row| once(row, mirror)) else { continue };
            let n = Number(self.first() + at as u64);
            let message = (part != Part::Change).then_some(n);
            let Some(place) = seen.get_mut(id as usize - 1) else { continue };
            match place {
                None if n >= before => *place = Some(None),
                None if list.len() < most => {
                    *place = Some(Some(list.len()));
                    lacking += usize::from(message.is_none());
                    let conv = &self.head.names[id as usize - 1];
                    list.push(Found { conv, newest: n, last: message });
                }
                Some(Some(at)) if message.is_some() && list[*at].last.is_none() => {
                    list[*at].last = message;
                    lacking -= 1;
                }
                _ => {}
            }
            if list.len() == most && lacking == 0 {
                break;
            }
        }
        list
    }

    /// The conversations with messages of others after one number, up to another: the first and the newest of each.
    #[must_use]
    pub fn theirs(
        &self,
        after: Number,
        last: Number,
        mirror: Option<&Conversation>,
    ) -> BTreeMap<&Conversation, (Number, Number)> {
        let (first, mirror) = (self.first(), self.mirror(mirror));
        let clamp = |n: u64| {
            usize::try_from(n.saturating_sub(first)).unwrap_or(usize::MAX).min(self.rows.len())
        };
        let (from, to) = (clamp(after.0 + 1), clamp(last.0 + 1));
        let mut found: BTreeMap<&Conversation, (Number, Number)> = BTreeMap::new();
        for (at, row) in self.rows.range(from.min(to)..to).enumerate() {
            let Some((id, Part::Theirs)) = read(*row).map(|row| once(row, mirror)) else {
                continue;
            };
            let n = Number(first + (from + at) as u64);
            found.entry(&self.head.names[id as usize - 1]).or_insert((n, n)).1 = n;
        }
        found
    }

    /// How many messages of others there are: of each group among its newest so many entries, and of each conversation of two
    /// at the most so many. All are found in one walk.
    #[must_use]
    pub fn theirs_among(&self, convs: &[(&Conversation, u64)]) -> Vec<u64> {
        // Of each conversation: how many entries may still count, and where its answer is.
        let mut left: Vec<(u64, usize)> = vec![(0, 0); self.head.names.len()];
        let mut open = 0;
        for (place, (conv, count)) in convs.iter().enumerate() {
            if let Some(id) = self.ids.get(*conv)
                && *count > 0
            {
                left[*id as usize - 1] = (*count, place);
                open += 1;
            }
        }
        let mut found = vec![0; convs.len()];
        for row in self.rows.iter().rev() {
            if open == 0 {
                break;
            }
            let Some((id, part)) = read(*row) else { continue };
            let Some((left, place)) = left.get_mut(id as usize - 1) else { continue };
            let theirs = part == Part::Theirs;
            if *left == 0 || !theirs && matches!(convs[*place].0, Conversation::User(_)) {
                continue;
            }
            *left -= 1;
            open -= usize::from(*left == 0);
            found[*place] += u64::from(theirs);
        }
        found
    }

    /// An entry that came before this moment, and all before it did.
    #[must_use]
    pub fn before(&self, moment: Timestamp) -> Number {
        let earlier = self.head.times.partition_point(|(at, _)| *at < moment);
        earlier.checked_sub(1).map_or(Number(0), |at| self.head.times[at].1)
    }

    /// The first entry of which it is known that it came after this moment, as all after it did.
    #[must_use]
    pub fn after(&self, moment: Timestamp) -> Number {
        let until = self.head.times.partition_point(|(at, _)| *at <= moment);
        self.head.times.get(until).map_or(Number(u64::MAX), |(_, n)| *n)
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        const NAME: usize = 144;
        const TIME: usize = size_of::<(Timestamp, Number)>();
        let head = self.head.names.len() * NAME + self.head.times.len() * TIME;
        self.rows.len() * size_of::<u32>() + head
    }

    /// Panics when something that always holds does not; `low` and `head` are the log's.
    pub(super) fn check(&self, low: Number, head: Number) {
        assert!(self.head.gone >= low, "no rows of what is gone");
        assert_eq!(self.head.gone.0 + self.rows.len() as u64, head.0.max(self.head.gone.0), "rows");
        assert_eq!(self.ids.len(), self.head.names.len(), "a number for each conversation");
        assert!(self.head.times.iter().is_sorted(), "times in order");
    }
}

impl Head {
    pub(super) const fn first(&self) -> u64 {
        self.gone.0 + 1
    }

    /// Whether all that is counted in it can be counted on from, up to `end`.
    pub(super) fn is_sound(&self, end: u64) -> bool {
        self.gone.0 < end
    }
}

/// A row's conversation, from 1, and what the entry is in it.
const fn read(row: u32) -> Option<(u32, Part)> {
    let part = match row & 3 {
        0 => Part::Theirs,
        1 => Part::Own,
        _ => Part::Change,
    };
    match row >> 2 {
        0 => None,
        id => Some((id, part)),
    }
}

/// The same row; but that what the owner wrote to themselves is not also a message of somebody else.
fn once((id, part): (u32, Part), mirror: Option<u32>) -> (u32, Part) {
    match part {
        Part::Theirs if mirror == Some(id) => (id, Part::Change),
        part => (id, part),
    }
}
