//! Clubs: the group of a run, in the runs that have one: what was seen of it, and whether its promises hold.

use std::collections::{BTreeMap, BTreeSet};

use actors::ids::{Cid, Conversation, GroupId, MessageId, Seq, UserId};
use actors::message::What;
use actors::message::group::{Call, News};

/// An entry of the group's order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fact {
    Post(MessageId, UserId),
    Change(UserId, News),
}

/// What is known of the group.
#[derive(Debug)]
pub(crate) struct Club {
    pub(crate) group: GroupId,
    /// Its order, as members saw it.
    order: BTreeMap<u64, Fact>,
    /// The newest entry each member has; none for who is out.
    place: BTreeMap<UserId, Option<u64>>,
    /// Up to which post of others a member has acknowledged or read.
    had: BTreeMap<UserId, Seq>,
    /// Whom somebody has put out, as agreed on.
    put_out: BTreeSet<UserId>,
    ticks: BTreeMap<UserId, (Seq, Seq)>,
}

impl Club {
    /// The group that `founder` is going to make.
    pub(crate) fn of(founder: &UserId) -> Self {
        Self {
            group: GroupId::made_by(founder, &Cid::parse("club").unwrap()),
            order: BTreeMap::new(),
            place: BTreeMap::new(),
            had: BTreeMap::new(),
            put_out: BTreeSet::new(),
            ticks: BTreeMap::new(),
        }
    }

    pub(crate) fn owner(&self) -> UserId {
        UserId::of_group(&self.group)
    }

    pub(crate) fn conv(&self) -> Conversation {
        Conversation::Group(self.group.clone())
    }

    /// Whether somebody has seen that it was made.
    pub(crate) fn is_made(&self) -> bool {
        !self.order.is_empty()
    }

    /// Whether a user is in it, as far as their devices have seen.
    pub(crate) fn has(&self, user: &UserId) -> bool {
        self.place.get(user).is_some_and(Option::is_some)
    }

    pub(crate) fn was_put_out(&self, user: &UserId) -> bool {
        self.put_out.contains(user)
    }

    /// A call is agreed on.
    pub(crate) fn committed(&mut self, call: &Call) {
        if let Call::Remove(users) = call {
            self.put_out.extend(users.iter().cloned());
        }
    }

    /// A user's log has this, for the first time.
    pub(crate) fn saw(&mut self, user: &UserId, what: &What) {
        let (seq, fact) = match what {
            What::Post { mid, from, seq, .. } => (seq.0, Fact::Post(*mid, from.clone())),
            What::Sent { mid, seq, .. } => (seq.0, Fact::Post(*mid, user.clone())),
            What::Group { seq, by, news, .. } => {
                (seq.0, Fact::Change(by.clone(), News::clone(news)))
            }
            What::Receipt { delivered, read, .. } => return self.told(user, *delivered, *read),
            other => panic!("nothing of a group: {other:?}"),
        };
        let known = self.order.entry(seq).or_insert_with(|| fact.clone());
        assert_eq!(*known, fact, "all members see one order at {seq}");
        let place = self.place.entry(user.clone()).or_default();
        if fact.brings(user) {
            assert_eq!(*place, None, "{user} was out");
        } else {
            assert_eq!(*place, Some(seq - 1), "{user} sees {seq} after the one before");
        }
        *place = (!fact.puts_out(user)).then_some(seq);
    }

    /// A device of a user has it.
    pub(crate) fn acknowledged(&mut self, user: &UserId, seq: Seq) {
        let had = self.had.entry(user.clone()).or_default();
        *had = seq.max(*had);
    }

    fn told(&mut self, user: &UserId, delivered: Seq, read: Seq) {
        assert!(self.has(user), "only members are told");
        assert!(read <= delivered, "what is read is delivered");
        let ticks = self.ticks.entry(user.clone()).or_default();
        assert!(ticks.0 <= delivered && ticks.1 <= read, "ticks never go back");
        assert!(*ticks != (delivered, read), "a receipt says something new");
        *ticks = (delivered, read);
        for (other, since) in self.members() {
            let had = self.had.get(&other).copied().unwrap_or_default().0.max(since);
            let counts = other != *user && !self.put_out.contains(&other);
            assert!(!counts || delivered.0 <= had, "{other} has {had}, {user} is told {delivered}");
        }
    }

    /// Who is in it after all that was seen, and since when. Whoever comes sees what follows before the others have seen all
    /// that was before: behind what nobody has seen yet nothing is known.
    fn members(&self) -> BTreeMap<UserId, u64> {
        let mut members = BTreeMap::new();
        let seen = (1..).zip(&self.order).take_while(|(at, (seq, _))| at == *seq);
        for (_, (seq, fact)) in seen {
            let (by, news) = match fact {
                Fact::Change(by, news) => (by, news),
                Fact::Post(_, from) => {
                    assert!(members.contains_key(from), "{from} was a member at {seq}");
                    continue;
                }
            };
            match news {
                News::Created { users, .. } | News::Added { users, .. } => {
                    members.extend(users.iter().map(|user| (user.clone(), *seq)));
                }
                News::Removed(users) => members.retain(|user, _| !users.contains(user)),
                News::Left => members.retain(|user, _| user != by),
                News::Updated { .. } | News::Role { .. } => {}
            }
        }
        members
    }

    /// Whether a post is where its sender was told.
    pub(crate) fn holds(&self, seq: Seq, mid: MessageId, from: &UserId) -> bool {
        self.order.get(&seq.0) == Some(&Fact::Post(mid, from.clone()))
    }

    /// All is drained: every member has all, and who wrote knows it.
    pub(crate) fn at_the_end(&self) {
        let (members, head) = (self.members(), self.order.keys().next_back().copied());
        assert!(head.is_none_or(|head| self.order.len() as u64 == head), "all of it was seen");
        for (user, place) in &self.place {
            let should = members.get(user).and(head);
            assert_eq!(*place, should, "{user} has all there is");
        }
        for (user, since) in &members {
            let mut own = self.order.range(since..).filter(|(_, fact)| fact.is_by(user));
            if let Some((newest, _)) = own.next_back()
                && members.len() > 1
            {
                let told = self.ticks.get(user).map_or(0, |ticks| ticks.0.0);
                assert!(told >= *newest, "{user} knows that all have {newest}: {told}");
            }
        }
    }
}

impl Fact {
    fn brings(&self, user: &UserId) -> bool {
        matches!(self, Self::Change(_, News::Created { users, .. } | News::Added { users, .. })
            if users.contains(user))
    }

    fn puts_out(&self, user: &UserId) -> bool {
        match self {
            Self::Change(_, News::Removed(users)) => users.contains(user),
            Self::Change(by, News::Left) => by == user,
            _ => false,
        }
    }

    fn is_by(&self, user: &UserId) -> bool {
        matches!(self, Self::Post(_, from) if from == user)
    }
}
