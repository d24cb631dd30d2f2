//! Ticks: how far the members have got, and which of those who wrote are to be told.

use std::collections::{BTreeMap, BTreeSet};

use super::{Group, Member, Roster, Watermarks};
use crate::ids::{Seq, UserId};
use crate::mutant::{Mutant, is_planted};

/// What can be had again from the members. Two groups with the same members are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    pub(super) roster: Option<Roster>,
    delivered: BTreeSet<(Seq, UserId)>,
    read: BTreeSet<(Seq, UserId)>,
}

impl PartialEq for Index {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Index {}

impl Index {
    pub(super) fn enter(&mut self, user: &UserId, at: Watermarks) {
        self.roster = None;
        self.delivered.insert((at.delivered, user.clone()));
        self.read.insert((at.read, user.clone()));
    }

    pub(super) fn leave(&mut self, user: &UserId, at: Watermarks) {
        self.roster = None;
        self.delivered.remove(&(at.delivered, user.clone()));
        self.read.remove(&(at.read, user.clone()));
    }

    pub(super) fn check(&self, members: &BTreeMap<UserId, Member>) {
        let of = |mark: fn(&Watermarks) -> Seq| -> BTreeSet<(Seq, UserId)> {
            members.iter().map(|(user, member)| (mark(&member.at), user.clone())).collect()
        };
        assert_eq!(self.delivered, of(|at| at.delivered), "everyone's deliveries are known");
        assert_eq!(self.read, of(|at| at.read), "everyone's reads are known");
    }
}

/// Who wrote what: `(after, up to and including)` to `(who, its seq)`, in order.
pub(super) type Posts<'a> = &'a dyn Fn(Seq, Seq) -> Vec<(UserId, Seq)>;

impl Group {
    /// Builds the indexes after the group was read from disk.
    pub(super) fn restore_index(&mut self) {
        let mut index = Index::default();
        for (user, member) in &self.members {
            index.enter(user, member.at);
        }
        self.index = index;
    }

    /// A member has got so far; answers whether that is news.
    pub fn got(&mut self, by: &UserId, delivered: Seq, read: Seq, head: Seq) -> bool {
        let Some(member) = self.members.get_mut(by) else {
            return false;
        };
        let old = member.at;
        member.at.read = old.read.max(read.min(head));
        member.at.delivered = old.delivered.max(delivered.min(head)).max(member.at.read);
        let new = member.at;
        if new == old {
            return false;
        }
        let roster = self.index.roster.take();
        self.index.leave(by, old);
        self.index.enter(by, new);
        self.index.roster = roster;
        true
    }

    /// Who must be told how far their posts have got, after something has changed; each is told once of each.
    pub fn to_tell(
        &mut self,
        posts: &dyn Fn(Seq, Seq) -> Vec<(UserId, Seq)>,
    ) -> Vec<(UserId, Watermarks)> {
        let mut whom = BTreeSet::new();
        let delivered = Kind { of: |marks| &mut marks.delivered, set: |index| &index.delivered };
        let read = Kind { of: |marks| &mut marks.read, set: |index| &index.read };
        for kind in [delivered, read] {
            self.sweep(kind, posts, &mut whom);
        }
        let told = whom.into_iter().filter_map(|user| {
            let delivered = others(&self.index.delivered, &user)?;
            let read = others(&self.index.read, &user)?;
            self.members.contains_key(&user).then_some((user, Watermarks { delivered, read }))
        });
        told.collect()
    }

    fn sweep(&mut self, kind: Kind, posts: Posts<'_>, whom: &mut BTreeSet<UserId>) {
        let mut lowest = (kind.set)(&self.index).iter();
        let Some((mut low, last)) = lowest.next().cloned() else {
            return;
        };
        if is_planted(Mutant::TicksOfTheFastest) {
            low = (kind.set)(&self.index).last().map_or(low, |(seq, _)| *seq);
        }
        // Alone, nobody is told anything.
        let Some((next, _)) = lowest.next().cloned() else {
            return;
        };
        let told = (kind.of)(&mut self.told);
        let from = std::mem::replace(told, low.max(*told));
        if low > from {
            for (user, seq) in posts(from, low) {
                let member = self.members.get_mut(&user);
                if member.is_some_and(|member| *(kind.of)(&mut member.ahead) < seq) {
                    whom.insert(user);
                }
            }
        }
        if next > low
            && let Some(member) = self.members.get_mut(&last)
        {
            let ahead = (kind.of)(&mut member.ahead);
            let from = std::mem::replace(ahead, next.max(*ahead)).max(low);
            if next > from && posts(from, next).iter().any(|(user, _)| *user == last) {
                whom.insert(last);
            }
        }
    }
}

/// Delivered, or read.
#[derive(Clone, Copy)]
struct Kind {
    of: fn(&mut Watermarks) -> &mut Seq,
    set: fn(&Index) -> &BTreeSet<(Seq, UserId)>,
}

/// How far all but one have got; none when there is nobody else.
fn others(marks: &BTreeSet<(Seq, UserId)>, but: &UserId) -> Option<Seq> {
    let mut others = marks.iter().filter(|(_, user)| user != but).map(|(seq, _)| *seq);
    if is_planted(Mutant::TicksOfTheFastest) { others.next_back() } else { others.next() }
}
