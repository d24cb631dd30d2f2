//! Shard: one Raft group of mailboxes.

pub mod outbox;
pub mod raft_log;
pub mod replica;
pub mod state;
pub mod wire;
