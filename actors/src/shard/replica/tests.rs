//! What a replica does without anybody's clock: three of them, their messages delivered by hand.

use raft::eraftpb::{ConfState, HardState, MessageType};

use super::*;
use crate::ids::{Epoch, Timestamp};
use crate::shard::state::Change;

const ALL: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

struct Trio {
    replicas: Vec<Replica>,
    /// Nodes that hear and say nothing.
    silent: Vec<NodeId>,
    writes: usize,
    heartbeats: usize,
}

impl Trio {
    fn new() -> Self {
        let replica = |me: &NodeId| {
            let members = ConfState::from((vec![1, 2, 3], Vec::new()));
            let log = RaftLog::restore(HardState::default(), members, Place::default(), Vec::new());
            let id = ReplicaId(u64::from(me.0));
            Replica::new(id, log, State::new(ShardId(0), 1), Pace::default())
        };
        let replicas = ALL.iter().map(replica).collect();
        Self { replicas, silent: Vec::new(), writes: 0, heartbeats: 0 }
    }

    /// Delivers messages and writes until nothing is left to do.
    fn settle(&mut self) {
        loop {
            let mut messages = Vec::new();
            for (replica, node) in self.replicas.iter_mut().zip(ALL) {
                let mut out = Outputs::default();
                replica.advance(Timestamp(0), &mut out);
                self.writes += out.writes.len();
                for write in std::mem::take(&mut out.writes) {
                    replica.persisted(write.ticket, &mut out);
                }
                if !self.silent.contains(&node) {
                    messages.append(&mut out.messages);
                }
            }
            if messages.is_empty() {
                return;
            }
            for message in messages {
                let to = ReplicaId(message.to).node();
                self.heartbeats += usize::from(message.get_msg_type() == MessageType::MsgHeartbeat);
                if !self.silent.contains(&to) {
                    self.replicas[usize::from(to.0) - 1].step(message);
                }
            }
        }
    }

    fn tick(&mut self, times: usize) {
        for _ in 0..times {
            for replica in &mut self.replicas {
                replica.tick();
            }
            self.settle();
        }
    }

    fn leader(&self) -> Option<NodeId> {
        let leads = self
            .replicas
            .iter()
            .zip(ALL)
            .find(|(replica, node)| replica.role().serves && !self.silent.contains(node));
        leads.map(|(_, node)| node)
    }

    /// With a leader, and all quiet.
    fn led() -> (Self, NodeId) {
        let mut trio = Self::new();
        trio.tick(40);
        let leader = trio.leader().expect("somebody was elected");
        (trio, leader)
    }
}

#[test]
fn heartbeats_are_answered_without_a_write() {
    let (mut trio, _) = Trio::led();
    (trio.writes, trio.heartbeats) = (0, 0);
    trio.tick(30);
    assert!(trio.heartbeats >= 10, "{} heartbeats", trio.heartbeats);
    assert_eq!(trio.writes, 0);
}

#[test]
fn a_step_without_a_write_waits_for_the_write_before_it() {
    let (mut trio, leader) = Trio::led();
    let follower = ALL.into_iter().find(|node| *node != leader).expect("there are two");
    let at = usize::from(leader.0) - 1;
    let command = Command::Policy(crate::mailbox::rules::Policy::default());
    trio.replicas[at].propose(command, Origin::Shard).expect("it serves");
    trio.replicas[at].release();
    let mut out = Outputs::default();
    trio.replicas[at].advance(Timestamp(0), &mut out);
    let of_follower = out.messages.iter().filter(|m| ReplicaId(m.to).node() == follower);
    let append: Vec<_> = of_follower.cloned().collect();
    let replica = &mut trio.replicas[usize::from(follower.0) - 1];
    let mut out = Outputs::default();
    append.into_iter().for_each(|message| replica.step(message));
    replica.advance(Timestamp(0), &mut out);
    let written = out.writes.last().expect("entries are written").ticket;
    // A heartbeat is answered in a step that writes nothing.
    let (from, to) = (u64::from(leader.0), u64::from(follower.0));
    let term = replica.role().term;
    let mut heartbeat = Message { from, to, term, ..Message::default() };
    heartbeat.set_msg_type(MessageType::MsgHeartbeat);
    replica.step(heartbeat);
    replica.advance(Timestamp(0), &mut out);
    assert_eq!(out.messages, [], "nothing is said before what it rests on is on disk");
    replica.persisted(written, &mut out);
    assert_eq!(out.messages.len(), 2);
}

#[test]
fn the_followers_of_a_leader_out_of_reach_elect_another_within_a_few_ticks() {
    let (mut trio, dead) = Trio::led();
    trio.silent.push(dead);
    for (replica, node) in trio.replicas.iter_mut().zip(ALL) {
        if node != dead {
            replica.link_lost(dead, |other| other != dead);
        }
    }
    trio.tick(2);
    assert!(trio.leader().is_some(), "nobody was elected");
}

