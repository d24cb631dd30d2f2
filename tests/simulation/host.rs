//! Host: one start of a node around the real rules; the order of calls is that of the lane.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use actors::birth::rules::{Effect, Note, Rules};
use actors::codec;
use actors::group::Roster;
use actors::ids::{
    BootId, DeviceId, Incarnation, NodeId, ReplicaId, SessionId, ShardId, Timestamp, UserId,
};
use actors::mailbox::desk::{self, Desk};
use actors::mailbox::image::Stored;
use actors::mailbox::rules::{Mailbox, Policy};
use actors::message::{Entry, Refusal};
use actors::packet::{Beat, Packet, Push, Question, Tell, ToHome, ToSession};
use actors::router::middle::Clocks;
use actors::session::{Limits, Output as Told, RequestRef, Session};
use actors::shard::home::{For, Home, Quota};
use actors::shard::posts::Posts;
use actors::shard::replica::{Pace, Replica, Role};
use actors::user::rules::{self as user, User};
use raft::eraftpb::{ConfState, Message};

use crate::around::{Around, At, Clock, Event, Plant, Up};
use crate::chance::mix;
use crate::disk::Image;
use crate::storing::Storing;

pub(crate) const TICK: u64 = 50_000;
pub(crate) const BEAT: u64 = 150_000;

pub(crate) struct Hosted {
    pub(crate) replica: Replica,
    pub(crate) home: Home,
    pub(crate) role: Role,
    pub(crate) storing: Storing,
}

/// What the lane has been told and not yet done.
pub(crate) enum Lane {
    Ask(ToHome),
    Packets(NodeId, Vec<Packet>),
    Raft(ShardId, Message),
    Written(Vec<(ShardId, u64)>),
    Desk(ShardId, u64, UserId, Vec<desk::Output>),
    User(ShardId, u64, UserId, Vec<user::Output>),
    Tick,
    Flush,
    LinkDown(NodeId),
    LinkUp,
    HomeMoved(ShardId),
    Transfer(ShardId, NodeId),
    Stored(ShardId, u64),
    Export(ShardId, NodeId),
    Piece(ShardId, Message, Image),
    Imported(ShardId, u64),
    Warmed(ShardId, u64, UserId, Option<Box<(Mailbox, Stored)>>),
    RunRead(ShardId, UserId, Vec<Entry>, For),
}

pub(crate) struct DeskActor {
    pub(crate) id: u64,
    pub(crate) shard: ShardId,
    pub(crate) term: u64,
    pub(crate) desk: Desk,
    pub(crate) inbox: VecDeque<desk::Input>,
    pub(crate) sent: u64,
}

pub(crate) struct UserActor {
    pub(crate) shard: ShardId,
    pub(crate) term: u64,
    pub(crate) user: User,
    pub(crate) inbox: VecDeque<user::Input>,
    pub(crate) sent: u64,
    pub(crate) attached: Vec<(SessionId, u32, DeviceId)>,
}

pub(crate) enum Inbound {
    Tell(Tell),
    HomeMoved(ShardId),
    Up(Up),
    Tick,
}

pub(crate) struct Socket {
    pub(crate) session: Session,
    pub(crate) inbox: VecDeque<Inbound>,
    pub(crate) client: usize,
    pub(crate) connection: u64,
    /// What waits for an answer: the recipient, and the client's round.
    asked: BTreeMap<RequestRef, (UserId, u32)>,
    /// Rounds before these are refused, as a gateway does after a refusal.
    rounds: BTreeMap<UserId, u32>,
}

/// Whose turn it may be; one for each message that waits.
#[derive(Debug, Clone)]
pub(crate) enum Who {
    Lane,
    Desk(UserId),
    User(UserId),
    Socket(u64),
}

