//! Pressure: how many messages all sockets of a node have on their way, and when those that find no place come again.
//!
//! Promises  a message that is let in waits about as long as a node takes for a second's work, however many want to send;
//!           the others are told when there should be a place, those refused first first. What waits in a node is bounded.
//! Never     knows why a node is slow: it counts what is taken in.
//! Why: behind each socket's own limit there may be twenty thousand sockets. What all of them may send together would wait
//! for longer than a session waits for an answer; then it is sent again, and the node works for nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Places there always are: a burst from a quiet time on, and what is stuck while a home is moving.
const PLACES_MIN: usize = 2_048;
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
    /// Refused, to come again.
    refused: AtomicUsize,
    /// Taken in since the last look.
    accepted: AtomicUsize,
    looked_ms: AtomicU64,
    /// Taken in in a second, lately.
    pace: AtomicUsize,
}

impl Pressure {
    /// Places that there are now: what is taken in in a second.
    fn places(&self, most: usize) -> usize {
        self.pace.load(Ordering::Relaxed).max(PLACES_MIN).min(most)
    }

    fn count(&self, now: Duration) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let looked_ms = self.looked_ms.load(Ordering::Relaxed);
        let passed = now_ms.saturating_sub(looked_ms);
        let exchange = || {
            let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
            self.looked_ms.compare_exchange(looked_ms, now_ms, set, get).is_ok()
        };
        if passed >= LOOK_MS && exchange() {
            let accepted = self.accepted.swap(0, Ordering::Relaxed) as u64;
            let pace = usize::try_from(accepted.saturating_mul(1_000) / passed).unwrap_or(0);
            // A second in which little was asked says little.
            let before = self.pace.load(Ordering::Relaxed);
            self.pace.store(pace.max(before / 4 * 3), Ordering::Relaxed);
        }
    }

    fn wait(&self) -> Duration {
        let refused = self.refused.load(Ordering::Relaxed) as f64;
        let pace = self.pace.load(Ordering::Relaxed).max(PLACES_MIN) as f64;
        (WAIT_MIN + Duration::from_secs_f64(refused / pace)).min(WAIT_MAX)
    }
}

/// One socket's part of it; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<Pressure>,
    in_flight: usize,
    refused: usize,
}

impl Share {
    pub(super) fn of(pressure: &Arc<Pressure>) -> Self {
        Self { of: Arc::clone(pressure), in_flight: 0, refused: 0 }
    }

    /// Whether there is a place for one more message, of so many at the most; else after what time to come again. A
    /// socket that has none on its way has one for the asking: few that send much keep nobody out.
    pub(super) fn room(&self, most: usize) -> Result<(), Duration> {
        let taken = self.of.in_flight.load(Ordering::Relaxed);
        let has_room = taken < self.of.places(most) || (self.in_flight == 0 && taken < most);
        if has_room { Ok(()) } else { Err(self.of.wait()) }
    }

    /// A message is on its way.
    pub(super) fn take(&mut self) {
        self.in_flight += 1;
        self.of.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// One is answered.
    pub(super) fn give_back(&mut self) {
        // Invariant: what is answered was taken.
        debug_assert!(self.in_flight > 0);
        self.in_flight -= 1;
        self.of.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// It was taken in.
    pub(super) fn accepted(&mut self, now: Duration) {
        self.of.count(now);
    }

    /// So many messages of this socket are refused now, and to come again.
    pub(super) fn refused(&mut self, count: usize) {
        if count >= self.refused {
            self.of.refused.fetch_add(count - self.refused, Ordering::Relaxed);
        } else {
            self.of.refused.fetch_sub(self.refused - count, Ordering::Relaxed);
        }
        self.refused = count;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.in_flight.fetch_sub(self.in_flight, Ordering::Relaxed);
        self.of.refused.fetch_sub(self.refused, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 16_384;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Takes as many as there is room for.
    fn fill(share: &mut Share) -> usize {
        let before = share.in_flight;
        while share.room(MOST).is_ok() {
            share.take();
        }
        share.in_flight - before
    }

    #[test]
    fn who_finds_no_place_is_told_when_to_come_again() {
        let pressure = Arc::default();
        let (mut one, mut other) = (Share::of(&pressure), Share::of(&pressure));
        assert_eq!(fill(&mut one), PLACES_MIN);
        assert_eq!(other.room(MOST), Ok(()), "one message is always taken");
        assert_eq!(other.room(PLACES_MIN), Err(WAIT_MIN), "but for more than the node may have");
        other.take();
        assert_eq!(other.room(MOST), Err(WAIT_MIN), "all sockets share the places");
        one.give_back();
        one.give_back();
        assert_eq!(other.room(MOST), Ok(()));
    }

    #[test]
    fn places_follow_what_is_answered_in_a_second_up_to_the_limit() {
        let pressure = Arc::default();
        let mut share = Share::of(&pressure);
        for second in 1..=3 {
            for _ in 0..9_000 {
                share.take();
                share.give_back();
                share.accepted(at(second * 1_000));
            }
        }
        assert!((8_990..=9_001).contains(&fill(&mut share)), "{}", share.in_flight);
        drop(share);
        assert_eq!(pressure.places(5_000), 5_000);
        let mut share = Share::of(&pressure);
        // Nothing is asked for some seconds, but now and then.
        for second in 4..=20 {
            share.take();
            share.give_back();
            share.accepted(at(second * 1_000));
        }
        assert_eq!(fill(&mut share), PLACES_MIN, "what was long ago does not count");
    }

    #[test]
    fn the_more_wait_the_later_they_come_again() {
        let pressure = Arc::default();
        let (mut one, mut other) = (Share::of(&pressure), Share::of(&pressure));
        fill(&mut one);
        other.take();
        one.refused(PLACES_MIN);
        assert_eq!(other.room(MOST), Err(WAIT_MIN + Duration::from_secs(1)));
        other.refused(PLACES_MIN * 1_000);
        assert_eq!(other.room(MOST), Err(WAIT_MAX));
        other.refused(0);
        drop((one, other));
        assert_eq!(pressure.wait(), WAIT_MIN);
        assert_eq!(pressure.in_flight.load(Ordering::Relaxed), 0, "all is given back");
    }
}
