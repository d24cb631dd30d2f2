//! Outbox: numbered envelopes from one shard to another, applied exactly once whatever crashes or is resent.
//!
//! For each pair of shards there is one queue, numbered from 1 without gaps. The queue is part of the sending shard's
//! replicated state, and how far it has been applied is part of the receiving shard's.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::ids::ShardId;
use crate::mutant::{Mutant, is_planted};
use crate::packet::{Enclosed, Envelope};

/// Envelopes of one shard to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Queue {
    /// The number of the oldest one waiting.
    first: u64,
    waiting: VecDeque<Envelope>,
    bytes: usize,
}

/// What a shard has for all others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbox {
    queues: BTreeMap<ShardId, Queue>,
}

impl Outbox {
    pub(super) fn put(&mut self, to: ShardId, envelope: Envelope) {
        let empty = || Queue { first: 1, waiting: VecDeque::new(), bytes: 0 };
        let queue = self.queues.entry(to).or_insert_with(empty);
        queue.bytes += weight(&envelope);
        queue.waiting.push_back(envelope);
    }

    pub(super) fn taken(&mut self, by: ShardId, upto: u64) {
        let Some(queue) = self.queues.get_mut(&by) else {
            return;
        };
        while queue.first <= upto {
            let Some(envelope) = queue.waiting.pop_front() else {
                break;
            };
            queue.bytes = queue.bytes.saturating_sub(weight(&envelope));
            queue.first += 1;
        }
        if queue.waiting.is_empty() {
            queue.waiting.shrink_to(4);
        }
    }

    /// The number of the oldest envelope waiting for a shard, and the number after the newest.
    #[must_use]
    pub fn range(&self, to: ShardId) -> (u64, u64) {
        self.queues.get(&to).map_or((1, 1), |q| (q.first, q.first + q.waiting.len() as u64))
    }

    /// Envelopes for a shard from number `first` on: at most `count`, about `bytes`, at least one if there is one.
    #[must_use]
    pub fn read(&self, to: ShardId, first: u64, count: usize, bytes: usize) -> Vec<Envelope> {
        let Some(queue) = self.queues.get(&to) else {
            return Vec::new();
        };
        let skip = usize::try_from(first.saturating_sub(queue.first)).unwrap_or(usize::MAX);
        let mut left = bytes;
        let mut read = Vec::new();
        for envelope in queue.waiting.iter().skip(skip).take(count) {
            let weight = weight(envelope);
            if weight > left && !read.is_empty() {
                break;
            }
            left = left.saturating_sub(weight);
            read.push(envelope.clone());
        }
        read
    }

    /// Shards for which something waits.
    pub fn waiting(&self) -> impl Iterator<Item = ShardId> {
        self.queues.iter().filter(|(_, queue)| !queue.waiting.is_empty()).map(|(to, _)| *to)
    }

    /// Bytes waiting for one shard, about.
    #[must_use]
    pub fn bytes_for(&self, to: ShardId) -> usize {
        self.queues.get(&to).map_or(0, |queue| queue.bytes)
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.queues.values().map(|queue| queue.bytes).sum()
    }

    pub(super) fn check(&self) {
        for queue in self.queues.values() {
            let bytes: usize = queue.waiting.iter().map(weight).sum();
            assert_eq!(bytes, queue.bytes, "bytes are counted");
        }
    }
}

/// How far a shard has applied what others sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbox {
    applied: BTreeMap<ShardId, u64>,
}

impl Inbox {
    /// The newest envelope applied from a shard.
    #[must_use]
    pub fn applied(&self, from: ShardId) -> u64 {
        self.applied.get(&from).copied().unwrap_or(0)
    }

    /// Which of these envelopes are new, in order; they count as applied. A gap admits none.
    pub(super) fn admit(
        &mut self,
        from: ShardId,
        first: u64,
        envelopes: Vec<Envelope>,
    ) -> Vec<Envelope> {
        let applied = self.applied.entry(from).or_default();
        if first > *applied + 1 {
            return Vec::new();
        }
        let known = *applied + 1 - first;
        let mut known = if is_planted(Mutant::LosesWatermark) { 0 } else { known };
        let mut new = Vec::new();
        for envelope in envelopes {
            let count = envelope.count();
            if let Some(rest) = envelope.without(known) {
                *applied += rest.count();
                new.push(rest);
            }
            known = known.saturating_sub(count);
        }
        new
    }
}

