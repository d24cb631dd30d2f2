//! Placement: which nodes keep a shard, and which of them should lead it.

use std::collections::BTreeMap;

use crate::ids::{NodeId, ShardId};

/// The replicas of every shard, its preferred leader first.
///
/// Replicas are chosen by rendezvous hashing (Thaler and Ravishankar, 1998), so that a node's coming or going moves only
/// its own share; leaders are then spread so that no node is preferred for many more shards than another.
#[must_use]
pub fn place(shards: u16, nodes: &[NodeId], replicas: u16) -> BTreeMap<ShardId, Vec<NodeId>> {
    let mut leads: BTreeMap<NodeId, u32> = nodes.iter().map(|node| (*node, 0)).collect();
    let mut places = BTreeMap::new();
    for shard in (0..shards).map(ShardId) {
        let mut ranked: Vec<NodeId> = nodes.to_vec();
        ranked.sort_by_key(|node| std::cmp::Reverse(score(shard, *node)));
        ranked.truncate(usize::from(replicas.max(1)));
        let leader = ranked.iter().copied().min_by_key(|node| leads[node]);
        if let Some(leader) = leader {
            *leads.entry(leader).or_default() += 1;
            ranked.retain(|node| *node != leader);
            ranked.insert(0, leader);
        }
        places.insert(shard, ranked);
    }
    places
}

fn score(shard: ShardId, node: NodeId) -> u64 {
    let mut bytes = [0; 4];
    bytes[..2].copy_from_slice(&shard.0.to_le_bytes());
    bytes[2..].copy_from_slice(&node.0.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u16) -> Vec<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    #[test]
    fn every_shard_has_its_replicas_on_different_nodes() {
        for count in 1..8 {
            for (_, at) in place(64, &nodes(count), 3) {
                let mut different = at.clone();
                different.sort();
                different.dedup();
                assert_eq!(different.len(), usize::from(count.min(3)));
                assert_eq!(at.len(), different.len());
            }
        }
    }

    #[test]
    fn leaders_are_spread_evenly() {
        for count in 1..8 {
            let mut leads: BTreeMap<NodeId, i32> = BTreeMap::new();
            for (_, at) in place(64, &nodes(count), 3) {
                *leads.entry(at[0]).or_default() += 1;
            }
            let (least, most) = (leads.values().min().unwrap(), leads.values().max().unwrap());
            assert!(most - least <= 3, "{leads:?}");
        }
    }

    #[test]
    fn a_new_node_moves_only_its_own_share() {
        let (before, after) = (place(64, &nodes(5), 3), place(64, &nodes(6), 3));
        for (shard, at) in after {
            for node in at.iter().filter(|node| node.0 != 6) {
                assert!(before[&shard].contains(node), "{shard} came to {node}");
            }
        }
    }
}
