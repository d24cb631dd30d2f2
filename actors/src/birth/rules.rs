//! Births' rules: which incarnation a data directory is, and whose word counts; pure.
//!
//! Let there be N nodes. A directory without an incarnation asks the others what they know of its node, claims an
//! incarnation, and takes part only when enough of them have recorded that claim durably:
//!
//! - the **first** incarnation is claimed when *all* N − 1 others have said that they know of no other birth of this
//!   node, and is had when all of them have recorded it;
//! - a **later** one is one more than the highest that any of a *majority of the others* knows, and is had when a
//!   majority of the others has recorded it;
//! - a node records at most one birth for each incarnation of a node, only ever a higher one after it, and a claim of a
//!   later one only while it sees all nodes whole (with an incarnation, met in this birth) but as many as the replicas
//!   of a shard can spare: in a cluster of three all but one.
//!
//! So, as any two majorities of the others share a node, and as everything before was recorded by one of those asked:
//! no incarnation is had by two births, and a node that took part once never passes for new. And a start with the wrong
//! directories (a disk that is not there yet) on so many nodes that nothing could be filled again changes nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{BootId, Incarnation, NodeId};
use crate::store::{Births, Known, StoreId};

/// What nodes tell each other of births, each to each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The start of the node that says this.
    pub boot: BootId,
    /// The birth of its data directory.
    pub birth: StoreId,
    /// Its incarnation, if it has one.
    pub incarnation: Option<Incarnation>,
    /// The incarnation it claims, if it has none yet.
    pub claim: Option<Incarnation>,
    /// What it has recorded of other nodes' births, durably; of its own, what went before.
    pub known: BTreeMap<NodeId, Known>,
    /// Whether it has a note of the one it says this to.
    pub heard: bool,
}

/// What must be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make durable before any later effect.
    Keep(Births),
    /// Give a node this note.
    Tell(NodeId, Note),
    /// From now on messages of a node's replicas of this incarnation, and no other, may be taken; of none: none.
    Vetted(NodeId, Option<Incarnation>),
    /// This node takes part from now on.
    Settled(Incarnation),
    /// A node shows a birth that is over, or never was: nothing of it is taken.
    Refused(NodeId, Known),
    /// This directory is over: another birth of this node has taken its place.
    Superseded(Known),
}

/// What a directory without an incarnation waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// Nothing: it has one.
    ForNothing,
    /// These nodes have not recorded its first birth, which needs all others, once.
    ToBeKnown(Vec<NodeId>),
    /// An earlier birth is known. These nodes have not recorded this one, which they do when they see enough nodes
    /// whole; a majority of them is enough.
    ToReplace(Vec<NodeId>),
}

/// One node's side of it.
#[derive(Debug, Clone)]
pub struct Rules {
    me: NodeId,
    boot: BootId,
    others: Vec<NodeId>,
    /// Nodes that may lack their data at once, so that what they lack is still on a majority of each shard's replicas.
    spare: usize,
    births: Births,
    /// Nodes to which there is a link, and to which start of them.
    up: BTreeMap<NodeId, BootId>,
    /// What they say.
    heard: BTreeMap<NodeId, Note>,
    /// What they were told last.
    told: BTreeMap<NodeId, Note>,
    vetted: BTreeMap<NodeId, Incarnation>,
    refused: BTreeMap<NodeId, BootId>,
    superseded: bool,
}

/// How many of `others` nodes are a majority.
#[must_use]
pub const fn majority(others: usize) -> usize {
    others / 2 + 1
}

/// The incarnation a birth may claim, if those that answered are enough: how many of how many others, the highest
/// incarnation of an earlier birth that any of them knows, and the highest in which any has recorded this one.
#[must_use]
pub fn claim(
    answered: usize,
    others: usize,
    earlier: Option<Incarnation>,
    own: Option<Incarnation>,
) -> Option<Incarnation> {
    // What a note says is not to be trusted: behind the last incarnation there is none.
    let least = match earlier {
        Some(Incarnation(earlier)) => Incarnation(earlier.checked_add(1)?),
        None => Incarnation::FIRST,
    };
    let claimed = own.map_or(least, |own| own.max(least));
    (answered >= quorum(claimed, others)).then_some(claimed)
}

/// How many of the others must be asked, and how many must have recorded it, for a claim.
#[must_use]
pub fn quorum(claimed: Incarnation, others: usize) -> usize {
    if claimed == Incarnation::FIRST { others } else { majority(others) }
}

impl Rules {
    /// Begins with what the directory holds.
    #[must_use]
    pub fn new(me: NodeId, boot: BootId, others: Vec<NodeId>, births: Births) -> Self {
        let spare = others.len() / 2;
        Self {
            me,
            boot,
            others,
            spare,
            births,
            up: BTreeMap::new(),
            heard: BTreeMap::new(),
            told: BTreeMap::new(),
            vetted: BTreeMap::new(),
            refused: BTreeMap::new(),
            superseded: false,
        }
    }

