//! Around: what surrounds the nodes: time, chance, network, disks, and what will happen when.

use std::collections::BTreeMap;
use std::time::Duration;

use actors::ids::{Conversation, DeviceId, GroupId, MessageId, NodeId, Number, Seq};
use actors::ids::{ShardId, Timestamp, UserId};
use actors::mailbox::log::Sealed;
use actors::mailbox::rules::LARGE_GROUP;
use actors::message::group::Call;
use actors::message::{Resume, Send};
#[cfg(debug_assertions)]
use actors::mutant::Mutant;
use actors::packet::Packet;
use actors::session::{Output, RequestRef};
use actors::shard::home::For;
use bytes::Bytes;

use crate::chance::{Chance, mix};
use crate::disk::{Checkpoint, Disk};
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
    /// A mailbox says of no `cid` that it is in use.
    SaysFree,
    /// The disk loses what it said was durable.
    DiskLies,
    /// Envelopes never leave the node.
    LosesEnvelopes,
    /// A node whose disk was lost takes part as if it still had it.
    ForgetsBirth,
    /// Mailboxes leave memory before the checkpoint that holds them is on disk.
    CoolsEarly,
    /// A mailbox that was read before another checkpoint was taken over is put into memory after it.
    WarmsLate,
    /// A log is compacted for a checkpoint that was overtaken by another.
    StoresLate,
    /// A replica that fell behind is sent a checkpoint without the envelopes in it.
    SendsHalf,
    /// A node that is cut off confirms, and nothing else would notice.
    MinorityAnswers,
    /// A message is pushed to its recipient when it is proposed.
    PushesEarly,
    /// A checkpoint's pairs and its place in the log are not written at once.
    TearsCheckpoint,
    /// A node that starts applies again what its checkpoint already holds.
    AppliesTwice,
    /// The journal is dropped when a checkpoint begins to be written.
    CompactsEarly,
    /// A replica that fell behind is sent a checkpoint without one of its mailboxes.
    SkipsMailbox,
    /// A rule is broken.
    #[cfg(debug_assertions)]
    Rule(Mutant),
}

/// What a client says on its socket.
#[derive(Debug, Clone)]
pub(crate) enum Up {
    Ack(Number),
    Read(Conversation, Seq),
    Alive,
    /// Also how often the conversation was begun anew after a refusal.
    Send(RequestRef, Send, u32),
    /// Asks the group for something.
    Call(RequestRef, GroupId, Call),
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
    /// A checkpoint is on disk.
    Stored(ShardId, Box<Checkpoint>),
    /// A checkpoint for a node is read.
    Export(ShardId, NodeId),
    /// A step of taking over a checkpoint, by the number of its arrival, is done.
    Imported(ShardId, u64),
    /// The head of a mailbox is read, for a life of the shard's state.
    Head(ShardId, u64, UserId, u16),
    /// What the head, in these chunks, says is needed besides it is read.
    Rest(ShardId, u64, UserId, Vec<Vec<u8>>),
    /// A run of a log is read.
    LoadRun(ShardId, UserId, Sealed, For),
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
    /// A minority that was cut off comes back.
    Reunite(u64),
    /// A client looks around.
    Wake(usize),
    /// A frame for a client on a connection.
    Client(usize, u64, Box<Output>),
    Disconnected(usize, u64),
}

/// A minority of the nodes that hears nothing of the others.
#[derive(Debug, Clone)]
pub(crate) struct Minority {
    pub(crate) nodes: Vec<usize>,
    pub(crate) since: u64,
}

/// What has happened, to show that it does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) compactions: u64,
    pub(crate) installs: u64,
    pub(crate) loads: u64,
    pub(crate) runs: u64,
    /// Messages written on a node that is cut off from the majority, and how many of them were refused.
    pub(crate) cut_off: u64,
    pub(crate) refused: u64,
    /// Times that a `cid` was used for another message and refused.
    pub(crate) conflicts: u64,
    /// Posts to a group, confirmed, and those refused because their sender was put out.
    pub(crate) posts: u64,
    pub(crate) outsiders: u64,
    /// Times that somebody came back with a new device.
    pub(crate) devices: u64,
    /// Times that posts to a group were fetched for a member.
    pub(crate) fetches: u64,
}

