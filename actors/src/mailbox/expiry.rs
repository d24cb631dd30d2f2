//! Expiry: what a mailbox does because time has passed.

use std::time::Duration;

use super::marks::{Mark, to_the_end_of};
use super::rules::{Device, Effect, Mailbox, Now, Policy};
use crate::group::Group;
use crate::ids::{Number, Timestamp};
use crate::packet::{Enclosed, Envelope};

impl Mailbox {
    /// Lets time pass: forgets unseen devices, expires what was never fetched, drops history and old `cid`s.
    pub fn expire(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let expiry = now.policy.expiry;
        let unseen = |d: &Device| d.seen.after(expiry) <= now.cautious;
        for device in self.devices.extract_if(.., |d| unseen(d)) {
            effects.push(Effect::DeviceGone(device.id));
        }
        self.settle(now);
        let gone = self.overdue(now);
        if gone > self.log.low() {
            self.expire_to(gone, effects);
        }
        self.drop_history(now);
        // Rows of what is not delivered stay: its senders must still learn what becomes of it.
        let done = self.delivered.max(self.log.low());
        self.ledger.forget(|row| row.at.after(expiry) <= now.cautious, done);
        self.cids.forget(|row| row.at.after(expiry) <= now.cautious);
    }

    /// How long an entry stays after every device has it. What members' mailboxes only refer to must outlive that there: it
    /// may wait for `expiry`, then be `history`, and wait once more for a device that came at the end of it
    /// (`history_ends`); a day for clocks that differ and for what is long on its way.
    pub(super) fn kept_for(&self, policy: Policy) -> Duration {
        const CLOCKS_APART: Duration = Duration::from_secs(86_400);
        let refers = |group: &Group| group.referred().0 > self.log.low().0;
        if self.group.as_deref().is_some_and(refers) {
            let span = policy.expiry.saturating_mul(2).saturating_add(policy.history);
            return to_the_end_of(span).saturating_add(CLOCKS_APART);
        }
        policy.history
    }

    /// Drops what history no longer wants.
    pub(super) fn drop_history(&mut self, now: Now) {
        let at_once = self.kept_for(now.policy).is_zero();
        let slowest = self.slowest();
        while let Some(oldest) = self.settled.front() {
            let clock = if at_once && oldest.n <= slowest { now.wall } else { now.cautious };
            if self.history_ends(oldest, slowest, now.policy) > clock {
                break;
            }
            let n = oldest.n;
            self.log.drop_to(n);
            for device in &mut self.devices {
                device.acked = device.acked.max(n);
            }
            self.settled.pop_front();
        }
        self.forget_gone();
    }

    /// When what had reached every device is let go of. A device that came later may lack it, and holds it back until it has
    /// it: as long as anything waits for a device, and no longer, or there would be no end to what groups must keep.
    fn history_ends(&self, settled: &Mark, slowest: Number, policy: Policy) -> Timestamp {
        let end = settled.since.after(to_the_end_of(self.kept_for(policy)));
        if settled.n <= slowest { end } else { end.after(policy.expiry) }
    }

    /// The newest entry that has waited longer than `expiry`.
    fn overdue(&self, now: Now) -> Number {
        let expiry = now.policy.expiry;
        let exact = self.ledger.newest_where(|row| row.at.after(expiry) <= now.cautious);
        let coarse = self
            .arrived
            .iter()
            .take_while(|m| m.since.after(to_the_end_of(expiry)) <= now.cautious)
            .last()
            .map_or(Number(0), |m| m.n);
        let due = exact.max(coarse);
        // What every device has is history's to drop, not expiry's.
        if due > self.slowest() { due } else { Number(0) }
    }

    pub(super) fn expire_to(&mut self, n: Number, effects: &mut Vec<Effect>) {
        for row in self.ledger.between(self.delivered.max(self.log.low()), n) {
            let delivered = self.peers.get(&row.from).is_some_and(|p| row.seq <= p.delivered);
            if !delivered {
                let what = Enclosed::Expired { by: self.owner.clone(), mid: row.mid, seq: row.seq };
                effects.push(Effect::Enclose(Envelope { to: row.from.clone(), what }));
            }
        }
        self.log.drop_to(n);
        for device in &mut self.devices {
            device.acked = device.acked.max(n);
        }
        self.delivered = self.delivered.max(n);
        self.waiting.drop_to(n);
        self.expire_groups(n);
        self.forget_gone();
    }

    pub(super) fn forget_gone(&mut self) {
        let low = self.log.low();
        self.talks.drop_to(low);
        // What every device has is history's to drop: its arrival no longer matters.
        let arrived = low.max(self.slowest());
        while self.arrived.front().is_some_and(|m| m.n <= arrived) {
            self.arrived.pop_front();
        }
        while self.settled.front().is_some_and(|m| m.n <= low) {
            self.settled.pop_front();
        }
    }

    /// The earliest moment `expire` could have something to do.
    #[must_use]
    pub fn due(&self, policy: Policy) -> Option<Timestamp> {
        let (expiry, slowest) = (policy.expiry, self.slowest());
        [
            self.devices.iter().map(|d| d.seen.after(expiry)).min(),
            self.ledger.oldest_at().map(|at| at.after(expiry)),
            // Many at once: nobody waits for an id to be free again.
            self.cids.oldest_at().map(|at| at.after(to_the_end_of(expiry))),
            self.arrived.front().map(|m| m.since.after(to_the_end_of(expiry))),
            self.settled.front().map(|m| self.history_ends(m, slowest, policy)),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
