//! Ids: the names and numbers that people, devices, messages, nodes and shards go by.
//!
//! Names are short as a rule: up to 24 bytes take no memory beside their holder, so that reading them from bytes and
//! copying them is cheap; that is done for each message many times over.

use std::fmt;
use std::str::FromStr;

use compact_str::{CompactString, format_compact};
use serde::{Deserialize, Serialize};

/// Why a name was refused; the text says what a valid one looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {shape}")]
pub struct BadName {
    /// What was being named, as the protocol calls it.
    pub what: &'static str,
    /// What a valid name looks like.
    pub shape: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:literal, $shape:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $type(CompactString);

        impl $type {
            /// Checks `name` against the protocol's form and keeps it.
            pub fn parse(name: &str) -> Result<Self, BadName> {
                let ok: fn(u8) -> bool = $ok;
                if name.is_empty() || name.len() > $max || !name.bytes().all(ok) {
                    return Err(BadName { what: $what, shape: $shape });
                }
                Ok(Self(name.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A user, `[a-z0-9._-]{1,64}`.
    UserId,
    "user",
    64,
    "1 to 64 of a-z 0-9 . _ -",
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b)
);
name!(
    /// One of a user's devices, `[A-Za-z0-9._-]{1,32}`; unique within its user.
    DeviceId,
    "device",
    32,
    "1 to 32 of A-Z a-z 0-9 . _ -",
    |b| b.is_ascii_alphanumeric() || b"._-".contains(&b)
);
name!(
    /// The sender's own id for a message, `[A-Za-z0-9_-]{1,64}`; unique per user, makes a retry safe.
    Cid,
    "cid",
    64,
    "1 to 64 of A-Z a-z 0-9 _ -",
    |b| b.is_ascii_alphanumeric() || b"_-".contains(&b)
);
name!(
    /// A group, `[A-Za-z0-9._-]{1,64}`.
    GroupId,
    "group",
    64,
    "1 to 64 of A-Z a-z 0-9 . _ -",
    |b| b.is_ascii_alphanumeric() || b"._-".contains(&b)
);
name!(
    /// What a message's body is, `[a-z0-9./+-]{1,64}`; never interpreted by a node.
    Kind,
    "kind",
    64,
    "1 to 64 of a-z 0-9 . / + -",
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"./+-".contains(&b)
);

impl UserId {
    /// The owner of a group's mailbox, `g:<group>`. Inside a node a group is where a user is; no user can be called so.
    #[must_use]
    pub fn of_group(group: &GroupId) -> Self {
        Self(format_compact!("g:{group}"))
    }

    /// The group whose mailbox this owns; none for a user.
    #[must_use]
    pub fn group(&self) -> Option<GroupId> {
        self.0.strip_prefix("g:").and_then(|group| GroupId::parse(group).ok())
    }

    /// Reads the owner of a mailbox: a user, or `g:<group>`.
    pub fn parse_owner(name: &str) -> Result<Self, BadName> {
        match name.strip_prefix("g:") {
            Some(group) => GroupId::parse(group).map(|group| Self::of_group(&group)),
            None => Self::parse(name),
        }
    }
}

impl GroupId {
    /// The group a user makes with a `cid`: the same again when the request is repeated (XXH3, 128 bit; of it 110 in 22
    /// characters, so that the owner of its mailbox is a short name, too).
    #[must_use]
    pub fn made_by(creator: &UserId, cid: &Cid) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_128(format!("{creator}/{cid}").as_bytes());
        Self(CompactString::from(&ulid::Ulid(hash).to_string()[4..]))
    }
}

/// A conversation as one of its participants names it: `u:<user>` or `g:<group>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Conversation {
    /// One to one, named after the other side.
    User(UserId),
    /// A group.
    Group(GroupId),
}

impl Conversation {
    /// The two parts of how it is written.
    #[must_use]
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::User(user) => ("u:", user.as_str()),
            Self::Group(group) => ("g:", group.as_str()),
        }
    }

    /// Whose mailbox takes what is written here.
    #[must_use]
    pub fn owner(&self) -> UserId {
        match self {
            Self::User(user) => user.clone(),
            Self::Group(group) => UserId::of_group(group),
        }
    }
}

