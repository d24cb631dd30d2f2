//! Sessions: accounts for every socket of this node, and looks after those that have waited long enough.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actors::clock;
use actors::ids::{SessionId, UserId};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::Notify;

use super::Limits;
use super::flight::Bucket;
use super::pressure::Pressure;

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
    /// What they have on their way.
    pub(super) pressure: Arc<Pressure>,
    crashed: AtomicU64,
    sockets: Mutex<BTreeMap<SessionId, Arc<Pulse>>>,
    users: Mutex<BTreeMap<UserId, usize>>,
    /// How fast sockets come.
    coming: Mutex<Bucket>,
    /// Sockets that have not authenticated, by where they come from.
    strangers: Mutex<BTreeMap<IpAddr, usize>>,
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
pub struct Place {
    roll: Arc<Roll>,
    stranger: Option<Stranger>,
}

impl Place {
    /// Whose socket it is is known now.
    pub(super) fn is_known(&mut self) {
        self.stranger = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.roll.places.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One socket's place among those that have not authenticated; given back when dropped.
#[derive(Debug)]
struct Stranger(Arc<Roll>, IpAddr);

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut strangers = lock(&self.0.strangers);
        if let Some(sockets) = strangers.get_mut(&self.1) {
            *sockets -= 1;
            if *sockets == 0 {
                strangers.remove(&self.1);
            }
        }
    }
}

/// Why a node takes no more sockets now, and when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Crowded {
    /// It has as many as it may have, or is being stopped: try another node.
    #[error("too many connections to this node")]
    Full,
    /// They come too fast: try again after this.
    #[error("too many logins at once")]
    TooFast(Duration),
    /// Too many from this address have not authenticated: let those finish first.
    #[error("too many connections from this address that have not authenticated")]
    Strangers,
}

impl Crowded {
    /// The name under which refusals are counted.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::TooFast(_) => "too_fast",
            Self::Strangers => "strangers",
        }
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
            pressure: Arc::default(),
            crashed: AtomicU64::new(0),
            sockets: Mutex::default(),
            users: Mutex::default(),
            coming: Mutex::default(),
            strangers: Mutex::default(),
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

    /// Takes a place for one more socket from this address, if there is one.
    pub fn take_place(
        self: &Arc<Self>,
        limits: &Limits,
        from: Option<IpAddr>,
        now: Duration,
    ) -> Result<Place, Crowded> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Crowded::Full);
        }
        let stranger = from.map(|from| self.take_stranger(from, limits)).transpose()?.flatten();
        if self.places.fetch_add(1, Ordering::Relaxed) >= limits.sockets_max {
            self.places.fetch_sub(1, Ordering::Relaxed);
            return Err(Crowded::Full);
        }
        let place = Place { roll: Arc::clone(self), stranger };
        let (rate, burst) = (limits.sockets_per_second, limits.sockets_burst);
        lock(&self.coming).take(10, rate, burst, now).map_err(Crowded::TooFast)?;
        Ok(place)
    }

    /// Counts a socket among the strangers; loopback is exempt: a proxy on the machine speaks for many.
    fn take_stranger(
        self: &Arc<Self>,
        from: IpAddr,
        limits: &Limits,
    ) -> Result<Option<Stranger>, Crowded> {
        let from = network(from);
        if from.is_loopback() {
            return Ok(None);
        }
        let mut strangers = lock(&self.strangers);
        let sockets = strangers.get(&from).copied().unwrap_or_default();
        if sockets >= limits.strangers_per_address_max {
            return Err(Crowded::Strangers);
        }
        strangers.insert(from, sockets + 1);
        Ok(Some(Stranger(Arc::clone(self), from)))
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
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        metrics::gauge!("rookery_sessions").set(number(sockets.len()));
        let figures = self.pressure.figures();
        metrics::gauge!("rookery_sends_in_flight").set(number(figures.in_flight));
        metrics::gauge!("rookery_sends_without_place").set(number(figures.without_place));
        metrics::counter!("rookery_sends_turned_away_total").absolute(figures.turned_away);
    }
}

/// What counts as one address: of IPv6 the first half, all of which one customer has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let kept = u128::MAX << 64;
            IpAddr::V6((v6.to_bits() & kept).into())
        }
        other => other,
    }
}

/// A panic elsewhere leaves these maps whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