    /// The same for shards that are kept on so many nodes, and not on all: where a node lost its data, no more may be
    /// missing than the replicas of one shard can spare, since they might all be of one shard.
    #[must_use]
    pub const fn with_replicas(mut self, replicas: usize) -> Self {
        self.spare = replicas.saturating_sub(1) / 2;
        self
    }

    /// The node has started.
    pub fn start(&mut self, out: &mut Vec<Effect>) {
        match self.births.incarnation {
            Some(incarnation) => out.push(Effect::Settled(incarnation)),
            None => self.review(out),
        }
    }

    /// There is a link to this start of a node.
    pub fn up(&mut self, node: NodeId, boot: BootId, out: &mut Vec<Effect>) {
        self.up.insert(node, boot);
        self.told.remove(&node);
        // A note may overtake the news of the link it came over.
        if self.heard.get(&node).is_some_and(|note| note.boot != boot) {
            self.heard.remove(&node);
        }
        self.review(out);
    }

    /// The link to a node is gone; what it said counts no more.
    pub fn down(&mut self, node: NodeId, out: &mut Vec<Effect>) {
        self.up.remove(&node);
        self.heard.remove(&node);
        self.told.remove(&node);
        self.review(out);
    }

    /// A node's note.
    pub fn note(&mut self, from: NodeId, note: Note, out: &mut Vec<Effect>) {
        let other_start = self.up.get(&from).is_some_and(|boot| *boot != note.boot);
        if !self.others.contains(&from) || other_start {
            return;
        }
        if !note.heard {
            self.told.remove(&from);
        }
        self.heard.insert(from, note);
        self.review(out);
    }

    /// Some time has passed: what may have been lost on the way is said again.
    pub fn tick(&mut self, out: &mut Vec<Effect>) {
        let (settled, vetted) = (self.births.incarnation.is_some(), &self.vetted);
        self.told.retain(|node, _| settled && vetted.contains_key(node));
        self.review(out);
    }

