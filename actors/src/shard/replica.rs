//! Replica: one node's member of a shard's Raft group, as a machine without disk, socket or clock.
//!
//! Owns      the Raft node, its log in memory, and the shard's state.
//! Promises  a command's outcome is told only from applying the committed entry; messages that promise durability leave
//!           only after `persisted`.
//! Never     waits: what must be written, sent or read is in `Outputs`, and the host says when it is done.
//! Fails by  panicking when Raft's own invariants break; the host rebuilds it from journal and checkpoint.
//!
//! Source: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm"; the library is raft-rs, and the
//! order of calls below is that of its asynchronous `Ready`.

pub(crate) mod hearing;
pub mod members;
mod outputs;
mod proposed;
#[cfg(test)]
mod tests;

pub use outputs::{Outputs, Write};
use proposed::Proposals;

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType};
use raft::{RawNode, StateRole};

use super::raft_log::{Place, RaftLog};
use super::state::{Batch, Command, State};
use crate::ids::{NodeId, ReplicaId, ShardId, Timestamp, UserId};
use crate::mutant::{self, Mutant};

/// Bytes of commands in one entry, about; keeps a Raft message with it well inside one frame of a link.
const BATCH_BYTES: usize = 64 * 1024;
/// Commands in one entry.
const BATCH_COMMANDS: usize = 512;
/// Bytes of entries in one Raft message, about.
const MESSAGE_BYTES_MAX: u64 = 96 * 1024;
/// Bytes of entries proposed and not yet committed.
const UNCOMMITTED_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What stays in the log after a checkpoint, for replicas that are a little behind.
const TAIL_BYTES: usize = 1024 * 1024;
const TAIL_ENTRIES: u64 = 4096;

/// How the replicas of a cluster beat.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Ticks without a leader before an election (raft-rs draws from one to two times this).
    pub election_ticks: usize,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { election_ticks: 10, heartbeat_ticks: 3 }
    }
}

/// Who waits for a command's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The mailbox actor of a user, under its own number.
    Mailbox(UserId, u64),
    /// The shard's home, under its own number.
    Home(u64),
    /// Nobody.
    Shard,
}

/// What a node may know of a replica it hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    /// The term.
    pub term: u64,
    /// Whether this replica leads and has applied all of earlier terms: only then does it answer anybody.
    pub serves: bool,
    /// Whether this replica leads.
    pub leads: bool,
    /// The leader it knows.
    pub leader: Option<NodeId>,
}

/// One node's member of a shard's Raft group.
pub struct Replica {
    raft: RawNode<RaftLog>,
    state: State,
    pending: Vec<(Command, Origin)>,
    /// Whether what is pending goes with the next step, rather than wait for company.
    released: bool,
    /// Whether something of it should not wait for long.
    presses: bool,
    proposed: Proposals,
    committed: VecDeque<Entry>,
    /// Steps that are not durable yet: the ticket of a write, and the last step that is durable with it.
    writing: VecDeque<(u64, u64)>,
    /// Messages that may leave once their step is durable.
    held: VecDeque<(u64, Vec<Message>)>,
    installing: bool,
    /// The image of the checkpoint being taken over is on disk, and the log up to this index comes with this write.
    installed: Option<(u64, u64)>,
    role: Role,
    kept: HardState,
    /// The checkpoint is gone: this replica votes, but applies nothing and leads nothing until it has another.
    lacks_state: bool,
    /// The newest write handed out.
    ticket: u64,
}

