//! Pacer: how soon a lane may do something again: at once while it has little to do, at an even pace when it is busy.
//!
//! Source: the generic cell rate algorithm (ITU-T I.371).

use std::time::Duration;

use ractor::ActorRef;

use super::Msg;

/// The pace of one thing a lane does.
#[derive(Debug)]
pub(super) struct Pacer {
    /// The time between two of a busy lane.
    every: Duration,
    /// How many may come at once after a quiet time.
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

/// When a lane flushes: at most one flush is queued behind what waits, and at most one is to come in its time.
#[derive(Debug)]
pub(super) struct Flushes {
    pacer: Pacer,
    queued: bool,
    timed: bool,
}

impl Flushes {
    pub(super) const fn new(pacer: Pacer) -> Self {
        Self { pacer, queued: false, timed: false }
    }

    /// One is wanted when the pace allows it; answers how long to wait before it is queued, unless one comes anyway.
    pub(super) fn paced(&mut self, now: Duration) -> Option<Duration> {
        if self.queued || self.timed {
            return None;
        }
        let wait = self.pacer.next(now);
        (self.queued, self.timed) = (wait.is_zero(), !wait.is_zero());
        Some(wait)
    }

    /// One is wanted behind what waits; answers whether to queue it.
    pub(super) const fn at_once(&mut self) -> bool {
        !std::mem::replace(&mut self.queued, true)
    }

    /// One is wanted some time from now; answers whether to set the clock for it.
    pub(super) const fn later(&mut self) -> bool {
        !std::mem::replace(&mut self.timed, true)
    }

    /// The one that was queued has come.
    pub(super) const fn came(&mut self) {
        self.queued = false;
    }

    /// The one that was to come in its time has come.
    pub(super) const fn came_in_time(&mut self) {
        self.timed = false;
    }
}

/// Ticks until the lane is gone. A late tick is not made up for.
pub(super) fn start_ticking(lane: ActorRef<Msg>, every: Duration) {
    tokio::spawn(async move {
        let mut interval = tokio::time::interval(every);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if lane.cast(Msg::Tick).is_err() {
                return;
            }
        }
    });
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

    #[test]
    fn however_many_flushes_come_at_once_only_one_is_to_come_in_its_time() {
        const PACE: Duration = Duration::from_millis(2);
        let mut flushes = Flushes::new(Pacer::new(PACE, 1));
        let now = Duration::from_secs(1);
        assert_eq!(flushes.paced(now), Some(Duration::ZERO));
        assert_eq!(flushes.paced(now), None, "one is queued");
        flushes.came();
        assert_eq!(flushes.paced(now), Some(PACE));
        for _ in 0..1000 {
            assert!(flushes.at_once());
            assert!(!flushes.at_once());
            flushes.came();
            assert_eq!(flushes.paced(now), None, "one is to come");
            assert!(!flushes.later());
        }
        flushes.came_in_time();
        assert_eq!(flushes.paced(now + PACE), Some(PACE), "the others used nothing up");
    }
}
