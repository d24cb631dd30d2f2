//! Members: who takes part in a shard, and how the replica of a lost disk is replaced.
//!
//! One change at a time, each a committed entry of the shard's own log, proposed by its leader: the replica of an
//! incarnation that is over goes; the one that follows comes as a learner, which counts in no majority; when it has
//! caught up it votes. So at every moment a majority of those who vote has everything that was confirmed, and a shard
//! that has lost too many replicas has no leader rather than a smaller majority.
//!
//! A change is written in our own encoding, in the entry's context; the library's own lies in its data and is not read.
//! (Source: Ongaro, "Consensus: Bridging Theory and Practice", chapter 4, one server at a time.)

use raft::eraftpb::{ConfChange, ConfChangeType, ConfState, Entry, EntryType};
use raft::{ProgressState, StateRole};
use serde::{Deserialize, Serialize};

use super::{Outputs, Replica, Write};
use crate::codec;
use crate::ids::{NodeId, ReplicaId};

/// Entries that a learner may still lack when it gets its vote.
const CAUGHT_UP: u64 = 64;

/// One change of who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Its incarnation is over.
    Remove(ReplicaId),
    /// It is to be filled.
    Learn(ReplicaId),
    /// It has caught up: it votes.
    Promote(ReplicaId),
}

/// The next change a shard needs, if any: `present` is the replica that a node has now, as far as it is known.
#[must_use]
pub fn next(
    conf: &ConfState,
    place: &[NodeId],
    present: impl Fn(NodeId) -> Option<ReplicaId>,
    caught_up: impl Fn(ReplicaId) -> bool,
) -> Option<Change> {
    let members = || conf.voters.iter().chain(&conf.learners).map(|id| ReplicaId(*id));
    let is_over = |id: &ReplicaId| {
        present(id.node()).is_some_and(|present| present.incarnation() > id.incarnation())
    };
    if let Some(over) = members().find(is_over) {
        return Some(Change::Remove(over));
    }
    let missing = place.iter().filter(|node| members().all(|id| id.node() != **node));
    if let Some(new) = missing.filter_map(|node| present(*node)).next() {
        return Some(Change::Learn(new));
    }
    let mut learners = conf.learners.iter().map(|id| ReplicaId(*id));
    learners.find(|id| present(id.node()) == Some(*id) && caught_up(*id)).map(Change::Promote)
}

impl Change {
    fn for_raft(self) -> ConfChange {
        let (kind, id) = match self {
            Self::Remove(id) => (ConfChangeType::RemoveNode, id),
            Self::Learn(id) => (ConfChangeType::AddLearnerNode, id),
            Self::Promote(id) => (ConfChangeType::AddNode, id),
        };
        let mut change = ConfChange::default();
        change.set_change_type(kind);
        change.node_id = id.0;
        change
    }
}

impl Replica {
    /// Who takes part, as of the newest entry applied.
    #[must_use]
    pub fn members(&self) -> &ConfState {
        self.raft.store().conf_state()
    }

    /// A node's newest replica among the members.
    fn id_of(&self, node: NodeId) -> Option<u64> {
        let members = self.members();
        let all = members.voters.iter().chain(&members.learners).copied();
        all.filter(|id| ReplicaId(*id).node() == node).max()
    }

    /// Proposes the next change that is needed, if this replica serves and none is under way.
    pub fn change_members(
        &mut self,
        place: &[NodeId],
        present: impl Fn(NodeId) -> Option<ReplicaId>,
    ) -> Option<Change> {
        let leads = self.raft.raft.state == StateRole::Leader && self.role.serves;
        if !leads || self.installing || self.raft.raft.has_pending_conf() {
            return None;
        }
        let last = self.last_index();
        let caught_up = |id: ReplicaId| {
            let progress = self.raft.raft.prs().get(id.0);
            // That it is there is known by its presence; Raft forgets at each election time-out whom it heard.
            progress.is_some_and(|p| p.matched > 0 && p.matched + CAUGHT_UP >= last)
        };
        let change = next(self.members(), place, present, caught_up)?;
        let proposed = self.raft.propose_conf_change(codec::encode(&change), change.for_raft());
        proposed.ok().map(|()| change)
    }

