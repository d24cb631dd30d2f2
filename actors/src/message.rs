//! Message: what users say to each other, and the entries it leaves in their logs.

pub mod group;
pub mod history;
pub mod people;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{
    Cid, Conversation, DeviceId, Epoch, GroupId, Kind, MessageId, Number, Seq, Timestamp, UserId,
};

/// The part of a message that nodes carry and never look into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// What the body is, for the clients.
    pub kind: Kind,
    /// At most `limits.body_bytes_max` bytes.
    pub body: Box<str>,
    /// The message this one answers.
    pub reply_to: Option<MessageId>,
    /// A JSON object as text, at most 1 KiB, passed through.
    pub client: Option<Box<str>>,
}

impl Content {
    /// What a retry must repeat: a hash over addressee, kind and body (XXH3, 128 bit).
    #[must_use]
    pub fn fingerprint(&self, to: &Conversation) -> u128 {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        let (prefix, name) = to.parts();
        for parts in [[prefix, name], ["", self.kind.as_str()], ["", &self.body]] {
            let length = parts.iter().map(|part| part.len() as u64).sum::<u64>();
            hash.update(&length.to_le_bytes());
            parts.iter().for_each(|part| hash.update(part.as_bytes()));
        }
        hash.digest128()
    }

    /// Bytes this content takes, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.body.len() + self.client.as_ref().map_or(0, |c| c.len()) + self.kind.as_str().len()
    }
}

/// A `cid` and what it stands for, as hashes (XXH3): of a million ids no two are alike, but with a chance below 10⁻⁷.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CidUse {
    /// Hash of the `cid`.
    pub cid: u64,
    /// Hash of what a retry must repeat.
    pub meaning: u64,
}

impl CidUse {
    /// Names what a `cid` is used for.
    #[must_use]
    pub fn new(cid: &Cid, to: &Conversation, content: &Content) -> Self {
        Self { cid: hash(cid), meaning: content.fingerprint(to) as u64 }
    }

    /// The short form of a `cid`.
    #[must_use]
    pub fn short_of(cid: &Cid) -> u32 {
        hash(cid) as u32
    }

    /// A short form of the `cid`: the same for the same one, and seldom for another.
    #[must_use]
    pub const fn short(self) -> u32 {
        self.cid as u32
    }

    /// Whether this and another say different things of one `cid`.
    #[must_use]
    pub const fn clashes(self, other: Self) -> bool {
        self.cid == other.cid && self.meaning != other.meaning
    }
}

fn hash(cid: &Cid) -> u64 {
    xxhash_rust::xxh3::xxh3_64(cid.as_str().as_bytes())
}

/// As many posts may have their places in one entry or envelope: far more than wait for a shard, far fewer than fill a memory.
pub const PLACES_MAX: u32 = 1 << 20;

/// One numbered entry of a user's log: a durable event of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number; without gaps within an epoch.
    pub n: Number,
    /// When the shard accepted it; never decreases within a log.
    pub at: Timestamp,
    /// What happened.
    pub what: What,
}

