//! Rules of a link: is the peer silent, when to dial it, how much may be under way to it.
//!
//! Pure: moments are spans since the node's start, chance comes in as a number. Why our own detector: the
//! transport below notices a killed peer at once, and a frozen or cut-off one never.

use std::time::Duration;

use crate::ids::BootId;

/// How a link keeps time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A sign of life is sent this often.
    pub probe: Duration,
    /// A peer silent for this long is given up, and its session ended.
    pub suspect: Duration,
    /// A peer without a session is dialled this often, give or take 30 %.
    pub redial: Duration,
    /// A dial that has not connected by then has failed.
    pub connect: Duration,
    /// A connection that is not a ready session by then is closed.
    pub ready: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            probe: Duration::from_millis(150),
            suspect: Duration::from_millis(600),
            redial: Duration::from_millis(300),
            connect: Duration::from_millis(600),
            ready: Duration::from_millis(1_000),
        }
    }
}

/// What the detector thinks of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It has spoken lately, or there is no session that could be silent.
    Fine,
    /// It has been silent for too long.
    Suspect,
}

/// Listens for a peer's silence.
#[derive(Debug, Clone)]
pub struct Detector {
    probe: Duration,
    suspect: Duration,
    heard: Option<Duration>,
    looked: Duration,
    forgiven: bool,
}

impl Detector {
    /// A detector without a session to listen to.
    #[must_use]
    pub fn new(timing: &Timing) -> Self {
        Self {
            probe: timing.probe,
            suspect: timing.suspect,
            heard: None,
            looked: Duration::ZERO,
            forgiven: false,
        }
    }

    /// A session stands: silence counts from now.
    pub fn opened(&mut self, now: Duration) {
        self.heard = Some(now);
        self.looked = now;
        self.forgiven = false;
    }

    /// The session is gone.
    pub fn closed(&mut self) {
        self.heard = None;
    }

    /// Something came from the peer.
    pub fn heard(&mut self, now: Duration) {
        self.heard = self.heard.map(|heard| heard.max(now));
        self.forgiven = false;
    }

    /// Judges the peer; to be asked every `probe`.
    pub fn look(&mut self, now: Duration) -> Health {
        let late = now.saturating_sub(self.looked) > self.probe * 2;
        self.looked = now;
        let Some(heard) = self.heard else {
            return Health::Fine;
        };
        let silent = now.saturating_sub(heard);
        if silent < self.suspect {
            return Health::Fine;
        }
        // We slept ourselves (stopped, or starved of CPU): what the peer said meanwhile may still be waiting to be
        // read. Once per silence it is given half the time again.
        if late && !self.forgiven {
            self.forgiven = true;
            self.heard = Some(now.saturating_sub(self.suspect / 2).max(heard));
            return Health::Fine;
        }
        Health::Suspect
    }
}

/// Decides when a peer is dialled: one attempt at a time, spread so that two nodes do not stay in step.
#[derive(Debug, Clone)]
pub struct Redial {
    every: Duration,
    longest: Duration,
    next: Duration,
    busy_until: Option<Duration>,
}

impl Redial {
    /// Ready to dial at once.
    #[must_use]
    pub fn new(timing: &Timing) -> Self {
        Self {
            every: timing.redial,
            longest: timing.connect + timing.ready + timing.redial,
            next: Duration::ZERO,
            busy_until: None,
        }
    }

    /// Whether to dial now.
    #[must_use]
    pub fn due(&self, now: Duration) -> bool {
        now >= self.next && self.busy_until.is_none_or(|until| now >= until)
    }

    /// How long until it may be due.
    #[must_use]
    pub fn wait(&self, now: Duration) -> Duration {
        let busy = self.busy_until.unwrap_or_default();
        self.next.max(busy).saturating_sub(now)
    }

    /// A dial begins; `chance` is any number.
    pub fn begun(&mut self, now: Duration, chance: u32) {
        self.busy_until = Some(now + self.longest);
        self.next = now + self.spread(chance);
    }

