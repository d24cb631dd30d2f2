//! Group: who is in a group, who may do what, and how far everyone has got.
//!
//! A group has a mailbox like a user, owned by `g:<group>`: its log is the group's one order of posts and changes, its ledger
//! tells repeated posts, its `Mailbox` actor admits them in order. This room is what such a mailbox has besides.
//!
//! Owns      part of the shard's replicated state; the indexes (`Index`) can be had again from the members.
//! Promises  every change and every tick follows from the order of the log alone; a member is told of a change that puts
//!           them out, and of nothing after it; ticks never go back.
//! Never     looks into a post, or knows where members are connected.
//! Fails by  nothing: it computes.
//!
//! **Ticks without counting members.** What all *others* have is the lowest watermark, unless the sender alone has it; then
//! it is the next lowest. So each post is looked at once when it is delivered to all and once when it is read by all, however
//! many members there are.
//!
//! **Large groups: one body, many places.** A hundred members are spread over some fifty of 64 shards: a post that lay in
//! each mailbox would be agreed on, written and checkpointed fifty times on three nodes. So from `LARGE_GROUP` members on a
//! mailbox only has its place (`What::Referred`), places that follow each other are one entry of the log, and envelopes
//! with them one envelope. The post itself is shown to the nodes that lead members' shards, once each (`shard::posts`), for
//! those who are connected; whoever comes later is given it from any replica of the group's shard (`shard::home::fetching`).
//! Measured on two cores, 100 members: 118,000 deliveries a second before and 270,000 after; with all members away 1,300
//! posts a second before and 4,200 after. The price: a member whose group's shard has no replica within reach waits for it. So the
//! group's log is kept until nobody can refer to it any more: as long as a post may wait in a mailbox, as history after it, and
//! as long as that may wait for a device that came late (`Mailbox::kept_for`).

mod calls;
mod ticks;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::ticks::Index;
use crate::ids::{Seq, ShardId, Timestamp, UserId, shard_of};
use crate::message::Refusal;
use crate::message::group::{Info, Progress};
use crate::mutant::{Mutant, is_planted};

/// Posts that stay refused; more than a session has on its way.
const REFUSED_MAX: usize = 512;

/// The members by the shards their mailboxes are in, each list in order.
pub type Roster = Arc<[(ShardId, Arc<[UserId]>)]>;

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    admin: bool,
    /// The how-manieth member it was.
    place: u64,
    /// How far they have got; at first where they came in.
    at: Watermarks,
    /// Of their own posts, how far others have been looked at while nobody else was behind.
    ahead: Watermarks,
}

/// How far something has got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermarks {
    /// Delivered up to and including.
    pub delivered: Seq,
    /// Read up to and including; never above `delivered`.
    pub read: Seq,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    title: Box<str>,
    icon: Option<Box<str>>,
    status: Option<Box<str>>,
    created_at: Timestamp,
    /// What a repeated creation must say again.
    meaning: u64,
    shards: u16,
    members: BTreeMap<UserId, Member>,
    /// Members there have ever been.
    places: u64,
    /// Up to where all who wrote have been told.
    told: Watermarks,
    /// The newest posts of people who were not in it: each stays refused, or it could overtake what they wrote later.
    refused: VecDeque<u128>,
    /// Where each member came in: what they may read begins there. Kept beside the rest.
    #[serde(skip)]
    joined: BTreeMap<UserId, Seq>,
    /// The newest post to which members' mailboxes only refer. Kept beside the rest, too.
    #[serde(skip)]
    referred: Seq,
    #[serde(skip)]
    index: Index,
}

impl Group {
    /// Whether a user is in it.
    #[must_use]
    pub fn has(&self, user: &UserId) -> bool {
        self.members.contains_key(user)
    }

    /// Where each member came in.
    #[must_use]
    pub const fn joined(&self) -> &BTreeMap<UserId, Seq> {
        &self.joined
    }

