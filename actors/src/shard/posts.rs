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

    /// Puts posts where entries only have their place; answers the first of those that are not here.
    pub fn fill(&self, entries: &mut [Entry]) -> Option<Wanted> {
        let is_place = |entry: &Entry| matches!(entry.what, What::Referred { .. });
        if !entries.iter().any(is_place) {
            return None;
        }
        let shelves = self.lock();
        let mut wanted: Option<Wanted> = None;
        for entry in entries {
            let What::Referred { group, seq, .. } = &entry.what else { continue };
            match (shelves.find(group, *seq), &mut wanted) {
                (Some(post), _) => entry.what = post.clone(),
                (None, None) => wanted = Some((group.clone(), *seq, *seq)),
                (None, Some((known, _, last))) if known == group && last.next() == *seq => {
                    *last = *seq;
                }
                (None, Some(_)) => {}
            }
        }
        wanted
    }

    /// The single entries for which these stand, as far as all before them are whole; and whether there are more.
    #[must_use]
    pub fn whole(&self, entries: Vec<Entry>) -> (Vec<Entry>, bool) {
        let mut entries: Vec<Entry> = entries.into_iter().flat_map(Entry::each).collect();
        if self.fill(&mut entries).is_none() {
            return (entries, false);
        }
        let lacks = |entry: &Entry| matches!(entry.what, What::Referred { .. });
        let whole = entries.iter().position(lacks).unwrap_or(entries.len());
        entries.truncate(whole);
        (entries, true)
    }
}

impl Shelves {
    fn find(&self, group: &GroupId, seq: Seq) -> Option<&What> {
        let on = |shelf: &'_ Shelf| shelf.get(group).is_some_and(|known| known.contains_key(&seq));
        let shelf = if on(&self.new) { &self.new } else { &self.old };
        shelf.get(group)?.get(&seq)
    }
}
