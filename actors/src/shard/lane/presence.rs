//! Presence: which users of the shards led here are there, and who is told of it and of their typing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::State;
use crate::ids::{Conversation, NodeId, SessionId, ShardId, UserId};
use crate::message::Refusal;
use crate::packet::{Answer, Packet, Presence, Regard, Tell, Typing};
use crate::shard::home::{presence_of, was_there_lately};
use crate::user::presence::{Change, Sight, TooManyWatchers};
use crate::user::rules as user;

/// The sessions of a node out of reach for this long have no way to their users' homes, or are gone with it.
const OUT_OF_REACH: Duration = Duration::from_secs(5);
/// A session that lives is heard each half a minute.
const SILENT: Duration = Duration::from_secs(100);
/// How often silent sessions are looked for, in ticks.
const SILENT_TICKS: u64 = 199;
/// A device heard less than this ago is not noted again when it attaches.
const SEEN_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The nodes to which a link was lost, until it is decided what that means for their sessions.
#[derive(Debug, Default)]
pub(super) struct Absent(BTreeMap<NodeId, Duration>);

impl Absent {
    /// The link to a node is gone.
    pub(super) fn lost(&mut self, node: NodeId, now: Duration) {
        self.0.entry(node).or_insert(now);
    }

    /// Nodes that were lost so long ago that it is time to decide.
    fn due(&mut self, now: Duration) -> Vec<NodeId> {
        let due = self.0.extract_if(.., |_, since| now >= *since + OUT_OF_REACH);
        due.map(|(node, _)| node).collect()
    }
}

impl State {
    /// Takes note of who came and went, and tells those who watch.
    pub(super) fn look_around(&mut self, now: Duration) {
        self.end_dead(now);
        let mut moved = std::mem::take(&mut self.children.moved);
        moved.sort_unstable();
        moved.dedup();
        let mut changes: BTreeMap<ShardId, Vec<Change>> = BTreeMap::new();
        for user in moved {
            let shard = self.router.shard_of(&user);
            let attached = self.children.is_attached(&user);
            if let Some(hosted) = self.shards.get_mut(&shard) {
                hosted.watchers.look(&user, attached, now, changes.entry(shard).or_default());
            }
        }
        for (shard, hosted) in &mut self.shards {
            if hosted.role.serves {
                hosted.watchers.tick(now, changes.entry(*shard).or_default());
            }
        }
        for (shard, changes) in changes {
            self.tell_changes(shard, changes);
        }
    }

    /// Ends attachments whose sessions are gone without a word: with their node, or with the word that was lost.
    fn end_dead(&mut self, now: Duration) {
        let due = self.absent.due(now);
        let mut dead = Vec::new();
        if !due.is_empty() {
            let peers = self.router.peers();
            let boot = |node: NodeId| {
                let peer = peers.get(&node).filter(|peer| peer.up)?;
                peer.beat.as_ref().map(|beat| beat.boot)
            };
            dead.extend(self.children.those(|session, _| {
                due.contains(&session.node) && boot(session.node) != Some(session.boot)
            }));
        }
        if self.ticks.is_multiple_of(SILENT_TICKS) {
            dead.extend(self.children.those(|_, heard| now.saturating_sub(heard) >= SILENT));
        }
        for (user, session, life) in dead {
            let shard = self.router.shard_of(&user);
            let Some(hosted) = self.shards.get_mut(&shard) else { continue };
            hosted.home.ended(session, life);
            let term = hosted.role.term;
            tracing::debug!(%user, ?session, "attachment of a session that is gone ends");
            let gone = user::Input::Detach { session, life };
            // Its last sign of life was long ago, and is noted.
            let _device = self.children.connected(shard, term, &user, gone);
            // Should it live all the same, it attaches again.
            let why = crate::packet::Closed::Lost;
            self.outlet.tell(session, Tell::Closed { life, why });
            self.schedule();
        }
    }

