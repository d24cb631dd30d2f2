//! Pacer: how soon a lane may flush again: at once while it has little to do, at an even pace when it is busy.
//!
//! Source: the generic cell rate algorithm (ITU-T I.371).

use std::time::Duration;

/// The time between two flushes of a busy lane.
const PACE: Duration = Duration::from_millis(2);
/// Flushes that may come at once after a quiet time: what it takes to serve a message or two without waiting.
const BURST: u32 = 8;

/// One lane's pace.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    /// When the flushes granted so far would be over at an even pace.
    due: Duration,
}

impl Pacer {
    /// Grants the next flush; answers how long it has to wait.
    pub(super) fn next(&mut self, now: Duration) -> Duration {
        let start = self.due.max(now);
        self.due = start + PACE;
        self.due.saturating_sub(now + PACE * BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_lane_waits_for_nothing_and_a_busy_one_keeps_the_pace() {
        let (mut pacer, mut now) = (Pacer::default(), Duration::from_secs(1));
        for _ in 0..BURST {
            assert_eq!(pacer.next(now), Duration::ZERO);
        }
        let (from, mut flushes) = (now, 0);
        while now - from < Duration::from_secs(1) {
            now += pacer.next(now);
            flushes += 1;
        }
        assert!((490..=520).contains(&flushes), "{flushes} in a second");
        now += PACE * BURST;
        assert_eq!(pacer.next(now), Duration::ZERO);
    }
}
