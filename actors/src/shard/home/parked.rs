//! Parked: posts to groups that wait until what was posted before has left for the members' shards.
//!
//! A post is one entry here and one envelope for each shard that has members: a group that everybody writes to could fill
//! the outbox far faster than the other shards take it. So only so much is under way at once; the rest waits here, before
//! it is agreed on. The groups take turns, so a large one does not hold up the others, and so do the sessions that write to
//! one.
//!
//! A session that waits for too long repeats all it has sent, in a new life of its stream. That takes the place of what it
//! sent before: else what nobody waits for any more would fill the queue, and what is waited for stand behind it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use super::{Home, Output};
use crate::ids::{MessageId, SessionId, UserId};
use crate::message::Refusal;
use crate::packet::{Ask, Tell, ToHome};
use crate::shard::replica::Replica;

/// Bytes under way to one shard above which posts wait.
const UNDER_WAY_BYTES: usize = 96 * 1024;
/// Posts let in between two looks at what is under way: what is let in is not in the outbox yet.
const AT_ONCE: u32 = 16;
/// The time between two such looks.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Posts that wait; more are refused as `Overloaded`.
const PARKED_MAX: usize = 4_096;

/// A post, and the id it gets unless it was stored before.
type Post = (ToHome, MessageId);

/// Posts that wait, by group.
#[derive(Default)]
pub(super) struct Parked {
    queues: BTreeMap<UserId, Queue>,
    count: usize,
    /// The group whose turn was last.
    last: Option<UserId>,
    looked: Duration,
    let_in: u32,
}

/// Posts to one group.
#[derive(Default)]
struct Queue {
    lines: BTreeMap<SessionId, Line>,
    /// The session whose turn was last.
    last: Option<SessionId>,
}

/// Posts of one session, all of one life of its stream.
#[derive(Default)]
struct Line {
    life: u32,
    posts: VecDeque<Post>,
}

impl Queue {
    /// The oldest post of the session whose turn it is.
    fn pop(&mut self) -> Option<Post> {
        let session = turn(&self.lines, self.last.as_ref())?;
        let line = self.lines.get_mut(&session)?;
        let post = line.posts.pop_front();
        if line.posts.is_empty() {
            self.lines.remove(&session);
        }
        self.last = Some(session);
        post
    }
}

/// Whose turn it is after that of `last`.
fn turn<K: Ord + Clone, V>(all: &BTreeMap<K, V>, last: Option<&K>) -> Option<K> {
    let from = last.map_or(Bound::Unbounded, Bound::Excluded);
    let next = all.range((from, Bound::Unbounded)).next();
    next.or_else(|| all.first_key_value()).map(|(key, _)| key.clone())
}

impl Parked {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Gives the post back when too many wait.
    fn push(&mut self, post: Post) -> Option<Post> {
        let Ask::Send { place, .. } = &post.0.ask else { return None };
        let (life, session) = (place.life, post.0.session);
        let queue = self.queues.entry(post.0.user.clone()).or_default();
        let line = queue.lines.entry(session).or_default();
        if life > line.life {
            self.count -= line.posts.len();
            *line = Line { life, posts: VecDeque::new() };
        }
        // A late one of a life that is over is waited for by nobody.
        let is_over = life < line.life;
        let is_full = self.count >= PARKED_MAX;
        if !is_over && !is_full {
            self.count += 1;
            line.posts.push_back(post);
            return None;
        }
        if line.posts.is_empty() {
            queue.lines.remove(&session);
        }
        if queue.lines.is_empty() {
            self.queues.remove(&post.0.user);
        }
        is_full.then_some(post)
    }

    /// The oldest post of the session whose turn it is, of the group whose turn it is.
    fn pop(&mut self) -> Option<Post> {
        let group = turn(&self.queues, self.last.as_ref())?;
        let queue = self.queues.get_mut(&group)?;
        let post = queue.pop();
        if queue.lines.is_empty() {
            self.queues.remove(&group);
        }
        self.count -= usize::from(post.is_some());
        self.last = Some(group);
        post
    }

    /// Whether another post may be let in while `under_way` bytes are on their way to some shard; if so, it counts.
    fn lets_in(&mut self, under_way: usize, now: Duration) -> bool {
        if now >= self.looked + LOOK_EVERY {
            (self.looked, self.let_in) = (now, 0);
        }
        let lets_in = under_way < UNDER_WAY_BYTES && self.let_in < AT_ONCE;
        self.let_in += u32::from(lets_in);
        lets_in
    }
}

impl Home {
    /// A post to a group.
    pub(super) fn post(
        &mut self,
        replica: &mut Replica,
        ask: ToHome,
        mid: MessageId,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        if self.parked.is_empty() && self.has_room(replica, now) {
            self.let_in(replica, (ask, mid), out);
        } else if let Some((ask, _)) = self.parked.push((ask, mid))
            && let Ask::Send { place, .. } = ask.ask
        {
            let (to, result) = (ask.user, Err(Refusal::Overloaded));
            out.push(Output::Tell(ask.session, Tell::Sent { to, place, result }));
        }
    }

