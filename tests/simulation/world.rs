//! World: a whole cluster, its clients and its misfortunes, in one thread and from one seed.

use actors::ids::{DeviceId, ReplicaId, ShardId, UserId, shard_of};

use crate::around::{Around, At, Clock, Counts, Event, Minority, Plant};
use crate::chance::mix;
use crate::clients::{Client, Line};
use crate::host::{Node, node_id};

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;
/// After healing, everything must have arrived within this time, also at a client that takes four entries at a time.
const DRAINED_WITHIN: u64 = 90 * SECOND;

/// What a run has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) steps: u64,
    pub(crate) virtual_us: u64,
    pub(crate) sends: usize,
    pub(crate) trace: u64,
    pub(crate) counts: Counts,
}

pub(crate) struct World {
    around: Around,
    nodes: Vec<Option<Node>>,
    clocks: Vec<Clock>,
    boots: u64,
    births: u128,
    /// A paused node keeps what comes.
    paused: Vec<Option<Vec<Event>>>,
    clients: Vec<Client>,
    users: Vec<UserId>,
    healed: bool,
    steps: u64,
}

/// Runs one seed to its end; panics when a promise is broken.
pub(crate) fn run(seed: u64, plant: Plant) -> Report {
    let mut world = World::new(seed, plant);
    let faults = world.around.chance.between(12, 25) * SECOND;
    world.until(faults, |_| false);
    world.heal();
    let drained = world.until(faults + DRAINED_WITHIN, World::is_drained);
    if !drained {
        world.explain();
        panic!("not drained within {DRAINED_WITHIN} microseconds");
    }
    world.around.oracle.at_the_end();
    Report {
        steps: world.steps,
        virtual_us: world.around.now,
        sends: world.around.oracle.sendings.len(),
        trace: mix(world.around.oracle.trace ^ world.steps ^ world.around.now),
        counts: world.around.counts,
    }
}

impl World {
    fn new(seed: u64, plant: Plant) -> Self {
        let shape = mix(seed);
        let nodes = [3, 3, 3, 3, 3, 3, 5, 1][usize::try_from(shape % 8).unwrap()];
        let shards = 2 + u16::try_from((shape >> 8) % 3).unwrap();
        let mut around = Around::new(seed, nodes, shards, plant);
        around.network.loss_in_1000 = [0, 10, 100][usize::try_from((shape >> 16) % 3).unwrap()];
        let users: Vec<UserId> =
            (0..4).map(|user| UserId::parse(&format!("u{user}")).unwrap()).collect();
        let mut clients = Vec::new();
        for (at, user) in users.iter().enumerate() {
            for device in 0..1 + at % 2 {
                let device = DeviceId::parse(&format!("d{device}")).unwrap();
                clients.push(Client::new(clients.len(), user.clone(), device));
            }
        }
        for node in 0..nodes {
            around.after(1, Event::Start(node));
        }
        for client in 0..clients.len() {
            around.after(500 * MS, Event::Wake(client));
        }
        around.after(2, Event::Links);
        around.after(2 * SECOND, Event::Fault);
        let paused = (0..nodes).map(|_| None).collect();
        let nodes: Vec<Option<Node>> = (0..nodes).map(|_| None).collect();
        // Clocks go at up to a tenth too fast or too slow.
        let drift = |place: usize| {
            let chance = i64::try_from(mix(seed ^ mix(place as u64)) % 200_001).unwrap();
            Clock { ahead_ms: 0, drift_ppm: chance - 100_000 }
        };
        let clocks = (0..nodes.len()).map(drift).collect();
        Self {
            around,
            births: nodes.len() as u128,
            nodes,
            clocks,
            boots: 0,
            paused,
            clients,
            users,
            healed: false,
            steps: 0,
        }
    }

