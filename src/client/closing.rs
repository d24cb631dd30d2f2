//! Closing: what a client does when a socket ends, and how long it waits (PROTOCOL.md §3).

use std::time::Duration;

/// The first wait is up to this long.
const BASE: Duration = Duration::from_millis(500);
/// No wait is longer than this.
const CAP: Duration = Duration::from_secs(30);

/// Somebody with something new to say waits about this long after the last attempt.
const HURRY: Duration = Duration::from_secs(2);

/// What to do after a socket has closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Connect again, going on from what is stored.
    Resume,
    /// Get a new credential, then connect again and resume.
    Renew,
    /// Connect again without `resume`.
    Afresh,
    /// Stay away: somebody has to decide something first.
    Stop,
}

/// What a close code asks for; `None` is a connection that ended without one.
#[must_use]
pub fn after(code: Option<u16>) -> After {
    match code {
        Some(1000 | 4300..) => After::Stop,
        Some(4100..=4199) => After::Renew,
        Some(4200..=4299) => After::Afresh,
        Some(_) | None => After::Resume,
    }
}

/// Waits between attempts: full jitter, so that a fallen node's clients do not come back at once.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    nodes: u32,
}

impl Backoff {
    /// Waits between attempts that go to so many nodes in turn: they grow when all of them have failed once more, for
    /// that one node is down says nothing of the next.
    #[must_use]
    pub fn over(nodes: usize) -> Self {
        Self { failures: 0, nodes: u32::try_from(nodes).unwrap_or(u32::MAX) }
    }

    /// The next wait; `chance` is a fresh random number in 0 … 1.
    pub fn next(&mut self, chance: f64) -> Duration {
        let rounds = self.failures / self.nodes.max(1);
        let ceiling = CAP.min(BASE * 2_u32.pow(rounds.min(6)));
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(chance.clamp(0.0, 1.0))
    }

    /// A connection held: the next failure is a first one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A pause before something is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    /// When it is over.
    pub(super) until: Duration,
    /// When it is over for somebody who has something to say.
    hurried: Duration,
}

impl Pause {
    /// A pause of this length, but never shorter than a node asked for.
    pub(super) fn new(length: Duration, asked: Duration, now: Duration) -> Self {
        Self { until: now + length.max(asked), hurried: now + asked.max(HURRY + length / 16) }
    }

    /// Somebody has something to say.
    pub(super) fn hurry(&mut self) {
        self.until = self.until.min(self.hurried);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_range_of_codes_has_its_answer() {
        let answers = [
            (Some(1000), After::Stop),
            (Some(1001), After::Resume),
            (Some(1011), After::Resume),
            (None, After::Resume),
            (Some(4001), After::Resume),
            (Some(4099), After::Resume),
            (Some(4101), After::Renew),
            (Some(4200), After::Afresh),
            (Some(4300), After::Stop),
            (Some(4305), After::Stop),
        ];
        for (code, answer) in answers {
            assert_eq!(after(code), answer, "{code:?}");
        }
    }

    #[test]
    fn waits_double_up_to_half_a_minute_and_start_over() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        backoff.reset();
        assert_eq!(backoff.next(0.5), Duration::from_millis(250));
        assert_eq!(backoff.next(0.0), Duration::ZERO);
    }

    #[test]
    fn waits_double_when_every_node_has_failed() {
        let mut backoff = Backoff::over(3);
        let waits: Vec<_> = (0..7).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [500, 500, 500, 1_000, 1_000, 1_000, 2_000]);
    }

    #[test]
    fn something_to_say_ends_a_pause_soon_but_not_before_the_node_allows() {
        let hurried = |length, asked| {
            let ms = Duration::from_millis;
            let mut pause = Pause::new(ms(length), ms(asked), ms(100));
            pause.hurry();
            pause.until.as_millis()
        };
        assert_eq!(hurried(30_000, 0), 3_975);
        assert_eq!(hurried(300, 0), 400);
        assert_eq!(hurried(300, 5_000), 5_100);
        assert_eq!(hurried(30_000, 5_000), 5_100);
    }
}