impl Counts {
    pub(crate) const fn add(&mut self, other: Self) {
        self.compactions += other.compactions;
        self.installs += other.installs;
        self.loads += other.loads;
        self.runs += other.runs;
        self.cut_off += other.cut_off;
        self.refused += other.refused;
        self.conflicts += other.conflicts;
        self.posts += other.posts;
        self.outsiders += other.outsiders;
        self.devices += other.devices;
        self.fetches += other.fetches;
    }

    /// Whether all of it happened.
    pub(crate) fn nothing_is_missing(self) -> bool {
        let Self { compactions, installs, loads, runs, cut_off, refused, .. } = self;
        let of_clients = [self.conflicts, self.posts, self.outsiders, self.devices, self.fetches];
        let all = [compactions, installs, loads, runs, cut_off, refused];
        let all = all.iter().chain(&of_clients);
        all.into_iter().all(|count| *count > 0)
    }
}

/// How a node's wall clock goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    pub(crate) ahead_ms: i64,
    /// Too fast by so much.
    pub(crate) drift_ppm: i64,
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
    /// Clients are so many times slower than the fastest.
    pub(crate) pace: u64,
    pub(crate) minority: Option<Minority>,
    pub(crate) counts: Counts,
    /// So that frames of a socket stay in order: `(client, whether up)`.
    pub(crate) sockets: BTreeMap<(usize, bool), u64>,
}

impl Around {
    /// From so many members on a group is large: in every other run that has a group, it is.
    pub(crate) const fn large(&self) -> usize {
        if self.seed.is_multiple_of(2) { 1 } else { LARGE_GROUP }
    }

    pub(crate) fn new(seed: u64, nodes: usize, shards: u16, plant: Plant) -> Self {
        Self {
            seed,
            now: 0,
            queue: BTreeMap::new(),
            order: 0,
            chance: Chance::new(seed),
            network: Network::new(nodes),
            disks: (1..).take(nodes).map(|birth| Disk::new(plant, birth)).collect(),
            oracle: Oracle::default(),
            plant,
            shards,
            connections: 0,
            pace: 1,
            minority: None,
            counts: Counts::default(),
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

    /// The wall clock of a node.
    pub(crate) fn wall(&self, clock: Clock) -> Timestamp {
        const BEGIN: u64 = 1_800_000_000_000;
        let passed = i64::try_from(self.now / 1_000).unwrap();
        let wrong = clock.ahead_ms + passed * clock.drift_ppm / 1_000_000;
        Timestamp((BEGIN + self.now / 1_000).saturating_add_signed(wrong))
    }

    /// How much of its log a replica keeps behind a checkpoint.
    pub(crate) fn tail(&self) -> u64 {
        [0, 5, 50][usize::try_from(mix(self.seed ^ 0x7A11) % 3).unwrap()]
    }

    /// Whether a fault that was built in confirms a message before it is agreed on.
    pub(crate) fn answers_early(&mut self, place: usize, mid: MessageId) -> bool {
        let minority = self.plant == Plant::MinorityAnswers && self.cut_off(place).is_some();
        if minority {
            self.oracle.committed.insert(mid);
        }
        minority || self.plant == Plant::AnswersEarly
    }

    /// How often reading and writing checkpoints takes long.
    pub(crate) fn slow_once_in(&self) -> u64 {
        [20, 20, 2][usize::try_from(mix(self.seed ^ 0x510) % 3).unwrap()]
    }

    /// Since when a node has been cut off from the majority, if it is.
    pub(crate) fn cut_off(&self, place: usize) -> Option<u64> {
        let minority = self.minority.as_ref()?;
        minority.nodes.contains(&place).then_some(minority.since)
    }

    pub(crate) fn span(&self, since: u64) -> Duration {
        Duration::from_micros(self.now - since)
    }
}