    /// Lets in what there is room for.
    pub(super) fn unpark(&mut self, replica: &mut Replica, now: Duration, out: &mut Vec<Output>) {
        while !self.parked.is_empty() && self.has_room(replica, now) {
            let Some(post) = self.parked.pop() else { return };
            self.let_in(replica, post, out);
        }
    }

    fn has_room(&mut self, replica: &Replica, now: Duration) -> bool {
        let under_way = self.post.under_way(replica.state().outbox());
        self.parked.lets_in(under_way, now)
    }

    fn let_in(&mut self, replica: &mut Replica, (ask, mid): Post, out: &mut Vec<Output>) {
        if let Some(chunks) = replica.state().cold(&ask.user) {
            return self.wait_for_disk(ask, chunks, out);
        }
        if let Ask::Send { place, send } = ask.ask {
            self.send(replica, ask.user, (ask.session, place), send, mid, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::{
        BootId, Cid, Conversation, DeviceId, GroupId, Kind, NodeId, SessionId, ShardId,
    };
    use crate::message::{Content, Send};
    use crate::packet::Place;

    fn post(group: &str, count: u32) -> Post {
        sent(group, 1, Place { life: 1, count })
    }

    fn sent(group: &str, session: u64, place: Place) -> Post {
        let group = GroupId::parse(group).unwrap();
        let user = UserId::of_group(&group);
        let kind = Kind::parse("text").unwrap();
        let send = Box::new(Send {
            from: UserId::parse("ann").unwrap(),
            device: DeviceId::parse("phone").unwrap(),
            to: Conversation::Group(group),
            cid: Cid::parse("c").unwrap(),
            content: Arc::new(Content { kind, body: "".into(), reply_to: None, client: None }),
        });
        let session = SessionId { node: NodeId(1), boot: BootId(1), count: session };
        let ask = Ask::Send { place, send };
        (ToHome { shard: ShardId(1), user, session, ask }, MessageId(place.count.into()))
    }

    #[test]
    fn groups_take_turns_and_each_keeps_its_order() {
        let mut parked = Parked::default();
        for count in 1..=3 {
            assert!(parked.push(post("large", count)).is_none());
        }
        assert!(parked.push(post("small", 1)).is_none());
        assert!(parked.push(post("tiny", 1)).is_none());
        let turns: Vec<String> = std::iter::from_fn(|| parked.pop())
            .map(|(ask, mid)| format!("{} {}", ask.user, mid.0))
            .collect();
        assert_eq!(turns, ["g:large 1", "g:small 1", "g:tiny 1", "g:large 2", "g:large 3"]);
        assert!(parked.is_empty());
    }

    /// Sessions and places in the order in which they are let in.
    fn turns(parked: &mut Parked) -> Vec<(u64, u32, u32)> {
        let all = std::iter::from_fn(|| parked.pop()).map(|(asked, _)| match asked.ask {
            Ask::Send { place, .. } => (asked.session.count, place.life, place.count),
            _ => panic!("a post"),
        });
        all.collect()
    }

    #[test]
    fn sessions_take_turns_and_what_is_repeated_takes_the_place_of_what_it_repeats() {
        let mut parked = Parked::default();
        for (session, life, count) in
            [(1, 1, 1), (1, 1, 2), (1, 1, 3), (2, 5, 1), (2, 5, 2), (3, 1, 1)]
        {
            assert!(parked.push(sent("club", session, Place { life, count })).is_none());
        }
        for (life, count) in [(2, 1), (2, 2), (1, 4), (2, 3)] {
            assert!(parked.push(sent("club", 1, Place { life, count })).is_none());
        }
        assert_eq!(parked.count, 6, "nothing waits twice");
        let expected = [(1, 2, 1), (2, 5, 1), (3, 1, 1), (1, 2, 2), (2, 5, 2), (1, 2, 3)];
        assert_eq!(turns(&mut parked), expected);
        assert!(parked.is_empty() && parked.queues.is_empty());
    }

    #[test]
    fn only_so_many_wait() {
        let mut parked = Parked::default();
        for count in 1..=u32::try_from(PARKED_MAX).unwrap() {
            assert!(parked.push(post("club", count)).is_none());
        }
        assert!(parked.push(post("club", 1)).is_some());
        assert!(parked.push(sent("club", 2, Place { life: 1, count: 1 })).is_some());
        assert_eq!(parked.queues.values().map(|queue| queue.lines.len()).sum::<usize>(), 1);
        parked.pop();
        assert!(parked.push(post("club", 1)).is_none());
        assert!(parked.push(sent("club", 1, Place { life: 2, count: 1 })).is_none());
        assert_eq!(turns(&mut parked), [(1, 2, 1)], "and who repeats makes room");
    }

    #[test]
    fn posts_are_let_in_while_little_is_under_way_and_a_few_at_once() {
        let (mut parked, now) = (Parked::default(), Duration::from_secs(1));
        assert!(!parked.lets_in(UNDER_WAY_BYTES, now));
        for _ in 0..AT_ONCE {
            assert!(parked.lets_in(UNDER_WAY_BYTES - 1, now));
        }
        assert!(!parked.lets_in(0, now));
        assert!(parked.lets_in(0, now + LOOK_EVERY));
    }
}
