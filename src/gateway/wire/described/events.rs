//! Events: the `d` of what a node tells unasked.

#![expect(dead_code, reason = "these are described and never made")]

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::shapes::{Cid, Conv, Device, Kind, MessageBody, Mid, Role, User};

#[derive(ToSchema)]
pub(super) struct Presence {
    pub(super) user: User,
    pub(super) online: bool,
    /// The last sign of life of any device; null if none is remembered.
    #[schema(required = true)]
    pub(super) last_seen_ms: Option<u64>,
}

#[derive(ToSchema)]
pub(super) struct Hello {
    /// Name and version of the software.
    pub(super) server: String,
    pub(super) node: String,
    pub(super) protocol: u64,
    /// How often a client must be heard.
    pub(super) heartbeat_ms: u64,
    /// How soon it must authenticate.
    pub(super) auth_deadline_ms: u64,
    /// The largest frame it may send.
    pub(super) frame_bytes_max: u64,
    /// How many numbered events may be unacknowledged.
    pub(super) window: u64,
    pub(super) server_time_ms: u64,
}

#[derive(ToSchema)]
pub(super) struct CaughtUp {
    pub(super) n: u64,
}

#[derive(ToSchema)]
pub(super) struct Pong {
    pub(super) server_time_ms: u64,
    /// The newest entry.
    pub(super) head: u64,
}

#[derive(ToSchema)]
pub(super) struct TypingOf {
    pub(super) conv: Conv,
    pub(super) from: User,
    pub(super) on: bool,
}

#[derive(ToSchema)]
pub(super) struct GoAway {
    /// `drain`.
    pub(super) reason: String,
    pub(super) wait_ms: u64,
    /// Where to, if another node is up.
    #[schema(nullable = false)]
    pub(super) url: Option<String>,
}

#[derive(ToSchema)]
pub(super) struct Message {
    pub(super) mid: Mid,
    pub(super) conv: Conv,
    pub(super) from: User,
    pub(super) device: Device,
    pub(super) seq: u64,
    pub(super) at: u64,
    pub(super) kind: Kind,
    pub(super) body: MessageBody,
    #[schema(nullable = false)]
    pub(super) reply_to: Option<Mid>,
    #[schema(value_type = Object, required = false)]
    pub(super) client: Option<Value>,
}

#[derive(ToSchema)]
pub(super) struct Sent {
    pub(super) mid: Mid,
    pub(super) conv: Conv,
    pub(super) seq: u64,
    pub(super) at: u64,
    pub(super) cid: Cid,
    pub(super) device: Device,
    #[schema(nullable = false)]
    pub(super) kind: Option<Kind>,
    #[schema(nullable = false)]
    pub(super) body: Option<MessageBody>,
    #[schema(nullable = false)]
    pub(super) reply_to: Option<Mid>,
    #[schema(value_type = Object, required = false)]
    pub(super) client: Option<Value>,
}

#[derive(ToSchema)]
pub(super) struct Receipt {
    pub(super) conv: Conv,
    /// Not in a group: there all other members have got so far.
    #[schema(nullable = false)]
    pub(super) by: Option<User>,
    pub(super) delivered: u64,
    pub(super) read: u64,
    pub(super) at: u64,
}

#[derive(ToSchema)]
pub(super) struct Expired {
    pub(super) conv: Conv,
    pub(super) mid: Mid,
    pub(super) seq: u64,
}

#[derive(Serialize, ToSchema)]
pub(super) struct GroupEvent {
    #[schema(value_type = Conv)]
    pub(super) conv: String,
    pub(super) seq: u64,
    pub(super) at: u64,
    #[schema(value_type = User)]
    pub(super) by: String,
    #[serde(flatten)]
    pub(super) change: Change,
}

#[derive(Serialize, ToSchema)]
#[serde(tag = "change", rename_all = "snake_case")]
#[schema(as = GroupChange)]
pub(super) enum Change {
    Created {
        title: String,
        #[schema(value_type = Vec<User>)]
        users: Vec<String>,
    },
    Updated {
        #[schema(nullable = false)]
        title: Option<String>,
        #[schema(nullable = false)]
        icon: Option<String>,
        #[schema(nullable = false)]
        status: Option<String>,
    },
    Added {
        title: String,
        #[schema(value_type = Vec<User>)]
        users: Vec<String>,
    },
    Removed {
        #[schema(value_type = Vec<User>)]
        users: Vec<String>,
    },
    Left {},
    Role {
        #[schema(value_type = User)]
        user: String,
        #[schema(value_type = Role)]
        role: String,
    },
}