    fn until(&mut self, end: u64, done: impl Fn(&mut Self) -> bool) -> bool {
        let mut look = self.around.now;
        while self.around.now < end {
            let Some(event) = self.around.next() else { panic!("something always happens") };
            self.steps += 1;
            self.event(event);
            if self.around.now >= look {
                look = self.around.now + 250 * MS;
                if done(self) {
                    return true;
                }
            }
        }
        false
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Node(node, boot, at) => self.node(node, boot, at),
            Event::Synced(node, boot) => self.synced(node, boot),
            Event::Start(node) => self.start(node),
            Event::Resume(node, boot) => self.resume(node, boot),
            Event::Links => self.links(),
            Event::Fault => self.fault(),
            Event::Reunite(since) => {
                if self.around.minority.as_ref().is_some_and(|minority| minority.since == since) {
                    self.reunite();
                }
            }
            Event::Wake(client) => self.wake(client),
            Event::Client(client, connection, frame) => {
                let client = &mut self.clients[client];
                if client.connection == connection {
                    client.hear(*frame, &mut self.around);
                }
            }
            Event::Disconnected(client, connection) => {
                if self.clients[client].connection == connection {
                    self.clients[client].dropped();
                }
            }
        }
    }

    fn node(&mut self, place: usize, boot: u64, at: At) {
        match &at {
            At::Packets(from, life, _)
                if boot == 0 && !self.around.network.passes(*from, place, *life) =>
            {
                return;
            }
            At::Raft(from, ..) if self.around.network.is_cut(*from, place) => return,
            _ => {}
        }
        let Some(node) = self.nodes[place].as_mut().filter(|n| boot == 0 || n.boot == boot) else {
            return;
        };
        if let Some(kept) = &mut self.paused[place] {
            kept.push(Event::Node(place, node.boot, at));
            return;
        }
        self.around.oracle.note(self.around.now ^ (place as u64) << 48);
        node.take(at, &mut self.around);
    }

    fn synced(&mut self, place: usize, boot: u64) {
        if self.nodes[place].as_ref().is_none_or(|node| node.boot != boot) {
            return;
        }
        let (tickets, again) = self.around.disks[place].synced();
        if again {
            self.around.sync(place, boot);
        }
        self.node(place, boot, At::Written(tickets));
    }

    fn start(&mut self, place: usize) {
        if self.nodes[place].is_none() {
            self.boots += 1;
            let mut node = Node::start(place, self.boots, &mut self.around);
            node.clock = self.clocks[place];
            self.nodes[place] = Some(node);
        }
    }

    fn crash(&mut self, place: usize) {
        let Some(node) = self.nodes[place].take() else { return };
        self.paused[place] = None;
        self.around.disks[place].cut(&mut self.around.chance);
        for client in &self.clients {
            if client.connection > 0 && client.node == (place, node.boot) {
                let gone = Event::Disconnected(client.me, client.connection);
                self.around.socket(client.me, false, gone);
            }
        }
        self.break_links();
    }

    fn pause(&mut self, place: usize) {
        let Some(node) = &self.nodes[place] else { return };
        if self.paused[place].is_none() {
            self.paused[place] = Some(Vec::new());
            let span = self.around.chance.between(10 * MS, 4 * SECOND);
            self.around.after(span, Event::Resume(place, node.boot));
        }
    }

    fn resume(&mut self, place: usize, boot: u64) {
        if self.nodes[place].as_ref().is_none_or(|node| node.boot != boot) {
            return;
        }
        for event in self.paused[place].take().unwrap_or_default() {
            self.event(event);
        }
    }

    fn links(&mut self) {
        self.break_links();
        self.around.after(100 * MS, Event::Links);
    }

    fn break_links(&mut self) {
        let alive: Vec<bool> = self.nodes.iter().map(Option::is_some).collect();
        let awake: Vec<bool> = self.paused.iter().map(Option::is_none).collect();
        let mut found = Vec::new();
        let Around { network, chance, now, .. } = &mut self.around;
        for (a, b, life, up) in network.look(*now, &alive, &awake, chance) {
            found.push((a, b, life, up));
        }
        let boot = |nodes: &[Option<Node>], at: usize| nodes[at].as_ref().map_or(0, |n| n.boot);
        for (a, b, life, up) in found {
            let (of_a, of_b) = (boot(&self.nodes, a), boot(&self.nodes, b));
            self.node(a, 0, At::Link(b, of_b, life, up));
            self.node(b, 0, At::Link(a, of_a, life, up));
        }
    }

    fn wake(&mut self, client: usize) {
        let known = |user: &UserId| {
            self.clients.iter().any(|client| client.user == *user && client.is_known())
        };
        let mut to: Vec<UserId> = Vec::new();
        if !self.healed {
            let me = &self.clients[client].user;
            to = self.users.iter().filter(|u| *u != me && known(u)).cloned().collect();
        }
        let boots: Vec<Option<u64>> =
            self.nodes.iter().map(|node| node.as_ref().map(|node| node.boot)).collect();
        self.clients[client].wake(&to, &boots, &mut self.around);
    }

    fn fault(&mut self) {
        if self.healed {
            return;
        }
        let count = self.nodes.len();
        let (one, other) = (self.around.chance.below(count), self.around.chance.below(count));
        match self.around.chance.below(18) {
            0..3 => self.crash_some(&[one]),
            3 => self.crash_some(&[one, other]),
            4 => self.crash_some(&(0..count).collect::<Vec<_>>()),
            5 | 6 => self.pause(one),
            7 => self.around.network.cut(one, other),
            8 => (0..count).for_each(|peer| {
                self.around.network.cut(one, peer);
                self.around.network.cut(peer, one);
            }),
            9 => self.transfer(one, other),
            10 => self.jump(one),
            11 => self.crash_actors(one),
            12 | 13 => self.lose_disk(one),
            14 | 15 => self.cut_off_minority(),
            _ => self.reunite(),
        }
        let span = self.around.chance.between(50 * MS, 2500 * MS);
        self.around.after(span, Event::Fault);
    }

    /// Some nodes, fewer than half, hear nothing of the others, and the others nothing of them.
    fn cut_off_minority(&mut self) {
        let count = self.nodes.len();
        if self.around.minority.is_some() || count < 3 {
            return;
        }
        let (first, size) =
            (self.around.chance.below(count), 1 + self.around.chance.below(count.div_ceil(2) - 1));
        let nodes: Vec<usize> = (first..first + size).map(|place| place % count).collect();
        for one in &nodes {
            for other in (0..count).filter(|other| !nodes.contains(other)) {
                self.around.network.cut(*one, other);
                self.around.network.cut(other, *one);
            }
        }
        let since = self.around.now;
        self.around.minority = Some(Minority { nodes, since });
        let span = self.around.chance.between(SECOND, 8 * SECOND);
        self.around.after(span, Event::Reunite(since));
    }

    fn reunite(&mut self) {
        self.around.minority = None;
        self.around.network.heal();
    }

    fn crash_some(&mut self, places: &[usize]) {
        for place in places {
            self.crash(*place);
            let span = self.around.chance.between(20 * MS, 4 * SECOND);
            self.around.after(span, Event::Start(*place));
        }
    }

    /// A crash that takes the disk with it; only while every other disk is whole, for that is what is promised.
    fn lose_disk(&mut self, place: usize) {
        let mut shards = (0..self.around.shards).map(ShardId);
        if self.nodes.len() < 3 || !shards.all(|shard| self.is_full(shard)) {
            return;
        }
        self.crash(place);
        self.births += 1;
        let old = self.around.disks[place].births.clone();
        self.around.disks[place].lose(self.births);
        if self.around.plant == Plant::ForgetsBirth {
            self.around.disks[place].births = old;
        }
        let span = self.around.chance.between(20 * MS, 4 * SECOND);
        self.around.after(span, Event::Start(place));
    }

    /// Whether every node's replica of a shard votes, and none that is over.
    fn is_full(&self, shard: ShardId) -> bool {
        let mut full: Vec<u64> = Vec::new();
        for (place, disk) in self.around.disks.iter().enumerate() {
            let Some(incarnation) = disk.births.incarnation else { return false };
            full.push(ReplicaId::of(node_id(place), incarnation).0);
        }
        full.sort_unstable();
        let hosted = self.nodes.iter().flatten().filter_map(|node| node.shards.get(&shard));
        hosted.into_iter().any(|hosted| {
            let mut voters = hosted.replica.members().voters.clone();
            voters.sort_unstable();
            voters == full
        })
    }

    fn transfer(&mut self, from: usize, to: usize) {
        for shard in (0..self.around.shards).map(ShardId) {
            if from != to {
                self.node(from, 0, At::Transfer(shard, to));
            }
        }
    }

    fn jump(&mut self, place: usize) {
        let most = [10_000, 3_600_000, 86_400_000][self.around.chance.below(3)];
        let jump = self.around.chance.between(0, 2 * most);
        self.clocks[place].ahead_ms = i64::try_from(jump).unwrap() - i64::try_from(most).unwrap();
        if let Some(node) = &mut self.nodes[place] {
            node.clock = self.clocks[place];
        }
    }

    fn crash_actors(&mut self, place: usize) {
        let user = self.users[self.around.chance.below(self.users.len())].clone();
        self.node(place, 0, At::CrashActors(user));
    }

    fn heal(&mut self) {
        self.healed = true;
        self.reunite();
        self.around.network.loss_in_1000 = 0;
        for place in 0..self.nodes.len() {
            self.start(place);
            if let Some(boot) = self.nodes[place].as_ref().map(|node| node.boot) {
                self.resume(place, boot);
            }
        }
    }

    /// Why it is not drained yet; nothing when it is.
    fn missing(&self) -> Option<String> {
        for client in &self.clients {
            let log = self.around.oracle.logs.get(&client.user).map_or(0, Vec::len) as u64;
            if client.line != Line::Online || !client.outbox.is_empty() || client.stored != log {
                let (line, outbox) = (client.line, client.outbox.len());
                let who = (&client.user, &client.device, client.stored);
                return Some(format!("{who:?} {line:?}, {outbox} unconfirmed, log {log}"));
            }
        }
        let shards = (0..self.around.shards).map(ShardId);
        shards.filter_map(|shard| self.missing_in(shard)).next()
    }

    fn missing_in(&self, shard: ShardId) -> Option<String> {
        let nodes: Vec<&Node> = self.nodes.iter().flatten().collect();
        if nodes.iter().any(|node| !node.shards.contains_key(&shard)) || !self.is_full(shard) {
            return Some(format!("{shard}: replicas are missing"));
        }
        let reads = |node: &Node| !node.loading.is_empty();
        if nodes.iter().any(|n| n.shards[&shard].replica.is_installing() || reads(n)) {
            return Some(format!("{shard}: a checkpoint is being read"));
        }
        let state = |node: &&Node| node.shards[&shard].replica.state().digest();
        let digests: Vec<u64> = nodes.iter().map(state).collect();
        if digests.iter().any(|digest| *digest != digests[0]) {
            let applied = nodes.iter().map(|node| node.shards[&shard].replica.state().applied());
            return Some(format!("{shard}: applied {:?}", applied.collect::<Vec<_>>()));
        }
        let state = nodes[0].shards[&shard].replica.state();
        if let Some(to) = state.outbox().waiting().next() {
            return Some(format!("{shard}: envelopes wait for {to}"));
        }
        for client in &self.clients {
            if shard_of(&client.user, self.around.shards) != shard {
                continue;
            }
            let Some(mailbox) = state.mailbox(&client.user) else { continue };
            let acked = mailbox.device(&client.device).map(|device| device.acked);
            let head = mailbox.log().head();
            if acked != Some(head) || head.0 != client.stored {
                return Some(format!("{}: acked {acked:?} of {head}", client.user));
            }
        }
        None
    }

    fn is_drained(&mut self) -> bool {
        // What is on disk only is compared, too.
        for node in self.nodes.iter_mut().flatten() {
            node.warm_all(&self.around);
        }
        self.missing().is_none()
    }

    fn explain(&self) {
        eprintln!("missing: {:?}", self.missing());
        for node in self.nodes.iter().flatten() {
            let roles = node.shards.values().map(|hosted| hosted.replica.role());
            eprintln!(
                "node {}: {:?}, peers {:?}",
                node.place,
                roles.collect::<Vec<_>>(),
                node.peers
            );
        }
    }
}
