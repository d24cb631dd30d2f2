//! Described: what each request, answer and event looks like, for the AsyncAPI document.
//!
//! What stands here is never made: frames are written straight into their bytes (`events`, `group`, `presence`) and read in
//! place (`request`). That the two agree is tested with every frame that a node sends in any test.
//!
//! A new op is a row of `OPS`, with a type for its `d` in `requests` and one for its answer in `replies` (or `Done`); a new
//! event is a row of `EVENTS` with a type in `events`.

mod events;
mod replies;
mod requests;

use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use crate::codes::Code;
use events::{
    CaughtUp, Expired, GoAway, GroupEvent, Hello, Message, Pong, Presence, Receipt, Sent, TypingOf,
};
use replies::{
    AuthOk, BlockedUsers, Devices, Done, GroupList, GroupMade, GroupShown, Presences, Profile,
    Receipts, SendOk, Settings,
};
use requests::{
    Ack, Auth, DeviceRemove, GroupCreate, GroupNamed, GroupRole, GroupUpdate, GroupUsers, Nothing,
    Ping, ProfileOf, Pull, Read, ReceiptsOf, Send, SettingsOf, Typing, UserNamed, Watch,
};

/// A type, as the document has it.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// What it is called among the schemas.
    pub name: fn() -> String,
    /// It, and all that it names.
    pub collect: fn(&mut Vec<(String, RefOr<Schema>)>),
}

/// What a client may ask.
pub(crate) struct Op {
    /// The `op`.
    pub name: &'static str,
    /// In a sentence.
    pub says: &'static str,
    /// The `d`.
    pub d: Shape,
    /// The `ok`.
    pub ok: Shape,
    /// A `d` to try.
    pub example: fn() -> Value,
}

/// What a node tells unasked.
pub(crate) struct Event {
    /// The `ev`.
    pub name: &'static str,
    /// In a sentence.
    pub says: &'static str,
    /// Whether it has an `n`.
    pub numbered: bool,
    /// The `d`.
    pub d: Shape,
}

const fn shape<T: ToSchema>() -> Shape {
    Shape {
        name: || T::name().into_owned(),
        collect: |all| {
            all.push((T::name().into_owned(), T::schema()));
            T::schemas(all);
        },
    }
}

const fn op<D: ToSchema, A: ToSchema>(
    name: &'static str,
    says: &'static str,
    example: fn() -> Value,
) -> Op {
    Op { name, says, d: shape::<D>(), ok: shape::<A>(), example }
}

const fn event<D: ToSchema>(name: &'static str, says: &'static str) -> Event {
    Event { name, says, numbered: false, d: shape::<D>() }
}

const fn numbered<D: ToSchema>(name: &'static str, says: &'static str) -> Event {
    Event { name, says, numbered: true, d: shape::<D>() }
}