    /// The dial has come to something or to nothing.
    pub fn ended(&mut self) {
        self.busy_until = None;
    }

    /// A session was lost: not at once again, since the peer dials too.
    pub fn lost(&mut self, now: Duration, chance: u32) {
        self.next = self.next.max(now + self.spread(chance));
    }

    /// 70 % to 130 % of the span between dials.
    fn spread(&self, chance: u32) -> Duration {
        self.every * (70 + chance % 61) / 100
    }
}

/// How urgent packets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Heartbeats, votes, signs of life: small, and before everything else.
    Control,
    /// Messages and what belongs to them.
    Normal,
    /// Checkpoints: last, and at most a quarter of what may be under way.
    Bulk,
}

impl Class {
    /// All of them, most urgent first.
    pub const ALL: [Self; 3] = [Self::Control, Self::Normal, Self::Bulk];

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Control => 0,
            Self::Normal => 1,
            Self::Bulk => 2,
        }
    }
}

/// Bytes of normal traffic under way that are always allowed.
pub const CREDIT_BYTES_MIN: u64 = 64 * 1024;
/// Bytes of normal traffic under way that are never exceeded by more than one call.
pub const CREDIT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes allowed before anything was measured.
pub const CREDIT_BYTES_FIRST: u64 = 1024 * 1024;
/// Bytes of control traffic under way; it asks for no credit, but a bug must not fill the memory.
pub const CONTROL_BYTES_MAX: u64 = 1024 * 1024;

/// What may be under way to a peer: sent, or waiting to be, and not yet reported as taken.
///
/// Normal traffic gets what the peer drained in 0.1 s, so that a sign of life on the same stream waits about that
/// long at the most; bulk gets a quarter of it.
#[derive(Debug, Clone)]
pub struct Credit {
    sent: [u64; 3],
    taken: [u64; 3],
    limit: u64,
    starved: bool,
    sampled: Option<(Duration, u64)>,
}

impl Default for Credit {
    fn default() -> Self {
        Self {
            sent: [0; 3],
            taken: [0; 3],
            limit: CREDIT_BYTES_FIRST,
            starved: false,
            sampled: None,
        }
    }
}

impl Credit {
    /// Whether more of this class may be queued now.
    pub fn admits(&mut self, class: Class) -> bool {
        let limit = match class {
            Class::Control => CONTROL_BYTES_MAX,
            Class::Normal => self.limit,
            Class::Bulk => self.limit / 4,
        };
        let admitted = self.under_way(class) < limit;
        if !admitted && class != Class::Control {
            self.starved = true;
        }
        admitted
    }

    /// Bytes of this class were queued.
    pub fn sent(&mut self, class: Class, bytes: u64) {
        self.sent[class.index()] += bytes;
    }

    /// The peer reports what it has taken in all, by class. Nonsense is cut to what can be true.
    pub fn taken(&mut self, totals: [u64; 3]) {
        for ((taken, sent), total) in self.taken.iter_mut().zip(self.sent).zip(totals) {
            *taken = (*taken).max(total.min(sent));
        }
        self.check();
    }

    /// Measures how fast the peer drains; to be called every probe interval.
    ///
    /// A link with little to do says nothing about how fast it is, so it can only raise the estimate; one that
    /// refused something has shown what it can do.
    pub fn sample(&mut self, now: Duration) {
        let total: u64 = self.taken.iter().sum();
        let Some((then, before)) = self.sampled.replace((now, total)) else {
            return;
        };
        let span = u64::try_from(now.saturating_sub(then).as_millis()).unwrap_or(u64::MAX);
        if span == 0 {
            return;
        }
        let in_a_tenth = (total - before).saturating_mul(100) / span;
        let starved = std::mem::take(&mut self.starved);
        let wanted = if starved {
            // Twice what was drained leaves room to find out that it could be more.
            self.limit / 2 + in_a_tenth
        } else {
            self.limit.max(in_a_tenth)
        };
        self.limit = wanted.clamp(CREDIT_BYTES_MIN, CREDIT_BYTES_MAX);
    }

