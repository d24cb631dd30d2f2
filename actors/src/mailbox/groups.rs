//! Groups: what a mailbox knows of the groups its owner is in, and, for a group's own mailbox, what is done with the group.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ledger::{Ledger, Row};
use super::marks::mark;
use super::rules::{Effect, Mailbox, Now, Spreading};
use crate::group::{Group, Watermarks};
use crate::ids::{Cid, Conversation, GroupId, MessageId, Number, Seq, UserId};
use crate::message::group::{Call, News};
use crate::message::{Accepted, CidUse, Entry, PLACES_MAX, Refusal, Send, What};
use crate::packet::{Enclosed, Envelope};

/// A group the owner is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub(super) title: Box<str>,
    pub(super) admin: bool,
    /// Its newest entry here.
    received: Seq,
    /// Of what others wrote.
    had: Watermarks,
    /// Of what the owner wrote, at all others.
    sent: Watermarks,
    /// What others wrote and no device has yet: where in the log, and its place in the group.
    waiting: VecDeque<(Number, Seq)>,
}

/// How far a group's messages have got.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    pub(super) received: Seq,
    pub(super) had: Watermarks,
    pub(super) sent: Watermarks,
}

impl Membership {
    /// Whether all that is counted in it can be counted on from, up to `end`.
    pub(super) fn is_sound(&self, end: u64) -> bool {
        self.received.0 < end
            && self.waiting.iter().all(|(n, seq)| n.0 < end && seq.0 < end)
            && self.waiting.iter().is_sorted_by(|(n, seq), next| *n < next.0 && *seq < next.1)
    }

    /// How far its messages have got: all of them here, those of others here, and the owner's at the others.
    pub(super) const fn marks(&self) -> Marks {
        Marks { received: self.received, had: self.had, sent: self.sent }
    }

    pub(super) fn weight(&self) -> usize {
        const FIXED: usize = 192;
        FIXED + self.waiting.len() * size_of::<(Number, Seq)>()
    }

    /// No device has these yet: entries from `n` on, in the group's order from `seq` on. Of what rises in step only the
    /// ends are kept.
    fn wait(&mut self, n: Number, seq: Seq, count: u32) {
        let more = u64::from(count.saturating_sub(1));
        let step = |(n, seq): &(Number, Seq)| n.0.wrapping_sub(seq.0);
        let last = (Number(n.0.saturating_add(more)), Seq(seq.0.saturating_add(more)));
        for new in [(n, seq), last] {
            let mut newest = self.waiting.iter().rev();
            let last = newest.next().copied();
            if last == Some(new) {
                continue;
            }
            let mut ends = last.iter().chain(newest.next());
            if self.waiting.len() > 1 && ends.all(|end| step(end) == step(&new)) {
                self.waiting.pop_back();
            }
            self.waiting.push_back(new);
        }
    }

    /// How many no device has yet.
    fn waits(&self) -> u64 {
        let mut before: Option<(Number, Seq)> = None;
        let mut count = 0;
        for (n, seq) in &self.waiting {
            // Between two ends that rise in step everything waits.
            let in_step = before.filter(|(at, place)| n.0 - at.0 == seq.0.wrapping_sub(place.0));
            count += in_step.map_or(1, |(at, _)| n.0 - at.0);
            before = Some((*n, *seq));
        }
        count
    }

    /// What no device had up to here is had now; answers the newest of it.
    fn take_to(&mut self, n: Number) -> Option<Seq> {
        let mut newest = None;
        while let Some((at, seq)) = self.waiting.pop_front_if(|(at, _)| *at <= n) {
            newest = Some(seq);
            let Some((end, place)) = self.waiting.front().copied().filter(|(end, _)| *end > n)
            else {
                continue;
            };
            // Between two ends that rise in step everything is the group's, if only the owner's own posts.
            if end.0 - at.0 == place.0.wrapping_sub(seq.0) {
                let had = Seq(seq.0.saturating_add(n.0 - at.0));
                newest = Some(had);
                if n.next() < end {
                    self.waiting.push_front((n.next(), had.next()));
                }
            }
            break;
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to(4);
        }
        newest
    }
}