/// One start of a node.
pub(crate) struct Node {
    pub(crate) place: usize,
    pub(crate) boot: u64,
    pub(crate) born: u64,
    pub(crate) clock: Clock,
    clocks: Clocks,
    /// Empty until it takes part.
    pub(crate) shards: BTreeMap<ShardId, Hosted>,
    births: Rules,
    /// The replicas of nodes that have shown their births, this node's included.
    pub(crate) present: BTreeMap<NodeId, ReplicaId>,
    pub(crate) leaders: BTreeMap<ShardId, (u64, NodeId)>,
    pub(crate) watchers: BTreeMap<ShardId, BTreeSet<u64>>,
    /// Nodes with a link, and its life.
    pub(crate) peers: BTreeMap<usize, u64>,
    pub(crate) desks: BTreeMap<UserId, DeskActor>,
    pub(crate) users: BTreeMap<UserId, UserActor>,
    pub(crate) sockets: BTreeMap<u64, Socket>,
    pub(crate) lane: VecDeque<Lane>,
    pub(crate) ready: Vec<Who>,
    pub(crate) running: bool,
    pub(crate) flushing: bool,
    pub(crate) announce: bool,
    pub(crate) due: BTreeSet<ShardId>,
    /// Mailboxes that are being read.
    pub(crate) loading: BTreeSet<UserId>,
    /// When the newest change of a checkpoint is on disk.
    pub(crate) written_at: u64,
    pub(crate) loads: BTreeMap<usize, Vec<Packet>>,
    pub(crate) count: u64,
    pub(crate) limits: Arc<Limits>,
    pub(crate) user_limits: user::Limits,
    pub(crate) posts: Posts,
}

/// The node at a place of the cluster's list.
pub(crate) fn node_id(place: usize) -> NodeId {
    NodeId(u16::try_from(place + 1).unwrap())
}

pub(crate) fn place_of(node: NodeId) -> usize {
    usize::from(node.0) - 1
}

impl Node {
    pub(crate) fn start(place: usize, boot: u64, around: &mut Around) -> Self {
        let others = (0..around.disks.len()).filter(|other| *other != place).map(node_id);
        let held = around.disks[place].births.clone();
        let births = Rules::new(node_id(place), BootId(boot), others.collect(), held);
        let window = [4, 16, 256][usize::try_from(around.seed % 3).unwrap()];
        let mut node = Self {
            place,
            boot,
            born: around.now,
            clock: Clock::default(),
            clocks: Clocks::default(),
            shards: BTreeMap::new(),
            births,
            present: BTreeMap::new(),
            leaders: BTreeMap::new(),
            watchers: BTreeMap::new(),
            peers: BTreeMap::new(),
            desks: BTreeMap::new(),
            users: BTreeMap::new(),
            sockets: BTreeMap::new(),
            lane: VecDeque::new(),
            ready: Vec::new(),
            running: false,
            flushing: false,
            announce: false,
            due: BTreeSet::new(),
            loading: BTreeSet::new(),
            written_at: 0,
            loads: BTreeMap::new(),
            count: 0,
            limits: Arc::new(Limits::default()),
            user_limits: user::Limits { window, page_bytes: 4096 },
            posts: Posts::default(),
        };
        node.births(around, Rules::start);
        let (tick, beat) = (around.chance.between(1, TICK), around.chance.between(1, BEAT));
        around.after(tick, Event::Node(place, boot, At::Tick));
        around.after(beat, Event::Node(place, boot, At::Beat));
        node
    }

    /// Something happened that concerns births; what follows is done at once.
    fn births(&mut self, around: &mut Around, act: impl FnOnce(&mut Rules, &mut Vec<Effect>)) {
        let mut out = Vec::new();
        act(&mut self.births, &mut out);
        for effect in out {
            match effect {
                Effect::Keep(births) => around.disks[self.place].births = births,
                Effect::Tell(node, note) => {
                    let note = Packet::Birth(codec::encode(&note).into());
                    self.send(place_of(node), 0, vec![note], around);
                }
                Effect::Vetted(node, Some(incarnation)) => {
                    self.present.insert(node, ReplicaId::of(node, incarnation));
                }
                Effect::Vetted(node, None) => drop(self.present.remove(&node)),
                Effect::Settled(incarnation) => self.host(incarnation, around),
                Effect::Refused(..) | Effect::Superseded(_) => panic!("no lost disk comes back"),
            }
        }
    }