impl Replica {
    /// Builds a replica from its log and state.
    #[must_use]
    pub fn new(me: ReplicaId, log: RaftLog, state: State, pace: Pace) -> Self {
        let (applied, _) = state.applied();
        let config = raft::Config {
            id: me.0,
            election_tick: pace.election_ticks,
            heartbeat_tick: pace.heartbeat_ticks,
            applied,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: 128,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: 4 * 1024 * 1024,
            // Followers learn what is committed with the next entry or heartbeat: they answer nobody, and a message and
            // its answer per commit and follower are saved.
            skip_bcast_commit: true,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&config, log, &logger).expect("the configuration is valid");
        let kept = raft.raft.hard_state();
        let role = Role { term: kept.term, serves: false, leads: false, leader: None };
        Self {
            raft,
            state,
            pending: Vec::new(),
            released: false,
            presses: false,
            proposed: Proposals::default(),
            committed: VecDeque::new(),
            writing: VecDeque::new(),
            held: VecDeque::new(),
            installing: false,
            installed: None,
            role,
            kept,
            lacks_state: false,
            ticket: 0,
        }
    }

    /// The shard.
    #[must_use]
    pub const fn shard(&self) -> ShardId {
        self.state.shard()
    }

    /// What all replicas agree on, as far as applied here.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// For checkpoints and cooling, which change nothing that replicas agree on.
    pub const fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// This replica's part.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// One tick of Raft's clock; answers whether there may be something to do.
    pub fn tick(&mut self) -> bool {
        // Until a checkpoint is installed the library must neither tick nor step.
        if self.installing {
            return false;
        }
        if !self.lacks_state {
            return self.raft.tick();
        }
        if self.role.leader.is_some() {
            // Refused while one is on its way, or when the leader is not known for sure: asked again at the next tick.
            let _later = self.raft.request_snapshot();
        }
        true
    }

    /// The checkpoint is gone: from now on this replica votes and keeps entries, but applies nothing, leads nothing and
    /// asks the leader for a checkpoint.
    pub const fn lose_state(&mut self) {
        self.lacks_state = true;
    }

    /// Whether the checkpoint is gone and another has not come yet.
    #[must_use]
    pub const fn lacks_state(&self) -> bool {
        self.lacks_state
    }