    /// What a directory without an incarnation waits for.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        if self.births.incarnation.is_some() {
            return Waiting::ForNothing;
        }
        let (earlier, own) = self.known_of_me();
        // What would be claimed if all had answered.
        let all = self.others.len();
        let claim = claim(all, all, earlier, own).unwrap_or(Incarnation::FIRST);
        let missing = self.others.iter().copied().filter(|node| !self.witness(*node, claim));
        match claim {
            Incarnation::FIRST => Waiting::ToBeKnown(missing.collect()),
            _ => Waiting::ToReplace(missing.collect()),
        }
    }

    /// The start of the node.
    #[must_use]
    pub const fn boot(&self) -> BootId {
        self.boot
    }

    /// What the directory holds.
    #[must_use]
    pub const fn births(&self) -> &Births {
        &self.births
    }

    /// What always holds.
    pub fn check(&self) {
        for (node, incarnation) in &self.vetted {
            // Invariant: only what is recorded, and said over a link that is up, is believed.
            debug_assert_eq!(
                self.births.known.get(node).map(|k| k.incarnation),
                Some(*incarnation)
            );
            debug_assert!(self.up.contains_key(node));
        }
    }

    /// Draws all consequences of what is known.
    fn review(&mut self, out: &mut Vec<Effect>) {
        loop {
            let before = self.births.clone();
            self.learn();
            self.take_claims();
            self.settle();
            if self.births != before {
                out.push(Effect::Keep(self.births.clone()));
            }
            if let (None, Some(incarnation)) = (before.incarnation, self.births.incarnation) {
                out.push(Effect::Settled(incarnation));
            }
            let changed = self.vet(out);
            if !changed && self.births == before {
                break;
            }
        }
        self.look_for_successor(out);
        self.tell(out);
        self.check();
    }

    /// Takes over what others have recorded, where it is newer.
    fn learn(&mut self) {
        for note in self.heard.values() {
            for (node, theirs) in &note.known {
                let is_member = *node == self.me || self.others.contains(node);
                // Of this node: what went before this birth, and only as long as it can still be made to follow it.
                let is_mine = *node == self.me
                    && (self.births.incarnation.is_some()
                        || theirs.birth == Some(self.births.birth));
                if is_member && !is_mine {
                    record(&mut self.births, *node, *theirs);
                }
            }
        }
    }

    /// Records what nodes say of themselves, where that is theirs to say.
    fn take_claims(&mut self) {
        for (node, note) in &self.heard {
            let claimed = |incarnation: Option<Incarnation>| {
                incarnation.map(|incarnation| Known { incarnation, birth: Some(note.birth) })
            };
            if let Some(had) = claimed(note.incarnation) {
                record(&mut self.births, *node, had);
            } else if let Some(claim) = claimed(note.claim)
                && self.admits(*node, claim)
            {
                record(&mut self.births, *node, claim);
            }
        }
    }

    /// Whether a claim may be recorded now.
    fn admits(&self, node: NodeId, claim: Known) -> bool {
        match self.births.known.get(&node) {
            None if claim.incarnation == Incarnation::FIRST => true,
            // What a node had without saying its birth is over when another claims what follows, not the same.
            Some(known) if known.incarnation >= claim.incarnation => false,
            _ => self.would_spare(self.whole(node)),
        }
    }

    /// Whether what all nodes but these lack can be filled again.
    pub(super) fn would_spare(&self, whole: usize) -> bool {
        whole + self.spare > self.others.len()
    }

    /// How many nodes besides this one are whole, as far as this node sees.
    fn whole(&self, besides: NodeId) -> usize {
        let vetted = self.vetted.keys().filter(|node| **node != besides).count();
        vetted + usize::from(self.births.incarnation.is_some())
    }

    /// The highest incarnations anybody knows: of an earlier birth of this node, and of this one.
    fn known_of_me(&self) -> (Option<Incarnation>, Option<Incarnation>) {
        let of_me = self.heard.values().filter_map(|note| note.known.get(&self.me));
        let (own, others): (Vec<&Known>, Vec<&Known>) =
            of_me.partition(|known| known.birth == Some(self.births.birth));
        let earlier = others.into_iter().chain(self.births.known.get(&self.me));
        let earlier = earlier.map(|known| known.incarnation).max();
        (earlier, own.iter().map(|known| known.incarnation).max())
    }

    fn claim(&self) -> Option<Incarnation> {
        let (earlier, own) = self.known_of_me();
        claim(self.heard.len(), self.others.len(), earlier, own)
    }

    /// Whether a node has recorded this birth in this incarnation.
    fn witness(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let claim = Known { incarnation, birth: Some(self.births.birth) };
        self.heard.get(&node).is_some_and(|note| note.known.get(&self.me) == Some(&claim))
    }

    fn settle(&mut self) {
        if self.births.incarnation.is_some() {
            return;
        }
        let Some(claim) = self.claim() else { return };
        let witnesses = self.others.iter().filter(|node| self.witness(**node, claim)).count();
        if witnesses >= quorum(claim, self.others.len()) {
            self.births.incarnation = Some(claim);
        }
    }

    /// Looks whose replicas may be listened to; answers whether that changed.
    fn vet(&mut self, out: &mut Vec<Effect>) -> bool {
        let mut changed = false;
        for node in &self.others {
            let note = self.heard.get(node).filter(|_| self.up.contains_key(node));
            let shown = note.and_then(|note| {
                let incarnation = note.incarnation?;
                Some((note.boot, Known { incarnation, birth: Some(note.birth) }))
            });
            let good = shown.filter(|(_, shown)| self.births.known.get(node) == Some(shown));
            let incarnation = good.map(|(_, shown)| shown.incarnation);
            if let (None, Some((boot, shown))) = (good, shown)
                && self.refused.insert(*node, boot) != Some(boot)
            {
                out.push(Effect::Refused(*node, shown));
            }
            if self.vetted.get(node).copied() != incarnation {
                changed = true;
                match incarnation {
                    Some(incarnation) => self.vetted.insert(*node, incarnation),
                    None => self.vetted.remove(node),
                };
                out.push(Effect::Vetted(*node, incarnation));
            }
        }
        changed
    }

    fn look_for_successor(&mut self, out: &mut Vec<Effect>) {
        let Some(mine) = self.births.incarnation else { return };
        let own = Known { incarnation: mine, birth: Some(self.births.birth) };
        let of_me = self.heard.values().filter_map(|note| note.known.get(&self.me));
        let successor = of_me.copied().find(|known| {
            let same = known.birth.is_none() || *known == own;
            known.incarnation > mine || known.incarnation == mine && !same
        });
        if let Some(successor) = successor
            && !std::mem::replace(&mut self.superseded, true)
        {
            out.push(Effect::Superseded(successor));
        }
    }

    /// Tells everybody what they have not been told yet.
    fn tell(&mut self, out: &mut Vec<Effect>) {
        let claim = self.claim().filter(|_| self.births.incarnation.is_none());
        for node in self.up.keys() {
            let note = Note {
                boot: self.boot,
                birth: self.births.birth,
                incarnation: self.births.incarnation,
                claim,
                known: self.births.known.clone(),
                heard: self.heard.contains_key(node),
            };
            if self.told.get(node) != Some(&note) {
                self.told.insert(*node, note.clone());
                out.push(Effect::Tell(*node, note));
            }
        }
    }
}

/// Records what is newer than what is recorded; and the birth of one of which none was known.
fn record(births: &mut Births, node: NodeId, new: Known) {
    let known = births.known.entry(node).or_insert(new);
    let same_and_named = known.incarnation == new.incarnation && known.birth.is_none();
    if known.incarnation < new.incarnation || same_and_named {
        *known = new;
    }
}