/// What an entry of a user's log says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Somebody wrote to this user (`message`).
    Message {
        /// The server's id.
        mid: MessageId,
        /// Who wrote.
        from: UserId,
        /// With which device.
        device: DeviceId,
        /// The how-manieth from this sender to this user.
        seq: Seq,
        /// What was written.
        content: Arc<Content>,
    },
    /// This user wrote to somebody (`sent`).
    Sent {
        /// The server's id.
        mid: MessageId,
        /// To whom.
        conv: Conversation,
        /// The how-manieth in that direction.
        seq: Seq,
        /// When the recipient's shard accepted it.
        at: Timestamp,
        /// The sender's id for it.
        cid: Cid,
        /// The device that sent it.
        device: DeviceId,
        /// What was written.
        content: Arc<Content>,
    },
    /// How far this user's messages in a conversation have got (`receipt`).
    Receipt {
        /// The conversation.
        conv: Conversation,
        /// Who has them; absent in a group.
        by: Option<UserId>,
        /// Delivered up to and including.
        delivered: Seq,
        /// Read up to and including; never above `delivered`.
        read: Seq,
    },
    /// A message of this user was never fetched within its time and is gone (`expired`).
    Expired {
        /// The conversation.
        conv: Conversation,
        /// The message.
        mid: MessageId,
        /// Its place.
        seq: Seq,
    },
    /// Somebody wrote to a group (`message`).
    Post {
        /// The group.
        group: GroupId,
        /// The server's id.
        mid: MessageId,
        /// Who wrote.
        from: UserId,
        /// With which device.
        device: DeviceId,
        /// Its place in the group's order.
        seq: Seq,
        /// When the group's shard accepted it.
        at: Timestamp,
        /// What was written.
        content: Arc<Content>,
    },
    /// A group has changed (`group`).
    Group {
        /// The group.
        group: GroupId,
        /// Its place in the group's order.
        seq: Seq,
        /// When the group's shard accepted it.
        at: Timestamp,
        /// Who did it.
        by: UserId,
        /// What has changed.
        news: Arc<group::News>,
    },
    /// The place of posts that others wrote to a large group (`message`): they lie in the group's own log, and are taken
    /// from there before anybody is told. As an entry it stands for `count` entries, its own and those after it.
    Referred {
        /// The group.
        group: GroupId,
        /// The first one's place in the group's order.
        seq: Seq,
        /// How many.
        count: u32,
    },
}

impl Entry {
    /// Bytes this entry takes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.what.weight()
    }

    /// The number of the last entry it stands for.
    #[must_use]
    pub const fn last(&self) -> Number {
        match &self.what {
            What::Referred { count, .. } => {
                Number(self.n.0.saturating_add((*count as u64).saturating_sub(1)))
            }
            _ => self.n,
        }
    }

    /// What it stands for after entry `n`; all of it, if that is before it. None if there is nothing.
    #[must_use]
    pub fn after(mut self, n: Number) -> Option<Self> {
        if self.last() <= n {
            return None;
        }
        let gone = (n.0 + 1).saturating_sub(self.n.0);
        if let What::Referred { seq, count, .. } = &mut self.what {
            self.n.0 += gone;
            seq.0 = seq.0.saturating_add(gone);
            *count -= u32::try_from(gone).unwrap_or(*count);
        }
        Some(self)
    }

    /// The single entries it stands for, in order.
    pub fn each(self) -> impl Iterator<Item = Self> {
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let mut one = rest.take()?;
            if one.last() > one.n {
                rest = one.clone().after(one.n);
                if let What::Referred { count, .. } = &mut one.what {
                    *count = 1;
                }
            }
            Some(one)
        })
    }
}

impl What {
    /// Whether two entries hold one and the same post or change of a group.
    #[must_use]
    pub fn is_shared_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Post { content: ours, .. }, Self::Post { content: theirs, .. }) => {
                Arc::ptr_eq(ours, theirs)
            }
            (Self::Group { news: ours, .. }, Self::Group { news: theirs, .. }) => {
                Arc::ptr_eq(ours, theirs)
            }
            _ => false,
        }
    }

    /// Bytes it takes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        const FIXED: usize = 160;
        match self {
            Self::Message { content, .. }
            | Self::Sent { content, .. }
            | Self::Post { content, .. } => FIXED + content.weight(),
            Self::Group { news, .. } => FIXED + news.weight(),
            Self::Receipt { .. } | Self::Expired { .. } | Self::Referred { .. } => FIXED,
        }
    }
}

/// A message on its way to a recipient's mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Send {
    /// Who writes.
    pub from: UserId,
    /// With which device.
    pub device: DeviceId,
    /// To whom.
    pub to: Conversation,
    /// The sender's id for it.
    pub cid: Cid,
    /// What is written.
    pub content: Arc<Content>,
}

impl Send {
    /// What its `cid` is used for.
    #[must_use]
    pub fn cid_use(&self) -> CidUse {
        CidUse::new(&self.cid, &self.to, &self.content)
    }
}

/// The answer to a send that was accepted, now or before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The server's id.
    pub mid: MessageId,
    /// Its place in the conversation.
    pub seq: Seq,
    /// When it was first accepted.
    pub at: Timestamp,
    /// Whether this `cid` had been accepted before.
    pub dup: bool,
}