/// The user's side.
impl Mailbox {
    /// The next entry of a group. Envelopes come once each and in order; the shard sees to that.
    pub fn hear(&mut self, what: &What, cid: Option<&Cid>, now: Now, effects: &mut Vec<Effect>) {
        if self.erased {
            // Taken in by somebody who could not know yet.
            if let What::Group { group, news, .. } = what
                && takes_in(news, &self.owner)
            {
                effects.push(left(group, &self.owner));
            }
            return;
        }
        match what {
            What::Post { group, mid, from, device, seq, at, content } => {
                let Some(known) = self.groups.get_mut(group) else { return };
                known.received = *seq;
                match cid.filter(|_| *from == self.owner) {
                    Some(cid) => {
                        let conv = Conversation::Group(group.clone());
                        let (mid, seq, at, cid, device) =
                            (*mid, *seq, *at, cid.clone(), device.clone());
                        let cid_use = CidUse::new(&cid, &conv, content);
                        let content = Arc::clone(content);
                        let copy = What::Sent { mid, conv, seq, at, cid, device, content };
                        self.record(copy, now, effects);
                        self.cids.push(cid_use, self.log.newest_at(), now.policy.expiry);
                    }
                    None => {
                        known.wait(self.log.head().next(), *seq, 1);
                        self.record(what.clone(), now, effects);
                    }
                }
            }
            What::Referred { group, seq, count } => {
                let Some(known) = self.groups.get_mut(group) else { return };
                let (seq, count) = (*seq, (*count).clamp(1, PLACES_MAX));
                known.received = Seq(seq.0.saturating_add(u64::from(count - 1)));
                known.wait(self.log.head().next(), seq, count);
                let group = group.clone();
                self.record(What::Referred { group, seq, count }, now, effects);
            }
            What::Group { group, seq, by, news, .. } => {
                let concerns_them = self.follow(group, *seq, by, news);
                if concerns_them {
                    self.record(what.clone(), now, effects);
                }
            }
            _ => {}
        }
    }

    /// Takes note of what a change means for the owner; answers whether it is for them.
    fn follow(&mut self, group: &GroupId, seq: Seq, by: &UserId, news: &News) -> bool {
        if takes_in(news, &self.owner) {
            let from = Watermarks { delivered: seq, read: seq };
            let new = Membership { had: from, ..Membership::default() };
            self.groups.insert(group.clone(), new);
        }
        let Some(known) = self.groups.get_mut(group) else { return false };
        known.received = seq;
        match news {
            News::Created { title, .. } => {
                known.title = title.clone();
                known.admin = *by == self.owner;
            }
            News::Added { title, .. } => known.title = title.clone(),
            News::Updated { title: Some(title), .. } => known.title = title.clone(),
            News::Role { user, admin } if *user == self.owner => known.admin = *admin,
            News::Removed(users) if users.contains(&self.owner) => drop(self.groups.remove(group)),
            News::Left if *by == self.owner => drop(self.groups.remove(group)),
            _ => {}
        }
        true
    }

    /// Tells groups what a device has, up to entry `n`.
    pub(super) fn deliver_groups(&mut self, n: Number, effects: &mut Vec<Effect>) {
        for (group, known) in &mut self.groups {
            if let Some(seq) = known.take_to(n)
                && seq > known.had.delivered
            {
                known.had.delivered = seq;
                effects.push(receipt(group, &self.owner, known.had));
            }
        }
    }

    /// Whether a device's having everything up to `n` is news to a group.
    pub(super) fn delivers_groups(&self, n: Number) -> bool {
        self.groups.values().any(|known| known.waiting.front().is_some_and(|(at, _)| *at <= n))
    }

    /// Posts to groups that no device has yet.
    pub(super) fn posts_undelivered(&self) -> u64 {
        self.groups.values().map(Membership::waits).sum()
    }

    /// What expired up to entry `n` waits for nobody any more.
    pub(super) fn expire_groups(&mut self, n: Number) {
        for known in self.groups.values_mut() {
            let _nobody_is_told = known.take_to(n);
        }
    }

    pub(super) fn read_group(&mut self, group: &GroupId, seq: Seq, effects: &mut Vec<Effect>) {
        let Some(known) = self.groups.get_mut(group) else { return };
        let seq = seq.min(known.received);
        if seq <= known.had.read {
            return;
        }
        known.had = Watermarks { delivered: known.had.delivered.max(seq), read: seq };
        effects.push(receipt(group, &self.owner, known.had));
    }

    /// How far the owner's posts have got at all others.
    pub(super) fn ticks(
        &mut self,
        group: GroupId,
        new: Watermarks,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(known) = self.groups.get_mut(&group) else { return };
        let old = known.sent;
        // Invariant: ticks never go back.
        known.sent.delivered = old.delivered.max(new.delivered);
        known.sent.read = old.read.max(new.read);
        let Watermarks { delivered, read } = known.sent;
        if known.sent != old {
            let conv = Conversation::Group(group);
            self.record(What::Receipt { conv, by: None, delivered, read }, now, effects);
        }
    }

    /// The owner's groups: title, and whether the owner is an admin.
    #[must_use]
    pub fn groups(&self) -> Vec<(GroupId, Box<str>, bool)> {
        let told = |(group, known): (&GroupId, &Membership)| {
            (group.clone(), known.title.clone(), known.admin)
        };
        self.groups.iter().map(told).collect()
    }
}

/// Whether somebody comes in by this change.
fn takes_in(news: &News, user: &UserId) -> bool {
    match news {
        News::Created { users, .. } | News::Added { users, .. } => users.contains(user),
        _ => false,
    }
}

/// Tells a group that somebody is no longer there to be a member.
pub(super) fn left(group: &GroupId, by: &UserId) -> Effect {
    let what = Enclosed::Left { by: by.clone() };
    Effect::Enclose(Envelope { to: UserId::of_group(group), what })
}

