//! Faults: what goes wrong in a run, and when. Each has a number and chance of its own, so that leaving one out moves no
//! other.

use std::collections::BTreeSet;

use actors::ids::{ReplicaId, ShardId};

use crate::around::{At, Event, Minority, Plant};
use crate::chance::{Chance, mix};
use crate::host::Node;
use crate::host::node_id;
use crate::world::{MS, SECOND, Scenario, World};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A node loses what is not on its disk.
    Crash,
    CrashTwo,
    CrashAll,
    /// A node does nothing for a while; what comes waits.
    Pause,
    /// One node no longer hears another.
    CutOneWay,
    Isolate,
    /// Fewer than half of the nodes and the others hear nothing of each other.
    CutOffMinority,
    Reunite,
    MoveLeaders,
    /// A wall clock is set wrong.
    JumpClock,
    CrashActors,
    /// A node comes back with an empty disk.
    LoseDisk,
    /// A node stops for its disk is full, and stops again each time it is started.
    FullDisk,
}

/// So many kinds there are.
pub(crate) const KINDS: usize = 13;

/// All of them, in the order they are counted in, with the turns each has in 24.
pub(crate) const TURNS: [(Fault, usize); KINDS] = [
    (Fault::Crash, 4),
    (Fault::CrashTwo, 1),
    (Fault::CrashAll, 1),
    (Fault::Pause, 3),
    (Fault::CutOneWay, 2),
    (Fault::Isolate, 1),
    (Fault::CutOffMinority, 3),
    (Fault::Reunite, 3),
    (Fault::MoveLeaders, 1),
    (Fault::JumpClock, 1),
    (Fault::CrashActors, 1),
    (Fault::LoseDisk, 2),
    (Fault::FullDisk, 1),
];

/// The faults of a run.
pub(crate) struct Faults {
    seed: u64,
    skip: BTreeSet<u64>,
    told: bool,
    number: u64,
    pub(crate) done: [u64; KINDS],
}

impl Faults {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let Scenario { seed, skip, told, .. } = scenario.clone();
        Self { seed, skip, told, number: 0, done: [0; KINDS] }
    }

    /// The number of the next one, and its chance, drawn also for one that is left out.
    fn next(&mut self) -> (u64, Chance) {
        self.number += 1;
        (self.number, Chance::new(mix(self.seed ^ mix(self.number ^ 0xFA17))))
    }
}

impl World {
    pub(crate) fn fault(&mut self) {
        if self.healed {
            return;
        }
        let (number, mut chance) = self.faults.next();
        let span = chance.between(50 * MS, 2_500 * MS);
        self.around.after(span, Event::Fault);
        let mut turn = chance.below(24);
        let kind = TURNS.iter().position(|(_, turns)| {
            let its = turn < *turns;
            turn = turn.wrapping_sub(*turns);
            its
        });
        let kind = kind.expect("the turns are 24");
        let fault = TURNS[kind].0;
        if self.faults.skip.contains(&number) {
            return;
        }
        if self.faults.told {
            eprintln!("{:>9.3} s  fault {number}: {fault:?}", self.around.now as f64 / 1e6);
        }
        std::mem::swap(&mut self.around.chance, &mut chance);
        if self.strike(fault) {
            self.faults.done[kind] += 1;
        }
        std::mem::swap(&mut self.around.chance, &mut chance);
    }

    /// Answers whether it could be done.
    fn strike(&mut self, fault: Fault) -> bool {
        let count = self.nodes.len();
        let (one, other) = (self.around.chance.below(count), self.around.chance.below(count));
        match fault {
            Fault::Crash => self.crash_some(&[one]),
            Fault::CrashTwo => self.crash_some(&[one, other]),
            Fault::CrashAll => self.crash_some(&(0..count).collect::<Vec<_>>()),
            Fault::Pause if self.nodes[one].is_none() => return false,
            Fault::Pause => self.pause(one),
            Fault::CutOneWay if one == other => return false,
            Fault::CutOneWay => self.around.network.cut(one, other),
            Fault::Isolate => self.isolate(one),
            Fault::CutOffMinority => return self.cut_off_minority(),
            Fault::Reunite => self.reunite(),
            Fault::MoveLeaders if one == other => return false,
            Fault::MoveLeaders => self.transfer(one, other),
            Fault::JumpClock => self.jump(one),
            Fault::CrashActors => self.crash_actors(one),
            Fault::LoseDisk => return self.lose_disk(one),
            Fault::FullDisk => self.fill_disk(one),
        }
        true
    }

    fn isolate(&mut self, one: usize) {
        for peer in 0..self.nodes.len() {
            self.around.network.cut(one, peer);
            self.around.network.cut(peer, one);
        }
    }

    fn cut_off_minority(&mut self) -> bool {
        let count = self.nodes.len();
        if self.around.minority.is_some() || count < 3 {
            return false;
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
        true
    }

    pub(crate) fn reunite(&mut self) {
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

    /// It starts again and again, and stops when it wants to write; it has room again after a while.
    fn fill_disk(&mut self, place: usize) {
        self.crash(place);
        let now = self.around.now;
        self.full[place] = now + self.around.chance.between(SECOND, 6 * SECOND);
        self.around.after(100 * MS, Event::Start(place));
    }

    /// A crash that takes the disk with it; only while every other disk is whole and all others know that every replica votes,
    /// for that is what is promised.
    fn lose_disk(&mut self, place: usize) -> bool {
        let mut shards = (0..self.around.shards).map(ShardId);
        if self.nodes.len() < 3 || !shards.all(|shard| self.is_full(shard, place)) {
            return false;
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
        true
    }

    /// Whether every node's replica of a shard votes, and none that is over, and all nodes but one know it.
    pub(crate) fn is_full(&self, shard: ShardId, but: usize) -> bool {
        let mut full: Vec<u64> = Vec::new();
        for (place, disk) in self.around.disks.iter().enumerate() {
            let Some(incarnation) = disk.births.incarnation else { return false };
            full.push(ReplicaId::of(node_id(place), incarnation).0);
        }
        full.sort_unstable();
        let knows = |node: &Node| {
            let hosted = node.shards.get(&shard);
            let mut voters =
                hosted.map_or(Vec::new(), |hosted| hosted.replica.members().voters.clone());
            voters.sort_unstable();
            voters == full
        };
        let mut others = self.nodes.iter().enumerate().filter(|(place, _)| *place != but);
        others.all(|(_, node)| node.as_ref().is_some_and(knows))
    }

    fn transfer(&mut self, from: usize, to: usize) {
        for shard in (0..self.around.shards).map(ShardId) {
            if from != to {
                self.node(from, 0, At::Transfer(shard, to));
            }
        }
    }

    fn jump(&mut self, place: usize) {
        const DAY_MS: u64 = 86_400_000;
        let mut most = [10_000, 3_600_000, DAY_MS][self.around.chance.below(3)];
        let others = self.clocks.iter().enumerate().filter(|(other, _)| *other != place);
        let mut right = others.map(|(_, clock)| clock.ahead_ms.unsigned_abs() <= DAY_MS);
        if most == DAY_MS && self.clocks.len() >= 3 && right.all(|right| right) {
            // Far enough for everything to expire, if one clock of many could do that.
            most *= 90;
        }
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
}
