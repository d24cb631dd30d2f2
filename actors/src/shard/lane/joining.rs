//! Joining: replicas that come to this lane when its node begins to take part, and those that are replaced elsewhere.

use super::State;
use super::hosted::Hosted;
use crate::shard::replica::members::Change;

impl State {
    /// The node takes part: its replicas begin. At once with what they know to be committed: it may say who takes part,
    /// and by what was before it might be that nobody could be elected.
    pub(super) fn host(&mut self, shards: Vec<Hosted>) {
        for hosted in shards {
            let shard = hosted.shard();
            self.shards.insert(shard, hosted);
            self.touch(shard);
        }
    }

    /// Where a node came back without its disk: its old replica goes, the new one is filled and then votes. A step at a
    /// time for each shard that is led here.
    pub(super) fn change_members(&mut self) {
        let router = &self.router;
        let mut changed = Vec::new();
        for (shard, hosted) in &mut self.shards {
            let present = |node| router.replica(node);
            let Some(change) = hosted.replica.change_members(&hosted.place, present) else {
                continue;
            };
            match change {
                Change::Remove(old) => {
                    tracing::warn!(%shard, node = %old.node(), "a replica is lost for good; it goes");
                }
                Change::Learn(new) => {
                    tracing::info!(%shard, node = %new.node(), "a new replica is filled");
                }
                Change::Promote(new) => {
                    tracing::info!(%shard, node = %new.node(), "a new replica votes");
                }
            }
            changed.push(*shard);
        }
        changed.into_iter().for_each(|shard| self.touch(shard));
    }
}