    /// It takes part from now on.
    fn host(&mut self, incarnation: Incarnation, around: &mut Around) {
        let me = ReplicaId::of(node_id(self.place), incarnation);
        self.present.insert(node_id(self.place), me);
        let voters: Vec<u64> = (1..=around.disks.len() as u64).collect();
        for shard in (0..around.shards).map(ShardId) {
            let members = ConfState::from((voters.clone(), Vec::new()));
            let (log, mut state, image) =
                around.disks[self.place].open(shard, around.shards, members);
            state.set_large(around.large());
            let storing = Storing::new(state.applied().0);
            let mut replica = Replica::new(me, log, state, Pace::default());
            if let Some((at, members)) = image {
                replica.checkpointed(at, members);
            }
            let home = Home::new(around.shards, Quota::default(), Policy::default());
            let mut hosted = Hosted { role: replica.role(), replica, home, storing };
            set_timeout(self.place, &mut hosted, around.seed);
            self.shards.insert(shard, hosted);
        }
    }

    /// Something happens on this node; it is only put where it belongs, and done later.
    pub(crate) fn take(&mut self, at: At, around: &mut Around) {
        match at {
            At::Run => self.run(around),
            At::Tick => {
                self.tell_lane(Lane::Tick);
                around.after(TICK, Event::Node(self.place, self.boot, At::Tick));
            }
            At::Beat => {
                self.beat(around);
                self.births(around, Rules::tick);
                around.after(BEAT, Event::Node(self.place, self.boot, At::Beat));
            }
            At::SessionTick(count) => self.put(count, Inbound::Tick),
            At::FlushDue(user, id) => {
                if let Some(actor) = self.desks.get_mut(&user).filter(|actor| actor.id == id) {
                    actor.inbox.push_back(desk::Input::FlushDue);
                    self.ready.push(Who::Desk(user));
                }
            }
            At::Raft(from, shard, bytes) => {
                let message = actors::shard::wire::decode(&bytes).unwrap();
                if self.present.get(&node_id(from)) == Some(&ReplicaId(message.from)) {
                    self.tell_lane(Lane::Raft(shard, message));
                }
            }
            At::Packets(from, _, packets) => self.packets(from, packets, around),
            At::Link(peer, boot, life, up) => {
                self.link(peer, life, up);
                let peer = node_id(peer);
                self.births(around, |births, out| match up {
                    true => births.up(peer, BootId(boot), out),
                    false => births.down(peer, out),
                });
            }
            At::Written(tickets) => self.tell_lane(Lane::Written(tickets)),
            At::Accept(client, connection, user, device, resume) => {
                self.accept(client, connection, around);
                let (now, wall) = (around.span(self.born), around.wall(self.clock));
                self.session(self.count, around, |session, out| {
                    session.authenticate(user, device, resume, wall, now, out);
                });
            }
            At::Socket(connection, up) => {
                let known = self.sockets.iter().find(|(_, s)| s.connection == connection);
                if let Some(count) = known.map(|(count, _)| *count) {
                    self.put(count, Inbound::Up(up));
                }
            }
            At::Transfer(shard, to) => self.tell_lane(Lane::Transfer(shard, node_id(to))),
            At::CrashActors(user) => self.crash_actors(&user),
            at => self.disk_did(at, around),
        }
        if !self.ready.is_empty() && !self.running {
            self.running = true;
            let span = around.chance.between(5, 300);
            around.after(span, Event::Node(self.place, self.boot, At::Run));
        }
    }

    /// Lets actors have their turns, in any order; the world may end between any two.
    fn run(&mut self, around: &mut Around) {
        self.running = false;
        for _ in 0..around.chance.between(1, 40) {
            if self.ready.is_empty() {
                return;
            }
            let at = around.chance.below(self.ready.len());
            match self.ready.swap_remove(at) {
                Who::Lane => {
                    if let Some(message) = self.lane.pop_front() {
                        self.lane_turn(message, around);
                    }
                }
                Who::Desk(user) => self.desk_turn(user, around),
                Who::User(user) => self.user_turn(user),
                Who::Socket(count) => self.socket_turn(count, around),
            }
        }
    }

    pub(crate) fn tell_lane(&mut self, message: Lane) {
        self.lane.push_back(message);
        self.ready.push(Who::Lane);
    }

    pub(crate) fn put(&mut self, count: u64, inbound: Inbound) {
        if let Some(socket) = self.sockets.get_mut(&count) {
            socket.inbox.push_back(inbound);
            self.ready.push(Who::Socket(count));
        }
    }

