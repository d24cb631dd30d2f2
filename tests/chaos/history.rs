//! History: what clients and the nemesis did and saw, one JSON object a line, in the order in which it was seen.
//!
//! Nothing here knows how the cluster works: a history of any client of the protocol can be checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Microseconds since the run began, by a clock that only goes forward.
    pub(crate) at: u64,
    /// What happened.
    #[serde(flatten)]
    pub(crate) what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum What {
    /// The run begins.
    Run {
        /// What chance was drawn from.
        seed: u64,
        /// The command that makes a run like it.
        command: String,
        /// How many nodes.
        nodes: u16,
        /// The users, and the devices of each.
        users: BTreeMap<String, Vec<String>>,
        /// How long an undelivered message lives.
        expiry_ms: u64,
    },
    /// A client is about to send a message for the first time. Repeats are not written down.
    Invoke {
        /// The sender.
        user: String,
        /// The device it is sent from.
        device: String,
        /// Its `cid`.
        cid: String,
        /// `u:<user>` or `g:<group>`.
        to: String,
        /// What is written; begins with its `cid` and a space, or is that alone.
        body: String,
    },
    /// The check mark: the node's reply.
    Ok {
        /// The sender.
        user: String,
        /// The message.
        cid: String,
        /// The node's id for it.
        mid: String,
        /// Its place in the conversation.
        seq: u64,
        /// Whether the node had accepted it before.
        dup: bool,
        /// How often it was sent, 1 without repeats.
        tries: u32,
        /// The node that answered.
        via: String,
    },
    /// It was refused for good: it must never appear. A message without `Ok` and `Refused` is unknown.
    Refused {
        /// The sender.
        user: String,
        /// The message.
        cid: String,
        /// The error code.
        code: String,
    },
    /// A socket goes on after `n`.
    Attached {
        /// Whose.
        user: String,
        /// Of which device.
        device: String,
        /// The node.
        via: String,
        /// The life of the log.
        epoch: String,
        /// Where it goes on from.
        n: u64,
        /// Whether that is where the client asked.
        resumed: bool,
    },
    /// A numbered event came, repeats included.
    Event {
        /// Whose.
        user: String,
        /// On which device.
        device: String,
        /// Its number.
        n: u64,
        /// What it says.
        event: Event,
    },
    /// A device has said that it has everything up to `n`: by `ack`, `ping`, `read` or when it resumed.
    Acked {
        /// Whose.
        user: String,
        /// Which.
        device: String,
        /// Up to here.
        n: u64,
    },
    /// A device has said that a conversation is read up to `seq`; it had acknowledged that before.
    Read {
        /// Whose.
        user: String,
        /// Which.
        device: String,
        /// `u:<user>` or `g:<group>`.
        conv: String,
        /// Up to here.
        seq: u64,
    },
    /// A socket is gone.
    Closed {
        /// Whose.
        user: String,
        /// Of which device.
        device: String,
        /// The close code; absent when the connection just broke.
        code: Option<u16>,
    },
    /// A fault begins.
    Fault {
        /// Counts from 1.
        id: u32,
        /// Its kind, such as `kill_one`.
        kind: String,
        /// What exactly.
        detail: String,
        /// The nodes it hits, by name.
        nodes: Vec<String>,
    },
    /// The nemesis has undone a fault.
    Healed {
        /// Which.
        id: u32,
    },
    /// After a fault: every shard has a leader again, and all replicas are in reach.
    Whole {
        /// Which.
        id: u32,
    },
}

/// What a numbered event says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ev", rename_all = "snake_case")]
pub(crate) enum Event {
    /// A message to the user, or to a group that the user is in.
    Message {
        /// The node's id.
        mid: String,
        /// `g:<group>`; absent when it is to the user alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        conv: Option<String>,
        /// The sender.
        from: String,
        /// Its place in the conversation.
        seq: u64,
        /// What is written; begins with its `cid` and a space, or is that alone.
        body: String,
    },
    /// The user's own message.
    Sent {
        /// The node's id.
        mid: String,
        /// `u:<user>` or `g:<group>`: to whom.
        conv: String,
        /// Its place.
        seq: u64,
        /// The sender's id.
        cid: String,
    },
    /// How far the user's messages have got.
    Receipt {
        /// `u:<user>`: whose ticks; `g:<group>`: those that all other members have reached.
        conv: String,
        /// Delivered up to here.
        delivered: u64,
        /// Read up to here.
        read: u64,
    },
    /// A message of the user was never fetched in time and is gone.
    Expired {
        /// `u:<user>`: to whom it was.
        conv: String,
        /// The node's id.
        mid: String,
        /// Its place.
        seq: u64,
    },
    /// A change of a group that the user is in, or comes into, or goes out of by it.
    Group {
        /// `g:<group>`.
        conv: String,
        /// Its place in the group's order.
        seq: u64,
        /// Who did it.
        by: String,
        /// `created`, `added`, `removed`, `left`, or any other that puts nobody in or out.
        change: String,
        /// Whom it puts in or out; of `left` that is `by`, and this is empty.
        users: Vec<String>,
        /// What else it says: the same for all members.
        says: String,
    },
}
