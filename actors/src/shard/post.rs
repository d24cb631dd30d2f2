//! Post: carries envelopes between the leaders of two shards until they are applied; volatile, on the leader.
//!
//! The replicated part (what waits, how far it was applied) is `outbox`; here is only what has been sent when. Losing
//! all of this costs one resend.

use std::collections::BTreeMap;
use std::time::Duration;

use super::outbox::Outbox;
use crate::ids::ShardId;
use crate::packet::Envelope;

/// Envelopes sent to one shard and not known to be applied.
const FLYING_MAX: u64 = 1024;
/// In one packet.
const COUNT: usize = 128;
const BYTES: usize = 64 * 1024;
/// Without progress for this long, everything waiting is sent again.
const RESEND_AFTER: Duration = Duration::from_millis(500);

/// Envelopes to put into one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// The receiving shard.
    pub to: ShardId,
    /// The number of the first one.
    pub first: u64,
    /// What they hold.
    pub envelopes: Vec<Envelope>,
}

#[derive(Debug, Clone, Copy)]
struct Way {
    next: u64,
    progress: Duration,
}

/// What a leader has sent, and what it has proposed of what it received.
#[derive(Debug, Default)]
pub struct Post {
    ways: BTreeMap<ShardId, Way>,
    /// Applied elsewhere, and not yet told to the shard's own replicas.
    taken: BTreeMap<ShardId, u64>,
    /// Received and proposed, up to here.
    proposed: BTreeMap<ShardId, u64>,
}

impl Post {
    /// Parcels that can leave now for one shard.
    pub fn send(&mut self, outbox: &Outbox, to: ShardId, now: Duration) -> Vec<Parcel> {
        let (first, end) = outbox.range(to);
        let way = self.ways.entry(to).or_insert(Way { next: first, progress: now });
        if way.next <= first {
            (way.next, way.progress) = (first, now);
        }
        let mut parcels = Vec::new();
        while way.next < end && way.next - first < FLYING_MAX {
            let envelopes = outbox.read(to, way.next, COUNT, BYTES);
            let first = way.next;
            way.next += envelopes.len() as u64;
            parcels.push(Parcel { to, first, envelopes: Envelope::joined(envelopes) });
        }
        parcels
    }

    /// Parcels to send again because nothing was heard of them.
    pub fn resend(&mut self, outbox: &Outbox, now: Duration) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        for to in outbox.waiting() {
            let (first, _) = outbox.range(to);
            let way = self.ways.entry(to).or_insert(Way { next: first, progress: now });
            if way.next > first && now < way.progress + RESEND_AFTER {
                continue;
            }
            way.next = first;
            parcels.extend(self.send(outbox, to, now));
        }
        parcels
    }

    /// The way to a shard is new (its leader changed): what waits is sent again at the next `resend`.
    pub fn reroute(&mut self, to: ShardId) {
        self.ways.remove(&to);
    }

    /// Another shard says how far it has applied.
    pub fn taken(&mut self, outbox: &Outbox, by: ShardId, upto: u64, now: Duration) {
        let (first, end) = outbox.range(by);
        if upto < first || upto >= end {
            return;
        }
        let known = self.taken.entry(by).or_default();
        *known = upto.max(*known);
        if let Some(way) = self.ways.get_mut(&by) {
            way.progress = now;
            way.next = way.next.max(upto + 1);
        }
    }

    /// Bytes on their way to the shard that has the most to take, about.
    #[must_use]
    pub fn under_way(&self, outbox: &Outbox) -> usize {
        let left = |to: ShardId| {
            let (first, end) = outbox.range(to);
            let taken = self.taken.get(&to).map_or(0, |upto| (upto + 1).saturating_sub(first));
            let (all, left) = (end - first, (end - first).saturating_sub(taken));
            let bytes = outbox.bytes_for(to) as u64 * left / all.max(1);
            usize::try_from(bytes).unwrap_or(usize::MAX)
        };
        outbox.waiting().map(left).max().unwrap_or(0)
    }

    /// What has been taken since last asked: to be proposed.
    pub fn take_taken(&mut self) -> BTreeMap<ShardId, u64> {
        std::mem::take(&mut self.taken)
    }

    /// Whether something was taken that the shard's replicas have not been told.
    #[must_use]
    pub fn has_taken(&self) -> bool {
        !self.taken.is_empty()
    }

    /// Whether envelopes from a shard should be proposed: they are the next ones.
    pub fn admit(&mut self, from: ShardId, first: u64, count: u64, applied: u64) -> bool {
        let known = self.proposed.get(&from).copied().unwrap_or(0).max(applied);
        let fits = first <= known + 1 && first + count > known + 1;
        if fits {
            self.proposed.insert(from, first + count - 1);
        }
        fits
    }

    /// A proposal was lost: what was received is no longer on its way.
    pub fn forget_proposed(&mut self) {
        self.proposed.clear();
    }
}
