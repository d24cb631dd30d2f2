//! Envelopes: how what one mailbox sends another leaves a shard's state, and how it comes in.

use std::sync::Arc;

use super::command::Happened;
use super::state::State;
use crate::ids::{Epoch, UserId, shard_of};
use crate::mailbox::rules::{Effect, Spreading};
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
                Effect::Spread(spreading) => {
                    let Spreading { roster, what, cid } = *spreading;
                    for (to, members) in roster.iter() {
                        let what = Enclosed::Spread {
                            members: Arc::clone(members),
                            what: what.clone(),
                            cid: cid.clone(),
                        };
                        self.head.outbox.put(*to, Envelope { to: user.clone(), what });
                        happened.push(Happened::Enclosed(*to));
                    }
                }
                effect => happened.push(Happened::Mailbox(user.clone(), effect)),
            }
        }
    }
}
