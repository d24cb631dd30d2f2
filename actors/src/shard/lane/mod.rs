//! Lane: drives all replicas of its share of the shards, on one thread: Raft, journal, state and homes together.
//!
//! Owns      the replicas and homes of the shards whose number modulo the number of lanes is its own.
//! Promises  everything that waits is taken together: one journal batch, one send per peer, then the next.
//! Never     blocks: disk and links have threads of their own.
//! Fails by  stopping the process: what it knew since the last checkpoint was in its memory, and only a start reads
//!           journal and checkpoints back. The other nodes elect leaders meanwhile, and sessions attach there.
//!
//! Why messages only mark a shard as due and a `Flush` sent to itself does the work: the flush queues behind whatever
//! is waiting already, so batches are as large as the load makes them, and an idle lane waits for nothing. What begins
//! here is paced on a busy lane: each flush costs a write, a cast per peer and several wake-ups, here and on the nodes
//! that answer it. What those answer comes in batches by then, and is not held up again.

mod backlog;
pub(crate) mod cards;
mod children;
mod connected;
mod hosted;
mod joining;
mod leading;
mod outlet;
mod pacer;
mod presence;
pub(crate) mod runs;
mod storing;
pub(crate) mod transfer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};

use super::home::{For, Notice, Quota};
use super::replica::{Pace, Role};
use crate::clock;
use crate::ids::{NodeId, SessionId, ShardId, Timestamp, UserId};
use crate::mailbox::desk;
use crate::mailbox::image::Stored;
use crate::mailbox::log::Sealed;
use crate::mailbox::rules::{Mailbox, Policy};
use crate::packet::{Packet, ToHome};
use crate::router::Router;
use crate::store::{Checkpoints, Chunk, Journal, StoreError};
use crate::user;
use children::Children;
use outlet::Outlet;
use pacer::{Flushes, Pacer, start_ticking};

pub use hosted::Hosted;
pub use storing::open;

/// How long a link that takes no more is left alone.
const BUSY_LINK_AGAIN: Duration = Duration::from_millis(2);
/// The time between two flushes of a busy lane, and how many may come at once after a quiet time: what it takes to serve a
/// message or two without waiting.
const FLUSH: (Duration, u32) = (Duration::from_millis(2), 8);
/// The same for commands that nobody waits for: on a busy lane they go with the next that somebody waits for, or after
/// this time.
const COMPANY: (Duration, u32) = (Duration::from_millis(40), 3);
/// The same for those for whose effects people wait: what is posted to groups.
const COMPANY_SOON: (Duration, u32) = (Duration::from_millis(8), 8);

/// What a lane needs to know.
#[derive(Clone)]
pub struct Settings {
    /// How Raft beats.
    pub pace: Pace,
    /// One tick of Raft's clock.
    pub tick: Duration,
    /// What mailboxes may hold.
    pub quota: Quota,
    /// How long things are kept.
    pub policy: Policy,
    /// How much a session is sent at once.
    pub limits: user::rules::Limits,
    /// How often each shard is checkpointed when it changed.
    pub checkpoint_every: Duration,
    /// Bytes of mailboxes in memory on the whole node before cold ones leave it.
    pub memory_budget: usize,
    /// What the wall clock says; for leaders, who put it into what they propose.
    pub wall: fn() -> Timestamp,
    /// Who is told of devices that sleep through messages; nobody, if none.
    pub push: Option<Push>,
}

/// Who is told of devices that sleep through messages.
#[derive(Clone)]
pub struct Push {
    /// How long a device has to acknowledge a message.
    pub after: Duration,
    /// Called on a lane's thread: must not wait.
    pub tell: Arc<dyn Fn(Notice) + Send + Sync>,
}

/// Where a lane's shards come from.
#[derive(Clone)]
pub struct Disks {
    /// Entries and votes.
    pub journal: Journal,
    /// States.
    pub checkpoints: Checkpoints,
}

