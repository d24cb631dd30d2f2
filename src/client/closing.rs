//! Closing: what a client does when a socket ends, and how long it waits (PROTOCOL.md §3).

use std::time::Duration;

/// The first wait is up to this long.
const BASE: Duration = Duration::from_millis(500);
/// No wait is longer than this.
const CAP: Duration = Duration::from_secs(30);

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
}

impl Backoff {
    /// The next wait; `chance` is a fresh random number in 0 … 1.
    pub fn next(&mut self, chance: f64) -> Duration {
        let ceiling = CAP.min(BASE * 2_u32.pow(self.failures.min(6)));
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(chance.clamp(0.0, 1.0))
    }

    /// A connection held: the next failure is a first one.
    pub fn reset(&mut self) {
        self.failures = 0;
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
}
