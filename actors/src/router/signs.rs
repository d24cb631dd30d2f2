//! Signs: what the nodes of a cluster tell each other of themselves, and what is known by it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::{Router, read, write};
use crate::clock;
use crate::cluster::Class;
use crate::ids::{NodeId, ShardId, Timestamp};
use crate::packet::{Beat, Packet};

/// What is known of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its last sign of life.
    pub beat: Option<Beat>,
    /// Whether there is a link to it.
    pub up: bool,
}

impl Router {
    /// Tells all peers at once what this node now leads, instead of with the next sign of life.
    pub fn announce(&self) {
        let beat = self.sign();
        for peer in read(&self.0.peers).keys() {
            let packets = [Packet::Beat(beat.clone())];
            let _down_or_next_time = self.send(*peer, Class::Control, &packets);
        }
    }

    /// What is known of the other nodes.
    #[must_use]
    pub fn peers(&self) -> BTreeMap<NodeId, Peer> {
        read(&self.0.peers).clone()
    }

    /// Whether there is a link to a node; always, to this one.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        node == self.0.me || read(&self.0.peers).get(&node).is_some_and(|peer| peer.up)
    }

    pub(super) fn took(&self, from: NodeId, beat: Beat) {
        for (shard, term) in &beat.leads {
            self.heard(*shard, *term, from);
        }
        let wall = beat.wall;
        let mut peers = write(&self.0.peers);
        let Some(peer) = peers.get_mut(&from) else { return };
        peer.beat = Some(beat);
        if peer.up {
            write(&self.0.clocks).heard(from, wall, self.0.since.elapsed());
            drop(peers);
            self.compare();
        }
    }

    /// Tells the operator when this node's clock is off, and when it no longer is.
    fn compare(&self) {
        let off = read(&self.0.clocks).correction(clock::wall(), self.0.since.elapsed());
        let was_off = self.0.clock_is_off.swap(off != 0, Ordering::Relaxed);
        let seconds = off / 1000;
        match (was_off, off) {
            (true, 0) => tracing::info!("this node's clock agrees with the others' again"),
            (false, off) if off != 0 => tracing::warn!(
                seconds,
                "this node's clock is off, and has to be set by about this much"
            ),
            _ => {}
        }
    }

    /// The time a leader on this node may go by, given what its own clock says.
    #[must_use]
    pub fn agreed(&self, own: Timestamp) -> Timestamp {
        read(&self.0.clocks).agreed(own, self.0.since.elapsed())
    }

    /// Whether a node said lately, or this one knows, that it leads and serves a shard in a term.
    #[must_use]
    pub fn still_serves(&self, shard: ShardId, (term, node): (u64, NodeId)) -> bool {
        if node == self.0.me {
            return self.0.serving[usize::from(shard.0)].load(Ordering::Acquire);
        }
        let peers = read(&self.0.peers);
        let beat = peers.get(&node).filter(|peer| peer.up).and_then(|peer| peer.beat.as_ref());
        beat.is_some_and(|beat| beat.leads.contains(&(shard, term)))
    }

    /// The next sign of life.
    pub(super) fn sign(&self) -> Beat {
        let mut leads = Vec::new();
        for shard in (0..self.0.shards).map(ShardId) {
            let serves = self.0.serving[usize::from(shard.0)].load(Ordering::Acquire);
            // While this one steps down, another may have been heard of in a newer term.
            if let (true, Some((term, node))) = (serves, self.leader(shard))
                && node == self.0.me
            {
                leads.push((shard, term));
            }
        }
        Beat {
            boot: self.0.boot,
            wall: clock::wall(),
            leads,
            sessions: self.0.connected.load(Ordering::Relaxed),
            version: env!("CARGO_PKG_VERSION").into(),
            draining: self.is_draining(),
            pid: std::process::id(),
            health: read(&self.0.health).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BootId;

    fn beat(wall: u64, leads: &[(ShardId, u64)]) -> Beat {
        let leads = leads.to_vec();
        Beat { wall: Timestamp(wall), leads, ..router(9).sign() }
    }

    fn router(me: u16) -> Router {
        let others = (1..=3).map(NodeId).filter(|node| *node != NodeId(me));
        Router::new(NodeId(me), BootId(1), 4, others)
    }

    #[test]
    fn a_leader_goes_by_the_middle_clock_of_the_nodes_within_reach() {
        const DAY: u64 = 24 * 3600 * 1000;
        let (router, now) = (router(1), clock::wall());
        let early = || now.0 - router.agreed(now).0;
        router.took(NodeId(2), beat(now.0 - DAY, &[]));
        assert_eq!(early(), 0, "not linked: not counted");
        router.link(NodeId(2), true);
        router.link(NodeId(3), true);
        for node in [NodeId(2), NodeId(3)] {
            router.took(node, beat(now.0 - DAY, &[]));
        }
        assert!(early().abs_diff(DAY) < 1_000, "{}", early());
        router.took(NodeId(3), beat(now.0, &[]));
        assert_eq!(early(), 0, "only one is off");
        router.link(NodeId(3), false);
        assert!(early().abs_diff(DAY) < 1_000, "{}", early());
    }

    #[test]
    fn who_leads_says_so_with_every_sign_of_life() {
        let (router, shard) = (router(1), ShardId(2));
        router.serves(shard, 5, true);
        assert!(router.still_serves(shard, (5, NodeId(1))));
        router.serves(shard, 5, false);
        assert_eq!(router.leader(shard), Some((5, NodeId(1))), "nobody else was heard of");
        assert!(!router.still_serves(shard, (5, NodeId(1))));
        router.took(NodeId(2), beat(0, &[(shard, 6)]));
        assert!(!router.still_serves(shard, (6, NodeId(2))), "out of reach");
        router.link(NodeId(2), true);
        assert!(router.still_serves(shard, (6, NodeId(2))));
        router.took(NodeId(2), beat(0, &[]));
        assert!(!router.still_serves(shard, (6, NodeId(2))));
    }
}
