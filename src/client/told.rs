//! Told: what the application hears from its client.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::said::{Change, Expired, Fault, Message, Presence, Receipt, Sent, Typing};
use super::ticks::Marks;

/// Why a connection ended, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The node closed, with this code and reason; or the connection broke, without.
    Closed(Option<u16>, String),
    /// No node could be reached.
    Unreachable(String),
    /// The node was silent for too long.
    Silent,
    /// The node asked to be left.
    GoAway,
    /// The node, or the login, refused this user.
    Refused(Fault),
    /// The application asked for it.
    Asked,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(Some(code), text) if text.is_empty() => write!(f, "closed, {code}"),
            Self::Closed(Some(code), text) => write!(f, "closed, {code}: {text}"),
            Self::Closed(None, _) => f.write_str("connection lost"),
            Self::Unreachable(text) => f.write_str(text),
            Self::Silent => f.write_str("no sign of life"),
            Self::GoAway => f.write_str("the node is going down for a while"),
            Self::Refused(fault) => fault.fmt(f),
            Self::Asked => f.write_str("goodbye"),
        }
    }
}

/// What the application hears.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields have the names of the protocol")]
pub enum Event {
    /// Authenticated, and going on from `n`.
    Connected { node: String, n: u64, head: u64, resumed: bool },
    /// The connection ended. Without `retry_in`, for good: no further event follows.
    Disconnected { why: Why, retry_in: Option<Duration> },
    /// The log is another one, or was trimmed: fetch conversations afresh, from `n` on.
    Fresh { n: u64, reason: String },
    /// Somebody wrote.
    Message { n: u64, message: Message },
    /// The user wrote, on some device.
    Sent { n: u64, sent: Sent },
    /// Watermarks as the node told them.
    Receipt { n: u64, receipt: Receipt },
    /// A group has changed.
    Group { n: u64, change: Change },
    /// A message was never fetched and is gone.
    Expired { n: u64, expired: Expired },
    /// An entry this version does not know.
    Other { n: u64, ev: String, d: Value },
    /// Everything that was waiting has arrived.
    CaughtUp { n: u64 },
    /// A node refuses a conversation's messages for now: they are kept, and repeated after `retry_in` or sooner.
    Delayed { conv: String, fault: Fault, retry_in: Duration },
    /// The marks of a conversation rose.
    Ticks { conv: String, marks: Marks },
    /// Somebody came or went.
    Presence(Presence),
    /// Somebody is typing, or has stopped.
    Typing(Typing),
    /// An ephemeral event this version does not know.
    Signal { ev: String, d: Value },
    /// A request without an id failed.
    Fault(Fault),
}

impl Event {
    /// Its number in the user's log, if it is durable.
    #[must_use]
    pub fn n(&self) -> Option<u64> {
        match self {
            Self::Message { n, .. }
            | Self::Sent { n, .. }
            | Self::Receipt { n, .. }
            | Self::Group { n, .. }
            | Self::Expired { n, .. }
            | Self::Other { n, .. } => Some(*n),
            _ => None,
        }
    }
}
