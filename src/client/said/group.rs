//! Group: what a node says about groups, as plain values (PROTOCOL.md, Groups).

use serde::{Deserialize, Serialize};

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May change the group and who is in it.
    Admin,
    /// May read and write; so is read what a later version may add.
    #[serde(other)]
    Member,
}

/// A group, as its members see it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Group {
    /// Its name; the conversation is `g:<group>`.
    pub group: String,
    /// Its title.
    pub title: String,
    /// An opaque reference.
    #[serde(default)]
    pub icon: Option<String>,
    /// What it says of itself.
    #[serde(default)]
    pub status: Option<String>,
    /// Who is in it, oldest first.
    pub members: Vec<Member>,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_at: u64,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Who.
    pub user: String,
    /// What they may do.
    pub role: Role,
    /// What to call them, if they say so and their home was there.
    #[serde(default)]
    pub name: Option<String>,
}

/// A group the user is in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Listed {
    /// Its name.
    pub group: String,
    /// Its title.
    pub title: String,
    /// What the user may do there.
    pub role: Role,
}

/// How far a member has got in what others wrote.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Progress {
    /// Who.
    pub user: String,
    /// Every `seq` up to here is on a device of theirs.
    pub delivered: u64,
    /// Every `seq` up to here has been read by them.
    pub read: u64,
}

/// What to change about a group; what is not given stays, an empty icon or status goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Update {
    /// Its title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// An opaque reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icon: Option<String>,
    /// What it says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

/// A change of a group, numbered in the one order of its messages and changes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Change {
    /// The conversation, `g:<group>`.
    pub conv: String,
    /// Order inside the conversation.
    pub seq: u64,
    /// When it was accepted, milliseconds since the Unix epoch.
    #[serde(default)]
    pub at: u64,
    /// Who did it.
    pub by: String,
    /// What it was.
    #[serde(flatten)]
    pub news: News,
}

/// What has changed in a group.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields have the names of the protocol")]
pub enum News {
    /// It was made; these are all its members.
    Created { title: String, users: Vec<String> },
    /// What is given has changed; an empty icon or status is gone.
    Updated {
        #[serde(default)]
        title: Option<String>,
        #[serde(default)]
        icon: Option<String>,
        #[serde(default)]
        status: Option<String>,
    },
    /// These came in.
    Added { title: String, users: Vec<String> },
    /// These were put out.
    Removed { users: Vec<String> },
    /// Whoever did it has gone.
    Left,
    /// A member may do more now, or less.
    Role { user: String, role: Role },
    /// Something this version does not know.
    #[serde(other)]
    Other,
}
