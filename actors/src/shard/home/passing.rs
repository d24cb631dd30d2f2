//! Passing: what a home does because time has passed.

use std::time::Duration;

use super::{Home, Output};
use crate::shard::replica::{Origin, Replica};
use crate::shard::state::{Change, Command};

/// An idle shard still commits the time this often, so that its clock moves.
const CLOCK_EVERY: Duration = Duration::from_secs(600);
/// How often the replicas are told what other shards have applied, so that it leaves the outbox.
const TAKEN_EVERY: Duration = Duration::from_millis(500);
/// With more bytes in the outbox they are told at once.
const OUTBOX_FULL: usize = 1024 * 1024;
/// How often expiry looks around, and how many mailboxes it treats at once.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);
const EXPIRE_COUNT: usize = 64;

impl Home {
    /// Time passes (each 50 ms or so) on a replica that serves.
    pub fn tick(&mut self, replica: &mut Replica, now: Duration, out: &mut Vec<Output>) {
        if !replica.role().serves {
            return;
        }
        self.heard.tick(now);
        self.ask_again(replica, out);
        self.fetch_again(replica, now, out);
        self.unpark(replica, now, out);
        self.wake(replica, now, out);
        let full = replica.state().outbox().weight() >= OUTBOX_FULL;
        if (full || now >= self.taken_due) && self.post.has_taken() {
            self.taken_due = now + TAKEN_EVERY;
            for (by, upto) in self.post.take_taken() {
                let _lost_is_resent = replica.propose(Command::Taken { by, upto }, Origin::Shard);
            }
        }
        let parcels = self.post.resend(replica.state().outbox(), now);
        out.extend(parcels.into_iter().map(Output::Post));
        if replica.state().policy() != self.policy && now >= self.clock_due {
            let _again_next_time = replica.propose(Command::Policy(self.policy), Origin::Shard);
            self.clock_due = now + EXPIRE_EVERY;
        }
        if now >= self.expire_due {
            self.expire_due = now + EXPIRE_EVERY;
            self.forget_acked(replica);
            self.expire(replica, now);
        }
    }

    fn expire(&mut self, replica: &mut Replica, now: Duration) {
        let (due, last) = replica.state().due(self.expired_to.as_ref(), EXPIRE_COUNT);
        if due.len() == EXPIRE_COUNT {
            self.expire_due = now;
        }
        self.expired_to = last;
        let lags = replica.state().now();
        let clock_lags = lags.cautious < lags.wall;
        if due.is_empty() && now >= self.clock_due || clock_lags {
            self.clock_due = now + CLOCK_EVERY;
            let _again_next_time = replica.propose(Command::Policy(self.policy), Origin::Shard);
        }
        for user in due {
            let command = Command::Mailbox(user, Change::Expire);
            let _again_next_time = replica.propose(command, Origin::Shard);
        }
    }

    /// Forgets acknowledgements that are in the state by now.
    fn forget_acked(&mut self, replica: &Replica) {
        self.acked.retain(|(user, device), n| {
            let device = replica.state().mailbox(user).and_then(|m| m.device(device));
            device.is_some_and(|device| device.acked < *n)
        });
    }
}