/// All that a client may ask. `tests/cluster/documents.rs` sends the examples, as alice with another device `tablet`, to
/// whom bob has written once; there is carol, too.
pub(crate) const OPS: &[Op] = &[
    op::<Auth, AuthOk>(
        "auth",
        "Says who it is; the first frame of a client.",
        || json!({"token": "eyJhbGciOi…", "device": "phone"}),
    ),
    op::<Send, SendOk>(
        "send",
        "Sends a message.",
        || json!({"to": "u:bob", "cid": "s-1", "kind": "text", "body": "hi", "client": {"draft": 7}}),
    ),
    op::<Ack, Done>(
        "ack",
        "This device has everything up to `n`; usually without `id`.",
        || json!({"n": 1}),
    ),
    op::<Ping, Done>(
        "ping",
        "The client lives; answered by `pong`. With `n` also an `ack`.",
        || json!({"n": 1}),
    ),
    op::<Pull, Done>(
        "pull",
        "Asks for entries once more; they come as events.",
        || json!({"after": 0, "limit": 10}),
    ),
    op::<Read, Done>(
        "read",
        "The user has read up to and including `seq`.",
        || json!({"conv": "u:bob", "seq": 1}),
    ),
    op::<Nothing, Devices>("device.list", "Lists the user's devices.", || json!({})),
    op::<DeviceRemove, Done>(
        "device.remove",
        "Forgets a device; its socket closes with 4304.",
        || json!({"device": "tablet"}),
    ),
    op::<GroupCreate, GroupMade>(
        "group.create",
        "Makes a group, whose admin one is.",
        || json!({"title": "Holidays", "members": ["bob"], "cid": "holidays"}),
    ),
    op::<GroupNamed, GroupShown>(
        "group.info",
        "Shows a group that one is in.",
        || json!({"group": "XEQFQBPNY8S2KN2NMB33Y7"}),
    ),
    op::<Nothing, GroupList>("group.list", "Lists the groups that one is in.", || json!({})),
    op::<GroupUpdate, Done>(
        "group.update",
        "Changes title, icon or status; admins only.",
        || json!({"group": "XEQFQBPNY8S2KN2NMB33Y7", "title": "Holidays!", "status": "packing"}),
    ),
    op::<GroupUsers, Done>(
        "group.add",
        "Takes users in; admins only.",
        || json!({"group": "XEQFQBPNY8S2KN2NMB33Y7", "users": ["carol"]}),
    ),
    op::<GroupRole, Done>(
        "group.role",
        "Gives a member a role; admins only.",
        || json!({"group": "XEQFQBPNY8S2KN2NMB33Y7", "user": "bob", "role": "admin"}),
    ),
    op::<GroupUsers, Done>(
        "group.remove",
        "Puts users out; admins only, but for oneself.",
        || json!({"group": "XEQFQBPNY8S2KN2NMB33Y7", "users": ["carol"]}),
    ),
    op::<ReceiptsOf, Receipts>(
        "receipts",
        "Tells how far each member of a group has got.",
        || json!({"conv": "g:XEQFQBPNY8S2KN2NMB33Y7"}),
    ),
    op::<GroupNamed, Done>(
        "group.leave",
        "Leaves a group.",
        || json!({"group": "XEQFQBPNY8S2KN2NMB33Y7"}),
    ),
    op::<Watch, Presences>(
        "watch",
        "Tells how users are, and then by events when it changes.",
        || json!({"users": ["bob", "carol"]}),
    ),
    op::<Watch, Done>("unwatch", "No more events of these.", || json!({"users": ["bob"]})),
    op::<Typing, Done>(
        "typing",
        "The user writes, or no longer does.",
        || json!({"to": "u:bob", "on": true}),
    ),
    op::<UserNamed, Done>(
        "block",
        "What this user writes to one is refused, and one is hidden from them.",
        || json!({"user": "carol"}),
    ),
    op::<UserNamed, Done>("unblock", "Blocks them no longer.", || json!({"user": "carol"})),
    op::<Nothing, BlockedUsers>("blocked", "Lists whom one blocks.", || json!({})),
    op::<SettingsOf, Settings>(
        "settings",
        "Says or sets who may see when one was last there.",
        || json!({"last_seen": "everyone"}),
    ),
    op::<ProfileOf, Profile>(
        "profile",
        "Says or changes what one is known by.",
        || json!({"name": "Alice", "about": "at sea"}),
    ),
];

/// All that a node tells unasked.
pub(crate) const EVENTS: &[Event] = &[
    event::<Hello>("hello", "The node speaks first."),
    event::<CaughtUp>("caught_up", "What waited has been told."),
    event::<Pong>("pong", "Answers a `ping`."),
    event::<Presence>("presence", "A watched user came, or has gone."),
    event::<TypingOf>("typing", "Somebody writes, or no longer does."),
    event::<GoAway>("goaway", "The node stops: finish, and reconnect after `wait_ms`."),
    numbered::<Message>("message", "A message of somebody else."),
    numbered::<Sent>("sent", "The user's own message; what it says only to the other devices."),
    numbered::<Receipt>("receipt", "How far my messages got; never goes back."),
    numbered::<GroupEvent>("group", "A change of a group, in the order of its messages."),
    numbered::<Expired>("expired", "My message was never fetched within its 30 days."),
];

/// Why a request was refused.
#[expect(dead_code, reason = "it is described and never made")]
#[derive(ToSchema)]
#[schema(as = Error)]
pub(crate) struct Refused {
    #[schema(inline)]
    code: Code,
    /// In words; names the field of a `bad_request`.
    message: String,
    /// Whether repeating can help.
    retry: bool,
    /// When it can.
    #[schema(nullable = false)]
    retry_after_ms: Option<u64>,
}

/// The shape of what every refusal says.
pub(crate) const REFUSED: Shape = shape::<Refused>();
