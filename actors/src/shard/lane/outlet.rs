//! Outlet: collects what a lane has for other nodes and for sessions, and sends it off together.

use std::collections::{BTreeMap, BTreeSet};

use ractor::ActorRef;
use raft::eraftpb::{Message, MessageType};

use super::Msg;
use super::backlog::Backlog;
use crate::cluster::{Class, Refused};
use crate::group::Roster;
use crate::ids::{NodeId, ReplicaId, SessionId, ShardId};
use crate::message::Entry;
use crate::packet::{Packet, Push, Tell, ToSession};
use crate::router::Router;
use crate::shard::wire;

/// Bytes of posts in one packet, about.
const POSTS_BYTES: usize = 64 * 1024;

#[derive(Default)]
struct Load {
    control: Vec<Packet>,
    normal: Vec<Packet>,
    /// Posts that are to be there before what is `normal`.
    posts: Vec<Entry>,
}

/// What waits to leave a lane.
pub(super) struct Outlet {
    router: Router,
    lane: ActorRef<Msg>,
    loads: BTreeMap<NodeId, Load>,
    backlogs: BTreeMap<NodeId, Backlog>,
}

impl Outlet {
    pub(super) fn new(router: Router, lane: ActorRef<Msg>) -> Self {
        Self { router, lane, loads: BTreeMap::new(), backlogs: BTreeMap::new() }
    }

    /// Raft's messages of one shard.
    pub(super) fn raft(&mut self, shard: ShardId, messages: Vec<Message>) {
        for message in messages {
            let load = self.loads.entry(ReplicaId(message.to).node()).or_default();
            let packet = Packet::Raft(shard, wire::encode(&message));
            match message.get_msg_type() {
                MessageType::MsgAppend | MessageType::MsgAppendResponse => load.normal.push(packet),
                _ => load.control.push(packet),
            }
        }
    }

    /// Something for a session, wherever its socket is.
    pub(super) fn tell(&mut self, session: SessionId, tell: Tell) {
        let to = ToSession { session, tell };
        if session.node == self.router.me() {
            self.router.tell(to);
        } else {
            let normal = &mut self.loads.entry(session.node).or_default().normal;
            let alone = match normal.last_mut() {
                Some(last) => Push::join(last, to),
                None => Some(to),
            };
            normal.extend(alone.map(Packet::Session));
        }
    }

    /// Something for the leader of another shard; lost when there is none, and sent again by its owner.
    pub(super) fn leader(&mut self, shard: ShardId, packet: Packet) {
        let Some((_, leader)) = self.router.leader(shard) else { return };
        self.replica(leader, shard, packet);
    }

    /// Something for a shard on one node; may be lost.
    pub(super) fn replica(&mut self, node: NodeId, shard: ShardId, packet: Packet) {
        if node != self.router.me() {
            self.loads.entry(node).or_default().normal.push(packet);
            return;
        }
        let lanes = self.router.lanes();
        let lane = lanes.get(usize::from(shard.0) % lanes.len().max(1)).unwrap_or(&self.lane);
        let _stopping = lane.cast(Msg::Packets(node, vec![packet]));
    }

    /// A post for the nodes that lead these members' shards, once for each.
    pub(super) fn show(&mut self, roster: &Roster, post: &Entry) {
        let leaders = roster.iter().filter_map(|(shard, _)| self.router.leader(*shard));
        let nodes: BTreeSet<NodeId> = leaders.map(|(_, leader)| leader).collect();
        for node in nodes.into_iter().filter(|node| *node != self.router.me()) {
            self.loads.entry(node).or_default().posts.push(post.clone());
        }
    }

    /// Something for all lanes of a node that may be lost.
    pub(super) fn node(&mut self, node: NodeId, packet: Packet) {
        if node != self.router.me() {
            self.loads.entry(node).or_default().normal.push(packet);
            return;
        }
        for lane in self.router.lanes() {
            let _stopping = lane.cast(Msg::Packets(node, vec![packet.clone()]));
        }
    }

    /// Sends everything; answers whose Raft messages were lost with a link.
    pub(super) fn flush(&mut self) -> Vec<(ShardId, NodeId)> {
        let mut lost = Vec::new();
        // First what waits already: it is older, and a busy link would never get to it.
        for (node, backlog) in &mut self.backlogs {
            backlog.send(|packets| self.router.send(*node, Class::Normal, packets));
        }
        for (node, load) in std::mem::take(&mut self.loads) {
            let Load { mut control, mut normal, posts } = load;
            if !posts.is_empty() {
                normal.splice(0..0, packed(posts));
            }
            let backlog = self.backlogs.entry(node).or_default();
            if !backlog.is_empty() {
                control.extend(backlog.put(take_sessions(&mut normal)));
            }
            for (class, mut packets) in [(Class::Control, control), (Class::Normal, normal)] {
                if packets.is_empty() {
                    continue;
                }
                let Err(refused) = self.router.send(node, class, &packets) else { continue };
                // Invariant: pages, batches and parcels are bounded far below what a link carries. What was too long all
                // the same is gone, and counted by the link.
                debug_assert_ne!(refused, Refused::TooLong);
                if refused == Refused::NoCredit {
                    let no_room = backlog.put(take_sessions(&mut packets));
                    let _no_link = self.router.send(node, Class::Control, &no_room);
                }
                lost.extend(packets.iter().filter_map(raft_of).map(|shard| (shard, node)));
            }
        }
        lost
    }