    fn desk_turn(&mut self, user: UserId, around: &mut Around) {
        let now = around.span(self.born);
        let Some(actor) = self.desks.get_mut(&user) else { return };
        let Some(input) = actor.inbox.pop_front() else { return };
        let mut out = Vec::new();
        actor.desk.handle(now, input, &mut out);
        actor.desk.check();
        let (id, shard, term) = (actor.id, actor.shard, actor.term);
        if around.chance.one_in(20) && actor.desk.is_idle() {
            out.push(desk::Output::Idle { handled: actor.desk.handled() });
        }
        out.retain(|output| {
            if let desk::Output::FlushIn(span) = output {
                let span = u64::try_from(span.as_micros()).unwrap();
                let due = At::FlushDue(user.clone(), id);
                around.after(span, Event::Node(self.place, self.boot, due));
            }
            !matches!(output, desk::Output::FlushIn(_))
        });
        if !out.is_empty() {
            self.tell_lane(Lane::Desk(shard, term, user, out));
        }
    }

    fn user_turn(&mut self, user: UserId) {
        let Some(actor) = self.users.get_mut(&user) else { return };
        let Some(input) = actor.inbox.pop_front() else { return };
        let mut out = Vec::new();
        actor.user.handle(input, &mut out);
        actor.user.check();
        let (shard, term) = (actor.shard, actor.term);
        if !out.is_empty() {
            self.tell_lane(Lane::User(shard, term, user, out));
        }
    }

    fn accept(&mut self, client: usize, connection: u64, around: &mut Around) {
        self.count += 1;
        let id =
            SessionId { node: node_id(self.place), boot: BootId(self.boot), count: self.count };
        let session = Session::new(id, around.shards, Arc::clone(&self.limits));
        let (inbox, asked, rounds) = (VecDeque::new(), BTreeMap::new(), BTreeMap::new());
        let socket = Socket { session, inbox, client, connection, asked, rounds };
        self.sockets.insert(self.count, socket);
        let tick = At::SessionTick(self.count);
        around.after(200_000, Event::Node(self.place, self.boot, tick));
    }

    fn socket_turn(&mut self, count: u64, around: &mut Around) {
        let Some(socket) = self.sockets.get_mut(&count) else { return };
        let Some(inbound) = socket.inbox.pop_front() else { return };
        let now = around.span(self.born);
        if let Inbound::Tick = inbound {
            let tick = At::SessionTick(count);
            around.after(200_000, Event::Node(self.place, self.boot, tick));
        }
        if let Inbound::Up(Up::Send(request, send, round)) = &inbound {
            let to = send.to.owner();
            if socket.rounds.get(&to).is_some_and(|now| round < now) {
                let result = Err(Refusal::Unavailable);
                let told = Told::Sent { request: *request, result };
                let (client, connection) = (socket.client, socket.connection);
                let frame = Event::Client(client, connection, Box::new(told));
                return around.socket(client, false, frame);
            }
            socket.asked.insert(*request, (to, *round));
        }
        let gone = matches!(inbound, Inbound::Up(Up::Gone));
        self.session(count, around, |session, out| match inbound {
            Inbound::Tell(tell) => session.tell(tell, now, out),
            Inbound::HomeMoved(shard) => session.home_moved(shard, now, out),
            Inbound::Tick if session.needs_tick() => session.tick(now, out),
            Inbound::Tick => {}
            Inbound::Up(Up::Ack(n)) => session.ack(n, out).expect("only what it was sent"),
            Inbound::Up(Up::Read(conv, seq)) => session.read(conv, seq, now, out).unwrap(),
            Inbound::Up(Up::Alive) => session.alive(now, out),
            Inbound::Up(Up::Send(request, send, _)) => session.send(request, send, now, out),
            Inbound::Up(Up::Call(request, group, call)) => {
                let (by, call) = (session.user().cloned().unwrap(), Box::new(call));
                let question = Question::Group { by, call };
                session.question_group(request, &group, question, now, out);
            }
            Inbound::Up(Up::Gone) => session.close(out),
        });
        if gone {
            self.sockets.remove(&count);
            self.watchers.values_mut().for_each(|watchers| {
                watchers.remove(&count);
            });
        }
    }

