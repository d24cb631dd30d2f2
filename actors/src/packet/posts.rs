//! Posts: how the home of a member gets what was posted to a large group, from any replica of the group's shard.

use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, Seq, ShardId};
use crate::message::Entry;

/// A home asks for posts of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The shard that asks.
    pub from: ShardId,
    /// Comes back with the answer.
    pub ticket: u64,
    /// The group.
    pub group: GroupId,
    /// The first post wanted.
    pub first: Seq,
    /// The last one.
    pub last: Seq,
}

/// What a replica has of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// The shard that asked.
    pub to: ShardId,
    /// What it asked with.
    pub ticket: u64,
    /// The group it asked about: an answer may come late, and again.
    pub group: GroupId,
    /// The first of those wanted, as many as fit one packet.
    pub posts: Vec<Entry>,
    /// Entries of the group up to here are gone for good; only a leader says so.
    pub gone: Seq,
}
