//! Posts: what was posted lately to large groups, where the homes of their members find it.
//!
//! Members' mailboxes only have the place of such a post (`What::Referred`). The leader of the group's shard shows each post
//! to the nodes that lead its members' shards, once per node, before it is in their mailboxes; what is not found here is
//! fetched from a replica of the group's shard, and lies here afterwards, for other members will want it too.
//!
//! Memory of the node, shared by all its lanes: losing it costs fetching.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::{GroupId, Seq};
use crate::message::{Entry, What};
use crate::mutant::{Mutant, is_planted};
use crate::user::rules::Input;

/// Bytes of posts a node keeps, about.
const BYTES_MAX: usize = 16 * 1024 * 1024;

type Shelf = BTreeMap<GroupId, BTreeMap<Seq, What>>;

/// Posts that follow each other and are wanted: group, first, last.
pub type Wanted = (GroupId, Seq, Seq);

/// Posts of large groups; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Posts(Arc<Mutex<Shelves>>);

/// When the new shelf is half of what there may be, it becomes the old one, and the old one goes.
#[derive(Debug, Default)]
struct Shelves {
    new: Shelf,
    old: Shelf,
    bytes: usize,
}

impl Posts {
    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps posts; anything else is passed over.
    pub fn put<'a>(&self, posts: impl IntoIterator<Item = &'a Entry>) {
        let mut shelves = self.lock();
        for post in posts {
            let What::Post { group, seq, .. } = &post.what else { continue };
            if shelves.bytes >= BYTES_MAX / 2 {
                (shelves.old, shelves.bytes) = (std::mem::take(&mut shelves.new), 0);
            }
            let known = match shelves.new.get_mut(group) {
                Some(known) => known,
                None => shelves.new.entry(group.clone()).or_default(),
            };
            if known.insert(*seq, post.what.clone()).is_none() {
                shelves.bytes += post.weight();
            }
        }
    }

    /// Puts posts where entries only have their place, as far as they are here.
    pub fn fill(&self, entries: &mut [Entry]) {
        if !entries.iter().any(is_place) {
            return;
        }
        let shelves = self.lock();
        for entry in entries {
            if let What::Referred { group, seq, .. } = &entry.what
                && let Some(post) = shelves.find(group, *seq)
            {
                entry.what = post.clone();
            }
        }
    }

    /// What the actor of a connected user hears of new entries of their log: those that are whole, up to the first that is
    /// not, and that the log goes on behind them.
    pub fn heard(&self, entries: Vec<Entry>) -> impl Iterator<Item = Input> + use<> {
        let head = entries.last().map(Entry::last);
        let (entries, more) = self.whole(entries);
        let grown = head.filter(|_| more).map(|head| Input::Grown { head });
        head.map(|_| Input::Logged { entries }).into_iter().chain(grown)
    }

    /// The single entries for which these stand, as far as all before them are whole; and whether there are more.
    fn whole(&self, entries: Vec<Entry>) -> (Vec<Entry>, bool) {
        let mut entries: Vec<Entry> = entries.into_iter().flat_map(Entry::each).collect();
        self.fill(&mut entries);
        let Some(whole) = entries.iter().position(is_place) else { return (entries, false) };
        entries.truncate(whole);
        (entries, true)
    }
}

/// Whether an entry is only the place of a post.
#[must_use]
pub const fn is_place(entry: &Entry) -> bool {
    matches!(entry.what, What::Referred { .. })
}

/// The posts of which these entries only have the place. What is missing between two of them is asked for with them, if it
/// is little: mostly the reader's own posts.
#[must_use]
pub fn wanted(entries: &[Entry]) -> Vec<Wanted> {
    const BETWEEN: u64 = 8;
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut newest: BTreeMap<&GroupId, usize> = BTreeMap::new();
    for entry in entries {
        let What::Referred { group, seq, .. } = &entry.what else { continue };
        let known = newest.get(group).and_then(|at| wanted.get_mut(*at));
        match known {
            Some((_, _, last)) if *last < *seq && seq.0 - last.0 <= BETWEEN => *last = *seq,
            _ => {
                newest.insert(group, wanted.len());
                wanted.push((group.clone(), *seq, *seq));
            }
        }
    }
    wanted
}

