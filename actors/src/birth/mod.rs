//! Birth: how a node whose disk was lost is told from the node that still had it, so that it never votes for that one.
//!
//! Owns      what this data directory holds of births, and the talk with the other nodes about them.
//! Promises  a directory without an incarnation takes part in nothing; messages of a node's replicas are taken only
//!           when it has shown the birth that is recorded for their incarnation, and the record is on disk.
//! Never     decides from what a directory says of itself alone; never forgets a birth it recorded.
//! Fails by  stopping, and the node with it, when it cannot write; a new start goes on from what is on disk.
//!
//! Why: a node that forgot its votes and its log could help another minority to a majority, and what was confirmed
//! would be gone. See `rules` for who must agree to what.

pub mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::codec;
use crate::ids::{BootId, Incarnation, NodeId};
use crate::store::{Births, Book};
use rules::{Effect, Note, Rules, Waiting};

/// How often what may have been lost is said again.
const TICK: Duration = Duration::from_millis(500);
/// After how many ticks without an incarnation one says what is waited for, each time.
const COMPLAIN_TICKS: u64 = 10;
/// Version of a sealed note.
const VERSION: u8 = 1;

/// What the rest of the node does for this room. Called in the order of the effects; must not wait.
pub trait Port: Send + Sync + 'static {
    /// Gives a node a note.
    fn tell(&self, node: NodeId, note: Bytes);
    /// From now on messages of a node's replicas of this incarnation, and no other, may be taken.
    fn vetted(&self, node: NodeId, incarnation: Option<Incarnation>);
    /// This node takes part, from now on, in this incarnation.
    fn settled(&self, incarnation: Incarnation);
    /// Another birth of this node has taken its place: it must stop.
    fn superseded(&self);
}

/// What this room is told.
#[derive(Debug)]
pub enum Msg {
    /// There is a link to this start of a node.
    Up(NodeId, BootId),
    /// The link to a node is gone.
    Down(NodeId),
    /// A node's note, sealed.
    Note(NodeId, Bytes),
    /// `TICK` has passed.
    TickDue,
}

impl ractor::Message for Msg {}

/// The actor.
pub struct Registrar;

/// What it is started with.
pub struct Arguments {
    /// This node.
    pub me: NodeId,
    /// This start of it.
    pub boot: BootId,
    /// The other nodes, with their names.
    pub others: BTreeMap<NodeId, String>,
    /// On how many nodes each shard is kept.
    pub replicas: usize,
    /// What the directory holds.
    pub births: Births,
    /// Where it holds it.
    pub book: Book,
    /// How the rest of the node is reached.
    pub port: Arc<dyn Port>,
}

/// What it holds.
pub struct State {
    myself: ActorRef<Msg>,
    others: BTreeMap<NodeId, String>,
    rules: Rules,
    book: Book,
    port: Arc<dyn Port>,
    ticks: u64,
}

impl Actor for Registrar {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments { me, boot, others, replicas, births, book, port } = arguments;
        let rules =
            Rules::new(me, boot, others.keys().copied().collect(), births).with_replicas(replicas);
        let mut state = State { myself, others, rules, book, port, ticks: 0 };
        let mut out = Vec::new();
        state.rules.start(&mut out);
        state.perform_all(out).await?;
        state.plan_tick();
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let mut out = Vec::new();
        match message {
            Msg::Up(node, boot) => state.rules.up(node, boot, &mut out),
            Msg::Down(node) => state.rules.down(node, &mut out),
            Msg::Note(from, note) => state.note(from, &note, &mut out),
            Msg::TickDue => state.tick(&mut out),
        }
        state.perform_all(out).await
    }
}

