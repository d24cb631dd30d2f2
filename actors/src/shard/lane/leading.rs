//! Leading: who should lead the shards that are led here.

use super::State;
use crate::ids::NodeId;

impl State {
    /// Hands leaderships to the nodes that should have them: the preferred one, or any other when draining.
    pub(super) fn move_leaders(&mut self) {
        const AT_ONCE: usize = 4;
        let peers = self.router.peers();
        let willing = |node: &NodeId| {
            let peer = peers.get(node);
            peer.is_some_and(|p| p.up && p.beat.as_ref().is_some_and(|beat| !beat.draining))
        };
        let me = self.router.me();
        let mut moved = Vec::new();
        for hosted in self.shards.values_mut() {
            let role = hosted.replica.role();
            if moved.len() >= AT_ONCE || !role.serves || (!self.draining && hosted.place[0] == me) {
                continue;
            }
            let last = hosted.replica.last_index();
            let caught_up = |node: &&NodeId| {
                let progress = hosted.replica.progress(**node);
                let caught_up =
                    progress.is_some_and(|(matched, active)| active && matched + 64 >= last);
                caught_up && hosted.replica.could_lead(**node)
            };
            let candidates = hosted.place.iter().filter(|node| **node != me && willing(node));
            let wanted = if self.draining { hosted.place.len() } else { 1 };
            let to = candidates.take(wanted).find(caught_up).copied();
            if let Some(to) = to.filter(|to| self.draining || *to == hosted.place[0]) {
                tracing::debug!(shard = %hosted.shard(), node = %to, "leadership handed over");
                hosted.replica.transfer(to);
                moved.push(hosted.shard());
            }
        }
        moved.into_iter().for_each(|shard| self.touch(shard));
    }
}