/// What a lane is told.
pub enum Msg {
    /// A session of this node asks a home of this lane.
    Ask(Box<ToHome>),
    /// Packets from another node (or from this one, for itself).
    Packets(NodeId, Vec<Packet>),
    /// The journal has these on disk.
    Written(Vec<(ShardId, u64)>),
    /// Checkpoints at these indexes are on disk.
    Stored(Vec<(ShardId, u64)>),
    /// What a mailbox's desk wants done, in the term it was started in.
    Desk(ShardId, u64, UserId, Vec<desk::Output>),
    /// What a connected user wants done, in the term it was started in.
    User(ShardId, u64, UserId, Vec<user::rules::Output>),
    /// What a user's actor knows, to whom nothing has happened for a while.
    Rested(ActorId, UserId, user::rules::User),
    /// A mailbox was read from disk, under the checkpoint with this number.
    Warmed((ShardId, u64), Box<Result<(Mailbox, Stored), StoreError>>, UserId),
    /// A run of a log was read from disk.
    RunRead(ShardId, (UserId, Sealed), Result<runs::Entries, StoreError>, For),
    /// Cards were read from disk, under the checkpoint with this number, for a session.
    CardsRead((ShardId, u64), SessionId, cards::Read),
    /// A piece of a checkpoint was read, for a node; with the number of the transfer.
    Exported(ShardId, NodeId, u64, Result<Chunk, StoreError>),
    /// A step of taking a checkpoint over is done; with the number of the arrival.
    Imported(ShardId, u64, Result<(), StoreError>),
    /// Raft's clock.
    Tick,
    /// Do all that is due.
    Flush,
    /// The same, at the time set for it.
    FlushDue,
    /// Commands that nobody waits for have waited long enough.
    Release,
    /// The link to a node is gone.
    LinkLost(NodeId),
    /// There is a link to another node.
    LinkFound,
    /// A shard (of any lane) has another leader.
    HomeMoved(ShardId),
    /// A child failed or stopped.
    ChildGone(children::Kind, ActorId),
    /// Lead nothing any more.
    Drain,
    /// What is this lane doing?
    Inspect(RpcReplyPort<Vec<ShardStatus>>),
    /// Checkpoint every shard that changed, now.
    Checkpoint,
    /// From now on these shards are kept here, too.
    Host(Vec<Hosted>),
    /// Make the actors of a user fail, to show that nothing is lost.
    Crash(UserId),
    /// The same to some user who has actors here; the number is chance.
    CrashOne(u64),
}

impl ractor::Message for Msg {}

/// What there is to know of a shard on this node.
#[derive(Debug, Clone)]
pub struct ShardStatus {
    /// The shard.
    pub shard: ShardId,
    /// This replica's part.
    pub role: Role,
    /// The newest entry applied here.
    pub applied: u64,
    /// The newest entry here.
    pub last: u64,
    /// On the leader: the other replicas, how far their logs match, and whether they were heard lately.
    pub progress: Vec<(NodeId, u64, bool)>,
    /// Mailboxes.
    pub mailboxes: usize,
    /// Bytes of state in memory, about.
    pub state_bytes: usize,
}

/// The actor.
pub struct Lane;

/// What a lane is started with.
pub struct Arguments {
    /// Its shards, read from disk.
    pub shards: Vec<Hosted>,
    /// Where it writes.
    pub disks: Disks,
    /// How it reaches others.
    pub router: Router,
    /// What it needs to know.
    pub settings: Settings,
}

/// What a lane holds.
pub struct State {
    myself: ActorRef<Msg>,
    started: Instant,
    disks: Disks,
    router: Router,
    settings: Settings,
    shards: BTreeMap<ShardId, Hosted>,
    due: BTreeSet<ShardId>,
    flushes: Flushes,
    /// Shards with commands that wait for company, and the pace at which these go all the same.
    patient: BTreeSet<ShardId>,
    company: Pacer,
    /// Whether some of them go soon, and the pace at which these do.
    presses: bool,
    company_soon: Pacer,
    announce: bool,
    draining: bool,
    ticks: u64,
    /// Bytes each shard should let go of in this round of checkpoints.
    excess: usize,
    /// Checkpoints sent or taken in by this lane so far, to tell them apart.
    transfers: u64,
    outlet: Outlet,
    children: Children,
    absent: presence::Absent,
    runs: runs::Runs,
    /// Reads of cards that are under way.
    cards_reading: usize,
}