impl FromStr for Conversation {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        match text.split_at_checked(2) {
            Some(("u:", user)) => UserId::parse(user).map(Self::User),
            Some(("g:", group)) => GroupId::parse(group).map(Self::Group),
            _ => Err(BadName { what: "conversation", shape: "u:<user> or g:<group>" }),
        }
    }
}

impl fmt::Display for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, name) = self.parts();
        f.write_str(prefix)?;
        f.write_str(name)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $type:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $type(pub $inner);

        impl $type {
            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// `n`: number of an entry in a user's log: 1, 2, 3 … without gaps; 0 stands before the first.
    Number(u64)
);
number!(
    /// `seq`: order inside a conversation; 0 stands before the first.
    Seq(u64)
);
number!(
    /// One of the fixed shards that entities are hashed to, from 0.
    ShardId(u16)
);
number!(
    /// A node, by its place in the cluster's birth list, from 1.
    NodeId(u16)
);
number!(
    /// A node's data directories, counted from 1: each that was lost is followed by the next.
    Incarnation(u32)
);
number!(
    /// A replica in Raft: a node in one of its incarnations. Never used again once the incarnation is over.
    ReplicaId(u64)
);
number!(
    /// One start of a node; drawn at random, so that a restarted node is told from the old one.
    BootId(u64)
);

impl Incarnation {
    /// A node's first data directory.
    pub const FIRST: Self = Self(1);
}

impl ReplicaId {
    /// The replica of a node in an incarnation: the node in the lowest 16 bits, above them the incarnations before
    /// this one. In its first incarnation a node's replicas have the node's own number.
    #[must_use]
    pub const fn of(node: NodeId, incarnation: Incarnation) -> Self {
        Self((incarnation.0.saturating_sub(1) as u64) << 16 | node.0 as u64)
    }

    /// The node.
    #[must_use]
    pub fn node(self) -> NodeId {
        NodeId(u16::try_from(self.0 & 0xffff).unwrap_or_default())
    }

    /// Its incarnation; one that no node ever has when the number is none that `of` makes.
    #[must_use]
    pub fn incarnation(self) -> Incarnation {
        Incarnation(u32::try_from(self.0 >> 16).ok().and_then(|n| n.checked_add(1)).unwrap_or(0))
    }
}

/// A moment on the wall clock, in milliseconds since the Unix epoch.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This moment plus a span.
    #[must_use]
    pub fn after(self, span: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long before `self` `earlier` was; zero when it was not.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

macro_rules! ulid_id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $type(pub u128);

        impl $type {
            /// Builds the ULID of a moment and 80 random bits (the upper 48 bits are the moment).
            #[must_use]
            pub const fn new(at: Timestamp, random: u128) -> Self {
                Self(ulid::Ulid::from_parts(at.0, random).0)
            }

            /// Reads the 26 characters of a ULID.
            pub fn parse(text: &str) -> Result<Self, BadName> {
                ulid::Ulid::from_string(text)
                    .map(|id| Self(id.0))
                    .map_err(|_| BadName { what: "id", shape: "26 characters of a ULID" })
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                ulid::Ulid(self.0).fmt(f)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                ulid::Ulid(self.0).fmt(f)
            }
        }
    };
}

ulid_id!(
    /// `mid`: the server's id for a message, a ULID: 26 characters that sort by time.
    MessageId
);
ulid_id!(
    /// Names one life of a user's log; changes only if the log was lost or restored from a backup.
    Epoch
);

/// One WebSocket: the node it reached, that node's boot, and a count on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId {
    /// The gateway.
    pub node: NodeId,
    /// The gateway's boot.
    pub boot: BootId,
    /// The how-manieth session of that boot.
    pub count: u64,
}

/// The shard that owns a user's or group's mailbox (XXH3, 64 bit, modulo the cluster's number of shards).
#[must_use]
pub fn shard_of(user: &UserId, shards: u16) -> ShardId {
    let hash = xxhash_rust::xxh3::xxh3_64(user.as_str().as_bytes());
    ShardId(u16::try_from(hash % u64::from(shards.max(1))).unwrap_or_default())
}