pub(super) fn weight(envelope: &Envelope) -> usize {
    const FIXED: usize = 160;
    match &envelope.what {
        Enclosed::Sent { content, .. } => FIXED + content.weight(),
        Enclosed::Spread { members, what, .. } => {
            const MEMBER: usize = 24;
            what.weight() + members.len() * MEMBER
        }
        Enclosed::Receipt { .. }
        | Enclosed::Expired { .. }
        | Enclosed::Ticks { .. }
        | Enclosed::Left { .. } => FIXED,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::ids::{GroupId, Seq, UserId};
    use crate::message::{PLACES_MAX, What};

    /// Receipts, and between them posts to a large group, which travel in one when they follow each other.
    fn envelope(seq: u64) -> Envelope {
        let user = UserId::parse("bob").unwrap();
        let what = if seq.is_multiple_of(4) {
            Enclosed::Receipt { by: user.clone(), delivered: Seq(seq), read: Seq(0) }
        } else {
            let group = GroupId::parse("club").unwrap();
            let what = What::Referred { group, seq: Seq(seq), count: 1 };
            Enclosed::Spread { members: [user.clone()].into(), what, cid: None }
        };
        Envelope { to: user, what }
    }

    /// What an envelope says, and all those for which it stands.
    fn said(envelope: &Envelope) -> Vec<u64> {
        let first = match &envelope.what {
            Enclosed::Receipt { delivered, .. } => delivered.0,
            Enclosed::Spread { what: What::Referred { seq, .. }, .. } => seq.0,
            _ => 0,
        };
        (first..first + envelope.count()).collect()
    }

    #[test]
    fn only_so_many_posts_travel_as_one_and_none_beyond_all_numbers() {
        let places = |seq, count| {
            let group = GroupId::parse("club").unwrap();
            let what = What::Referred { group, seq: Seq(seq), count };
            let what = Enclosed::Spread { members: Vec::new().into(), what, cid: None };
            Envelope { to: UserId::parse("bob").unwrap(), what }
        };
        let most = u64::from(PLACES_MAX);
        let joined = |all: [Envelope; 2]| Envelope::joined(all.into()).len();
        assert_eq!(joined([places(1, PLACES_MAX - 1), places(most, 1)]), 1);
        assert_eq!(joined([places(1, PLACES_MAX), places(most + 1, 1)]), 2);
        assert_eq!(joined([places(1, u32::MAX), places(1 << 32, u32::MAX)]), 2);
        assert_eq!(joined([places(u64::MAX, 1), places(0, 1)]), 2);
    }

    proptest! {
        /// Whatever is resent, lost or reordered, each envelope is applied once and in order.
        #[test]
        fn envelopes_are_applied_exactly_once_and_in_order(
            steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<bool>()), 1..200),
        ) {
            let (from, to) = (ShardId(1), ShardId(2));
            let (mut outbox, mut inbox) = (Outbox::default(), Inbox::default());
            let (mut put, mut applied) = (0, Vec::new());
            let mut flying: Vec<(u64, Vec<Envelope>)> = Vec::new();
            for (what, pick, ack) in steps {
                match what % 3 {
                    0 => { put += 1; outbox.put(to, envelope(put)); }
                    1 => {
                        let (first, end) = outbox.range(to);
                        let at = first + u64::from(pick) % (end - first + 1);
                        let parcel = Envelope::joined(outbox.read(to, at, 6, 2_000));
                        prop_assert!(parcel.len() <= 4, "posts that follow each other are one");
                        flying.push((at, parcel));
                    }
                    _ if flying.is_empty() => {}
                    _ => {
                        let (first, envelopes) = flying[usize::from(pick) % flying.len()].clone();
                        applied.extend(inbox.admit(from, first, envelopes).iter().flat_map(said));
                        if ack { outbox.taken(to, inbox.applied(from)); }
                    }
                }
                outbox.check();
            }
            prop_assert_eq!(&applied, &(1..=applied.len() as u64).collect::<Vec<_>>());
            let (first, _) = outbox.range(to);
            let rest = outbox.read(to, inbox.applied(from) + 1, usize::MAX, usize::MAX);
            applied.extend(inbox.admit(from, inbox.applied(from) + 1, rest).iter().flat_map(said));
            prop_assert_eq!(applied, (1..=put).collect::<Vec<_>>());
            prop_assert_eq!(first <= inbox.applied(from) + 1, true);
        }
    }
}