    /// Bytes of one class queued or sent and not yet taken.
    #[must_use]
    pub fn under_way(&self, class: Class) -> u64 {
        self.sent[class.index()] - self.taken[class.index()]
    }

    /// Bytes of all classes queued or sent and not yet taken.
    #[must_use]
    pub fn under_way_in_all(&self) -> u64 {
        Class::ALL.iter().map(|class| self.under_way(*class)).sum()
    }

    /// What always holds.
    pub fn check(&self) {
        // Invariant: a peer cannot have taken more than was sent.
        debug_assert!(self.taken.iter().zip(self.sent).all(|(t, s)| *t <= s));
        debug_assert!((CREDIT_BYTES_MIN..=CREDIT_BYTES_MAX).contains(&self.limit));
    }
}

/// What we have taken from a peer, and what of it we have told it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Receipts {
    taken: [u64; 3],
    told: u64,
}

impl Receipts {
    /// Bytes worth a frame of their own when none goes that way anyway.
    pub const WORTH_TELLING: u64 = 16 * 1024;

    /// Bytes of this class have been handed on.
    pub fn took(&mut self, class: Class, bytes: u64) {
        self.taken[class.index()] += bytes;
    }

    /// Whether the peer should be told now.
    #[must_use]
    pub fn worth_telling(&self) -> bool {
        self.taken.iter().sum::<u64>() - self.told >= Self::WORTH_TELLING
    }

    /// The totals, which the peer will now be told.
    pub fn tell(&mut self) -> [u64; 3] {
        self.told = self.taken.iter().sum();
        self.taken
    }
}

/// What a hello calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Their life is new: what they sent before is not continued.
    pub new_life: bool,
    /// They do not know our life yet, or we did not know theirs: send a hello.
    pub answer: bool,
}

/// Two ends agreeing on which session counts.
///
/// Each end numbers its sessions (*lives*). A link is up when we know their life and they have shown that they know
/// ours; whatever either sends is marked with the life, so nothing of an older session is taken for the new one's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pairing {
    ours: Option<u32>,
    theirs: Option<(BootId, u32)>,
    known: bool,
}

impl Pairing {
    /// We have a session, under this new number.
    pub fn opened(&mut self, life: u32) {
        self.ours = Some(life);
        self.known = false;
    }

    /// We have none any more.
    pub fn closed(&mut self) {
        self.ours = None;
        self.known = false;
    }

    /// Their hello.
    pub fn hello(&mut self, boot: BootId, life: u32, echo: u32) -> Heard {
        let new_life = self.theirs != Some((boot, life));
        self.theirs = Some((boot, life));
        self.known = self.ours == Some(echo);
        Heard { new_life, answer: self.ours.is_some() && (new_life || !self.known) }
    }

    /// Whether a frame with this mark belongs to their present life.
    #[must_use]
    pub fn belongs(&self, boot: BootId, life: u32) -> bool {
        self.theirs == Some((boot, life))
    }

    /// Whether `echo` is our present life: then their receipts are about it.
    #[must_use]
    pub fn about_us(&self, echo: u32) -> bool {
        self.ours == Some(echo)
    }

    /// Our life, if there is one.
    #[must_use]
    pub fn ours(&self) -> Option<u32> {
        self.ours
    }

    /// Their life as far as we know, to be echoed; 0 if none.
    #[must_use]
    pub fn echo(&self) -> u32 {
        self.theirs.map_or(0, |(_, life)| life)
    }

    /// The peer's boot, if the link is up.
    #[must_use]
    pub fn up(&self) -> Option<BootId> {
        match (self.ours, self.theirs) {
            (Some(_), Some((boot, _))) if self.known => Some(boot),
            _ => None,
        }
    }
}