    fn session(
        &mut self,
        count: u64,
        around: &mut Around,
        act: impl FnOnce(&mut Session, &mut Vec<Told>),
    ) {
        let Some(socket) = self.sockets.get_mut(&count) else { return };
        let mut out = Vec::new();
        act(&mut socket.session, &mut out);
        socket.session.check();
        let (client, connection) = (socket.client, socket.connection);
        let mut out = VecDeque::from(out);
        let now = around.span(self.born);
        while let Some(output) = out.pop_front() {
            match output {
                Told::Home(ask) => {
                    let shard = ask.shard;
                    if !self.home(ask, around)
                        && let Some(socket) = self.sockets.get_mut(&count)
                    {
                        let mut more = Vec::new();
                        socket.session.home_failed(shard, now, &mut more);
                        out.extend(more);
                    }
                }
                Told::Watch(shard) => {
                    self.watchers.entry(shard).or_default().insert(count);
                }
                Told::Unwatch(shard) => {
                    self.watchers.entry(shard).or_default().remove(&count);
                }
                output => {
                    if let Told::Sent { request, result } = &output
                        && let Some(socket) = self.sockets.get_mut(&count)
                    {
                        socket.answered(*request, result.is_err());
                    }
                    let frame = Event::Client(client, connection, Box::new(output));
                    around.socket(client, false, frame);
                }
            }
        }
    }

    fn home(&mut self, ask: ToHome, around: &mut Around) -> bool {
        let Some((_, leader)) = self.leaders.get(&ask.shard).copied() else { return false };
        if place_of(leader) == self.place {
            self.tell_lane(Lane::Ask(ask));
            return true;
        }
        self.send(place_of(leader), 1, vec![Packet::Home(ask)], around)
    }

    /// Sends over a link, if there is one.
    pub(crate) fn send(
        &self,
        to: usize,
        class: u8,
        packets: Vec<Packet>,
        around: &mut Around,
    ) -> bool {
        let Some(life) = self.peers.get(&to) else { return false };
        let when = around.network.arrival((self.place, to), class, around.now, &mut around.chance);
        // The boot does not matter: the life of the link does.
        around.at(when, Event::Node(to, 0, At::Packets(self.place, *life, packets)));
        true
    }

    pub(crate) fn tell(&mut self, session: SessionId, tell: Tell) {
        if place_of(session.node) != self.place {
            let (load, to) = (
                self.loads.entry(place_of(session.node)).or_default(),
                ToSession { session, tell },
            );
            let alone = match load.last_mut() {
                Some(last) => Push::join(last, to),
                None => Some(to),
            };
            load.extend(alone.map(Packet::Session));
        } else if session.boot == BootId(self.boot) {
            self.put(session.count, Inbound::Tell(tell));
        }
    }

    /// Something for the leader of another shard; lost when there is none.
    pub(crate) fn leader_gets(&mut self, shard: ShardId, packet: Packet, around: &Around) {
        if around.plant == Plant::LosesEnvelopes && matches!(packet, Packet::Envelopes { .. }) {
            return;
        }
        let Some((_, leader)) = self.leaders.get(&shard).copied() else { return };
        self.node_gets(leader, packet);
    }

    /// Something for the lane of a node.
    pub(crate) fn node_gets(&mut self, node: NodeId, packet: Packet) {
        if place_of(node) == self.place {
            self.tell_lane(Lane::Packets(node, vec![packet]));
        } else {
            self.loads.entry(place_of(node)).or_default().push(packet);
        }
    }

    /// A post for the nodes that lead its readers' shards; some never hear of it, and have to fetch it.
    pub(crate) fn show(&mut self, roster: &Roster, post: &Entry, around: &mut Around) {
        let leaders = roster.iter().filter_map(|(shard, _)| self.leaders.get(shard));
        let nodes: BTreeSet<NodeId> = leaders.map(|(_, leader)| *leader).collect();
        for node in nodes.into_iter().filter(|node| place_of(*node) != self.place) {
            if !around.chance.one_in(3) {
                let packet = Packet::Posts(vec![post.clone()]);
                self.loads.entry(place_of(node)).or_default().push(packet);
            }
        }
    }

    fn deliver(&mut self, to: ToSession) {
        if to.session.boot == BootId(self.boot) {
            self.put(to.session.count, Inbound::Tell(to.tell));
        }
    }