fn receipt(to: &GroupId, by: &UserId, had: Watermarks) -> Effect {
    let Watermarks { delivered, read } = had;
    let what = Enclosed::Receipt { by: by.clone(), delivered, read };
    Effect::Enclose(Envelope { to: UserId::of_group(to), what })
}

/// The group's side.
impl Mailbox {
    /// The group, if this is a group's mailbox.
    #[must_use]
    pub fn group(&self) -> Option<&Group> {
        self.group.as_deref()
    }

    /// Takes a post in: a member's, and one that was not taken before.
    pub(super) fn post(
        &mut self,
        send: Send,
        mid: MessageId,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> Result<Accepted, Refusal> {
        let (Some(held), Conversation::Group(group)) = (&mut self.group, send.to) else {
            return Err(Refusal::NotFound);
        };
        let key = Ledger::key(&send.from, &send.cid);
        if !held.admit(&send.from, key) {
            return Err(Refusal::NotAMember);
        }
        let at = now.wall.max(self.log.newest_at());
        let n = self.log.head().next();
        let seq = Seq(n.0);
        let (from, content) = (send.from, send.content);
        let conv = Conversation::Group(group.clone());
        self.ledger.push(Row {
            key,
            fingerprint: content.fingerprint(&conv),
            mid,
            seq,
            at,
            n,
            from: from.clone(),
        });
        let device = send.device;
        let what = What::Post { group, mid, from, device, seq, at, content };
        self.spread(what, Some(send.cid), now, effects);
        Ok(Accepted { mid, seq, at, dup: false })
    }

    /// Does what a user asks of the group.
    pub fn call(
        &mut self,
        by: &UserId,
        call: &Call,
        shards: u16,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let plan = match (&self.group, call) {
            (None, Call::Create { title, members }) => {
                let at = now.wall.max(self.log.newest_at());
                let (group, news) = Group::create(by, title, members, at, shards)?;
                self.group = Some(Box::new(group));
                vec![(by.clone(), news)]
            }
            (None, _) => return Err(Refusal::NotFound),
            (Some(group), Call::Create { title, members }) => {
                return group.created_again(by, title, members);
            }
            (Some(group), call) => group.plan(by, call)?,
        };
        for (by, news) in plan {
            self.change(by, news, now, effects);
        }
        self.tell_ticks(effects);
        Ok(())
    }

    fn change(&mut self, by: UserId, news: News, now: Now, effects: &mut Vec<Effect>) {
        let (seq, at) = (Seq(self.log.head().next().0), now.wall.max(self.log.newest_at()));
        let (Some(held), Some(group)) = (&mut self.group, self.owner.group()) else { return };
        let news = Arc::new(news);
        held.before(&news, seq);
        let what = What::Group { group, seq, at, by: by.clone(), news: Arc::clone(&news) };
        self.spread(what, None, now, effects);
        if let Some(held) = &mut self.group {
            held.after(&by, &news);
        }
    }

    /// The group's next entry: kept here, and told to all members.
    fn spread(&mut self, what: What, cid: Option<Cid>, now: Now, effects: &mut Vec<Effect>) {
        let Some(group) = &mut self.group else { return };
        let roster = group.roster();
        let is_large = group.size() >= now.large && !now.policy.history.is_zero();
        let refers = is_large && matches!(what, What::Post { .. });
        if refers {
            group.refer(Seq(self.log.head().next().0));
        }
        let at = now.wall.max(self.log.newest_at());
        let entry = Entry { n: self.log.head().next(), at, what: what.clone() };
        mark(&mut self.arrived, at, entry.n, now.policy.expiry);
        // Nobody fetches it from here: it has its place in the members' mailboxes.
        self.delivered = entry.n;
        self.log.push(entry);
        effects.push(Effect::Spread(Box::new(Spreading { roster, what, cid, refers })));
        self.settle(now);
    }

    /// A member has got so far.
    pub(super) fn got(
        &mut self,
        by: &UserId,
        delivered: Seq,
        read: Seq,
        effects: &mut Vec<Effect>,
    ) {
        let head = Seq(self.log.head().0);
        if self.group.as_mut().is_some_and(|group| group.got(by, delivered, read, head)) {
            self.tell_ticks(effects);
        }
    }

    fn tell_ticks(&mut self, effects: &mut Vec<Effect>) {
        let (Some(held), Some(group)) = (&mut self.group, self.owner.group()) else { return };
        let ledger = &self.ledger;
        let posts = |after: Seq, to: Seq| {
            let rows = ledger.between(Number(after.0), Number(to.0));
            rows.map(|row| (row.from.clone(), row.seq)).collect()
        };
        for (to, Watermarks { delivered, read }) in held.to_tell(&posts) {
            let what = Enclosed::Ticks { group: group.clone(), delivered, read };
            effects.push(Effect::Enclose(Envelope { to, what }));
        }
    }
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "referred_tests.rs"]
mod referred_tests;