    /// The newest post to which members' mailboxes only refer.
    #[must_use]
    pub const fn referred(&self) -> Seq {
        self.referred
    }

    /// Members' mailboxes only refer to this post.
    pub fn refer(&mut self, seq: Seq) {
        self.referred = seq;
    }

    /// How many are in it.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// After it was read: takes up where members came in, which is not known of groups from before it was kept (they then
    /// read what comes after `head`), the newest post that is referred to, and what follows from the members.
    pub fn restore(&mut self, joined: &BTreeMap<UserId, Seq>, referred: Seq, head: Seq) {
        self.referred = referred;
        let place = |user: &UserId| (user.clone(), joined.get(user).copied().unwrap_or(head));
        self.joined = self.members.keys().map(place).collect();
        self.restore_index();
    }

    /// Everybody who is in it.
    pub fn members(&self) -> impl Iterator<Item = &UserId> {
        self.members.keys()
    }

    /// Whether it takes a post, given by its sender and a hash of sender and id. A post that was refused stays so: its
    /// sender may not have heard of it, and have written more since they were taken in.
    pub fn admit(&mut self, from: &UserId, post: u128) -> bool {
        if self.refused.contains(&post) {
            return false;
        }
        let admitted = self.has(from) || is_planted(Mutant::TakesFromAnybody);
        if !admitted {
            self.refused.truncate(REFUSED_MAX - 1);
            self.refused.push_front(post);
        }
        admitted
    }

    /// The members, where their mailboxes are.
    pub fn roster(&mut self) -> Roster {
        if let Some(roster) = &self.index.roster {
            return Arc::clone(roster);
        }
        let mut lists: BTreeMap<ShardId, Vec<UserId>> = BTreeMap::new();
        for user in self.members.keys() {
            lists.entry(shard_of(user, self.shards)).or_default().push(user.clone());
        }
        let roster: Roster = lists.into_iter().map(|(shard, list)| (shard, list.into())).collect();
        self.index.roster = Some(Arc::clone(&roster));
        roster
    }

    /// The group as a member sees it.
    pub fn info(&self, by: &UserId) -> Result<Info, Refusal> {
        if !self.has(by) {
            return Err(Refusal::NotAMember);
        }
        let mut members: Vec<(&UserId, &Member)> = self.members.iter().collect();
        members.sort_by_key(|(_, member)| member.place);
        Ok(Info {
            title: self.title.clone(),
            icon: self.icon.clone(),
            status: self.status.clone(),
            members: members.into_iter().map(|(user, m)| (user.clone(), m.admin)).collect(),
            created_at: self.created_at,
        })
    }

    /// How far each member has got, as any of them may know.
    pub fn progress(&self, by: &UserId) -> Result<Vec<Progress>, Refusal> {
        if !self.has(by) {
            return Err(Refusal::NotAMember);
        }
        let progress = |(user, member): (&UserId, &Member)| Progress {
            user: user.clone(),
            delivered: member.at.delivered,
            read: member.at.read,
        };
        Ok(self.members.iter().map(progress).collect())
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        const MEMBER: usize = 320;
        self.members.len() * MEMBER
    }

    /// Whether all that is counted in it can be counted on from, up to `end`.
    #[must_use]
    pub fn is_sound(&self, end: u64) -> bool {
        let of = |m: &Member| [m.place, m.at.delivered.0, m.at.read.0];
        let mut numbers = self.members.values().flat_map(of).chain([self.places]);
        numbers.all(|number| number < end)
    }

    /// Panics when something that always holds does not; `head` is the newest entry of its log.
    pub fn check(&self, head: Seq) {
        for (user, member) in &self.members {
            let Watermarks { delivered, read } = member.at;
            assert!(read <= delivered && delivered <= head, "{user} has what there is");
            assert!(member.place < self.places, "{user} came in");
        }
        let admins = self.members.values().filter(|member| member.admin).count();
        assert!(self.members.is_empty() || admins > 0, "somebody is an admin");
        self.index.check(&self.members);
    }
}