    /// Applies an entry that is no batch of commands.
    pub(super) fn apply_other(&mut self, entry: &Entry, out: &mut Outputs) {
        if entry.get_entry_type() != EntryType::EntryNormal {
            // As with commands: a replica that skipped what it cannot read would differ from the others.
            let change: Change = codec::decode(&entry.context)
                .expect("a committed change of members is one this version reads");
            let conf_state = self
                .raft
                .apply_conf_change(&change.for_raft())
                .expect("a shard keeps at least the member that leads it");
            self.raft.mut_store().set_conf_state(conf_state.clone());
            // With the commit index: after a restart the change must be known before anybody is elected. It could be
            // that nobody can be under the members there were at the beginning.
            self.kept.commit = self.kept.commit.max(entry.index);
            let hard_state = Some(self.kept.clone());
            let (ticket, conf_state) = (self.ticket, Some(conf_state));
            out.writes.push(Write { ticket, hard_state, conf_state, ..Write::default() });
        }
        self.state.skip(entry.index, entry.term);
        self.raft.advance_apply_to(entry.index);
    }

    /// Hands leadership to another replica if this one has it.
    pub fn transfer(&mut self, to: NodeId) {
        if let Some(to) = self.id_of(to)
            && self.role.leads
            && !self.installing
        {
            self.raft.transfer_leader(to);
        }
    }

    /// Messages to a node were lost.
    pub fn unreachable(&mut self, node: NodeId) {
        if let Some(id) = self.id_of(node)
            && !self.installing
        {
            self.raft.report_unreachable(id);
        }
    }

    /// The link to a node is gone; `linked` tells which other nodes there is a link to. A leader that reaches no majority
    /// steps down at once, and a follower of a leader that is out of reach stands for election within a few ticks:
    /// links notice a dead, frozen or cut-off node sooner than Raft's own clock, whose time-outs can so be long. A vote is
    /// still refused by everybody who hears the leader.
    pub fn link_lost(&mut self, node: NodeId, linked: impl Fn(NodeId) -> bool) {
        self.unreachable(node);
        if self.installing {
            return;
        }
        if self.role.leads {
            if !self.reaches_majority(linked) {
                let term = self.raft.raft.term;
                self.raft.raft.become_follower(term, raft::INVALID_ID);
            }
        } else if self.role.leader == Some(node) {
            self.hurry(node);
        }
    }

    /// There is a link to another node. If those that can be reached are a majority again and nobody leads, they need not
    /// wait for a time-out to find a leader.
    pub fn link_found(&mut self, linked: impl Fn(NodeId) -> bool) {
        if !self.installing
            && !self.role.leads
            && self.role.leader.is_none()
            && self.reaches_majority(linked)
        {
            self.hurry(NodeId(0));
        }
    }

    fn reaches_majority(&self, linked: impl Fn(NodeId) -> bool) -> bool {
        let voters = &self.members().voters;
        let reached = voters
            .iter()
            .filter(|voter| **voter == self.raft.raft.id || linked(ReplicaId(**voter).node()));
        reached.count() > voters.len() / 2
    }

    /// Stands for election within a few ticks: one voter after the other, or votes would be split, and not in all shards
    /// the same first.
    fn hurry(&mut self, gone: NodeId) {
        let shard = usize::from(self.shard().0);
        let voters = self.members().voters.iter().filter(|id| ReplicaId(**id).node() != gone);
        let voters: Vec<u64> = voters.copied().collect();
        let raft = &mut self.raft.raft;
        let Some(place) = voters.iter().position(|id| *id == raft.id) else { return };
        let (turn, timeout) = ((place + shard) % voters.len(), raft.election_timeout());
        raft.election_elapsed = timeout;
        raft.set_randomized_election_timeout((timeout + 1 + turn).min(2 * timeout - 1));
    }

    /// Whether a node's replica may be handed the leadership: it is sent entries, not a checkpoint, and waits for none.
    #[must_use]
    pub fn could_lead(&self, node: NodeId) -> bool {
        let progress = self.id_of(node).and_then(|id| self.raft.raft.prs().get(id));
        progress.is_some_and(|progress| {
            progress.state == ProgressState::Replicate
                && progress.pending_request_snapshot == raft::INVALID_INDEX
        })
    }

    /// What became of a checkpoint sent to a node.
    pub fn snapshot_sent(&mut self, node: NodeId, arrived: bool) {
        use raft::SnapshotStatus::{Failure, Finish};
        if let Some(id) = self.id_of(node)
            && !self.installing
        {
            self.raft.report_snapshot(id, if arrived { Finish } else { Failure });
        }
    }

    /// How far the log of a node's replica is known to match this leader's, and whether it was heard of lately. Of
    /// replicas that vote: one that is being filled does not count yet.
    #[must_use]
    pub fn progress(&self, node: NodeId) -> Option<(u64, bool)> {
        let id = self.id_of(node).filter(|id| self.members().voters.contains(id))?;
        let progress = self.raft.raft.prs().get(id)?;
        Some((progress.matched, progress.recent_active))
    }
}