#[test]
fn one_broken_link_does_not_depose_a_leader_whom_the_others_hear() {
    let (mut trio, leader) = Trio::led();
    let follower = ALL.into_iter().find(|node| *node != leader).expect("there are two");
    trio.replicas[usize::from(follower.0) - 1].link_lost(leader, |other| other != leader);
    trio.replicas[usize::from(leader.0) - 1].link_lost(follower, |other| other != follower);
    let term = trio.replicas[usize::from(leader.0) - 1].role().term;
    trio.tick(5);
    assert_eq!(trio.leader(), Some(leader));
    assert_eq!(trio.replicas[usize::from(leader.0) - 1].role().term, term);
}

#[test]
fn a_leader_without_links_to_a_majority_steps_down_at_once() {
    let (mut trio, leader) = Trio::led();
    trio.silent.push(leader);
    let replica = &mut trio.replicas[usize::from(leader.0) - 1];
    for other in ALL.into_iter().filter(|node| *node != leader) {
        replica.link_lost(other, |_| false);
    }
    replica.advance(Timestamp(0), &mut Outputs::default());
    assert!(!replica.role().leads && !replica.role().serves);
}

#[test]
fn a_command_that_nobody_waits_for_goes_with_the_next_that_somebody_waits_for() {
    let (mut trio, leader) = Trio::led();
    let at = usize::from(leader.0) - 1;
    let patient = || Command::Policy(crate::mailbox::rules::Policy::default());
    let epoch = Epoch::new(Timestamp(0), 1);
    let change = Change::Register { epoch, password: "hash".into() };
    let awaited = Command::Mailbox(UserId::parse("ann").expect("a name"), change);
    trio.writes = 0;
    trio.replicas[at].propose(patient(), Origin::Shard).expect("it serves");
    trio.settle();
    assert_eq!((trio.writes, trio.replicas[at].has_patient()), (0, true));
    trio.replicas[at].propose(awaited, Origin::Shard).expect("it serves");
    trio.settle();
    assert_eq!((trio.writes, trio.replicas[at].has_patient()), (3, false), "one entry for both");
    trio.replicas[at].propose(patient(), Origin::Shard).expect("it serves");
    trio.replicas[at].release();
    trio.settle();
    assert_eq!(trio.writes, 6);
}

#[test]
fn a_replica_that_waits_for_a_checkpoint_takes_no_leadership() {
    let (mut trio, leader) = Trio::led();
    let term = trio.replicas[usize::from(leader.0) - 1].role().term;
    let follower = ALL.into_iter().find(|node| *node != leader).expect("there are two");
    let replica = &mut trio.replicas[usize::from(follower.0) - 1];
    replica.lose_state();
    let (from, to) = (u64::from(leader.0), u64::from(follower.0));
    let mut now = Message { from, to, term, ..Message::default() };
    now.set_msg_type(MessageType::MsgTimeoutNow);
    replica.step(now);
    trio.settle();
    assert_eq!(trio.leader(), Some(leader));
    assert_eq!(trio.replicas[usize::from(leader.0) - 1].role().term, term);
}

#[test]
fn a_leader_that_stepped_down_sends_no_checkpoint() {
    let (mut trio, leader) = Trio::led();
    trio.tick(3);
    let follower = ALL.into_iter().find(|node| *node != leader).expect("there are two");
    let mut out = Outputs::default();
    let replica = &mut trio.replicas[usize::from(follower.0) - 1];
    replica.lose_state();
    replica.tick();
    replica.advance(Timestamp(0), &mut out);
    let replica = &mut trio.replicas[usize::from(leader.0) - 1];
    let asks = |message: &Message| message.request_snapshot > 0;
    let (index, term) = replica.state().applied();
    replica.checkpointed(Place { index, term }, replica.members().clone());
    replica.step(out.messages.into_iter().find(asks).expect("it asks for a checkpoint"));
    assert!(replica.raft.raft.msgs.iter().any(carries_image), "one is about to be sent");
    let (from, to, term) = (u64::from(follower.0), u64::from(leader.0), replica.role().term + 1);
    let mut newer = Message { from, to, term, ..Message::default() };
    newer.set_msg_type(MessageType::MsgHeartbeat);
    replica.step(newer);
    let mut out = Outputs::default();
    replica.advance(Timestamp(0), &mut out);
    let written = out.writes.last().expect("the term is written").ticket;
    replica.persisted(written, &mut out);
    let kinds: Vec<_> = out.messages.iter().map(Message::get_msg_type).collect();
    assert_eq!(kinds, [MessageType::MsgHeartbeatResponse]);
}
