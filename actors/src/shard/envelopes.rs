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
