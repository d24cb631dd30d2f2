//! Pacer: how soon a lane may do something again: at once while it has little to do, at an even pace when it is busy.
//!
//! Source: the generic cell rate algorithm (ITU-T I.371).

use std::time::Duration;

/// The pace of one thing a lane does.
#[derive(Debug)]
pub(super) struct Pacer {
    /// The time between two of a busy lane.
    every: Duration,
    /// How many may come at once after a quiet time: what it takes to serve a message or two without waiting.
    burst: u32,
    /// When those granted so far would be over at an even pace.
    due: Duration,
}

impl Pacer {
    pub(super) const fn new(every: Duration, burst: u32) -> Self {
        Self { every, burst, due: Duration::ZERO }
    }

    /// Grants the next one; answers how long it has to wait.
    pub(super) fn next(&mut self, now: Duration) -> Duration {
        let start = self.due.max(now);
        self.due = start + self.every;
        self.due.saturating_sub(now + self.every * self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_lane_waits_for_nothing_and_a_busy_one_keeps_the_pace() {
        const EVERY: Duration = Duration::from_millis(2);
        const BURST: u32 = 8;
        let (mut pacer, mut now) = (Pacer::new(EVERY, BURST), Duration::from_secs(1));
        for _ in 0..BURST {
            assert_eq!(pacer.next(now), Duration::ZERO);
        }
        let (from, mut granted) = (now, 0);
        while now - from < Duration::from_secs(1) {
            now += pacer.next(now);
            granted += 1;
        }
        assert!((490..=520).contains(&granted), "{granted} in a second");
        now += EVERY * BURST;
        assert_eq!(pacer.next(now), Duration::ZERO);
    }
}
