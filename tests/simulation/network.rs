//! Network: ordered links between nodes that break and come back, and directed cuts.

use std::collections::{BTreeMap, BTreeSet};

use crate::chance::Chance;

/// Silence for this long (in microseconds) breaks a link.
const SUSPECT: u64 = 600_000;

#[derive(Debug, Clone, Copy, Default)]
struct Link {
    life: u64,
    up: bool,
    /// Since when something was in the way.
    silent: Option<u64>,
}

/// How nodes (by place, from 0) reach each other.
#[derive(Debug, Default)]
pub(crate) struct Network {
    links: BTreeMap<(usize, usize), Link>,
    cuts: BTreeSet<(usize, usize)>,
    /// Directions in which something was lost: nothing more arrives in this life.
    doomed: BTreeSet<(usize, usize)>,
    newest: BTreeMap<(usize, usize, u8), u64>,
    pub(crate) loss_in_1000: u64,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Network {
    pub(crate) fn new(nodes: usize) -> Self {
        let pairs = (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b)));
        let links = pairs.map(|pair| (pair, Link::default())).collect();
        Self { links, ..Self::default() }
    }

    /// How long a packet takes, in microseconds.
    pub(crate) fn delay(chance: &mut Chance) -> u64 {
        if chance.one_in(50) { chance.between(4_000, 250_000) } else { chance.between(200, 4_000) }
    }

    /// When a packet that leaves now arrives, behind all of its class before it.
    pub(crate) fn arrival(
        &mut self,
        way: (usize, usize),
        class: u8,
        now: u64,
        chance: &mut Chance,
    ) -> u64 {
        let newest = self.newest.entry((way.0, way.1, class)).or_default();
        *newest = (now + Self::delay(chance)).max(*newest + 1);
        *newest
    }

    /// Whether a packet of this life of the link gets through at its arrival.
    pub(crate) fn passes(&mut self, from: usize, to: usize, life: u64) -> bool {
        let link = self.links[&pair(from, to)];
        if self.cuts.contains(&(from, to)) {
            self.doomed.insert((from, to));
        }
        link.up && link.life == life && !self.doomed.contains(&(from, to))
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.contains(&(from, to))
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Links that break or come up now: both ends, the life, and whether it is up.
    pub(crate) fn look(
        &mut self,
        now: u64,
        alive: &[bool],
        awake: &[bool],
        chance: &mut Chance,
    ) -> Vec<(usize, usize, u64, bool)> {
        let mut changed = Vec::new();
        for (&(a, b), link) in &mut self.links {
            let cut = self.cuts.contains(&(a, b)) || self.cuts.contains(&(b, a));
            let dead = !alive[a] || !alive[b];
            let silent = cut
                || dead
                || !awake[a]
                || !awake[b]
                || self.doomed.contains(&(a, b))
                || self.doomed.contains(&(b, a));
            if link.up {
                link.silent = silent.then(|| link.silent.unwrap_or(now));
                let late = link.silent.is_some_and(|since| now - since >= SUSPECT);
                if dead || late || chance.one_in(2_000) {
                    (link.up, link.silent) = (false, None);
                    changed.push((a, b, link.life, false));
                }
            } else if !cut && !dead && awake[a] && awake[b] && chance.one_in(3) {
                self.doomed.remove(&(a, b));
                self.doomed.remove(&(b, a));
                *link = Link { life: link.life + 1, up: true, silent: None };
                changed.push((a, b, link.life, true));
            }
        }
        changed
    }
}
