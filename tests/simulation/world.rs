//! World: a whole cluster, its clients and its misfortunes, in one thread and from one seed.

use std::collections::BTreeSet;

use actors::ids::{DeviceId, ShardId, UserId, shard_of};

use crate::around::{Around, At, Clock, Counts, Event, Plant};
use crate::chance::mix;
use crate::clients::{Client, Line};
use crate::clubs::Club;
use crate::faults::{Faults, KINDS};
use crate::host::Node;

pub(crate) const MS: u64 = 1_000;
pub(crate) const SECOND: u64 = 1_000 * MS;
/// How slow clients are: some clusters are busy, most are not.
const PACES: [u64; 4] = [1, 9, 16, 25];
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
    /// How often each kind of fault happened.
    pub(crate) faults: [u64; KINDS],
}

pub(crate) struct World {
    pub(crate) around: Around,
    pub(crate) nodes: Vec<Option<Node>>,
    pub(crate) clocks: Vec<Clock>,
    boots: u64,
    pub(crate) births: u128,
    /// A paused node keeps what comes.
    pub(crate) paused: Vec<Option<Vec<Event>>>,
    clients: Vec<Client>,
    pub(crate) users: Vec<UserId>,
    /// Until when the disk of a node is full.
    pub(crate) full: Vec<u64>,
    pub(crate) healed: bool,
    steps: u64,
    pub(crate) faults: Faults,
}

/// One run: everything that happens in it follows from this.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) plant: Plant,
    /// Faults that are left out, by their numbers from 1.
    pub(crate) skip: BTreeSet<u64>,
    /// Whether each fault is told as it happens.
    pub(crate) told: bool,
}

impl Scenario {
    pub(crate) const fn new(seed: u64, plant: Plant) -> Self {
        Self { seed, plant, skip: BTreeSet::new(), told: false }
    }
}

/// Runs a scenario to its end; panics when a promise is broken.
pub(crate) fn run(scenario: &Scenario) -> Report {
    #[cfg(debug_assertions)]
    actors::mutant::plant(match scenario.plant {
        Plant::Rule(mutant) => Some(mutant),
        _ => None,
    });
    let mut world = World::new(scenario);
    // Where little is said, more time passes.
    let faults = world.around.chance.between(12, 25) * SECOND * world.around.pace.isqrt();
    world.until(faults, |_| false);
    world.heal();
    let drained = world.until(faults + DRAINED_WITHIN, World::is_drained);
    if !drained {
        if scenario.plant == Plant::Nothing {
            world.explain();
        }
        panic!("not drained within {DRAINED_WITHIN} microseconds");
    }
    world.around.oracle.at_the_end();
    Report {
        steps: world.steps,
        virtual_us: world.around.now,
        sends: world.around.oracle.sendings.len(),
        trace: mix(world.around.oracle.trace ^ world.steps ^ world.around.now),
        counts: world.around.counts,
        faults: world.faults.done,
    }
}

impl World {
    fn new(scenario: &Scenario) -> Self {
        let Scenario { seed, plant, .. } = *scenario;
        let shape = mix(seed);
        let nodes = [3, 3, 3, 3, 3, 3, 5, 1][usize::try_from(shape % 8).unwrap()];
        let shards = 2 + u16::try_from((shape >> 8) % 3).unwrap();
        let mut around = Around::new(seed, nodes, shards, plant);
        around.pace = PACES[usize::try_from((shape >> 24) % 4).unwrap()];
        around.network.loss_in_1000 = [0, 10, 100][usize::try_from((shape >> 16) % 3).unwrap()];
        let users: Vec<UserId> =
            (0..4).map(|user| UserId::parse(&format!("u{user}")).unwrap()).collect();
        if mix(seed ^ 0xC1F).is_multiple_of(3) {
            around.oracle.club = Some(Club::of(&users[0]));
        }
        let mut clients = Vec::new();
        for (at, user) in users.iter().enumerate() {
            for device in 0..1 + at % 2 {
                let device = DeviceId::parse(&format!("d{device}")).unwrap();
                let mut client = Client::new(clients.len(), user.clone(), device);
                client.more_devices = if mix(seed ^ 0xDE9).is_multiple_of(4) { 2 } else { 0 };
                clients.push(client);
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
        let disks = nodes.len();
        let clocks = (0..disks).map(drift).collect();
        Self {
            around,
            births: disks as u128,
            nodes,
            clocks,
            boots: 0,
            paused,
            clients,
            users,
            healed: false,
            steps: 0,
            full: vec![0; disks],
            faults: Faults::new(scenario),
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

    pub(crate) fn node(&mut self, place: usize, boot: u64, at: At) {
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

    pub(crate) fn start(&mut self, place: usize) {
        if self.around.now < self.full[place] {
            self.around.after(100 * MS, Event::Start(place));
        } else if self.nodes[place].is_none() {
            self.boots += 1;
            let mut node = Node::start(place, self.boots, &mut self.around);
            node.clock = self.clocks[place];
            self.nodes[place] = Some(node);
        }
    }

    pub(crate) fn crash(&mut self, place: usize) {
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

    pub(crate) fn pause(&mut self, place: usize) {
        let Some(node) = &self.nodes[place] else { return };
        if self.paused[place].is_none() {
            self.paused[place] = Some(Vec::new());
            let span = self.around.chance.between(10 * MS, 4 * SECOND);
            self.around.after(span, Event::Resume(place, node.boot));
        }
    }

    pub(crate) fn resume(&mut self, place: usize, boot: u64) {
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

    fn heal(&mut self) {
        self.healed = true;
        self.around.pace = 1;
        self.reunite();
        self.full.fill(0);
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
        if nodes.iter().any(|node| !node.shards.contains_key(&shard))
            || !self.is_full(shard, usize::MAX)
        {
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
            eprintln!("node {}: peers {:?}", node.place, node.peers);
            for (shard, hosted) in &node.shards {
                let replica = &hosted.replica;
                let (role, members) = (replica.role(), replica.members());
                let (last, applied) = (replica.last_index(), replica.state().applied());
                let stuck = (replica.is_installing(), replica.lacks_state());
                eprintln!(
                    "  {shard}: {role:?} of {:?} learners {:?} last {last} applied {applied:?} \
                     installing, lacks state {stuck:?}",
                    members.voters, members.learners,
                );
            }
        }
    }
}
