//! Groups: what a client asks about groups, repeated until it is answered.
//!
//! Promises  a request that a lost connection left unanswered is made again, and so is one that was refused with a `retry`,
//!           for a minute; making a group twice under one `cid` makes one.
//! Never     gives up early when its future is dropped: what was asked may still happen.

use serde_json::{Value, json};

use super::Client;
use super::said::{Fault, Group, Listed, Progress, Role, Update};

/// Why something about a group was not done. Nothing of it has happened, except perhaps after `Later`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupRefused {
    /// The user is not in the group, or no admin of it: ask one.
    #[error("not allowed: {}", .0.message)]
    NotAllowed(Fault),
    /// There is no such group or user: look at the name.
    #[error("not found: {}", .0.message)]
    NotFound(Fault),
    /// It was something else under the same `cid`, or the last admin would go: choose another.
    #[error("conflict: {}", .0.message)]
    Conflict(Fault),
    /// Too many members, or too long a text: ask for less.
    #[error("too large: {}", .0.message)]
    TooLarge(Fault),
    /// The request has not the form of one; the field is named.
    #[error("bad request: {}", .0.message)]
    Malformed(Fault),
    /// It was refused or not answered for a minute, and may be done or not: ask again, with the same `cid`.
    #[error("not answered in time: {0}")]
    Later(Fault),
    /// The client has stopped, or the node does not know groups.
    #[error("{0}")]
    Impossible(Fault),
}

impl From<Fault> for GroupRefused {
    fn from(fault: Fault) -> Self {
        match fault.code.as_str() {
            "forbidden" => Self::NotAllowed(fault),
            "not_found" => Self::NotFound(fault),
            "conflict" => Self::Conflict(fault),
            "too_large" => Self::TooLarge(fault),
            "bad_request" => Self::Malformed(fault),
            _ if fault.retry => Self::Later(fault),
            _ => Self::Impossible(fault),
        }
    }
}

impl Client {
    /// Makes a group of the user and these members, with the user as its admin; its name. More names than a frame takes
    /// (64 KiB unless configured: a thousand of average length) are to be added in steps.
    ///
    /// # Errors
    /// A member's name that nobody has, too many, or no title.
    pub async fn create_group(
        &self,
        title: &str,
        members: &[&str],
    ) -> Result<String, GroupRefused> {
        self.create_group_with(&self.cids.next(), title, members).await
    }

    /// Makes a group under a `cid` of one's own: the same again gives the same group.
    ///
    /// # Errors
    /// As above; and another title or members under this `cid` before.
    pub async fn create_group_with(
        &self,
        cid: &str,
        title: &str,
        members: &[&str],
    ) -> Result<String, GroupRefused> {
        #[derive(serde::Deserialize)]
        struct Made {
            group: String,
        }
        let d = json!({"title": title, "members": members, "cid": cid});
        let made: Made = self.insist_as("group.create", d).await?;
        Ok(made.group)
    }

    /// A group the user is in, and its members.
    ///
    /// # Errors
    /// The user is not in it.
    pub async fn group(&self, group: &str) -> Result<Group, GroupRefused> {
        self.insist_as("group.info", json!({"group": group})).await
    }

    /// The groups the user is in.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn groups(&self) -> Result<Vec<Listed>, GroupRefused> {
        #[derive(serde::Deserialize)]
        struct List {
            groups: Vec<Listed>,
        }
        let list: List = self.insist_as("group.list", json!({})).await?;
        Ok(list.groups)
    }

    /// Changes what a group says of itself.
    ///
    /// # Errors
    /// The user is no admin, or a text is too long.
    pub async fn update_group(&self, group: &str, update: &Update) -> Result<(), GroupRefused> {
        let mut d = json!(update);
        d["group"] = json!(group);
        self.insist("group.update", d).await.map(drop)
    }

    /// Takes users into a group; who is in stays in.
    ///
    /// # Errors
    /// The user is no admin, nobody has such a name, or the group is full.
    pub async fn add_to_group(&self, group: &str, users: &[&str]) -> Result<(), GroupRefused> {
        self.insist("group.add", json!({"group": group, "users": users})).await.map(drop)
    }

    /// Puts users out of a group; who is not in stays out. To go oneself, there is [`Client::leave_group`].
    ///
    /// # Errors
    /// The user is no admin.
    pub async fn remove_from_group(&self, group: &str, users: &[&str]) -> Result<(), GroupRefused> {
        self.insist("group.remove", json!({"group": group, "users": users})).await.map(drop)
    }

    /// Leaves a group; who is not in it has left it.
    ///
    /// # Errors
    /// There is no such group.
    pub async fn leave_group(&self, group: &str) -> Result<(), GroupRefused> {
        match self.insist("group.leave", json!({"group": group})).await {
            // Of a repeated request the first one may have been obeyed.
            Ok(_) | Err(GroupRefused::NotAllowed(_)) => Ok(()),
            Err(refused) => Err(refused),
        }
    }

    /// Says what a member may do. Who gives up the own role and hears `NotAllowed` has lost it already.
    ///
    /// # Errors
    /// The user is no admin, the other one no member, or the last admin would go.
    pub async fn set_role(&self, group: &str, user: &str, role: Role) -> Result<(), GroupRefused> {
        let d = json!({"group": group, "user": user, "role": role});
        self.insist("group.role", d).await.map(drop)
    }

    /// How far each member of the conversation `g:<group>` has got in what others wrote.
    ///
    /// # Errors
    /// The user is not in it.
    pub async fn receipts(&self, conv: &str) -> Result<Vec<Progress>, GroupRefused> {
        #[derive(serde::Deserialize)]
        struct Receipts {
            receipts: Vec<Progress>,
        }
        let receipts: Receipts = self.insist_as("receipts", json!({"conv": conv})).await?;
        Ok(receipts.receipts)
    }

    async fn insist(&self, op: &str, d: Value) -> Result<Value, GroupRefused> {
        Ok(self.until_answered(op, d).await?)
    }

    async fn insist_as<T: serde::de::DeserializeOwned>(
        &self,
        op: &str,
        d: Value,
    ) -> Result<T, GroupRefused> {
        let ok = self.insist(op, d).await?;
        let unexpected = |e: serde_json::Error| Fault::here("internal", &e.to_string(), false);
        Ok(serde_json::from_value(ok).map_err(unexpected)?)
    }
}
