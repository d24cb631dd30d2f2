//! Around: what surrounds the nodes: time, chance, network, disks, and what will happen when.

use std::collections::BTreeMap;
use std::time::Duration;

use actors::ids::{Conversation, DeviceId, Number, Seq};
use actors::ids::{ShardId, Timestamp, UserId};
use actors::message::{Resume, Send};
use actors::packet::Packet;
use actors::session::{Output, RequestRef};
use bytes::Bytes;

use crate::chance::Chance;
use crate::disk::Disk;
use crate::network::Network;
use crate::oracle::Oracle;

/// A fault built into the simulated host, to show that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    Nothing,
    /// Raft is told that a write is durable before it is.
    PersistsEarly,
    /// A send is confirmed when it is proposed.
    AnswersEarly,
    /// A client repeats a message under another `cid`.
    ChangesCid,
    /// The disk loses what it said was durable.
    DiskLies,
    /// Envelopes never leave the node.
    LosesEnvelopes,
    /// A node whose disk was lost takes part as if it still had it.
    ForgetsBirth,
}

/// What a client says on its socket.
#[derive(Debug, Clone)]
pub(crate) enum Up {
    Ack(Number),
    Read(Conversation, Seq),
    Alive,
    Send(RequestRef, Send),
    Gone,
}

/// What happens on a node.
#[derive(Debug, Clone)]
pub(crate) enum At {
    Run,
    Tick,
    Beat,
    SessionTick(u64),
    FlushDue(UserId, u64),
    Raft(usize, ShardId, Bytes),
    /// From, life of the link, packets.
    Packets(usize, u64, Vec<Packet>),
    /// Peer, its boot, life, whether up.
    Link(usize, u64, u64, bool),
    Written(Vec<(ShardId, u64)>),
    /// Client, connection.
    Accept(usize, u64, UserId, DeviceId, Option<Resume>),
    Socket(u64, Up),
    Transfer(ShardId, usize),
    CrashActors(UserId),
}

/// What happens.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// On a node, in this boot of it.
    Node(usize, u64, At),
    Synced(usize, u64),
    Start(usize),
    Resume(usize, u64),
    Links,
    Fault,
    /// A client looks around.
    Wake(usize),
    /// A frame for a client on a connection.
    Client(usize, u64, Box<Output>),
    Disconnected(usize, u64),
}

pub(crate) struct Around {
    pub(crate) seed: u64,
    /// Microseconds since the beginning.
    pub(crate) now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    order: u64,
    pub(crate) chance: Chance,
    pub(crate) network: Network,
    pub(crate) disks: Vec<Disk>,
    pub(crate) oracle: Oracle,
    pub(crate) plant: Plant,
    pub(crate) shards: u16,
    pub(crate) connections: u64,
    /// So that frames of a socket stay in order: `(client, whether up)`.
    pub(crate) sockets: BTreeMap<(usize, bool), u64>,
}

impl Around {
    pub(crate) fn new(seed: u64, nodes: usize, shards: u16, plant: Plant) -> Self {
        let lies = plant == Plant::DiskLies;
        Self {
            seed,
            now: 0,
            queue: BTreeMap::new(),
            order: 0,
            chance: Chance::new(seed),
            network: Network::new(nodes),
            disks: (1..).take(nodes).map(|birth| Disk::new(lies, birth)).collect(),
            oracle: Oracle::default(),
            plant,
            shards,
            connections: 0,
            sockets: BTreeMap::new(),
        }
    }

    pub(crate) fn at(&mut self, when: u64, event: Event) {
        self.order += 1;
        self.queue.insert((when, self.order), event);
    }

    /// Grows with everything that is put off.
    pub(crate) const fn order(&self) -> u64 {
        self.order
    }

    pub(crate) fn after(&mut self, span: u64, event: Event) {
        self.at(self.now + span, event);
    }

    pub(crate) fn next(&mut self) -> Option<Event> {
        let ((when, _), event) = self.queue.pop_first()?;
        self.now = when;
        Some(event)
    }

    /// Hands a frame from or to a client over, in order.
    pub(crate) fn socket(&mut self, client: usize, up: bool, event: Event) {
        let delay = self.chance.between(100, 3_000);
        let newest = self.sockets.entry((client, up)).or_default();
        *newest = (self.now + delay).max(*newest + 1);
        let when = *newest;
        self.at(when, event);
    }

    /// A sync takes this long.
    pub(crate) fn sync(&mut self, node: usize, boot: u64) {
        let slow = self.chance.one_in(100);
        let (from, to) = if slow { (5_000, 900_000) } else { (300, 5_000) };
        let span = self.chance.between(from, to);
        self.after(span, Event::Synced(node, boot));
    }

    pub(crate) fn wall(&self, ahead_ms: i64) -> Timestamp {
        const BEGIN: u64 = 1_800_000_000_000;
        Timestamp((BEGIN + self.now / 1_000).saturating_add_signed(ahead_ms))
    }

    pub(crate) fn span(&self, since: u64) -> Duration {
        Duration::from_micros(self.now - since)
    }
}
