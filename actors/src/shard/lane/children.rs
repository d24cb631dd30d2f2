//! Children: the `Mailbox` and `User` actors of a lane, and the supervisors that watch them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::connected::Connected;
use super::{Msg, State};
use crate::clock;
use crate::ids::{SessionId, ShardId, UserId, shard_of};
use crate::mailbox::{self, Mailbox, desk};
use crate::packet::{Closed, Tell};
use crate::restart::{Restarts, Verdict};
use crate::user::{self, rules as user_rules};

/// Failures of one kind of child after which their supervisor fails, too, and all of them start anew.
const FAILURES_MAX: usize = 100;
const FAILURES_WINDOW: Duration = Duration::from_secs(10);
/// Failures of the supervisors themselves after which the lane gives up.
const SUPERVISOR_FAILURES_MAX: usize = 5;

/// Which kind of child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `Mailbox` actors.
    Mailboxes,
    /// `User` actors.
    Users,
}

/// The supervisor of one kind of child.
struct Supervisor;

struct Watching {
    kind: Kind,
    lane: ActorRef<Msg>,
    failures: Restarts,
    started: std::time::Instant,
}

impl Actor for Supervisor {
    type Msg = ();
    type State = Watching;
    type Arguments = (Kind, ActorRef<Msg>);

    async fn pre_start(
        &self,
        _myself: ActorRef<()>,
        (kind, lane): (Kind, ActorRef<Msg>),
    ) -> Result<Watching, ActorProcessingErr> {
        let failures = Restarts::new(FAILURES_MAX, FAILURES_WINDOW);
        Ok(Watching { kind, lane, failures, started: clock::monotonic() })
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<()>,
        event: SupervisionEvent,
        state: &mut Watching,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, error) => {
                tracing::error!(kind = ?state.kind, %error, "an actor failed");
                let _stopping = state.lane.cast(Msg::ChildGone(state.kind, who.get_id()));
                let now = clock::monotonic().saturating_duration_since(state.started);
                match state.failures.allow(now) {
                    Verdict::Restart => Ok(()),
                    Verdict::GiveUp => Err("too many actors failed".into()),
                }
            }
            SupervisionEvent::ActorTerminated(who, ..) => {
                let _stopping = state.lane.cast(Msg::ChildGone(state.kind, who.get_id()));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A mailbox's actor.
struct Active {
    actor: ActorRef<mailbox::Msg>,
    /// Inputs sent to it.
    sent: u64,
}

/// Starts the supervisor of one kind of child.
async fn supervise(lane: &ActorRef<Msg>, kind: Kind) -> Result<ActorRef<()>, ActorProcessingErr> {
    let arguments = (kind, lane.clone());
    let (supervisor, _) = Actor::spawn_linked(None, Supervisor, arguments, lane.get_cell()).await?;
    Ok(supervisor)
}

/// Starts a child that needs nothing to start with, and so at once: a lane that waited here would carry the start's future
/// through every message it handles. `None` when the supervisor has failed.
pub(super) fn start<A: Actor>(
    child: A,
    arguments: A::Arguments,
    supervisor: ActorCell,
) -> Option<ActorRef<A::Msg>> {
    // Not told to wait its turn, however much the lane has done in its own.
    let started = Actor::spawn_linked(None, child, arguments, supervisor);
    let started = pin!(tokio::task::unconstrained(started));
    match started.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(started) => started.ok().map(|(actor, _)| actor),
        Poll::Pending => unreachable!("starting it waits for nothing"),
    }
}

/// The children of a lane.
pub(super) struct Children {
    pub(super) lane: ActorRef<Msg>,
    pub(super) limits: user_rules::Limits,
    mailboxes: ActorRef<()>,
    pub(super) users: ActorRef<()>,
    by_mailbox: HashMap<UserId, Active>,
    pub(super) by_user: HashMap<UserId, Connected>,
    /// Whose the actors are.
    pub(super) owners: HashMap<ActorId, UserId>,
    loading: HashSet<UserId>,
    /// Users whose sessions came or went since it was last looked.
    pub(super) moved: Vec<UserId>,
    supervisor_failures: Restarts,
    /// `Mailbox` actors started.
    started: u64,
}

/// Carries what an actor wants done to the lane, under the term it was started in.
pub(super) struct Carrier {
    pub(super) lane: ActorRef<Msg>,
    pub(super) shard: ShardId,
    pub(super) term: u64,
}

impl mailbox::Port for Carrier {
    fn carry_out(&self, user: &UserId, outputs: Vec<desk::Output>) {
        let message = Msg::Desk(self.shard, self.term, user.clone(), outputs);
        let _stopping = self.lane.cast(message);
    }
}

impl user::Port for Carrier {
    fn carry_out(&self, user: &UserId, outputs: Vec<user_rules::Output>) {
        let message = Msg::User(self.shard, self.term, user.clone(), outputs);
        let _stopping = self.lane.cast(message);
    }

