//! Envelopes: how what one mailbox sends another leaves a shard's state, and how it comes in.

use std::sync::Arc;

use super::command::Happened;
use super::state::State;
use crate::ids::{Epoch, Number, UserId, shard_of};
use crate::mailbox::rules::{Effect, Spreading};
use crate::message::{Entry, What};
use crate::packet::{Enclosed, Envelope};

impl State {
    pub(super) fn receive(&mut self, envelope: Envelope, happened: &mut Vec<Happened>) {
        let now = self.now();
        let user = envelope.to;
        // Who writes can be written to, and their ids are remembered, though they never connected.
        if let Enclosed::Sent { mid, .. } = &envelope.what
            && !self.knows(&user)
        {
            self.create(&user, Epoch(mid.0));
        }
        if let Enclosed::Spread { members, what, cid } = &envelope.what {
            for user in &**members {
                let Some(mailbox) = self.touch(user) else { continue };
                let mut effects = Vec::new();
                mailbox.hear(what, cid.as_ref(), now, &mut effects);
                self.spread(user, effects, happened);
            }
            return;
        }
        let Some(mailbox) = self.touch(&user) else {
            return;
        };
        let mut effects = Vec::new();
        mailbox.receive(envelope.what, now, &mut effects);
        self.spread(&user, effects, happened);
    }

    /// A group's next entry goes to its members' shards: as it is, or only its place, but whole to the sender's, who has a
    /// copy of their own.
    fn spread_post(
        &mut self,
        group: &UserId,
        Spreading { roster, what, cid, refers }: Spreading,
        happened: &mut Vec<Happened>,
    ) {
        let place = match &what {
            What::Post { group, seq, from, .. } if refers => {
                let referred = What::Referred { group: group.clone(), seq: *seq, count: 1 };
                Some((referred, shard_of(from, self.shards)))
            }
            _ => None,
        };
        for (to, members) in roster.iter() {
            let (what, cid) = match &place {
                Some((referred, senders)) if to != senders => (referred.clone(), None),
                _ => (what.clone(), cid.clone()),
            };
            let what = Enclosed::Spread { members: Arc::clone(members), what, cid };
            self.head.outbox.put(*to, Envelope { to: group.clone(), what });
            happened.push(Happened::Enclosed(*to));
        }
        if let What::Post { seq, at, .. } = &what
            && refers
        {
            let post = Entry { n: Number(seq.0), at: *at, what: what.clone() };
            happened.push(Happened::Posted(roster, Box::new(post)));
        }
    }

    pub(super) fn spread(
        &mut self,
        user: &UserId,
        effects: Vec<Effect>,
        happened: &mut Vec<Happened>,
    ) {
        for effect in effects {
            match effect {
                Effect::Enclose(envelope) => {
                    let to = shard_of(&envelope.to, self.shards);
                    self.head.outbox.put(to, envelope);
                    happened.push(Happened::Enclosed(to));
                }
                Effect::Spread(spreading) => self.spread_post(user, *spreading, happened),
                effect => happened.push(Happened::Mailbox(user.clone(), effect)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Cid, Conversation, DeviceId, GroupId, Kind, MessageId, ShardId, Timestamp};
    use crate::message::group::Call;
    use crate::message::{Content, Send};
    use crate::shard::state::{Batch, Change, Command};

    const SHARDS: u16 = 16;

    /// What the members' shards are sent of a post, and whether the leader hears of it besides.
    fn spread(large: usize) -> (Vec<(ShardId, Envelope)>, bool) {
        let group = GroupId::parse("club").unwrap();
        let owner = UserId::of_group(&group);
        let users = |name: &&str| UserId::parse(name).unwrap();
        let members: Vec<UserId> = ["ann", "bob", "cat", "dan"].iter().map(users).collect();
        let mut state = State::new(shard_of(&owner, SHARDS), SHARDS);
        state.set_large(large);
        let call = Box::new(Call::Create { title: "Club".into(), members: members.clone() });
        let made = Change::Group { by: members[0].clone(), call, epoch: Epoch(1) };
        let kind = Kind::parse("text").unwrap();
        let send = Send {
            from: members[0].clone(),
            device: DeviceId::parse("phone").unwrap(),
            to: Conversation::Group(group),
            cid: Cid::parse("c-1").unwrap(),
            content: Arc::new(Content { kind, body: "hi".into(), reply_to: None, client: None }),
        };
        let post = Change::Append { mid: MessageId(1), send: Box::new(send) };
        let changes = [made, post].map(|change| Command::Mailbox(owner.clone(), change));
        let mut happened = Vec::new();
        let batch = Batch { wall: Timestamp(1), commands: changes.into() };
        state.apply(1, 1, batch, &mut happened);
        let to = members.iter().map(|member| shard_of(member, SHARDS));
        let posts = to
            .flat_map(|to| state.outbox().read(to, 2, 9, 9_999).into_iter().map(move |e| (to, e)));
        let told = happened.iter().any(|event| matches!(event, Happened::Posted(..)));
        (posts.collect(), told)
    }

    #[test]
    fn of_a_post_to_a_large_group_only_its_senders_shard_is_sent_more_than_the_place() {
        let senders = shard_of(&UserId::parse("ann").unwrap(), SHARDS);
        for (large, refers) in [(4, true), (5, false)] {
            let (spread, told) = spread(large);
            assert_eq!(told, refers, "the nodes of the members are shown the post");
            assert!(spread.iter().any(|(to, _)| *to != senders));
            for (to, envelope) in spread {
                let Enclosed::Spread { what, cid, .. } = envelope.what else { panic!("a post") };
                let is_place = matches!(what, What::Referred { count: 1, .. });
                assert_eq!(is_place, refers && to != senders);
                assert_eq!(cid.is_none(), is_place);
            }
        }
    }
}
