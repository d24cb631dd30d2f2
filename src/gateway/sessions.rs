//! Sessions: accounts for every socket of this node, and looks after those that have waited long enough.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actors::clock;
use actors::ids::{SessionId, UserId};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::Notify;

/// How often sockets are looked at.
const SWEEP: Duration = Duration::from_millis(250);

/// What `Sessions` is told.
#[derive(Debug)]
pub enum Msg {
    /// Some time has passed.
    SweepDue,
}

impl ractor::Message for Msg {}

/// The actor; what it knows is in the `Roll`, so that it loses nothing when it is restarted.
#[derive(Debug)]
pub struct Sessions;

impl Actor for Sessions {
    type Msg = Msg;
    type State = Arc<Roll>;
    type Arguments = Arc<Roll>;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        roll: Arc<Roll>,
    ) -> Result<Arc<Roll>, ActorProcessingErr> {
        myself.send_after(SWEEP, || Msg::SweepDue);
        Ok(roll)
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        msg: Msg,
        roll: &mut Arc<Roll>,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::SweepDue => {
                roll.sweep();
                // Not an interval: missed ticks of one arrive in a burst.
                myself.send_after(SWEEP, || Msg::SweepDue);
            }
        }
        Ok(())
    }
}

/// All sockets of this node.
#[derive(Debug)]
pub struct Roll {
    started: Instant,
    /// Sockets, upgrades under way included.
    places: AtomicUsize,
    draining: AtomicBool,
    crashed: AtomicU64,
    sockets: Mutex<BTreeMap<SessionId, Arc<Pulse>>>,
    users: Mutex<BTreeMap<UserId, usize>>,
}

/// When one socket wants to be looked at, and how it is told.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Milliseconds since the gateway started.
    due_ms: AtomicU64,
    notify: Notify,
}

impl Pulse {
    /// Asks for a nudge at a moment, counted from the start of the gateway.
    pub(super) fn set_due(&self, due: Duration) {
        let due_ms = u64::try_from(due.as_millis()).unwrap_or(u64::MAX);
        self.due_ms.store(due_ms, Ordering::Relaxed);
    }

    /// Waits for the nudge.
    pub(super) async fn nudged(&self) {
        self.notify.notified().await;
    }
}

/// One socket's place among those a node takes; given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Roll>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One socket's place among those its user may have; given back when dropped.
#[derive(Debug)]
pub(super) struct Guest(Arc<Roll>, UserId);

impl Drop for Guest {
    fn drop(&mut self) {
        let mut users = lock(&self.0.users);
        if let Some(sockets) = users.get_mut(&self.1) {
            *sockets -= 1;
            if *sockets == 0 {
                users.remove(&self.1);
            }
        }
    }
}

impl Roll {
    /// An empty one; `started` is what the gateway's moments are counted from.
    #[must_use]
    pub fn new(started: Instant) -> Arc<Self> {
        Arc::new(Self {
            started,
            places: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            crashed: AtomicU64::new(0),
            sockets: Mutex::default(),
            users: Mutex::default(),
        })
    }

    /// Sockets connected now.
    #[must_use]
    pub fn sockets(&self) -> usize {
        lock(&self.sockets).len()
    }

    /// Sockets whose task has panicked since the start.
    #[must_use]
    pub fn crashed(&self) -> u64 {
        self.crashed.load(Ordering::Relaxed)
    }

    /// Sockets of a user on this node.
    #[must_use]
    pub fn sockets_of(&self, user: &UserId) -> usize {
        lock(&self.users).get(user).copied().unwrap_or_default()
    }

    /// From now on no more sockets are taken.
    pub fn refuse_new(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Takes a place for one more socket, if there is one.
    pub fn take_place(self: &Arc<Self>, max: usize) -> Option<Place> {
        if self.draining.load(Ordering::Relaxed) {
            return None;
        }
        let place = Place(Arc::clone(self));
        (self.places.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }

    /// Takes a place for one more socket of this user, if there is one.
    pub(super) fn take_guest(self: &Arc<Self>, user: &UserId, max: usize) -> Option<Guest> {
        let mut users = lock(&self.users);
        let sockets = users.entry(user.clone()).or_default();
        if *sockets >= max {
            return None;
        }
        *sockets += 1;
        Some(Guest(Arc::clone(self), user.clone()))
    }

    /// Enters a socket.
    pub(super) fn enter(&self, id: SessionId) -> Arc<Pulse> {
        let pulse = Arc::new(Pulse { due_ms: AtomicU64::new(u64::MAX), notify: Notify::new() });
        lock(&self.sockets).insert(id, Arc::clone(&pulse));
        pulse
    }

    /// Strikes a socket out; called while its task unwinds, it counts as crashed.
    pub(super) fn leave(&self, id: SessionId) {
        lock(&self.sockets).remove(&id);
        if std::thread::panicking() {
            self.crashed.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("rookery_sessions_crashed_total").increment(1);
        }
    }

    /// Nudges every socket that is due.
    pub fn sweep(&self) {
        let running = clock::monotonic().saturating_duration_since(self.started);
        let now_ms = u64::try_from(running.as_millis()).unwrap_or(u64::MAX);
        let sockets = lock(&self.sockets);
        for pulse in sockets.values() {
            if pulse.due_ms.load(Ordering::Relaxed) <= now_ms {
                pulse.notify.notify_one();
            }
        }
        metrics::gauge!("rookery_sessions").set(u32::try_from(sockets.len()).unwrap_or(u32::MAX));
    }
}

/// A panic elsewhere leaves these maps whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