impl Actor for Lane {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments { shards, disks, router, settings } = arguments;
        let children = Children::start(&myself, settings.limits).await?;
        start_ticking(myself.clone(), settings.tick);
        let runs_bytes = settings.memory_budget / runs::PART / router.lanes().len().max(1);
        let mut state = State {
            outlet: Outlet::new(router.clone(), myself.clone()),
            myself,
            started: clock::monotonic(),
            disks,
            router,
            settings,
            shards: BTreeMap::new(),
            due: BTreeSet::new(),
            flushes: Flushes::new(Pacer::new(FLUSH.0, FLUSH.1)),
            patient: BTreeSet::new(),
            company: Pacer::new(COMPANY.0, COMPANY.1),
            presses: false,
            company_soon: Pacer::new(COMPANY_SOON.0, COMPANY_SOON.1),
            announce: false,
            draining: false,
            ticks: 0,
            excess: 0,
            transfers: 0,
            children,
            absent: presence::Absent::default(),
            runs: runs::Runs::new(runs_bytes),
            cards_reading: 0,
        };
        state.host(shards);
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Ask(ask) => state.ask(*ask),
            Msg::Packets(from, packets) => state.packets(from, packets),
            Msg::Written(tickets) => state.written(&tickets),
            Msg::Stored(stored) => state.stored(&stored),
            Msg::Desk(shard, term, user, outputs) => state.desk(shard, term, &user, outputs),
            Msg::User(shard, term, user, outputs) => {
                state.user(shard, term, &user, outputs);
            }
            Msg::Rested(actor, user, known) => state.children.rested(actor, &user, known),
            Msg::Warmed(from, read, user) => state.warmed(from, *read, user),
            Msg::RunRead(shard, run, entries, read) => state.run_read(shard, &run, entries, read),
            Msg::CardsRead(from, session, read) => state.cards_read(from, session, read),
            Msg::Exported(shard, node, number, chunk) => state.exported(shard, node, number, chunk),
            Msg::Imported(shard, number, done) => state.imported(shard, number, done)?,
            Msg::Tick => state.tick(),
            Msg::Flush => {
                state.flushes.came();
                state.flush();
            }
            Msg::FlushDue => {
                state.flushes.came_in_time();
                state.flush();
            }
            Msg::Release => state.release(),
            Msg::LinkLost(node) => state.link_lost(node),
            Msg::LinkFound => state.link_found(),
            Msg::HomeMoved(shard) => state.home_moved(shard),
            Msg::ChildGone(kind, id) => state.child_gone(kind, id),
            Msg::Drain => state.draining = true,
            Msg::Inspect(reply) => state.inspect(reply),
            Msg::Checkpoint => state.checkpoint_all(),
            Msg::Host(shards) => state.host(shards),
            Msg::Crash(user) => state.children.crash(&user),
            Msg::CrashOne(chance) => state.children.crash_one(chance),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, error) => {
                state.supervisor_failed(who.get_id(), &error).await
            }
            _ => Ok(()),
        }
    }
}

/// How many of Raft's ticks one of the lane's is: leaders take theirs together, so that all their heartbeats leave in
/// one cast per peer.
fn raft_ticks(hosted: &Hosted, ticks: u64, pace: Pace) -> usize {
    match (hosted.role.leads, ticks.is_multiple_of(pace.heartbeat_ticks.max(1) as u64)) {
        (true, true) => pace.heartbeat_ticks.max(1),
        (true, false) => 0,
        (false, _) => 1,
    }
}

impl State {
    fn now(&self) -> Duration {
        clock::monotonic().saturating_duration_since(self.started)
    }

    /// The time that goes into what is proposed.
    fn wall(&self) -> Timestamp {
        self.router.agreed((self.settings.wall)())
    }

    /// The shard has something to do: it is done when all that waits already has been taken in.
    fn touch(&mut self, shard: ShardId) {
        self.due.insert(shard);
        self.schedule();
    }

    fn schedule(&mut self) {
        match self.flushes.paced(self.now()) {
            Some(Duration::ZERO) => {
                let _stopping = self.myself.cast(Msg::Flush);
            }
            Some(wait) => {
                self.myself.send_after(wait, || Msg::FlushDue);
            }
            None => {}
        }
    }

