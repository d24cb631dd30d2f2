//! Router: knows where every shard's leader is and how to reach it, and hands sessions what is for them.
//!
//! Owns      hints of who leads what (each only as good as its term), and the inboxes of this node's sessions.
//! Promises  a session that watches a shard learns when its leader, or the way there, has changed.
//! Never     waits, resends or decides: a packet that cannot go is refused or lost, and its owner repeats it.
//! Fails by  nothing of its own; it is plain shared memory.

mod asking;
mod cards;
pub mod middle;
mod signs;
mod watching;

pub use cards::CardsFor;
pub use signs::Peer;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use ractor::ActorRef;

use self::middle::Clocks;
use crate::birth;
use crate::clock;
use crate::cluster::{Class, Inbound as LinksInbound, Links, Refused};
use crate::ids::{BootId, Incarnation, NodeId, ReplicaId, SessionId, ShardId, UserId, shard_of};
use crate::inbox;
use crate::message::Refusal;
use crate::packet::{Beat, Packet, ShardHealth, Tell, ToHome, ToSession};
use crate::shard::lane;
use crate::shard::posts::Posts;

/// What is put into a session's inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    /// A home says something.
    Tell(Tell),
    /// A watched shard has another leader, or there is a way to it again.
    HomeMoved(ShardId),
    /// Of users that were looked up: one whom nobody knows, if there is any.
    Looked {
        /// For which request.
        request: u32,
        /// Whom nobody knows.
        unknown: Result<Option<UserId>, Refusal>,
    },
    /// What users whose names were asked for are called, as far as it is known.
    Named {
        /// For which request.
        request: u32,
        /// The names.
        names: BTreeMap<UserId, Arc<str>>,
    },
    /// The node is being drained: tell the client to come back elsewhere after this long.
    Drain {
        /// Milliseconds to wait before reconnecting.
        wait_ms: u64,
        /// Where clients reach another node, if one is known to take them.
        elsewhere: Option<Arc<str>>,
    },
}

/// There is no way to the home of a mailbox now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no leader is known, or there is no link to it")]
pub struct NoHome;

/// The router of a node; clones share it.
#[derive(Clone)]
pub struct Router(Arc<Shared>);

struct Shared {
    me: NodeId,
    boot: BootId,
    shards: u16,
    /// Per shard: term (upper 48 bits) and node (lower 16) of the leader last heard of.
    leaders: Vec<AtomicU64>,
    /// Per shard: whether this node leads and serves it now.
    serving: Vec<AtomicBool>,
    lanes: OnceLock<Vec<ActorRef<lane::Msg>>>,
    links: OnceLock<Links>,
    births: OnceLock<ActorRef<birth::Msg>>,
    /// Per node, this one included: the incarnation whose replicas take part, as far as it was shown; 0 for none.
    vetted: BTreeMap<NodeId, AtomicU32>,
    sessions: RwLock<HashMap<u64, Present>>,
    next_session: AtomicU64,
    connected: AtomicU32,
    draining: AtomicBool,
    health: RwLock<Vec<ShardHealth>>,
    watchers: Vec<RwLock<HashSet<u64>>>,
    /// When each shard's home was found last, in milliseconds since this router was made; 0: never.
    moved: Vec<AtomicU64>,
    peers: RwLock<BTreeMap<NodeId, Peer>>,
    clocks: RwLock<Clocks>,
    posts: Posts,
    cards: cards::Cards,
    /// When this router was made.
    since: Instant,
    /// Whether it was told that this node's clock is off.
    clock_is_off: AtomicBool,
}

/// A session of this node.
struct Present {
    inbox: inbox::Sender<Box<Inbound>>,
    /// The shards it watches: few, so a list.
    watches: Vec<ShardId>,
}

impl Router {
    /// Makes the router of one start of a node.
    #[must_use]
    pub fn new(me: NodeId, boot: BootId, shards: u16, peers: impl Iterator<Item = NodeId>) -> Self {
        let peers: Vec<NodeId> = peers.collect();
        let nodes = peers.iter().copied().chain([me]);
        let unknown = Peer { beat: None, up: false };
        Self(Arc::new(Shared {
            me,
            boot,
            shards,
            leaders: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            serving: (0..shards).map(|_| AtomicBool::new(false)).collect(),
            lanes: OnceLock::new(),
            links: OnceLock::new(),
            births: OnceLock::new(),
            vetted: nodes.map(|node| (node, AtomicU32::new(0))).collect(),
            sessions: RwLock::default(),
            next_session: AtomicU64::new(1),
            connected: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            health: RwLock::default(),
            watchers: (0..shards).map(|_| RwLock::default()).collect(),
            moved: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            peers: RwLock::new(peers.into_iter().map(|peer| (peer, unknown.clone())).collect()),
            clocks: RwLock::default(),
            posts: Posts::default(),
            cards: cards::Cards::default(),
            since: clock::monotonic(),
            clock_is_off: AtomicBool::new(false),
        }))
    }

