//! Gateway: the door that clients come through, one WebSocket each.
//!
//! Owns      the sockets of this node and how many there may be; nothing that outlives them.
//! Promises  every refusal and every close code of the protocol page; an idle socket costs a few KiB; a client that
//!           does not read costs no more than its window; nothing overtakes a message that was refused for now; there is no
//!           op and no event that the AsyncAPI document lacks.
//! Never     reads a mailbox, or waits for one client on behalf of another.
//! Fails by  losing the socket: a panic in one ends that one, is counted, and its user is told offline.
//!
//! Why one task a socket and a sweep: a timer for each costs thirty times a look at one number, and an actor for each
//! three times the memory.

mod document;
mod flight;
mod goodbye;
mod groups;
mod lean;
#[doc(hidden)]
pub mod measured;
mod order;
mod people;
mod presence;
mod pressure;
mod room;
mod rules;
mod sessions;
mod socket;
#[cfg(test)]
mod tests;
mod upgrade;
mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::clock;
use actors::ids::{SessionId, ShardId, Timestamp, UserId};
use actors::inbox;
use actors::packet::ToHome;
use actors::router::{Inbound, NoHome, Router};
use actors::session;

pub use crate::auth::{TokenRefused, Verified};
pub use document::asyncapi;
pub use sessions::{Crowded, Msg, Roll, Sessions};
pub use socket::serve;
pub use upgrade::upgrade;
pub(crate) use wire::fuzz;
pub use wire::{Code, Error, Format};

/// What the gateway needs of the node it is part of.
pub struct GatewayEnv {
    /// The way to the homes of mailboxes.
    pub homes: Arc<dyn Homes>,
    /// Who a token belongs to.
    pub tokens: Arc<dyn Tokens>,
    /// All sockets of this node.
    pub roll: Arc<Roll>,
    /// What a socket may do.
    pub limits: Limits,
    /// Name and version of the software, as `hello` says it.
    pub server: Box<str>,
    /// The node's name, as `hello` says it.
    pub node: Box<str>,
    /// What the gateway's own moments are counted from.
    pub started: Instant,
}

impl GatewayEnv {
    /// The two clocks now.
    #[must_use]
    pub fn now(&self) -> Now {
        let running = clock::monotonic().saturating_duration_since(self.started);
        Now { running, wall: clock::wall() }
    }
}

/// A moment, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Since the gateway started; only grows.
    pub running: Duration,
    /// The wall clock.
    pub wall: Timestamp,
}

/// What a socket may do, and for how long it may do nothing.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How often a client must be heard; after three times that in silence it is gone.
    pub heartbeat: Duration,
    /// How soon it must authenticate.
    pub auth_deadline: Duration,
    /// How long it may take to read what it is sent.
    pub flush: Duration,
    /// How long after a burst its buffers are given back.
    pub burst_over: Duration,
    /// The largest frame it may send.
    pub frame_bytes_max: usize,
    /// Groups a socket may make in a second.
    pub groups_per_second: u32,
    /// Groups it may make at once.
    pub groups_burst: u32,
    /// Times a second that a socket may say that its user is typing.
    pub typings_per_second: u32,
    /// Times it may say so at once.
    pub typings_burst: u32,
    /// Durable events unacknowledged at once.
    pub window: u16,
    /// Requests of one socket in flight at once.
    pub requests_max: usize,
    /// Sends of all sockets in flight at once; fewer while the node answers fewer in a second.
    pub sends_max: usize,
    /// Frames a second that one socket may go on sending; 0: no limit.
    pub frames_per_second: u32,
    /// Frames it may send at once.
    pub frames_burst: u32,
    /// Sockets of this node.
    pub sockets_max: usize,
    /// Sockets of one user on this node.
    pub sockets_per_user_max: usize,
    /// Sockets a second that this node goes on taking; 0: no limit.
    pub sockets_per_second: u32,
    /// Sockets it takes at once.
    pub sockets_burst: u32,
    /// Sockets from one address that have not authenticated; loopback is exempt.
    pub strangers_per_address_max: usize,
    /// After how long a login should be tried again when there are too many.
    pub retry_after: Duration,
    /// What a session may hold.
    pub session: Arc<session::Limits>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(5),
            auth_deadline: Duration::from_secs(10),
            flush: Duration::from_secs(10),
            burst_over: Duration::from_secs(3),
            frame_bytes_max: 65_536,
            groups_per_second: 5,
            groups_burst: 100,
            typings_per_second: 2,
            typings_burst: 10,
            window: 256,
            requests_max: 256,
            sends_max: 16_384,
            frames_per_second: 2_000,
            frames_burst: 4_000,
            sockets_max: 20_000,
            sockets_per_user_max: 64,
            sockets_per_second: 2_000,
            sockets_burst: 10_000,
            strangers_per_address_max: 1_000,
            retry_after: Duration::from_secs(2),
            session: Arc::default(),
        }
    }
}

/// Checks tokens.
pub trait Tokens: Send + Sync {
    /// Who a token belongs to.
    fn verify(&self, token: &str) -> Result<Verified, TokenRefused>;
}

/// The way to the homes of mailboxes: the node's router, or a model of it in tests.
pub trait Homes: Send + Sync {
    /// How many shards the cluster has.
    fn shards(&self) -> u16;
    /// Registers a socket; everything for it arrives in `inbox`.
    fn open_session(&self, inbox: inbox::Sender<Box<Inbound>>) -> SessionId;
    /// Forgets a socket.
    fn close_session(&self, id: SessionId);
    /// Sends to the home of a mailbox, if there is a way to it now.
    fn home(&self, ask: ToHome) -> Result<(), NoHome>;
    /// Asks of each of these users whether there is such a user; the socket hears `Inbound::Looked`.
    fn look_up(&self, session: SessionId, request: u32, users: Vec<UserId>, within: Duration);
    /// Asks what these users are called; the socket hears `Inbound::Named`.
    fn name(&self, session: SessionId, request: u32, users: Vec<UserId>, by: UserId);
    /// Tells a socket from now on when a shard's home moves.
    fn watch(&self, session: SessionId, shard: ShardId);
    /// No longer.
    fn unwatch(&self, session: SessionId, shard: ShardId);
}

impl Homes for Router {
    fn shards(&self) -> u16 {
        self.shards()
    }

    fn open_session(&self, inbox: inbox::Sender<Box<Inbound>>) -> SessionId {
        self.open_session(inbox)
    }

    fn close_session(&self, id: SessionId) {
        self.close_session(id);
    }

    fn home(&self, ask: ToHome) -> Result<(), NoHome> {
        self.home(ask)
    }

    fn look_up(&self, session: SessionId, request: u32, users: Vec<UserId>, within: Duration) {
        self.look_up(session, request, users, within);
    }

    fn name(&self, session: SessionId, request: u32, users: Vec<UserId>, by: UserId) {
        self.name(session, request, users, by);
    }

    fn watch(&self, session: SessionId, shard: ShardId) {
        self.watch(session, shard);
    }

    fn unwatch(&self, session: SessionId, shard: ShardId) {
        self.unwatch(session, shard);
    }
}
