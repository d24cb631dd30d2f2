//! Session: what one connected device and the homes of its mailboxes owe each other.
//!
//! Owns      nothing durable: what was pushed to the client, what it acknowledged, and what it still waits for.
//! Promises  entries reach the client in order and once; each request is answered once; of two messages to one
//!           recipient the later never overtakes the earlier, whatever homes, links or nodes do meanwhile.
//! Never     reads a clock, draws a random number, or touches a socket: the gateway and the simulation drive it.
//! Fails by  being forgotten with its socket; the client comes back with `resume` and the same `cid`s.
//!
//! Why lives: an attachment and each stream of sends carry a number that grows whenever the session starts over, so
//! that whatever an older attempt still has in the air is told apart from the newest and dropped.

mod cids;
mod rules;
mod streams;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use rules::Session;

use crate::ids::{Conversation, Number, ShardId, UserId};
use crate::message::{Accepted, Entry, Position, Refusal};
use crate::packet::{Answer, Closed, Presence, ToHome};

/// A client's request, by the number the gateway gave it; unique within the session, and below 2³¹ (`cids`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestRef(pub u32);

/// How long a session waits, and how much it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long the first attachment may take before the socket is told `unavailable`.
    pub first_attach: Duration,
    /// How long a later one, a send or a question may go without an answer.
    pub parked: Duration,
    /// After how long without an answer the session tries again.
    pub answer: Duration,
    /// How long it waits after it was refused by a home, before it tries again by itself.
    pub retry: Duration,
    /// How often at the most a home is told that the client is alive.
    pub alive: Duration,
    /// Sends in flight at once.
    pub sends_max: usize,
    /// Bytes of their bodies.
    pub send_bytes_max: usize,
    /// Questions, pulls or reads waiting at once, of each.
    pub asks_max: usize,
    /// Users whose presence it may watch.
    pub watched_max: usize,
    /// How long a watch lasts that is not renewed.
    pub watch: Duration,
    /// `cid`s of this socket of which is remembered what they were used for.
    pub cids_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            first_attach: Duration::from_secs(10),
            parked: Duration::from_secs(3),
            answer: Duration::from_millis(1_500),
            retry: Duration::from_millis(200),
            alive: Duration::from_secs(30),
            sends_max: 256,
            send_bytes_max: 4 * 1024 * 1024,
            asks_max: 256,
            watched_max: 1_000,
            watch: Duration::from_secs(600),
            cids_max: 256,
        }
    }
}

/// What must now be done for a session, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this to the home of a mailbox; if that fails now, say so with `home_failed`.
    Home(ToHome),
    /// Say from now on when this shard has a new home.
    Watch(ShardId),
    /// No longer.
    Unwatch(ShardId),
    /// The client is authenticated, and entries after `from` follow.
    Attached(Position),
    /// The home does not take this device, for good.
    Refused(Refusal),
    /// No home, for too long: the client should come back later and resume.
    Unavailable,
    /// Push these to the client.
    Entries {
        /// In order and without gaps.
        entries: Vec<Entry>,
        /// The newest entry of the log.
        head: Number,
    },
    /// What was waiting has been pushed; said once.
    CaughtUp {
        /// The newest entry of the log.
        head: Number,
    },
    /// The answer to a send.
    Sent {
        /// Which.
        request: RequestRef,
        /// What became of it.
        result: Result<Accepted, Refusal>,
    },
    /// The answer to a pull; the entries are pushed before it.
    Pulled {
        /// Which.
        request: RequestRef,
        /// The entries asked for again.
        result: Result<Vec<Entry>, Refusal>,
    },
    /// The answer to a question.
    Answered {
        /// Which.
        request: RequestRef,
        /// The answer.
        answer: Result<Answer, Refusal>,
    },
    /// A watch is refused: nobody knows this user.
    Unknown {
        /// Which request.
        request: RequestRef,
        /// Whom nobody knows.
        user: UserId,
    },
    /// A watched user came or went.
    Presence(UserId, Presence),
    /// Somebody is typing, or has stopped.
    Typing {
        /// The conversation.
        conv: Conversation,
        /// Who.
        from: UserId,
        /// Whether they still are.
        on: bool,
    },
    /// The attachment is over for good: close the socket.
    Close(Closed),
}

/// The client wants to watch more users than one session may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("users: at most {most} are watched at once; unwatch some first")]
pub struct WatchesTooMany {
    /// How many it may watch.
    pub most: usize,
}

/// The client acknowledged an entry it was never sent: tell it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("n is beyond {newest}, the newest entry sent on this socket")]
pub struct AckedTooFar {
    /// The newest entry it was sent.
    pub newest: Number,
}