    /// Connects the node's lanes; asks before that are refused.
    pub fn set_lanes(&self, lanes: Vec<ActorRef<lane::Msg>>) {
        let _set_once = self.0.lanes.set(lanes);
    }

    /// Connects the links; packets before that are refused.
    pub fn set_links(&self, links: Links) {
        let _set_once = self.0.links.set(links);
    }

    /// Connects the room that knows births; what it should be told before that is lost.
    pub fn set_births(&self, births: ActorRef<birth::Msg>) {
        let _set_once = self.0.births.set(births);
    }

    /// From now on messages of a node's replicas of this incarnation, and no other, are taken.
    pub fn vet(&self, node: NodeId, incarnation: Option<Incarnation>) {
        if let Some(vetted) = self.0.vetted.get(&node) {
            vetted.store(incarnation.unwrap_or_default().0, Ordering::Release);
        }
    }

    /// A node's replicas that take part, as far as it has shown that they are its own.
    #[must_use]
    pub fn replica(&self, node: NodeId) -> Option<ReplicaId> {
        let incarnation = self.0.vetted.get(&node)?.load(Ordering::Acquire);
        (incarnation != 0).then(|| ReplicaId::of(node, Incarnation(incarnation)))
    }

    fn tell_births(&self, message: birth::Msg) {
        if let Some(births) = self.0.births.get() {
            let _stopping = births.cast(message);
        }
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.0.me
    }

    /// This start of it.
    #[must_use]
    pub fn boot(&self) -> BootId {
        self.0.boot
    }

    /// Into how many shards the cluster is divided.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.0.shards
    }

    /// The shard of a user's mailbox.
    #[must_use]
    pub fn shard_of(&self, user: &UserId) -> ShardId {
        shard_of(user, self.0.shards)
    }

    /// What was posted lately to large groups.
    #[must_use]
    pub fn posts(&self) -> &Posts {
        &self.0.posts
    }

    /// Registers a socket; everything for it arrives in `inbox`.
    pub fn open_session(&self, inbox: inbox::Sender<Box<Inbound>>) -> SessionId {
        let count = self.0.next_session.fetch_add(1, Ordering::Relaxed);
        let present = Present { inbox, watches: Vec::new() };
        write(&self.0.sessions).insert(count, present);
        SessionId { node: self.0.me, boot: self.0.boot, count }
    }

    /// Forgets a socket, and what it still watches.
    pub fn close_session(&self, id: SessionId) {
        let gone = write(&self.0.sessions).remove(&id.count);
        for shard in gone.map(|gone| gone.watches).unwrap_or_default() {
            self.unwatch(id, shard);
        }
    }

    /// Counts connected users' sockets, for others to see.
    pub fn set_connected(&self, sessions: u32) {
        self.0.connected.store(sessions, Ordering::Relaxed);
    }

    /// How the shards led here are, for others to see.
    pub fn set_health(&self, health: Vec<ShardHealth>) {
        *write(&self.0.health) = health;
    }

    /// How the shards led here are.
    #[must_use]
    pub fn health(&self) -> Vec<ShardHealth> {
        read(&self.0.health).clone()
    }

    /// From now on the node wants to lead nothing, and says so.
    pub fn set_draining(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the node is being drained.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Sends to the home of a mailbox; refused when no leader is known or there is no link to it.
    pub fn home(&self, ask: ToHome) -> Result<(), NoHome> {
        let (_, leader) = self.leader(ask.shard).ok_or(NoHome)?;
        if leader == self.0.me {
            let lane = self.lane(ask.shard).ok_or(NoHome)?;
            return lane.cast(lane::Msg::Ask(Box::new(ask))).map_err(|_| NoHome);
        }
        self.send(leader, Class::Normal, &[Packet::Home(ask)]).map_err(|_| NoHome)
    }

    /// Sends packets to another node.
    pub fn send(&self, to: NodeId, class: Class, packets: &[Packet]) -> Result<(), Refused> {
        self.0.links.get().ok_or(Refused::Down)?.send(to, class, packets)
    }

    /// Gives a session of this node what a home told it; a session that is gone gets nothing.
    pub fn tell(&self, to: ToSession) {
        if to.session.boot == self.0.boot {
            self.put(to.session.count, Inbound::Tell(to.tell));
        }
    }

    fn put(&self, session: u64, inbound: Inbound) {
        if let Some(present) = read(&self.0.sessions).get(&session) {
            present.inbox.send(Box::new(inbound));
        }
    }

    /// Tells every session to go, with the wait and the address that `farewell` finds for each.
    pub fn drain_sessions(&self, mut farewell: impl FnMut() -> (u64, Option<Arc<str>>)) {
        for present in read(&self.0.sessions).values() {
            let (wait_ms, elsewhere) = farewell();
            let drain = Inbound::Drain { wait_ms, elsewhere };
            present.inbox.send(Box::new(drain));
        }
    }

    /// The leader of a shard and its term, as far as known.
    #[must_use]
    pub fn leader(&self, shard: ShardId) -> Option<(u64, NodeId)> {
        let packed = self.0.leaders.get(usize::from(shard.0))?.load(Ordering::Acquire);
        (packed != 0).then(|| unpack(packed))
    }

    fn lane(&self, shard: ShardId) -> Option<&ActorRef<lane::Msg>> {
        let lanes = self.0.lanes.get()?;
        lanes.get(usize::from(shard.0) % lanes.len().max(1))
    }

    /// All lanes of this node.
    #[must_use]
    pub fn lanes(&self) -> &[ActorRef<lane::Msg>] {
        self.0.lanes.get().map_or(&[], Vec::as_slice)
    }

    /// Takes note that a node serves a shard in a term. The newest term wins.
    fn heard(&self, shard: ShardId, term: u64, node: NodeId) {
        let Some(known) = self.0.leaders.get(usize::from(shard.0)) else { return };
        let new = pack(term, node);
        let newer = |old: u64| (old == 0 || unpack(old).0 < term).then_some(new);
        if known.fetch_update(Ordering::AcqRel, Ordering::Acquire, newer).is_ok() {
            self.moved(shard);
        }
    }

    /// A lane says whether this node serves a shard, and in which term.
    pub fn serves(&self, shard: ShardId, term: u64, serves: bool) {
        if let Some(serving) = self.0.serving.get(usize::from(shard.0)) {
            serving.store(serves, Ordering::Release);
        }
        if serves {
            self.heard(shard, term, self.0.me);
        }
    }

    /// The links of this node, once they run.
    #[must_use]
    pub fn links(&self) -> Option<&Links> {
        self.0.links.get()
    }

    fn link(&self, node: NodeId, up: bool) {
        if let Some(peer) = write(&self.0.peers).get_mut(&node) {
            peer.up = up;
        }
        if !up {
            write(&self.0.clocks).lost(node);
        }
        for lane in self.lanes() {
            let told = if up { lane::Msg::LinkFound } else { lane::Msg::LinkLost(node) };
            let _stopping = lane.cast(told);
        }
        for shard in (0..self.0.shards).map(ShardId) {
            if up && self.leader(shard).is_some_and(|(_, leader)| leader == node) {
                self.moved(shard);
            }
        }
    }
}