    /// Hands something to a user's actor; who attaches is there now.
    pub(super) fn for_user(&mut self, shard: ShardId, term: u64, user: UserId, input: user::Input) {
        let user::Input::Attach { session, device, .. } = &input else {
            return self.children.user(shard, term, user, input);
        };
        let (session, device, wall) = (*session, device.clone(), self.wall());
        self.children.user(shard, term, user.clone(), input);
        self.children.heard(&user, session, self.now());
        let mailbox = self.shards.get(&shard).and_then(|h| h.replica.state().mailbox(&user));
        let known = mailbox.and_then(|mailbox| mailbox.device(&device));
        if known.is_some_and(|device| wall.since(device.seen) >= SEEN_AGAIN_AFTER) {
            self.seen(shard, term, user, device);
        }
    }

    /// What a session wants to know of a user, or wants them to know.
    pub(super) fn regard(
        &mut self,
        shard: ShardId,
        user: &UserId,
        session: SessionId,
        regard: Regard,
    ) {
        match regard {
            Regard::Watch { by, knows } => self.watch(shard, user, (session, by), knows),
            Regard::Unwatch => {
                if let Some(hosted) = self.shards.get_mut(&shard) {
                    hosted.watchers.unwatch(user, session);
                }
            }
            Regard::Typing { from, on } => self.typing(shard, user, from, on),
            Regard::TypingTo { to, on } => self.typing_to(shard, user, to, on),
        }
    }

    fn watch(
        &mut self,
        shard: ShardId,
        user: &UserId,
        (session, by): (SessionId, UserId),
        knows: Option<bool>,
    ) {
        let (wall, now) = (self.wall(), self.now());
        let attached = self.children.is_attached(user);
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let Some(mailbox) = hosted.replica.state().mailbox(user) else { return };
        // What who may not see them knows is no sign of them.
        let knows = knows.filter(|_| mailbox.shows_itself_to(&by));
        let lately = knows.unwrap_or_else(|| was_there_lately(mailbox, wall));
        let (sight, mut changes) = (Sight { attached, lately, now }, Vec::new());
        let watched = hosted.watchers.watch(user, (session, by.clone()), sight, &mut changes);
        let told = match watched {
            Ok(online) => Ok(presence_of(mailbox, &by, online)),
            Err(TooManyWatchers) => Err(Refusal::Overloaded),
        };
        self.outlet.tell(session, Tell::Presence(user.clone(), told));
        self.tell_changes(shard, changes);
    }

    /// Answers a question of whether a user is there.
    pub(super) fn tell_presence(
        &mut self,
        shard: ShardId,
        user: &UserId,
        (session, request): (SessionId, u32),
        by: &UserId,
    ) {
        let (wall, now) = (self.wall(), self.now());
        let Some(hosted) = self.shards.get(&shard) else { return };
        let Some(mailbox) = hosted.replica.state().mailbox(user) else { return };
        let lately = was_there_lately(mailbox, wall);
        let sight = Sight { attached: self.children.is_attached(user), lately, now };
        let online = hosted.watchers.is_online(user, sight);
        let presence = presence_of(mailbox, by, online);
        let answer = Ok(Answer::Presence(vec![(user.clone(), presence)]));
        self.outlet.tell(session, Tell::Answer { request, answer });
    }

    fn tell_changes(&mut self, shard: ShardId, changes: Vec<Change>) {
        let Some(hosted) = self.shards.get(&shard) else { return };
        let mut told = Vec::new();
        for Change { user, online, to } in changes {
            let mailbox = hosted.replica.state().mailbox(&user);
            for (session, by) in to {
                // Who may not see is told nothing new; of a mailbox that has left memory already nobody is told when.
                let presence = mailbox.map_or(Presence::default(), |m| presence_of(m, &by, online));
                told.push((session, Tell::Presence(user.clone(), Ok(presence))));
            }
        }
        for (session, tell) in told {
            self.outlet.tell(session, tell);
            self.schedule();
        }
    }

