//! View: the cluster as an operator sees it, field by field as it goes over the wire.

use actors::ids::{GroupId, UserId};
use serde::{Deserialize, Serialize};

/// `GET /admin/cluster`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster's name.
    pub cluster: String,
    /// All nodes, in the order of their birth.
    pub nodes: Vec<NodeView>,
    /// All shards, in order.
    pub shards: Vec<ShardView>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Where clients reach it.
    pub url: String,
    /// Where the operator reaches it.
    pub admin_url: String,
    /// How it is, as far as the answering node knows.
    pub state: NodeState,
    /// Its process; absent while it was never heard.
    pub pid: Option<u32>,
    /// The version of its software; absent while it was never heard.
    pub version: Option<String>,
    /// How many shards it leads.
    pub leads: u32,
    /// How many sockets it has.
    pub sessions: u32,
}

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It answers.
    Up,
    /// It is being stopped and takes no leaderships.
    Draining,
    /// It does not answer.
    Down,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardView {
    /// Its number, from 0.
    pub shard: u16,
    /// The node that leads it, if one is known.
    pub leader: Option<String>,
    /// The nodes that keep it.
    pub replicas: Vec<ReplicaView>,
    /// The term it is led in.
    pub term: u64,
}

/// One replica of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// Where it is.
    pub node: String,
    /// The newest entry it is known to have applied; absent when only the leader knows and is elsewhere.
    pub applied: Option<u64>,
    /// So many entries behind the leader; absent in the same case.
    pub behind: Option<u64>,
    /// Whether it is being filled after its disk was lost and does not count yet; left out when it is not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joining: bool,
}

/// Whom `GET /admin/where` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// A user's mailbox.
    User(UserId),
    /// A group.
    Group(GroupId),
}

/// `GET /admin/where`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhereView {
    /// The shard it is hashed to.
    pub shard: u16,
    /// The node that leads the shard, if one is known.
    pub leader: Option<String>,
    /// The nodes that keep it.
    pub replicas: Vec<ReplicaView>,
    /// The user's sockets.
    pub sessions: Vec<SessionView>,
}

/// One socket of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// The gateway it is on.
    pub node: String,
    /// The device.
    pub device: String,
}