impl LinksInbound for Router {
    fn packets(&self, from: NodeId, packets: Vec<Packet>) {
        let lanes = self.lanes();
        let mut sorted: Vec<Vec<Packet>> = lanes.iter().map(|_| Vec::new()).collect();
        for packet in packets {
            let shard = match packet {
                Packet::Session(to) => {
                    self.tell(to);
                    continue;
                }
                Packet::Push(push) => {
                    push.each().for_each(|to| self.tell(to));
                    continue;
                }
                Packet::Beat(beat) => {
                    self.took(from, beat);
                    continue;
                }
                Packet::Birth(note) => {
                    self.tell_births(birth::Msg::Note(from, note));
                    continue;
                }
                // For users of any lane.
                Packet::Typing(typing) => {
                    sorted.iter_mut().for_each(|lane| lane.push(Packet::Typing(typing.clone())));
                    continue;
                }
                Packet::Posts(posts) => {
                    self.posts().put(&posts);
                    continue;
                }
                Packet::CardTurned(turned) => {
                    self.card_turned(&turned);
                    continue;
                }
                Packet::Cards(wanted) => {
                    let wanted = self.by_lane(*wanted);
                    sorted.iter_mut().zip(wanted).for_each(|(lane, wanted)| lane.extend(wanted));
                    continue;
                }
                Packet::Fetch(ref fetch) => self.shard_of(&UserId::of_group(&fetch.group)),
                Packet::Fetched(ref fetched) => fetched.to,
                Packet::Raft(shard, _) | Packet::Snapshot(shard, _) => shard,
                Packet::Home(ToHome { shard, .. }) => shard,
                Packet::Envelopes { to, .. } => to,
                // Told to the shard that sent them.
                Packet::EnvelopesTaken { from, .. } => from,
            };
            let count = sorted.len().max(1);
            if let Some(lane) = sorted.get_mut(usize::from(shard.0) % count) {
                lane.push(packet);
            }
        }
        for (lane, packets) in lanes.iter().zip(sorted) {
            if !packets.is_empty() {
                let _stopping = lane.cast(lane::Msg::Packets(from, packets));
            }
        }
    }

    fn up(&self, peer: NodeId, boot: BootId) {
        tracing::info!(node = %peer, "link up");
        self.tell_births(birth::Msg::Up(peer, boot));
        self.link(peer, true);
    }

    fn down(&self, peer: NodeId) {
        tracing::warn!(node = %peer, "link down");
        // At once: what comes over the next link may be of another birth.
        self.vet(peer, None);
        self.tell_births(birth::Msg::Down(peer));
        self.link(peer, false);
    }

    fn beat(&self) -> Beat {
        self.sign()
    }
}

const fn pack(term: u64, node: NodeId) -> u64 {
    term << 16 | node.0 as u64
}

fn unpack(packed: u64) -> (u64, NodeId) {
    (packed >> 16, NodeId(u16::try_from(packed & 0xffff).unwrap_or_default()))
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