    /// Somebody is typing to a user or a group whose mailbox is here: those who are connected hear of it.
    fn typing(&mut self, shard: ShardId, owner: &UserId, from: UserId, on: bool) {
        let Some(hosted) = self.shards.get(&shard) else { return };
        let Some(mailbox) = hosted.replica.state().mailbox(owner) else { return };
        let Some(group) = owner.group() else {
            let conv = Conversation::User(from.clone());
            return self.typed(Typing { conv, from, on, to: vec![owner.clone()] });
        };
        let Some(held) = mailbox.group().filter(|held| held.has(&from)) else { return };
        let mut by_node: BTreeMap<NodeId, Vec<UserId>> = BTreeMap::new();
        for member in held.members().filter(|member| **member != from) {
            if let Some((_, node)) = self.router.leader(self.router.shard_of(member)) {
                by_node.entry(node).or_default().push(member.clone());
            }
        }
        for (node, to) in by_node {
            let (conv, from) = (Conversation::Group(group.clone()), from.clone());
            self.outlet.node(node, Packet::Typing(Box::new(Typing { conv, from, on, to })));
        }
        self.schedule();
    }

    /// A user whose mailbox is here is typing to another, whom they may have blocked.
    fn typing_to(&mut self, shard: ShardId, from: &UserId, to: UserId, on: bool) {
        let Some(hosted) = self.shards.get(&shard) else { return };
        let Some(mailbox) = hosted.replica.state().mailbox(from) else { return };
        let leader = self.router.leader(self.router.shard_of(&to));
        if let Some((_, node)) = leader.filter(|_| !mailbox.blocks(&to)) {
            let (conv, from) = (Conversation::User(from.clone()), from.clone());
            let typing = Typing { conv, from, on, to: vec![to] };
            self.outlet.node(node, Packet::Typing(Box::new(typing)));
            self.schedule();
        }
    }

    /// Whether a user wants to know what somebody does in a conversation. Of a mailbox that is not in memory nobody is
    /// connected here.
    fn minds(&self, user: &UserId, conv: &Conversation, from: &UserId) -> bool {
        let hosted = self.shards.get(&self.router.shard_of(user));
        let mailbox = hosted.and_then(|hosted| hosted.replica.state().mailbox(user));
        matches!(conv, Conversation::Group(_)) || mailbox.is_some_and(|m| !m.blocks(from))
    }

    /// Whether a user is seen has changed, for another or for all: those who watch are told how it is now, and if for all,
    /// the user's own sessions whether they hide.
    pub(super) fn visibility(&mut self, shard: ShardId, user: &UserId, whom: Option<&UserId>) {
        let now = self.now();
        if let Some(by) = whom {
            self.turn_card(user, by);
        }
        let Some(hosted) = self.shards.get(&shard) else { return };
        let Some(mailbox) = hosted.replica.state().mailbox(user) else { return };
        let mut told = Vec::new();
        if whom.is_none() {
            let hides = Tell::Hides(mailbox.hides());
            told.extend(self.children.sessions_at(user).map(|session| (session, hides.clone())));
        }
        if let Some(Change { online, to, .. }) = hosted.watchers.watching(user, now) {
            for (session, by) in to.into_iter().filter(|(_, by)| whom.is_none_or(|it| it == by)) {
                let presence = presence_of(mailbox, &by, online);
                told.push((session, Tell::Presence(user.clone(), Ok(presence))));
            }
        }
        for (session, tell) in told {
            self.outlet.tell(session, tell);
        }
    }

    /// Somebody is typing: tells the sessions of those who are connected here.
    pub(super) fn typed(&mut self, typing: Typing) {
        let Typing { conv, from, on, mut to } = typing;
        to.retain(|user| self.minds(user, &conv, &from));
        for session in to.iter().flat_map(|user| self.children.sessions_at(user)) {
            let tell = Tell::Typing { conv: conv.clone(), from: from.clone(), on };
            self.outlet.tell(session, tell);
        }
        self.schedule();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_node_is_judged_once_and_counted_from_the_first_loss() {
        let mut absent = Absent::default();
        absent.lost(NodeId(2), Duration::from_secs(1));
        absent.lost(NodeId(3), Duration::from_secs(3));
        absent.lost(NodeId(2), Duration::from_secs(4));
        assert_eq!(absent.due(Duration::from_millis(5_999)), []);
        assert_eq!(absent.due(Duration::from_secs(6)), [NodeId(2)]);
        assert_eq!(absent.due(Duration::from_secs(7)), []);
        assert_eq!(absent.due(Duration::from_secs(8)), [NodeId(3)]);
    }
}
