//! Replies: the `ok` of what a node answers.

#![expect(dead_code, reason = "these are described and never made")]

use utoipa::ToSchema;

use super::events::Presence;
use crate::shapes::{Device, Epoch, Group, Mid, Role, SeenBy, User};

/// Nothing to tell but that it is done.
#[derive(ToSchema)]
pub(super) struct Done {}

#[derive(ToSchema)]
pub(super) struct AuthOk {
    pub(super) user: User,
    pub(super) device: Device,
    pub(super) epoch: Epoch,
    /// Entries after this one follow …
    pub(super) n: u64,
    /// … up to this one.
    pub(super) head: u64,
    pub(super) resumed: bool,
    /// Why entries are gone that the client has not seen.
    #[schema(nullable = false)]
    pub(super) reason: Option<Reason>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(super) enum Reason {
    UnknownEpoch,
    Trimmed,
}

#[derive(ToSchema)]
pub(super) struct SendOk {
    pub(super) mid: Mid,
    pub(super) seq: u64,
    pub(super) at: u64,
    /// Whether this `cid` was taken before; then this is the first answer again.
    pub(super) dup: bool,
}

#[derive(ToSchema)]
pub(super) struct Devices {
    pub(super) devices: Vec<DeviceRow>,
}

#[derive(ToSchema)]
pub(super) struct DeviceRow {
    pub(super) device: Device,
    pub(super) last_seen_ms: u64,
    /// Up to this entry it has everything.
    pub(super) acked_n: u64,
}

#[derive(ToSchema)]
pub(super) struct GroupMade {
    pub(super) group: Group,
}

#[derive(ToSchema)]
pub(super) struct GroupShown {
    pub(super) group: Group,
    pub(super) title: String,
    #[schema(nullable = false)]
    pub(super) icon: Option<String>,
    #[schema(nullable = false)]
    pub(super) status: Option<String>,
    /// The oldest first.
    pub(super) members: Vec<Member>,
    pub(super) created_at: u64,
    pub(super) count: u64,
}

#[derive(ToSchema)]
pub(super) struct Member {
    pub(super) user: User,
    pub(super) role: Role,
    /// What they call themselves, if they do, and it could be found out in time.
    #[schema(nullable = false)]
    pub(super) name: Option<String>,
}

#[derive(ToSchema)]
pub(super) struct GroupList {
    pub(super) groups: Vec<GroupListed>,
}

#[derive(ToSchema)]
pub(super) struct GroupListed {
    pub(super) group: Group,
    pub(super) title: String,
    pub(super) role: Role,
}

#[derive(ToSchema)]
pub(super) struct Receipts {
    pub(super) receipts: Vec<Progress>,
}

#[derive(ToSchema)]
pub(super) struct Progress {
    pub(super) user: User,
    pub(super) delivered: u64,
    pub(super) read: u64,
}

#[derive(ToSchema)]
pub(super) struct BlockedUsers {
    pub(super) users: Vec<User>,
}

#[derive(ToSchema)]
pub(super) struct Settings {
    pub(super) last_seen: SeenBy,
}

#[derive(ToSchema)]
pub(super) struct Profile {
    #[schema(nullable = false)]
    pub(super) name: Option<String>,
    #[schema(nullable = false)]
    pub(super) about: Option<String>,
    #[schema(nullable = false)]
    pub(super) avatar: Option<String>,
}

#[derive(ToSchema)]
pub(super) struct Presences {
    /// A row for each, in the order asked.
    pub(super) presence: Vec<Presence>,
}