    /// The newest entry in the log.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.raft.raft.raft_log.last_index()
    }

    /// Overrides when the next election is due; for simulations, where chance comes from a seed.
    pub fn set_election_timeout(&mut self, ticks: usize) {
        self.raft.raft.set_randomized_election_timeout(ticks);
    }

    /// Puts a command into the next batch; refused unless this replica serves. The batch leaves with the next step if
    /// somebody waits for one of its commands, else after `release`.
    pub fn propose(&mut self, command: Command, origin: Origin) -> Result<(), Origin> {
        if !self.role.serves || self.installing {
            return Err(origin);
        }
        self.released |= command.is_awaited();
        self.presses |= command.is_pressing();
        self.pending.push((command, origin));
        Ok(())
    }

    /// Whether commands wait to be proposed.
    #[must_use]
    pub const fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether commands wait for company: an entry of their own for each would cost all replicas a write.
    #[must_use]
    pub const fn has_patient(&self) -> bool {
        !self.pending.is_empty() && !self.released
    }

    /// Whether commands wait for company, but should not for long.
    #[must_use]
    pub const fn presses(&self) -> bool {
        self.presses && self.has_patient()
    }

    /// What waits goes with the next step.
    pub const fn release(&mut self) {
        self.released = true;
    }

    /// Whether there is something to say, to write, to apply, or to propose at last.
    #[must_use]
    pub fn has_steps(&self) -> bool {
        self.raft.has_ready() || self.has_pending() && !self.has_patient()
    }

    /// Proposes what waits, and takes every step that needs no host.
    pub fn advance(&mut self, wall: Timestamp, out: &mut Outputs) {
        self.propose_pending(wall, out);
        loop {
            self.apply(out);
            self.note_role(out);
            if self.installing || !self.raft.has_ready() {
                break;
            }
            self.take_ready(out);
        }
    }

    /// Proposes what waits, in order. What Raft will not take now (a leadership is being handed over, or too much is
    /// uncommitted) waits on, and everything behind it, so that nothing overtakes.
    fn propose_pending(&mut self, wall: Timestamp, out: &mut Outputs) {
        if self.has_patient() {
            return;
        }
        let mut pending = VecDeque::from(std::mem::take(&mut self.pending));
        while !pending.is_empty() {
            let mut batch = Batch { wall, commands: Vec::new() };
            let mut origins = Vec::new();
            let mut bytes = 0;
            while bytes < BATCH_BYTES && batch.commands.len() < BATCH_COMMANDS {
                let Some((command, origin)) = pending.pop_front() else { break };
                bytes += command.weight();
                batch.commands.push(command);
                origins.push(origin);
            }
            // Asked of Raft itself, whose part may have changed just now: it would hand a follower's proposal on.
            if self.installing || self.raft.raft.state != StateRole::Leader {
                out.lost.extend(origins);
            } else if self.raft.propose(Vec::new(), crate::codec::encode(&batch)).is_ok() {
                let place = Place { index: self.last_index(), term: self.raft.raft.term };
                self.proposed.push(place, batch, origins);
            } else {
                self.pending = batch.commands.into_iter().zip(origins).chain(pending).collect();
                return;
            }
        }
        (self.released, self.presses) = (false, false);
    }

    fn take_ready(&mut self, out: &mut Outputs) {
        let mut ready = self.raft.ready();
        out.messages.extend(ready.take_messages());
        self.ticket = ready.number();
        let mut write = Write { ticket: self.ticket, ..Write::default() };
        if let Some(hard_state) = ready.hs() {
            self.raft.mut_store().set_hard_state(hard_state.clone());
            // The commit index alone needs no write: it is found again by the next leader.
            if (hard_state.term, hard_state.vote) != (self.kept.term, self.kept.vote) {
                write.hard_state = Some(hard_state.clone());
            }
            self.kept = hard_state.clone();
        }
        if !ready.snapshot().is_empty() {
            let snapshot = ready.snapshot().clone();
            let metadata = snapshot.get_metadata();
            let place = Place { index: metadata.index, term: metadata.term };
            let conf_state = metadata.get_conf_state().clone();
            self.raft.mut_store().reset(place, conf_state.clone());
            (write.reset, write.conf_state) = (Some(place), Some(conf_state));
            write.hard_state = Some(self.kept.clone());
            self.installing = true;
            self.committed.clear();
            out.install = Some(snapshot);
        }
        let entries = ready.take_entries();
        self.raft.mut_store().append(&entries);
        if !entries.is_empty() && write.hard_state.is_none() {
            write.hard_state = Some(self.kept.clone());
        }
        write.entries = entries;
        // A leader that has stepped down since has no checkpoint to send.
        let mut held = ready.take_persisted_messages();
        held.retain(|message| !carries_image(message));
        if !held.is_empty() {
            self.held.push_back((write.ticket, held));
        }
        self.committed.extend(ready.take_committed_entries());
        self.raft.advance_append_async(ready);
        if !write.is_empty() {
            self.writing.push_back((write.ticket, write.ticket));
            out.writes.push(write);
        } else if let Some((_, upto)) = self.writing.back_mut() {
            *upto = write.ticket;
        } else {
            self.durable(write.ticket, out);
        }
    }

    /// The write with this ticket, and all before it, are on disk.
    pub fn persisted(&mut self, ticket: u64, out: &mut Outputs) {
        let mut upto = None;
        while let Some((_, last)) = self.writing.pop_front_if(|(written, _)| *written <= ticket) {
            upto = Some(last);
        }
        if let Some(upto) = upto {
            self.durable(upto, out);
        }
    }

    /// All steps up to this one are durable.
    fn durable(&mut self, number: u64, out: &mut Outputs) {
        self.raft.on_persist_ready(number);
        while let Some((_, held)) = self.held.pop_front_if(|(held, _)| *held <= number) {
            out.messages.extend(held);
        }
        // Only now: to the library nothing may be applied that is not in the log on disk.
        if let Some((_, index)) = self.installed.take_if(|(with, _)| *with <= number) {
            self.installing = false;
            self.lacks_state = false;
            self.raft.advance_apply_to(index);
        }
    }

    /// The image of the checkpoint asked for by `install` is on disk; this is the state it holds. The writes handed out
    /// with it may follow now, and it is taken over when they are on disk.
    pub fn installed(&mut self, state: State) {
        // Invariant: what was installed is what Raft was told of.
        assert_eq!(state.applied().0, self.raft.store().first() - 1, "the image asked for");
        self.installed = Some((self.ticket, state.applied().0));
        self.state = state;
    }

    /// Whether writes must wait for the image of a checkpoint.
    #[must_use]
    pub const fn awaits_image(&self) -> bool {
        self.installing && self.installed.is_none()
    }

    /// Whether a checkpoint is being taken over.
    #[must_use]
    pub const fn is_installing(&self) -> bool {
        self.installing
    }

    fn apply(&mut self, out: &mut Outputs) {
        while let Some(entry) = self.committed.front() {
            if self.installing || self.lacks_state {
                return;
            }
            let place = Place { index: entry.index, term: entry.term };
            let own = self.proposed.take_batch(place);
            let Some(batch) = own.or_else(|| decode_batch(entry)) else {
                let entry = self.committed.pop_front().expect("there is a front");
                self.apply_other(&entry, out);
                continue;
            };
            let missing = self.state.missing(&batch);
            if !missing.is_empty() {
                self.proposed.put_back(place, batch);
                out.missing = missing;
                return;
            }
            self.committed.pop_front();
            let outcomes = self.state.apply(place.index, place.term, batch, &mut out.happened);
            self.proposed.answer(place, outcomes, (&mut out.outcomes, &mut out.lost));
            self.raft.advance_apply_to(place.index);
        }
    }

    fn note_role(&mut self, out: &mut Outputs) {
        let raft = &self.raft.raft;
        let leads = raft.state == StateRole::Leader;
        let leader = (raft.leader_id != 0).then(|| ReplicaId(raft.leader_id).node());
        let serves = leads
            && !self.installing
            && !self.lacks_state
            && (self.role.serves && self.role.term == raft.term || raft.apply_to_current_term());
        let stale = mutant::is_planted(Mutant::StaleLeaderServes) && self.role.serves;
        let role = Role { term: raft.term, serves: serves || stale, leads, leader };
        if role == self.role {
            return;
        }
        if self.role.leads && !leads {
            out.lost.extend(self.proposed.give_up());
            out.lost.extend(self.pending.drain(..).map(|(_, origin)| origin));
        }
        self.role = role;
        out.role_changed = true;
    }

    /// A checkpoint at this place, with the members as of it, is durable: it can be sent, and entries it covers can go.
    /// Answers where the log now starts, for the journal.
    pub fn checkpointed(&mut self, place: Place, members: ConfState) -> Place {
        let log = self.raft.mut_store();
        log.set_image(place, members);
        let keep_from = log.tail_from(TAIL_BYTES, TAIL_ENTRIES);
        log.compact(place.index.min(keep_from))
    }

    /// Lets go of the log up to an entry that a checkpoint covers, without a tail; answers where it starts now.
    pub fn compact(&mut self, upto: u64) -> Place {
        self.raft.mut_store().compact(upto)
    }

    /// Whether a replica waits for a checkpoint newer than any there is; asking resets it.
    #[must_use]
    pub fn wants_checkpoint(&self) -> bool {
        self.raft.store().take_wanted()
    }

    /// The log in memory.
    #[must_use]
    pub fn log(&self) -> &RaftLog {
        self.raft.store()
    }
}

/// Whether a message carries a checkpoint's place, so that its image must go before it.
#[must_use]
pub fn carries_image(message: &Message) -> bool {
    message.get_msg_type() == MessageType::MsgSnapshot
}

fn decode_batch(entry: &Entry) -> Option<Batch> {
    if entry.get_entry_type() != EntryType::EntryNormal || entry.data.is_empty() {
        return None;
    }
    // A committed command that this program cannot read must stop the replica; skipping it would make replicas differ.
    Some(crate::codec::decode(&entry.data).expect("a committed entry is one this version reads"))
}
