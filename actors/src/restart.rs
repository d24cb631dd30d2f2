//! Restart: how often a child may die before its parent gives up; pure.

use std::collections::VecDeque;
use std::time::Duration;

/// What to do about a child that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again.
    Restart,
    /// It dies too often: the parent should fail, and so on upwards.
    GiveUp,
}

/// Restarts of one child, or of a few children counted together: at most `max` within any `window`.
#[derive(Debug, Clone)]
pub struct Restarts {
    max: usize,
    window: Duration,
    deaths: VecDeque<Duration>,
}

impl Restarts {
    /// Allows `max` restarts within any `window`.
    #[must_use]
    pub fn new(max: usize, window: Duration) -> Self {
        Self { max, window, deaths: VecDeque::new() }
    }

    /// Judges a death at `now` (any clock that only goes forward).
    pub fn allow(&mut self, now: Duration) -> Verdict {
        while self.deaths.front().is_some_and(|first| now.saturating_sub(*first) >= self.window) {
            self.deaths.pop_front();
        }
        if self.deaths.len() >= self.max {
            return Verdict::GiveUp;
        }
        self.deaths.push_back(now);
        // Invariant: memory is bounded by the number of restarts that are allowed.
        debug_assert!(self.deaths.len() <= self.max);
        Verdict::Restart
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_death_beyond_the_bound_gives_up() {
        let mut restarts = Restarts::new(2, at(1_000));
        assert_eq!(restarts.allow(at(0)), Verdict::Restart);
        assert_eq!(restarts.allow(at(10)), Verdict::Restart);
        assert_eq!(restarts.allow(at(20)), Verdict::GiveUp);
    }

    #[test]
    fn old_deaths_are_forgotten() {
        let mut restarts = Restarts::new(1, at(1_000));
        assert_eq!(restarts.allow(at(0)), Verdict::Restart);
        assert_eq!(restarts.allow(at(999)), Verdict::GiveUp);
        assert_eq!(restarts.allow(at(1_000)), Verdict::Restart);
    }

    #[test]
    fn none_allowed_means_none() {
        assert_eq!(Restarts::new(0, at(1_000)).allow(at(5)), Verdict::GiveUp);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn no_window_ever_holds_more_than_the_bound(
            max in 0_usize..5,
            gaps in proptest::collection::vec(0_u64..700, 0..60),
        ) {
            let mut restarts = Restarts::new(max, at(1_000));
            let mut now = 0;
            let mut allowed: Vec<u64> = Vec::new();
            for gap in gaps {
                now += gap;
                let recent = allowed.iter().filter(|then| now - **then < 1_000).count();
                let verdict = restarts.allow(at(now));
                prop_assert_eq!(verdict == Verdict::Restart, recent < max);
                if verdict == Verdict::Restart {
                    allowed.push(now);
                }
                prop_assert!(restarts.deaths.len() <= max);
            }
        }
    }
}
