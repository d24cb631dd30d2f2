//! Shard: one Raft group of mailboxes: its log, its state machine, and the leader's side of it.
//!
//! Owns      the agreed state of its mailboxes (`state`), envelopes between shards (`outbox`), the Raft log (`raft_log`).
//! Promises  what was answered is on a majority's disks and is applied once, in one order, on every replica.
//! Never     reads a clock, draws chance or touches a disk outside `lane`: everything else is a rule, and the same code
//!           runs in the simulation.
//! Fails by  losing what only the leader remembers (`home`, `post`); journal and checkpoints give back the rest.

pub mod command;
mod envelopes;
pub mod home;
pub mod lane;
pub mod outbox;
pub mod post;
pub mod posts;
pub mod raft_log;
pub mod replica;
pub mod state;
pub mod wire;