    /// Whether something waits for a link to take more.
    pub(super) fn is_waiting(&self) -> bool {
        self.backlogs.values().any(|backlog| !backlog.is_empty())
    }
}

/// Puts posts into packets that a link carries.
fn packed(posts: Vec<Entry>) -> Vec<Packet> {
    let mut packets: Vec<Vec<Entry>> = Vec::new();
    let mut bytes = 0;
    for post in posts {
        bytes += post.weight();
        match packets.last_mut() {
            Some(last) if bytes <= POSTS_BYTES => last.push(post),
            _ => {
                bytes = post.weight();
                packets.push(vec![post]);
            }
        }
    }
    packets.into_iter().map(Packet::Posts).collect()
}

/// Takes out what is for sessions.
fn take_sessions(packets: &mut Vec<Packet>) -> Vec<Packet> {
    let is_for_them = |packet: &mut Packet| matches!(packet, Packet::Session(_) | Packet::Push(_));
    let mut taken = Vec::new();
    for packet in packets.extract_if(.., is_for_them) {
        match packet {
            Packet::Push(push) => taken.extend(push.each().map(Packet::Session)),
            packet => taken.push(packet),
        }
    }
    taken
}

const fn raft_of(packet: &Packet) -> Option<ShardId> {
    match packet {
        Packet::Raft(shard, _) => Some(*shard),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::frame::PACKET_BYTES_MAX;
    use crate::codec;
    use crate::ids::{BootId, Cid, Conversation, DeviceId, Epoch, Kind, MessageId, Number, Seq};
    use crate::ids::{Timestamp, UserId};
    use crate::mailbox::log::page;
    use crate::message::{Content, Entry, Position, Resumed, What};
    use crate::packet::Start;
    use crate::user::rules::{Input, Limits, Output, User};

    const SESSION: SessionId = SessionId { node: NodeId(1), boot: BootId(u64::MAX), count: 1 };

    fn entry(n: u64, body: usize, client: usize) -> Entry {
        let name = "x".repeat(64);
        let content = Content {
            kind: Kind::parse(&name).unwrap(),
            body: "x".repeat(body).into(),
            reply_to: Some(MessageId(u128::MAX)),
            client: Some("x".repeat(client).into()),
        };
        let what = What::Sent {
            mid: MessageId(u128::MAX),
            conv: Conversation::User(UserId::parse(&name).unwrap()),
            seq: Seq(u64::MAX),
            at: Timestamp(u64::MAX),
            cid: Cid::parse(&name).unwrap(),
            device: DeviceId::parse(&name[..32]).unwrap(),
            content: Arc::new(content),
        };
        Entry { n: Number(n), at: Timestamp(u64::MAX), what }
    }

    /// What a session that lacks these entries is told, when they come and when they are read.
    fn told(entries: Vec<Entry>) -> Vec<Tell> {
        let (limits, life) = (Limits { window: u16::MAX, ..Limits::default() }, u32::MAX);
        let bytes = usize::try_from(limits.page_bytes).unwrap();
        let read = page(entries.iter(), Number(0), entries.len(), bytes);
        let (mut user, mut out) = (User::new(limits), Vec::new());
        let position = Position {
            epoch: Epoch(1),
            from: Number(0),
            head: Number(0),
            resumed: Resumed::NotAsked,
        };
        let attach = Input::Attach {
            session: SESSION,
            life,
            device: DeviceId::parse("phone").unwrap(),
            since: Timestamp(1),
            start: Start::Device,
            position,
            acked: Number(0),
        };
        user.handle(attach, &mut out);
        user.handle(Input::Logged { entries }, &mut out);
        let pushed = out.into_iter().filter_map(|output| match output {
            Output::Tell(_, tell) => Some(tell),
            _ => None,
        });
        pushed.chain([Tell::Entries { life, entries: read, head: Number(u64::MAX) }]).collect()
    }

    #[test]
    fn what_a_session_is_told_at_once_fits_a_link_many_times_over() {
        // Entries as long as the protocol allows, and short ones whose bytes are most more than they weigh.
        for (body, client) in [(32 * 1024, 1024), (0, 0)] {
            let entries: Vec<Entry> = (1..=2_000).map(|n| entry(n, body, client)).collect();
            let told = told(entries);
            assert!(told.iter().filter(|tell| matches!(tell, Tell::Entries { .. })).count() == 2);
            for tell in told {
                let packet = Packet::Session(ToSession { session: SESSION, tell });
                let bytes = codec::encode(&packet).len();
                assert!(bytes < PACKET_BYTES_MAX / 32, "{bytes} bytes");
            }
        }
    }
}
