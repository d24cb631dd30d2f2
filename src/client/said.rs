//! Said: what a client and a node say to each other, as plain values (PROTOCOL.md §2).
//!
//! Never     knows how a value looks as bytes (`frames` does), or when it is said (`rules` does).

mod group;
mod people;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use group::{Change, Group, Listed, Member, News, Progress, Role, Update};
pub use people::{LastSeen, Profile};

/// A message on its way out. Its `cid` never changes: repeating it is safe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Letter {
    /// The conversation, `u:<user>` or `g:<group>`.
    pub to: String,
    /// The sender's own id, unique per user.
    pub cid: String,
    /// What the body is; `text` for words.
    pub kind: String,
    /// At most 32 KiB that no node looks into.
    pub body: String,
    /// The `mid` this answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// At most 1 KiB passed through unread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<serde_json::Value>,
}

impl Letter {
    /// A text message to a conversation.
    #[must_use]
    pub fn text(to: &str, cid: String, body: &str) -> Self {
        Self {
            to: to.to_owned(),
            cid,
            kind: "text".to_owned(),
            body: body.to_owned(),
            reply_to: None,
            client: None,
        }
    }
}

/// How far a client has got, and in which life of its log: what it stores and resumes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The newest entry stored.
    pub n: u64,
    /// The life of the log it belongs to.
    pub epoch: String,
}

/// A frame from client to node.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields have the names of the protocol")]
pub enum Request {
    /// Says who this is. Always the first.
    Auth { id: u64, token: String, device: String, resume: Option<Resume> },
    /// Sends a message.
    Send { id: u64, letter: Arc<Letter> },
    /// Everything up to `n` is stored here.
    Ack { n: u64 },
    /// A sign of life, with an ack when it has `n`.
    Ping { n: Option<u64> },
    /// Asks for entries again.
    Pull { id: u64, after: u64, limit: u32 },
    /// Everything up to `seq` has been read.
    Read { id: u64, conv: String, seq: u64 },
    /// Any other request, as given by the application.
    Other { id: Option<u64>, op: String, d: serde_json::Value },
}

/// An error as a node reports it (PROTOCOL.md §4).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Fault {
    /// One of the protocol's codes.
    pub code: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// Whether repeating can help.
    #[serde(default)]
    pub retry: bool,
    /// When to repeat, in milliseconds.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
}

impl Fault {
    /// A fault found on this side of the wire.
    #[must_use]
    pub fn here(code: &str, message: &str, retry: bool) -> Self {
        Self { code: code.to_owned(), message: message.to_owned(), retry, retry_after_ms: None }
    }
}

/// The node's word that a message is safe on a majority of disks: one check mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The server's id.
    pub mid: String,
    /// Order inside the conversation (one to one: in this direction).
    pub seq: u64,
    /// When it was accepted, milliseconds since the Unix epoch.
    pub at: u64,
    /// Whether the node had already accepted this `cid`.
    pub dup: bool,
}

/// What follows a successful `auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The life of the log.
    pub epoch: String,
    /// Where delivery goes on from.
    pub n: u64,
    /// The newest entry.
    pub head: u64,
    /// Whether delivery goes on from where the client was.
    pub resumed: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// A frame from node to client.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields have the names of the protocol")]
pub enum Frame {
    /// A request succeeded.
    Ok { re: u64, with: Reply },
    /// A request failed; without `re` it had no id.
    Err { re: Option<u64>, fault: Fault },
    /// A durable event.
    Entry { n: u64, entry: Entry },
    /// An ephemeral event.
    Signal(Signal),
}

/// The fields of an `ok` that the client itself understands.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Of `send`.
    Accepted(Accepted),
    /// Of `auth`.
    Welcome(Welcome),
    /// Of anything else.
    Other,
}

/// A durable event, numbered in the user's log.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields have the names of the protocol")]
pub enum Entry {
    /// Somebody wrote.
    Message(Message),
    /// The user wrote, on some device.
    Sent(Sent),
    /// Watermarks of the user's own messages.
    Receipt(Receipt),
    /// A group of the user's has changed.
    Group(Change),
    /// A message of the user's was never fetched and is gone.
    Expired(Expired),
    /// One this version of the client does not know, as it came.
    Other { ev: String, d: serde_json::Value },
}

/// A message received.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The server's id.
    pub mid: String,
    /// The conversation as this user names it.
    pub conv: String,
    /// Who wrote it.
    pub from: String,
    /// The device it was written on.
    pub device: String,
    /// Order inside the conversation.
    pub seq: u64,
    /// When it was accepted, milliseconds since the Unix epoch.
    pub at: u64,
    /// What the body is.
    pub kind: String,
    /// The body.
    pub body: String,
    /// The `mid` this answers.
    pub reply_to: Option<String>,
    /// Passed through unread.
    pub client: Option<serde_json::Value>,
}

/// The user's own message, told to all the user's devices.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// The server's id.
    pub mid: String,
    /// The conversation.
    pub conv: String,
    /// Order inside the conversation.
    pub seq: u64,
    /// When it was accepted, milliseconds since the Unix epoch.
    pub at: u64,
    /// The sender's own id.
    pub cid: String,
    /// The device it was sent from.
    pub device: String,
    /// What the body is; absent on the sending device.
    pub kind: Option<String>,
    /// The body; absent on the sending device.
    pub body: Option<String>,
    /// The `mid` this answers.
    pub reply_to: Option<String>,
    /// Passed through unread.
    pub client: Option<serde_json::Value>,
}

/// How far the user's messages in a conversation have got; in a group with all other members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The conversation.
    pub conv: String,
    /// Whose watermarks; absent in a group.
    pub by: Option<String>,
    /// Every `seq` up to here is on a device.
    pub delivered: u64,
    /// Every `seq` up to here has been read.
    pub read: u64,
    /// When, milliseconds since the Unix epoch.
    pub at: u64,
}

/// A message of the user's that was never fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// The conversation.
    pub conv: String,
    /// The server's id.
    pub mid: String,
    /// Order inside the conversation.
    pub seq: u64,
}

/// An ephemeral event.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields have the names of the protocol")]
pub enum Signal {
    /// The node's greeting.
    Hello(Hello),
    /// Answer to a ping.
    Pong { head: u64, server_time_ms: u64 },
    /// Everything waiting has been sent.
    CaughtUp { n: u64 },
    /// The node wants to be left.
    GoAway { wait_ms: u64, url: Option<String> },
    /// Somebody came or went.
    Presence(Presence),
    /// Somebody is typing, or has stopped.
    Typing(Typing),
    /// One this version does not know.
    Other { ev: String, d: serde_json::Value },
}

/// What a node says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The node's name.
    pub node: String,
    /// The longest time between two signs of life, milliseconds.
    pub heartbeat_ms: u64,
    /// Entries that may be unacknowledged at once.
    pub window: u64,
}

/// Whether somebody is there, and when last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Who.
    pub user: String,
    /// Whether they are connected.
    pub online: bool,
    /// When they last were, milliseconds since the Unix epoch.
    #[serde(default)]
    pub last_seen_ms: Option<u64>,
}

/// Somebody is typing, or has stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typing {
    /// The conversation.
    pub conv: String,
    /// Who.
    pub from: String,
    /// Whether they still are.
    pub on: bool,
}

/// A device of the user's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Device {
    /// Its name.
    pub device: String,
    /// When it was last heard of, milliseconds since the Unix epoch.
    #[serde(default)]
    pub last_seen_ms: Option<u64>,
    /// The newest entry it has stored.
    #[serde(default)]
    pub acked_n: u64,
}