    fn packets(&mut self, from: usize, packets: Vec<Packet>, around: &mut Around) {
        let mut for_lane = Vec::new();
        for packet in packets {
            match packet {
                Packet::Session(to) => self.deliver(to),
                Packet::Push(push) => {
                    push.each().for_each(|to| self.deliver(to));
                }
                Packet::Beat(beat) => {
                    self.clocks.heard(node_id(from), beat.wall, around.span(self.born));
                    for (shard, term) in beat.leads {
                        self.heard(shard, term, node_id(from));
                    }
                }
                Packet::Birth(note) => {
                    let note: Note = codec::decode(&note).unwrap();
                    self.births(around, |births, out| births.note(node_id(from), note, out));
                }
                Packet::Snapshot(shard, bytes) => self.piece_came(node_id(from), shard, &bytes),
                Packet::Posts(posts) => self.posts.put(&posts),
                packet => for_lane.push(packet),
            }
        }
        if !for_lane.is_empty() {
            self.tell_lane(Lane::Packets(node_id(from), for_lane));
        }
    }

    /// Takes note that a node serves a shard in a term. The newest term wins.
    pub(crate) fn heard(&mut self, shard: ShardId, term: u64, node: NodeId) {
        if self.leaders.get(&shard).is_none_or(|(known, _)| *known < term) {
            self.leaders.insert(shard, (term, node));
            self.moved(shard);
        }
    }

    fn moved(&mut self, shard: ShardId) {
        for count in self.watchers.get(&shard).cloned().unwrap_or_default() {
            self.put(count, Inbound::HomeMoved(shard));
        }
        self.tell_lane(Lane::HomeMoved(shard));
    }

    fn link(&mut self, peer: usize, life: u64, up: bool) {
        if up {
            self.peers.insert(peer, life);
            let led = self.leaders.iter().filter(|(_, (_, leader))| *leader == node_id(peer));
            let led: Vec<ShardId> = led.map(|(shard, _)| *shard).collect();
            led.into_iter().for_each(|shard| self.moved(shard));
            self.tell_lane(Lane::LinkUp);
        } else {
            self.peers.remove(&peer);
            self.clocks.lost(node_id(peer));
            self.tell_lane(Lane::LinkDown(node_id(peer)));
        }
    }

    /// The time a leader goes by.
    pub(crate) fn agreed(&self, around: &Around) -> Timestamp {
        self.clocks.agreed(around.wall(self.clock), around.span(self.born))
    }

    pub(crate) fn beat(&mut self, around: &mut Around) {
        let me = node_id(self.place);
        let serves = |shard: &ShardId| self.shards.get(shard).is_some_and(|h| h.role.serves);
        let led = self.leaders.iter().filter(|(shard, (_, node))| *node == me && serves(shard));
        let leads = led.map(|(shard, (term, _))| (*shard, *term)).collect();
        let beat = Beat {
            boot: BootId(self.boot),
            wall: around.wall(self.clock),
            leads,
            sessions: 0,
            version: "".into(),
            draining: false,
            pid: 0,
            health: Vec::new(),
        };
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.send(peer, 0, vec![Packet::Beat(beat.clone())], around);
        }
    }

    /// The actors of a user fail: their sessions are told, and all else is forgotten.
    fn crash_actors(&mut self, user: &UserId) {
        self.desks.remove(user);
        let Some(gone) = self.users.remove(user) else { return };
        for (session, life, _) in gone.attached {
            self.tell(session, Tell::Closed { life, why: actors::packet::Closed::Lost });
        }
        self.schedule();
    }

    pub(crate) fn schedule(&mut self) {
        if !self.flushing {
            self.flushing = true;
            self.tell_lane(Lane::Flush);
        }
    }
}

impl Socket {
    fn answered(&mut self, request: RequestRef, refused: bool) {
        if let Some((to, round)) = self.asked.remove(&request).filter(|_| refused) {
            let now = self.rounds.entry(to).or_default();
            *now = (*now).max(round + 1);
        }
    }
}

/// When the next election is due is a pure function of seed, term, node and shard.
pub(crate) fn set_timeout(place: usize, hosted: &mut Hosted, seed: u64) {
    let shard = u64::from(hosted.replica.shard().0);
    let term = hosted.replica.role().term;
    let chance = mix(seed ^ mix(term << 24 | shard << 8 | place as u64));
    hosted.replica.set_election_timeout(10 + usize::try_from(chance % 10).unwrap());
}