/// For fuzzing: reads a note and takes it in; answers whether it was one.
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    let Some(note) = codec::open_anyway::<Note>(VERSION, bytes) else { return false };
    let others = vec![NodeId(2), NodeId(3)];
    let births = Births::new(crate::store::StoreId(1));
    let (mut rules, mut out) = (Rules::new(NodeId(1), BootId(1), others, births), Vec::new());
    rules.start(&mut out);
    for node in [NodeId(2), NodeId(3)] {
        rules.up(node, note.boot, &mut out);
        rules.note(node, note.clone(), &mut out);
    }
    rules.tick(&mut out);
    let _waiting = rules.waiting();
    true
}

/// For fuzzing: a note as it is sent.
pub(crate) fn seed() -> Vec<u8> {
    let mut births = Births::new(crate::store::StoreId(7));
    births.incarnation = Some(Incarnation::FIRST);
    let (mut rules, mut out) =
        (Rules::new(NodeId(2), BootId(2), vec![NodeId(1)], births), Vec::new());
    rules.up(NodeId(1), BootId(1), &mut out);
    let note = out.iter().rev().find_map(|effect| match effect {
        Effect::Tell(_, note) => Some(codec::seal(VERSION, note)),
        _ => None,
    });
    note.unwrap_or_default()
}

impl State {
    fn note(&mut self, from: NodeId, note: &Bytes, out: &mut Vec<Effect>) {
        match codec::open::<Note>(VERSION, note) {
            Ok(note) => self.rules.note(from, note, out),
            Err(error) => tracing::warn!(node = %from, %error, "a note of a birth was refused"),
        }
    }

    fn tick(&mut self, out: &mut Vec<Effect>) {
        self.ticks += 1;
        self.rules.tick(out);
        if self.ticks.is_multiple_of(COMPLAIN_TICKS) {
            self.complain();
        }
        self.plan_tick();
    }

    fn plan_tick(&self) {
        self.myself.send_after(TICK, || Msg::TickDue);
    }

    fn complain(&self) {
        let names = |nodes: Vec<NodeId>| {
            let names = nodes.iter().filter_map(|node| self.others.get(node).map(String::as_str));
            names.collect::<Vec<_>>().join(", ")
        };
        match self.rules.waiting() {
            Waiting::ForNothing => {}
            Waiting::ToBeKnown(nodes) => tracing::warn!(
                missing = names(nodes),
                "this data directory is new: it takes part when the other nodes have said whether they knew another"
            ),
            Waiting::ToReplace(nodes) => tracing::warn!(
                missing = names(nodes),
                "this node has lost its data: it takes part anew when enough others are whole (in a cluster of three, both) and agree; \
                 if its disk is only not there yet, stop it and start it again with the right one"
            ),
        }
    }

    async fn perform_all(&mut self, effects: Vec<Effect>) -> Result<(), ActorProcessingErr> {
        for effect in effects {
            self.perform(effect).await?;
        }
        Ok(())
    }

    async fn perform(&mut self, effect: Effect) -> Result<(), ActorProcessingErr> {
        match effect {
            Effect::Keep(births) => self.keep(births).await?,
            Effect::Tell(node, note) => self.port.tell(node, codec::seal(VERSION, &note).into()),
            Effect::Vetted(node, incarnation) => self.port.vetted(node, incarnation),
            Effect::Settled(incarnation) => {
                tracing::info!(%incarnation, birth = %self.rules.births().birth, "takes part");
                self.port.settled(incarnation);
            }
            Effect::Refused(node, shown) => tracing::error!(
                %node,
                incarnation = %shown.incarnation,
                recorded = ?self.rules.births().known.get(&node),
                "a node shows a data directory that is over or was never met; nothing of it is taken"
            ),
            Effect::Superseded(by) => {
                tracing::error!(
                    incarnation = %by.incarnation,
                    "another data directory has taken this node's place: this one must not be used any more"
                );
                self.port.superseded();
            }
        }
        Ok(())
    }

    async fn keep(&self, births: Births) -> Result<(), ActorProcessingErr> {
        let book = self.book.clone();
        tokio::task::spawn_blocking(move || book.keep(&births)).await??;
        Ok(())
    }
}
