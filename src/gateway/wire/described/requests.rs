//! Requests: the `d` of what a client asks.

#![expect(dead_code, reason = "these are described and never made")]

use serde_json::Value;
use utoipa::ToSchema;

use crate::shapes::{Cid, Conv, Device, Group, Kind, MessageBody, Mid, Role, SeenBy, Title, User};

/// Nothing to say.
#[derive(ToSchema)]
pub(super) struct Nothing {}

#[derive(ToSchema)]
pub(super) struct Auth {
    /// From `/v1/register`, `/v1/login` or the operator's issuer.
    pub(super) token: String,
    pub(super) device: Device,
    /// What the client has stored; without it delivery goes on behind what this device acknowledged.
    pub(super) resume: Option<Resume>,
}

#[derive(ToSchema)]
pub(super) struct Resume {
    pub(super) n: u64,
    /// Any text; one that was never the log's is an unknown epoch.
    pub(super) epoch: String,
}

#[derive(ToSchema)]
pub(super) struct Send {
    pub(super) to: Conv,
    pub(super) cid: Cid,
    pub(super) kind: Kind,
    pub(super) body: MessageBody,
    /// The message that this one answers.
    pub(super) reply_to: Option<Mid>,
    /// An object of at most 1 KiB that is passed through unread.
    #[schema(value_type = Option<Object>)]
    pub(super) client: Option<Value>,
}

#[derive(ToSchema)]
pub(super) struct Ack {
    pub(super) n: u64,
}

#[derive(ToSchema)]
pub(super) struct Ping {
    pub(super) n: Option<u64>,
}

#[derive(ToSchema)]
pub(super) struct Pull {
    pub(super) after: u64,
    #[schema(minimum = 1, maximum = 256)]
    pub(super) limit: Option<u16>,
}

#[derive(ToSchema)]
pub(super) struct Read {
    pub(super) conv: Conv,
    pub(super) seq: u64,
}

#[derive(ToSchema)]
pub(super) struct DeviceRemove {
    pub(super) device: Device,
}

#[derive(ToSchema)]
pub(super) struct GroupCreate {
    pub(super) title: Title,
    /// Who else is in it.
    #[schema(max_items = 1024)]
    pub(super) members: Option<Vec<User>>,
    pub(super) cid: Cid,
}

#[derive(ToSchema)]
pub(super) struct GroupNamed {
    pub(super) group: Group,
}

/// One of title, icon and status must be there.
#[derive(ToSchema)]
pub(super) struct GroupUpdate {
    pub(super) group: Group,
    pub(super) title: Option<Title>,
    /// At most 1,024 bytes; empty removes it.
    #[schema(max_length = 1024)]
    pub(super) icon: Option<String>,
    /// At most 1,024 bytes; empty removes it.
    #[schema(max_length = 1024)]
    pub(super) status: Option<String>,
}

#[derive(ToSchema)]
pub(super) struct GroupUsers {
    pub(super) group: Group,
    #[schema(min_items = 1, max_items = 1024)]
    pub(super) users: Vec<User>,
}

#[derive(ToSchema)]
pub(super) struct GroupRole {
    pub(super) group: Group,
    pub(super) user: User,
    pub(super) role: Role,
}

#[derive(ToSchema)]
pub(super) struct ReceiptsOf {
    /// That of a group.
    pub(super) conv: Conv,
    pub(super) seq: Option<u64>,
}

#[derive(ToSchema)]
pub(super) struct Watch {
    #[schema(max_items = 100)]
    pub(super) users: Vec<User>,
}

#[derive(ToSchema)]
pub(super) struct UserNamed {
    pub(super) user: User,
}

/// With nothing in it nothing changes.
#[derive(ToSchema)]
pub(super) struct SettingsOf {
    pub(super) last_seen: Option<SeenBy>,
}

/// What is given changes, empty text removes; with nothing in it nothing changes.
#[derive(ToSchema)]
pub(super) struct ProfileOf {
    /// At most 128 bytes.
    #[schema(max_length = 128)]
    pub(super) name: Option<String>,
    /// At most 512 bytes.
    #[schema(max_length = 512)]
    pub(super) about: Option<String>,
    /// At most 1 KiB that nodes do not look into.
    #[schema(max_length = 1024)]
    pub(super) avatar: Option<String>,
}

#[derive(ToSchema)]
pub(super) struct Typing {
    pub(super) to: Conv,
    pub(super) on: bool,
}
