//! History: what is asked about chats and their messages, and what is told.

use serde::{Deserialize, Serialize};

use super::{Entry, What};
use crate::ids::{Conversation, MessageId, Number, Seq, Timestamp, UserId};

/// Conversations or messages in one answer, at the most.
pub const LIMIT_MAX: u16 = 200;
/// Which messages are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Of this conversation; of all without it.
    pub conv: Option<Conversation>,
    /// Written by this user.
    pub from: Option<UserId>,
    /// This one.
    pub mid: Option<MessageId>,
    /// Entries after this one, the oldest first.
    pub after: Option<Number>,
    /// Entries before this one.
    pub before: Option<Number>,
    /// Not the newest so many.
    pub offset: u32,
    /// Nothing up to here: it is not theirs to read.
    pub floor: Number,
    /// Not from before this moment.
    pub since: Option<Timestamp>,
    /// At most so many.
    pub limit: u16,
}

/// A chat in the list of chats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Talk {
    /// Which.
    pub conv: Conversation,
    /// Its newest entry of any kind; the list goes by it.
    pub newest: Number,
    /// Its newest message.
    pub last: Option<Entry>,
    /// Messages of others that the user has not read.
    pub unread: u64,
    /// The newest entry of the other side, or of the group.
    pub received: Seq,
    /// Up to where the user has read.
    pub read: Seq,
    /// Of the user's own messages: delivered up to and including.
    pub sent_delivered: Seq,
    /// Of the user's own messages: read up to and including.
    pub sent_read: Seq,
    /// A group's title.
    pub title: Option<Box<str>>,
}

impl Wanted {
    /// Whether the oldest come first; else the newest are looked for, and told in order.
    #[must_use]
    pub const fn forward(&self) -> bool {
        self.after.is_some() || self.mid.is_some()
    }

    /// The same, but nothing that comes after this moment: an answer says how far the log went, and a search that takes a
    /// while must not know better.
    #[must_use]
    pub fn as_of(mut self, head: Number) -> Self {
        let end = head.next();
        self.before = Some(self.before.map_or(end, |before| before.min(end)));
        self
    }

    /// Whether each message must be looked at to know if it is wanted.
    #[must_use]
    pub const fn looks_into(&self) -> bool {
        self.from.is_some() || self.mid.is_some() || self.since.is_some()
    }

    /// Whether a message is one of those wanted.
    #[must_use]
    pub fn takes(&self, entry: &Entry, owner: &UserId) -> bool {
        let (mid, from) = match &entry.what {
            What::Message { mid, from, .. } | What::Post { mid, from, .. } => (mid, from),
            What::Sent { mid, .. } => (mid, owner),
            _ => return false,
        };
        self.mid.is_none_or(|wanted| wanted == *mid)
            && self.from.as_ref().is_none_or(|wanted| wanted == from)
            && self.since.is_none_or(|since| entry.at >= since)
    }
}