    fn flush_at_once(&mut self) {
        if self.flushes.at_once() {
            let _stopping = self.myself.cast(Msg::Flush);
        }
    }

    fn flush(&mut self) {
        let mut records = Vec::new();
        for shard in std::mem::take(&mut self.due) {
            self.advance(shard, &mut records);
            if let Some(hosted) = self.shards.get(&shard)
                && hosted.replica.has_patient()
            {
                self.wait_for_company(shard, hosted.replica.presses());
            }
        }
        if !records.is_empty() {
            let lane = self.myself.clone();
            let done = move |written| {
                let _stopping = lane.cast(Msg::Written(written));
            };
            self.disks.journal.write(records, Arc::new(done));
        }
        for (shard, node) in self.outlet.flush() {
            if let Some(hosted) = self.shards.get_mut(&shard) {
                hosted.replica.unreachable(node);
            }
        }
        if std::mem::take(&mut self.announce) {
            self.router.announce();
        }
        if self.outlet.is_waiting() && self.flushes.later() {
            self.myself.send_after(BUSY_LINK_AGAIN, || Msg::FlushDue);
        }
    }

    fn wait_for_company(&mut self, shard: ShardId, presses: bool) {
        let now = self.now();
        if presses && !self.presses {
            self.presses = true;
            self.myself.send_after(self.company_soon.next(now), || Msg::Release);
        } else if self.patient.is_empty() {
            self.myself.send_after(self.company.next(now), || Msg::Release);
        }
        self.patient.insert(shard);
    }

    fn release(&mut self) {
        self.presses = false;
        for shard in std::mem::take(&mut self.patient) {
            if let Some(hosted) = self.shards.get_mut(&shard) {
                hosted.replica.release();
                self.touch(shard);
            }
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        self.ticks += 1;
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        for shard in shards {
            let Some(hosted) = self.shards.get_mut(&shard) else { continue };
            let ticked = (0..raft_ticks(hosted, self.ticks, self.settings.pace))
                .fold(false, |due, _| hosted.replica.tick() | due);
            let mut out = Vec::new();
            hosted.home.tick(&mut hosted.replica, now, &mut out);
            if ticked || hosted.replica.has_pending() {
                self.touch(shard);
            }
            self.carry_out(shard, out);
        }
        if self.ticks.is_multiple_of(5) {
            self.children.rest(now);
        }
        self.runs.tick(now);
        self.look_around(now);
        self.checkpoint_some();
        self.continue_transfers();
        // Out of step with Raft's own time-outs, at each of which it forgets whom it heard.
        if self.ticks.is_multiple_of(7) {
            self.move_leaders();
            self.change_members();
        }
    }

    fn written(&mut self, tickets: &[(ShardId, u64)]) {
        for (shard, ticket) in tickets {
            let Some(hosted) = self.shards.get_mut(shard) else { continue };
            let mut out = super::replica::Outputs::default();
            hosted.replica.persisted(*ticket, &mut out);
            self.outlet.raft(*shard, out.messages);
            if hosted.replica.has_steps() {
                self.due.insert(*shard);
            }
        }
        self.flush_at_once();
    }

    fn link_lost(&mut self, node: NodeId) {
        self.end_transfers_to(node);
        self.absent.lost(node, self.now());
        for (shard, hosted) in &mut self.shards {
            hosted.replica.link_lost(node, |other| self.router.is_up(other));
            self.due.insert(*shard);
        }
        self.schedule();
    }

    fn link_found(&mut self) {
        for (shard, hosted) in &mut self.shards {
            hosted.replica.link_found(|other| self.router.is_up(other));
            self.due.insert(*shard);
        }
        self.schedule();
    }

    fn home_moved(&mut self, shard: ShardId) {
        for hosted in self.shards.values_mut() {
            hosted.home.moved(shard);
        }
    }

    fn inspect(&self, reply: RpcReplyPort<Vec<ShardStatus>>) {
        let status = self.shards.values().map(Hosted::status).collect();
        let _gone = reply.send(status);
    }
}
