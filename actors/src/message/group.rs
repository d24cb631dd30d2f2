//! Group: what is asked of a group, and what its members are told.

use serde::{Deserialize, Serialize};

use crate::ids::{Seq, Timestamp, UserId};

/// Members a group may have.
pub const MEMBERS_MAX: usize = 1_024;

/// Bytes of a title.
pub const TITLE_BYTES_MAX: usize = 256;
/// Bytes of an icon, and of a status.
pub const TEXT_BYTES_MAX: usize = 1024;

/// What a user asks a group to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// Make it, with these members besides whoever asks.
    Create {
        /// Its title.
        title: Box<str>,
        /// Who else is in it.
        members: Vec<UserId>,
    },
    /// Change what is given; an empty icon or status goes.
    Update {
        /// Its title.
        title: Option<Box<str>>,
        /// An opaque reference.
        icon: Option<Box<str>>,
        /// What it says of itself.
        status: Option<Box<str>>,
    },
    /// Take these in. Who is in already stays.
    Add(Vec<UserId>),
    /// Put these out. Who is not in stays out.
    Remove(Vec<UserId>),
    /// Go.
    Leave,
    /// Make a member an admin, or no longer.
    Role {
        /// The member.
        user: UserId,
        /// Whether they are to be an admin.
        admin: bool,
    },
}

/// What has changed in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// It was made.
    Created {
        /// Its title.
        title: Box<str>,
        /// All members.
        users: Vec<UserId>,
    },
    /// What is given has changed; an empty icon or status is gone.
    Updated {
        /// Its title.
        title: Option<Box<str>>,
        /// Its icon.
        icon: Option<Box<str>>,
        /// Its status.
        status: Option<Box<str>>,
    },
    /// Users came in.
    Added {
        /// The group's title, new to them.
        title: Box<str>,
        /// Who.
        users: Vec<UserId>,
    },
    /// These were put out.
    Removed(Vec<UserId>),
    /// Whoever did it has gone.
    Left,
    /// A member is an admin now, or no longer.
    Role {
        /// The member.
        user: UserId,
        /// Whether they are an admin.
        admin: bool,
    },
}

impl News {
    /// Bytes it takes, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        const NAME: usize = 24;
        match self {
            Self::Created { title, users } | Self::Added { title, users } => {
                title.len() + users.len() * NAME
            }
            Self::Removed(users) => users.len() * NAME,
            Self::Updated { title, icon, status } => {
                [title, icon, status].into_iter().flatten().map(|text| text.len()).sum()
            }
            Self::Left | Self::Role { .. } => NAME,
        }
    }
}

/// A group as its members see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Its title.
    pub title: Box<str>,
    /// An opaque reference.
    pub icon: Option<Box<str>>,
    /// What it says of itself.
    pub status: Option<Box<str>>,
    /// Its members, and whether they are admins; oldest first.
    pub members: Vec<(UserId, bool)>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// How far a member has got in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The member.
    pub user: UserId,
    /// Of what others wrote, delivered up to and including.
    pub delivered: Seq,
    /// Of what others wrote, read up to and including.
    pub read: Seq,
}