    fn rest(&self, actor: ActorId, user: &UserId, known: user_rules::User) {
        let _stopping = self.lane.cast(Msg::Rested(actor, user.clone(), known));
    }
}

impl Children {
    pub(super) async fn start(
        lane: &ActorRef<Msg>,
        limits: user_rules::Limits,
    ) -> Result<Self, ActorProcessingErr> {
        let mailboxes = supervise(lane, Kind::Mailboxes).await?;
        let users = supervise(lane, Kind::Users).await?;
        Ok(Self {
            lane: lane.clone(),
            limits,
            mailboxes,
            users,
            by_mailbox: HashMap::new(),
            by_user: HashMap::new(),
            owners: HashMap::new(),
            loading: HashSet::new(),
            moved: Vec::new(),
            supervisor_failures: Restarts::new(SUPERVISOR_FAILURES_MAX, FAILURES_WINDOW),
            started: 0,
        })
    }

    /// Hands something to a mailbox's actor, which is started if need be.
    pub(super) fn mailbox(&mut self, shard: ShardId, term: u64, user: UserId, input: desk::Input) {
        if !self.by_mailbox.contains_key(&user) {
            let port = Arc::new(Carrier { lane: self.lane.clone(), shard, term });
            // Outcomes of what a failed actor proposed must not answer what this one proposes.
            self.started += 1;
            let tickets = self.started << 32;
            let arguments = mailbox::Arguments { owner: user.clone(), tickets, port };
            let parent = self.mailboxes.get_cell();
            let Some(actor) = start(Mailbox, arguments, parent) else { return };
            self.owners.insert(actor.get_id(), user.clone());
            self.by_mailbox.insert(user.clone(), Active { actor, sent: 0 });
        }
        self.tell_mailbox(&user, input);
    }

    /// Hands something to a mailbox's actor if there is one.
    pub(super) fn tell_mailbox(&mut self, user: &UserId, input: desk::Input) {
        if let Some(active) = self.by_mailbox.get_mut(user) {
            active.sent += 1;
            let _gone_is_told = active.actor.cast(mailbox::Msg::Input(input));
        }
    }

    /// Nothing was under way for a mailbox after so many inputs: unless more came since, its actor ends.
    pub(super) fn passivate(&mut self, user: &UserId, handled: u64) {
        if self.by_mailbox.get(user).is_some_and(|active| active.sent == handled) {
            self.end_mailbox(user);
        }
    }

    fn end_mailbox(&mut self, user: &UserId) {
        if let Some(active) = self.by_mailbox.remove(user) {
            self.owners.remove(&active.actor.get_id());
            active.actor.stop(None);
        }
    }

