//! Presence: what nodes say of who is there and who is typing. None of it is stored, and any of it may be lost.

use serde::{Deserialize, Serialize};

use crate::ids::{Conversation, Timestamp, UserId};

/// Whether somebody is there, and when they last were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Whether a session of theirs is alive.
    pub online: bool,
    /// Their last sign of life, as far as it is kept; none if there never was one.
    pub last_seen: Option<Timestamp>,
}

/// What a session wants to know of the owner of a mailbox, or wants them to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Regard {
    /// Say whether they are there, now and whenever that changes, for a while. Answered by `Tell::Presence`.
    Watch {
        /// Whose session asks.
        by: UserId,
        /// What its client was told last.
        knows: Option<bool>,
    },
    /// No longer.
    Unwatch,
    /// Somebody is typing, to a group (or, as earlier versions said it, to a user), or has stopped.
    Typing {
        /// Who.
        from: UserId,
        /// Whether they still are.
        on: bool,
    },
    /// Of the session's own user: they are typing to somebody, or have stopped. Who is blocked is not told.
    TypingTo {
        /// To whom.
        to: UserId,
        /// Whether they still are.
        on: bool,
    },
}

/// Somebody is typing, or has stopped: for the sessions of those who are connected where this arrives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Typing {
    /// The conversation, as those it is for name it.
    pub conv: Conversation,
    /// Who.
    pub from: UserId,
    /// Whether they still are.
    pub on: bool,
    /// For whom.
    pub to: Vec<UserId>,
}