impl Shelves {
    fn find(&self, group: &GroupId, seq: Seq) -> Option<&What> {
        let on = |shelf: &'_ Shelf| shelf.get(group).is_some_and(|known| known.contains_key(&seq));
        let shelf = if on(&self.new) { &self.new } else { &self.old };
        let known = shelf.get(group)?;
        let other = is_planted(Mutant::FetchesNext).then(|| known.get(&seq.next())).flatten();
        other.or_else(|| known.get(&seq))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DeviceId, Kind, MessageId, Number, Timestamp, UserId};
    use crate::message::Content;

    fn club() -> GroupId {
        GroupId::parse("club").unwrap()
    }

    fn post(seq: u64, body: usize) -> Entry {
        let kind = Kind::parse("text").unwrap();
        let body = "x".repeat(body).into();
        let what = What::Post {
            group: club(),
            mid: MessageId(seq.into()),
            from: UserId::parse("ann").unwrap(),
            device: DeviceId::parse("phone").unwrap(),
            seq: Seq(seq),
            at: Timestamp(5),
            content: Arc::new(Content { kind, body, reply_to: None, client: None }),
        };
        Entry { n: Number(seq), at: Timestamp(5), what }
    }

    fn places(n: u64, seq: u64, count: u32) -> Entry {
        let what = What::Referred { group: club(), seq: Seq(seq), count };
        Entry { n: Number(n), at: Timestamp(9), what }
    }

    #[test]
    fn what_was_posted_is_found_and_what_was_not_is_wanted() {
        let posts = Posts::default();
        posts.put(&[post(1, 2), post(2, 2), post(6, 2)]);
        let mut entries: Vec<Entry> = places(11, 1, 6).each().collect();
        posts.fill(&mut entries);
        assert_eq!(wanted(&entries), [(club(), Seq(3), Seq(5))]);
        let whole = [(11, 1), (12, 2), (16, 6)];
        for (n, seq) in whole {
            let entry = &entries[usize::try_from(n - 11).unwrap()];
            assert_eq!((entry.n, entry.at), (Number(n), Timestamp(9)), "its own place in the log");
            assert_eq!(entry.what, post(seq, 2).what);
        }
        let (told, more) = posts.whole(vec![places(11, 1, 6)]);
        assert_eq!((told.len(), more), (2, true), "up to the first that is not here");
        assert_eq!(posts.whole(vec![places(11, 1, 2)]), (told, false));
        let other = Entry { what: post(9, 2).what, ..places(1, 9, 1) };
        assert_eq!(posts.whole(vec![other.clone()]), (vec![other], false));
    }

    #[test]
    fn what_is_wanted_of_a_group_is_asked_for_together() {
        let other = |n, seq| {
            let group = GroupId::parse("team").unwrap();
            Entry { what: What::Referred { group, seq: Seq(seq), count: 1 }, ..places(n, seq, 1) }
        };
        let entries = [places(1, 3, 1), other(2, 9), places(3, 5, 1), post(4, 1), places(5, 40, 1)];
        let team = GroupId::parse("team").unwrap();
        let all = [(club(), Seq(3), Seq(5)), (team, Seq(9), Seq(9)), (club(), Seq(40), Seq(40))];
        assert_eq!(wanted(&entries), all);
    }

    #[test]
    fn only_so_many_bytes_are_kept_and_the_newest_of_them() {
        let posts = Posts::default();
        let (body, count) = (30_000, 4 * BYTES_MAX as u64 / 30_000);
        for seq in 1..=count {
            posts.put([&post(seq, body)]);
        }
        let is_there = |seq: &u64| posts.whole(vec![places(1, *seq, 1)]).0.len() == 1;
        let kept: Vec<u64> = (1..=count).filter(is_there).collect();
        let bytes = kept.len() * body;
        assert!((BYTES_MAX / 3..=BYTES_MAX + body).contains(&bytes), "{bytes}");
        assert_eq!(kept.last(), Some(&count));
        assert!(kept.iter().is_sorted_by(|a, b| **a + 1 == **b), "none between is missing");
    }
}