/// Why a request about a mailbox was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No such user, group, device or message: check the name.
    #[error("no such user")]
    NotFound,
    /// The `cid` was used for another message: use a new one.
    #[error("this cid was used for another message")]
    Conflict,
    /// The name is taken: choose another.
    #[error("this user exists already")]
    Taken,
    /// The recipient has too much waiting: try again when they have been online.
    #[error("the mailbox is full")]
    MailboxFull,
    /// Eight devices are registered: remove one first.
    #[error("at most 8 devices; remove one with device.remove first")]
    TooManyDevices,
    /// No majority of the shard's replicas answers: repeat later with the same `cid`.
    #[error("no majority of the replicas answers; repeat with the same cid")]
    Unavailable,
    /// More than the node can take now: repeat after a while.
    #[error("too much at once; repeat a little later")]
    Overloaded,
    /// Only members may do this: ask an admin to be added.
    #[error("not a member of this group")]
    NotAMember,
    /// Only admins may do this: ask one.
    #[error("only an admin of the group may do this")]
    NotAnAdmin,
    /// The group has no such member: check the name.
    #[error("no such member in this group")]
    NoSuchMember,
    /// The group has as many members as one may have.
    #[error("a group has at most 1024 members")]
    GroupFull,
    /// Whoever had this name is gone for good, and the name stays theirs.
    #[error("this user has left for good")]
    Gone,
    /// Somebody must be an admin: make another one first.
    #[error("the last admin stays one; make another member an admin first")]
    LastAdmin,
    /// The recipient wants nothing from this user: nothing can be done about it.
    #[error("this user takes no messages from you")]
    Blocked,
    /// Nobody blocks themselves: name somebody else.
    #[error("user: must be somebody else")]
    Oneself,
    /// As many are blocked as may be: unblock one first.
    #[error("at most 1000 users are blocked; unblock some first")]
    TooManyBlocked,
}

impl Refusal {
    /// Whether repeating the same request can help.
    #[must_use]
    pub const fn retry(self) -> bool {
        matches!(self, Self::MailboxFull | Self::Unavailable | Self::Overloaded)
    }
}

/// A device of a user, as `device.list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Its name.
    pub device: DeviceId,
    /// When it was last heard.
    pub last_seen: Timestamp,
    /// Up to where it has acknowledged the log.
    pub acked: Number,
}

/// What a client has stored, and of which life of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The newest entry it has stored.
    pub n: Number,
    /// The life of the log it is from.
    pub epoch: Epoch,
}

/// Where delivery goes on from, as told to a client that has authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// This life of the log.
    pub epoch: Epoch,
    /// Entries after this one follow.
    pub from: Number,
    /// The newest entry.
    pub head: Number,
    /// Whether delivery goes on where the client stopped.
    pub resumed: Resumed,
}

/// Whether delivery goes on exactly where the client's own data ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resumed {
    /// It does.
    Yes,
    /// The client did not ask: it goes on from the device's acknowledged entry.
    NotAsked,
    /// The client's epoch is not this log's: everything must be fetched afresh.
    UnknownEpoch,
    /// Entries the client has not seen are gone: conversations must be fetched afresh.
    Trimmed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_of_the_texts_one_behind_the_other_each_behind_its_length() {
        let kind = Kind::parse("text").unwrap();
        let content = Content { kind, body: "hello".into(), reply_to: None, client: None };
        let group = Conversation::Group(GroupId::parse("club").unwrap());
        let user = Conversation::User(UserId::parse("bob").unwrap());
        for (to, written) in [(group, "g:club"), (user, "u:bob")] {
            assert_eq!(to.to_string(), written);
            let mut bytes = Vec::new();
            for text in [written, "text", "hello"] {
                bytes.extend((text.len() as u64).to_le_bytes());
                bytes.extend(text.as_bytes());
            }
            assert_eq!(content.fingerprint(&to), xxhash_rust::xxh3::xxh3_128(&bytes));
        }
    }
}