    /// This node no longer leads a shard: its actors end.
    pub(super) fn leave(&mut self, shard: ShardId, shards: u16) {
        let here = |user: &UserId| shard_of(user, shards) == shard;
        let mailboxes: Vec<UserId> = self.by_mailbox.keys().filter(|u| here(u)).cloned().collect();
        let users: Vec<UserId> = self.by_user.keys().filter(|u| here(u)).cloned().collect();
        mailboxes.iter().for_each(|user| self.end_mailbox(user));
        users.iter().for_each(|user| self.end_user(user));
    }

    /// A child is gone; answers whom to tell that their attachment is lost.
    fn gone(&mut self, kind: Kind, id: ActorId) -> Vec<(SessionId, u32)> {
        let Some(user) = self.owners.remove(&id) else { return Vec::new() };
        match kind {
            Kind::Mailboxes => {
                self.by_mailbox.remove(&user);
                Vec::new()
            }
            Kind::Users => {
                let lost = self.by_user.remove(&user).map(Connected::lost).unwrap_or_default();
                self.moved.push(user);
                lost
            }
        }
    }

    pub(super) fn crash(&self, user: &UserId) {
        if let Some(active) = self.by_mailbox.get(user) {
            let _gone = active.actor.cast(mailbox::Msg::Crash);
        }
        if let Some(connected) = self.by_user.get(user) {
            connected.crash();
        }
    }

    pub(super) fn crash_one(&self, chance: u64) {
        let count = self.by_mailbox.len() + self.by_user.len();
        let at = usize::try_from(chance).unwrap_or_default().checked_rem(count).unwrap_or_default();
        if let Some(user) = self.by_mailbox.keys().chain(self.by_user.keys()).nth(at) {
            self.crash(user);
        }
    }

    /// Whether a mailbox has its actor.
    pub(super) fn has_mailbox(&self, user: &UserId) -> bool {
        self.by_mailbox.contains_key(user)
    }

    /// Whether a user has an actor of any kind here.
    pub(super) fn has(&self, user: &UserId) -> bool {
        self.by_mailbox.contains_key(user) || self.by_user.contains_key(user)
    }

    /// Notes that a mailbox is being read; false when it is already.
    pub(super) fn start_loading(&mut self, user: &UserId) -> bool {
        self.loading.insert(user.clone())
    }

    pub(super) fn end_loading(&mut self, user: &UserId) {
        self.loading.remove(user);
    }
}

impl State {
    /// A supervisor failed, and its children with it: another takes its place, and sessions attach again.
    pub(super) async fn supervisor_failed(
        &mut self,
        id: ActorId,
        error: &ActorProcessingErr,
    ) -> Result<(), ActorProcessingErr> {
        let now = self.now();
        let children = &mut self.children;
        let kind = match id {
            id if id == children.mailboxes.get_id() => Kind::Mailboxes,
            id if id == children.users.get_id() => Kind::Users,
            _ => return Ok(()),
        };
        tracing::error!(?kind, %error, "a supervisor failed; its actors start anew");
        if children.supervisor_failures.allow(now) == Verdict::GiveUp {
            return Err(format!("supervisors of {kind:?} fail again and again: {error}").into());
        }
        let supervisor = supervise(&children.lane, kind).await?;
        match kind {
            Kind::Mailboxes => {
                children.mailboxes = supervisor;
                for (_, active) in children.by_mailbox.drain() {
                    children.owners.remove(&active.actor.get_id());
                }
            }
            Kind::Users => {
                children.users = supervisor;
                // Also those that rest: for one of them the next actor may have failed to start.
                let lost = children.all_lost();
                self.tell_lost(lost);
            }
        }
        Ok(())
    }

    pub(super) fn child_gone(&mut self, kind: Kind, id: ActorId) {
        let lost = self.children.gone(kind, id);
        self.tell_lost(lost);
    }

    fn tell_lost(&mut self, lost: Vec<(SessionId, u32)>) {
        let told: BTreeSet<(SessionId, u32)> = lost.into_iter().collect();
        for (session, life) in told {
            self.outlet.tell(session, Tell::Closed { life, why: Closed::Lost });
            self.schedule();
        }
    }
}