/// For fuzzing: reads a change as it lies in an entry; answers whether it was one.
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    codec::decode::<Change>(bytes).is_ok_and(|change| change.for_raft().node_id > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::Incarnation;

    fn id(node: u16, incarnation: u32) -> ReplicaId {
        ReplicaId::of(NodeId(node), Incarnation(incarnation))
    }

    fn conf(voters: &[ReplicaId], learners: &[ReplicaId]) -> ConfState {
        let ids = |of: &[ReplicaId]| of.iter().map(|id| id.0).collect::<Vec<_>>();
        ConfState::from((ids(voters), ids(learners)))
    }

    const PLACE: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    #[test]
    fn in_its_first_incarnation_a_replica_has_the_number_of_its_node() {
        assert_eq!(id(7, 1), ReplicaId(7));
        assert_eq!((id(7, 9).node(), id(7, 9).incarnation()), (NodeId(7), Incarnation(9)));
        // What no node says is no incarnation that a node may have.
        assert_eq!(ReplicaId(u64::MAX).incarnation(), Incarnation(0));
    }

    #[test]
    fn the_replica_of_a_lost_disk_goes_and_the_next_one_learns_before_it_votes() {
        let present = |node: NodeId| Some(id(node.0, if node.0 == 2 { 2 } else { 1 }));
        let (never, always) = (|_: ReplicaId| false, |_: ReplicaId| true);
        let whole = [id(1, 1), id(2, 1), id(3, 1)];
        let next_of = |voters: &[ReplicaId], learners: &[ReplicaId], caught_up: bool| {
            let conf = conf(voters, learners);
            next(&conf, &PLACE, present, if caught_up { always } else { never })
        };
        assert_eq!(next_of(&whole, &[], true), Some(Change::Remove(id(2, 1))));
        let two = [id(1, 1), id(3, 1)];
        assert_eq!(next_of(&two, &[], true), Some(Change::Learn(id(2, 2))));
        assert_eq!(next_of(&two, &[id(2, 2)], false), None);
        assert_eq!(next_of(&two, &[id(2, 2)], true), Some(Change::Promote(id(2, 2))));
        assert_eq!(next_of(&[id(1, 1), id(3, 1), id(2, 2)], &[], true), None);
    }

    #[test]
    fn a_learner_that_lost_its_disk_again_is_replaced_too() {
        let present = |node: NodeId| Some(id(node.0, if node.0 == 2 { 3 } else { 1 }));
        let conf = conf(&[id(1, 1), id(3, 1)], &[id(2, 2)]);
        let change = next(&conf, &PLACE, present, |_| true);
        assert_eq!(change, Some(Change::Remove(id(2, 2))));
    }

    #[test]
    fn a_node_that_is_only_away_keeps_its_place() {
        let present = |node: NodeId| (node.0 != 2).then(|| id(node.0, 1));
        let conf = conf(&[id(1, 1), id(2, 1), id(3, 1)], &[]);
        assert_eq!(next(&conf, &PLACE, present, |_| true), None);
    }

    proptest! {
        #[test]
        fn changes_end_with_everybody_present_voting(
            incarnations in prop::collection::vec(1_u32..4, 3),
            before in prop::collection::vec((1_u32..4, any::<bool>()), 3),
        ) {
            let present = |node: NodeId| Some(id(node.0, incarnations[usize::from(node.0) - 1]));
            let (mut voters, mut learners) = (Vec::new(), Vec::new());
            for (at, (incarnation, votes)) in before.iter().enumerate() {
                let member = id(at as u16 + 1, (*incarnation).min(incarnations[at]));
                if *votes { voters.push(member) } else { learners.push(member) }
            }
            for _ in 0..20 {
                let Some(change) = next(&conf(&voters, &learners), &PLACE, present, |_| true) else { break };
                match change {
                    Change::Remove(gone) => {
                        prop_assert!(present(gone.node()) > Some(gone), "only what is over goes");
                        voters.retain(|id| *id != gone);
                        learners.retain(|id| *id != gone);
                    }
                    Change::Learn(new) => learners.push(new),
                    Change::Promote(new) => {
                        prop_assert!(learners.contains(&new), "nobody votes who has not learned");
                        learners.retain(|id| *id != new);
                        voters.push(new);
                    }
                }
            }
            voters.sort();
            let mut all: Vec<ReplicaId> = PLACE.iter().filter_map(|node| present(*node)).collect();
            all.sort();
            prop_assert_eq!(voters, all);
            prop_assert!(learners.is_empty());
        }
    }
}
