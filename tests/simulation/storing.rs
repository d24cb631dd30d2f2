//! Storing: a node's dealings with its checkpoints, in the order of the production lane: written, read, sent to a replica
//! that fell behind, and taken over from another node.

use std::collections::BTreeMap;

use actors::codec;
use actors::ids::{NodeId, Number, ReplicaId, ShardId, UserId};
use actors::mailbox::image::{self, Opening, Stored};
use actors::mailbox::rules::Mailbox;
use actors::packet::Packet;
use actors::shard::raft_log::Place;
use actors::shard::replica::{Write, carries_image};
use actors::shard::state::State;
use actors::shard::wire;
use raft::eraftpb::{ConfState, Message, Snapshot};

use crate::around::{Around, At, Event, Plant};
use crate::disk::{Checkpoint, Image, Order};
use crate::host::{Hosted, Lane, Node, place_of, set_timeout};

/// Entries applied without any mailbox changing before a checkpoint moves its index on.
const QUIET_ENTRIES: u64 = 256;
/// Raft's own message, the head and all pairs, in one packet.
type Piece = (Vec<u8>, Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

/// Where a shard stands with its checkpoints.
pub(crate) struct Storing {
    durable: u64,
    /// Counts the checkpoints taken over: what was read of one before is of no use.
    life: u64,
    running: Option<Running>,
    wanted: bool,
    /// Raft's messages for nodes that are sent a checkpoint.
    transfers: BTreeMap<NodeId, Message>,
    arrival: Option<Arrival>,
    /// Writes held back until the image of a checkpoint that is being taken over is on disk.
    pub(crate) held: Vec<Write>,
}

struct Running {
    at: Place,
    members: ConfState,
    saved: Vec<(UserId, Number)>,
}

/// A checkpoint that came in.
struct Arrival {
    number: u64,
    message: Message,
    image: Image,
    handed: bool,
    finishing: bool,
}

impl Storing {
    pub(crate) const fn new(durable: u64) -> Self {
        Self {
            durable,
            life: 0,
            running: None,
            wanted: false,
            transfers: BTreeMap::new(),
            arrival: None,
            held: Vec::new(),
        }
    }
}

impl Node {
    /// Something that takes the disk a while. What changes checkpoints is done in order.
    pub(crate) fn disk_does(&mut self, at: At, around: &mut Around) {
        let slow = around.chance.one_in(around.slow_once_in());
        let (from, to) = if slow { (20_000, 800_000) } else { (500, 10_000) };
        let mut when = around.now + around.chance.between(from, to);
        if let At::Stored(..) | At::Imported(..) = at {
            when = when.max(self.written_at + 1);
            self.written_at = when;
        }
        around.at(when, Event::Node(self.place, self.boot, at));
    }

    /// The disk has done it; the lane is told.
    pub(crate) fn disk_did(&mut self, at: At, around: &mut Around) {
        let disk = &mut around.disks[self.place];
        match at {
            At::Stored(shard, checkpoint) => {
                let index = checkpoint.at.index;
                disk.checkpoint(shard, *checkpoint);
                self.tell_lane(Lane::Stored(shard, index));
            }
            At::Export(shard, to) => self.tell_lane(Lane::Export(shard, to)),
            At::Imported(shard, number) => {
                let arrival = self.shards[&shard].storing.arrival.as_ref();
                if let Some(arrival) = arrival.filter(|a| a.number == number && a.finishing) {
                    disk.install(shard, arrival.image.clone());
                }
                self.tell_lane(Lane::Imported(shard, number));
            }
            At::Head(shard, life, user, chunks) => {
                match disk.load(shard, &image::head_keys(&user, chunks)) {
                    Some(head) => self.disk_does(At::Rest(shard, life, user, head), around),
                    None => self.tell_lane(Lane::Warmed(shard, life, user, None)),
                }
            }
            At::Rest(shard, life, user, head) => {
                let read = Opening::new(user.clone(), &head).ok().and_then(|opening| {
                    let values = disk.load(shard, &opening.keys())?;
                    opening.finish(&values).ok()
                });
                self.tell_lane(Lane::Warmed(shard, life, user, read.map(Box::new)));
            }
            At::LoadRun(shard, user, run, read) => {
                around.counts.runs += 1;
                let run = disk.load(shard, &[image::log_key(&user, run)]);
                let entries = run.map_or(Vec::new(), |run| image::entries(&run[0]).unwrap());
                self.tell_lane(Lane::RunRead(shard, user, entries, read));
            }
            other => panic!("not the disk's: {other:?}"),
        }
    }

    /// Checkpoints a shard when it is its turn.
    pub(crate) fn checkpoint_some(&mut self, shard: ShardId, around: &mut Around) {
        let due = around.chance.one_in(30);
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        hosted.storing.wanted |= hosted.replica.wants_checkpoint();
        if !due && !hosted.storing.wanted {
            return;
        }
        if let Some(checkpoint) = checkpoint(hosted) {
            if around.plant == Plant::CompactsEarly {
                let start = hosted.replica.compact(checkpoint.at.index);
                self.write(vec![(shard, Order::Compact(start))], around);
            }
            self.disk_does(At::Stored(shard, Box::new(checkpoint)), around);
        }
    }

    /// A checkpoint is durable: what it holds may leave the log and the memory.
    pub(crate) fn stored(&mut self, shard: ShardId, index: u64, around: &mut Around) {
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let Some(Running { at, members, saved }) = hosted.storing.running.take() else { return };
        // The log of one that takes another over begins elsewhere already, though its disk does not know yet.
        let late = hosted.replica.is_installing() && around.plant != Plant::StoresLate;
        if at.index != index || late {
            return;
        }
        hosted.storing.durable = index;
        hosted.replica.state_mut().checkpointed(&saved);
        hosted.replica.checkpointed(at, members);
        let before = hosted.replica.log().first();
        let start = hosted.replica.compact(index.saturating_sub(around.tail()));
        around.counts.compactions += u64::from(start.index >= before);
        self.write(vec![(shard, Order::Compact(start))], around);
    }

    /// Lets mailboxes without an actor leave memory.
    pub(crate) fn cool_some(&mut self, around: &mut Around) {
        if !around.chance.one_in(40) {
            return;
        }
        let bytes = [1, usize::MAX][around.chance.below(2)];
        let (desks, users) = (&self.desks, &self.users);
        for hosted in self.shards.values_mut() {
            // What a checkpoint on its way holds is not on disk yet.
            if hosted.storing.running.is_none() || around.plant == Plant::CoolsEarly {
                let keep = |user: &UserId| desks.contains_key(user) || users.contains_key(user);
                hosted.replica.state_mut().cool(bytes, keep);
            }
        }
    }

    /// Reads a mailbox that is only on disk.
    pub(crate) fn load(&mut self, shard: ShardId, user: UserId, chunks: u16, around: &mut Around) {
        if self.loading.insert(user.clone()) {
            let life = self.shards[&shard].storing.life;
            self.disk_does(At::Head(shard, life, user, chunks), around);
        }
    }

    /// A mailbox was read: whoever waits for it goes on.
    pub(crate) fn warmed(
        &mut self,
        shard: ShardId,
        life: u64,
        user: &UserId,
        read: Option<Box<(Mailbox, Stored)>>,
        around: &mut Around,
    ) {
        self.loading.remove(user);
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let late = life != hosted.storing.life && around.plant != Plant::WarmsLate;
        // One that was read of the checkpoint before is read again, if it is still wanted.
        if let Some(read) = read.filter(|_| !late) {
            around.counts.loads += 1;
            let (mailbox, stored) = *read;
            hosted.replica.state_mut().warm(user.clone(), mailbox, stored);
        } else {
            assert!(late, "{user} can be read");
        }
        let mut out = Vec::new();
        hosted.home.fetch_warmed(&hosted.replica, user, &mut out);
        let waited = hosted.home.warmed(user);
        self.carry_out(shard, out, around);
        for ask in waited {
            self.ask(ask, around);
        }
        self.touch(shard);
    }

    /// Reads all mailboxes at once, to look at them.
    pub(crate) fn warm_all(&mut self, around: &Around) {
        let disk = &around.disks[self.place];
        for (shard, hosted) in &mut self.shards {
            // Meanwhile the disk is ahead of the state.
            if hosted.replica.is_installing() {
                continue;
            }
            let state = hosted.replica.state_mut();
            let users: Vec<UserId> = state.users().cloned().collect();
            for user in users.into_iter().filter(|user| !self.loading.contains(user)) {
                let Some(chunks) = state.cold(&user) else { continue };
                let head = disk.load(*shard, &image::head_keys(&user, chunks)).unwrap();
                let opening = Opening::new(user.clone(), &head).unwrap();
                let values = disk.load(*shard, &opening.keys()).unwrap();
                let (mailbox, stored) = opening.finish(&values).unwrap();
                state.warm(user, mailbox, stored);
            }
        }
    }

    /// Raft wants these checkpoints sent.
    pub(crate) fn start_transfers(
        &mut self,
        shard: ShardId,
        messages: Vec<Message>,
        around: &mut Around,
    ) {
        for message in messages {
            let node = ReplicaId(message.to).node();
            let Some(hosted) = self.shards.get_mut(&shard) else { return };
            hosted.storing.transfers.insert(node, message);
            self.disk_does(At::Export(shard, node), around);
        }
    }

    /// A checkpoint was read: it goes to the node that needs it.
    pub(crate) fn export(&mut self, shard: ShardId, to: NodeId, around: &mut Around) {
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let Some(message) = hosted.storing.transfers.remove(&to) else { return };
        let at = place_in(message.get_snapshot());
        let image = around.disks[self.place].image(shard).filter(|image| image.at == at);
        let piece = image.map(|image| {
            let head = match around.plant {
                Plant::SendsHalf => State::new(shard, around.shards).checkpoint().0,
                _ => image.head.clone(),
            };
            let mut pairs: Vec<_> = image.pairs.clone().into_iter().collect();
            if around.plant == Plant::SkipsMailbox {
                let head = pairs.iter().position(|(key, _)| image::head_of(key).is_some());
                head.map(|head| pairs.remove(head));
            }
            let piece: Piece = (wire::encode(&message).to_vec(), head, pairs);
            Packet::Snapshot(shard, codec::encode(&piece).into())
        });
        let sent = piece.is_some_and(|piece| self.send(place_of(to), 2, vec![piece], around));
        if let Some(hosted) = self.shards.get_mut(&shard) {
            hosted.replica.snapshot_sent(to, sent);
        }
        self.touch(shard);
    }

    /// A checkpoint came over a link.
    pub(crate) fn piece_came(&mut self, from: NodeId, shard: ShardId, bytes: &[u8]) {
        let (message, head, pairs): Piece = codec::decode(bytes).unwrap();
        let message = wire::decode(&message).unwrap();
        assert!(carries_image(&message), "it is about a checkpoint");
        if self.present.get(&from) == Some(&ReplicaId(message.from)) {
            let at = place_in(message.get_snapshot());
            let members = message.get_snapshot().get_metadata().get_conf_state().clone();
            let image = Image { at, members, head, pairs: pairs.into_iter().collect() };
            self.tell_lane(Lane::Piece(shard, message, image));
        }
    }

    pub(crate) fn piece(
        &mut self,
        shard: ShardId,
        message: Message,
        image: Image,
        around: &mut Around,
    ) {
        let undecided = self.due.contains(&shard);
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let complete = |a: &Arrival| a.finishing || (a.handed && undecided);
        if hosted.replica.is_installing() || hosted.storing.arrival.as_ref().is_some_and(complete) {
            return;
        }
        let number = around.order();
        let (handed, finishing) = (false, false);
        hosted.storing.arrival = Some(Arrival { number, message, image, handed, finishing });
        self.disk_does(At::Imported(shard, number), around);
    }

    /// The disk has done a step: Raft is asked whether it wants the checkpoint, or it is this shard's own now.
    pub(crate) fn imported(&mut self, shard: ShardId, number: u64, around: &mut Around) {
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let Some(arrival) = &mut hosted.storing.arrival else { return };
        if arrival.number != number {
            return;
        }
        if arrival.finishing {
            around.counts.installs += 1;
            let mut state = around.disks[self.place].state(shard, around.shards);
            state.set_large(around.large());
            hosted.storing.arrival = None;
            (hosted.storing.durable, hosted.storing.running) = (state.applied().0, None);
            hosted.storing.life += 1;
            hosted.replica.installed(state);
        } else {
            arrival.handed = true;
            hosted.replica.step(arrival.message.clone());
            set_timeout(self.place, hosted, around.seed);
        }
        self.touch(shard);
    }

    /// Raft takes the checkpoint that came in.
    pub(crate) fn install(&mut self, shard: ShardId, snapshot: &Snapshot, around: &mut Around) {
        let hosted = self.shards.get_mut(&shard).expect("it takes part");
        let arrival = hosted.storing.arrival.as_mut().expect("it came in");
        assert_eq!(arrival.image.at, place_in(snapshot), "the one Raft was told of");
        arrival.finishing = true;
        let number = arrival.number;
        self.disk_does(At::Imported(shard, number), around);
    }
}

fn place_in(snapshot: &Snapshot) -> Place {
    let metadata = snapshot.get_metadata();
    Place { index: metadata.index, term: metadata.term }
}

/// What a checkpoint of this shard must write now, if it needs one and none is on its way.
fn checkpoint(hosted: &mut Hosted) -> Option<Checkpoint> {
    let storing = &hosted.storing;
    let state = hosted.replica.state();
    let (index, term) = state.applied();
    let quiet = index < storing.durable + QUIET_ENTRIES && !storing.wanted;
    let busy = storing.running.is_some()
        || !storing.transfers.is_empty()
        || hosted.replica.is_installing()
        || hosted.replica.lacks_state();
    if busy || index == storing.durable || (quiet && !state.is_dirty()) {
        return None;
    }
    hosted.storing.wanted = false;
    let (at, members) = (Place { index, term }, hosted.replica.members().clone());
    let (head, changes, saved) = hosted.replica.state_mut().checkpoint();
    hosted.storing.running = Some(Running { at, members: members.clone(), saved });
    Some(Checkpoint { at, members, head, changes })
}
