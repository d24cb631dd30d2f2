//! Pressure: how many messages all sockets of a node have on their way, and when those that find no place come again.
//!
//! Promises  a message that is let in waits about as long as a node takes for a second's work, however many want to send;
//!           the others are told when there should be a place, those refused first first. What waits in a node is bounded.
//! Never     knows why a node is slow: it counts what is answered, with a check mark or a refusal, but not `unavailable` and
//!           `overloaded`, which say that nothing was done.
//! Why: behind each socket's own limit there may be twenty thousand sockets. What all of them may send together would wait
//! for longer than a session waits for an answer; then it is sent again, and the node works for nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Places there always are: a burst from a quiet time on, and what is stuck while a home is moving.
const PLACES_MIN: usize = 2_048;
/// One part in so many of what there may be is kept for sockets that have nothing on their way.
const KEPT: usize = 8;
/// How often the pace is looked at.
const LOOK_MS: u64 = 1_000;
/// Who finds no place waits at least so long.
const WAIT_MIN: Duration = Duration::from_millis(200);
/// And at most so long, however many wait: a client's own backoff goes to 30 s.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What all sockets of a node have on their way.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    in_flight: AtomicUsize,
    /// Refused for want of a place, to come again.
    without_place: AtomicUsize,
    /// Answered since the last look.
    answered: AtomicUsize,
    looked_ms: AtomicU64,
    /// Answered in a second, lately.
    pace: AtomicUsize,
    /// Times that there was no place, since the start.
    turned_away: AtomicU64,
}

/// How it stands with a node's places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Figures {
    /// Messages on their way.
    pub(super) in_flight: usize,
    /// Messages that found no place, and are to come again.
    pub(super) without_place: usize,
    /// Times that there was no place, since the start.
    pub(super) turned_away: u64,
}

impl Pressure {
    /// How it stands now.
    pub(super) fn figures(&self) -> Figures {
        Figures {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            without_place: self.without_place.load(Ordering::Relaxed),
            turned_away: self.turned_away.load(Ordering::Relaxed),
        }
    }

    /// Places for those who send many: what is answered in a second, and never those that are kept for who sends one.
    pub(super) fn places(&self, most: usize) -> usize {
        self.pace.load(Ordering::Relaxed).max(PLACES_MIN).min(most - most / KEPT)
    }

    fn count(&self, now: Duration) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let looked_ms = self.looked_ms.load(Ordering::Relaxed);
        let passed = now_ms.saturating_sub(looked_ms);
        let exchange = || {
            let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
            self.looked_ms.compare_exchange(looked_ms, now_ms, set, get).is_ok()
        };
        if passed >= LOOK_MS && exchange() {
            let answered = self.answered.swap(0, Ordering::Relaxed) as u64;
            let pace = usize::try_from(answered.saturating_mul(1_000) / passed).unwrap_or(0);
            // A second in which little was asked says little.
            let before = self.pace.load(Ordering::Relaxed);
            self.pace.store(pace.max(before / 4 * 3), Ordering::Relaxed);
        }
    }

    fn wait(&self) -> Duration {
        let without = self.without_place.load(Ordering::Relaxed) as f64;
        let pace = self.pace.load(Ordering::Relaxed).max(PLACES_MIN) as f64;
        (WAIT_MIN + Duration::from_secs_f64(without / pace)).min(WAIT_MAX)
    }
}

/// One socket's part of it; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<Pressure>,
    in_flight: usize,
    without_place: usize,
}

impl Share {
    pub(super) fn of(pressure: &Arc<Pressure>) -> Self {
        Self { of: Arc::clone(pressure), in_flight: 0, without_place: 0 }
    }

    /// Whether there is a place for one more message, of so many at the most; else after what time to come again. A
    /// socket that has none on its way has one for the asking: few that send much keep nobody out. Sockets that ask at the
    /// same moment on several threads may get the same last place.
    pub(super) fn room(&self, most: usize) -> Result<(), Duration> {
        let taken = self.of.in_flight.load(Ordering::Relaxed);
        let has_room = taken < self.of.places(most) || (self.in_flight == 0 && taken < most);
        if has_room {
            return Ok(());
        }
        self.of.turned_away.fetch_add(1, Ordering::Relaxed);
        Err(self.of.wait())
    }

    /// A message is on its way.
    pub(super) fn take(&mut self) {
        self.in_flight += 1;
        self.of.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// One has its answer, whatever it is.
    pub(super) fn give_back(&mut self) {
        // Invariant: what is answered was taken.
        debug_assert!(self.in_flight > 0);
        self.in_flight -= 1;
        self.of.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// It was worked on to its end: taken in, or refused for what it is.
    pub(super) fn answered(&mut self, now: Duration) {
        self.of.count(now);
    }

    /// So many messages of this socket wait for a place now, and come again.
    pub(super) fn without_place(&mut self, count: usize) {
        if count >= self.without_place {
            self.of.without_place.fetch_add(count - self.without_place, Ordering::Relaxed);
        } else {
            self.of.without_place.fetch_sub(self.without_place - count, Ordering::Relaxed);
        }
        self.without_place = count;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.in_flight.fetch_sub(self.in_flight, Ordering::Relaxed);
        self.of.without_place.fetch_sub(self.without_place, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
