//! Middle: what time a leader may take it for, when its own clock and those of the others differ.
//!
//! One clock that is far off is never the middle one of 3: so it neither deletes what others would keep nor dates messages
//! to next month. Of 2 (or 3, one being down) the earlier counts, since keeping too long can be mended.
//! Source: the median of clocks, as in Marzullo and Owicki, "Maintaining the Time in a Distributed System" (1983).

use std::time::Duration;

/// How far clocks may differ before a node does not go by its own: far more than a sign of life is under way, far less
/// than anything is kept.
const TOLERANCE: Duration = Duration::from_secs(10);

/// What to add to this node's clock, in milliseconds, given how far the others are ahead of it.
pub(super) fn correction(ahead_ms: impl Iterator<Item = i64>) -> i64 {
    let mut clocks: Vec<i64> = ahead_ms.chain([0]).collect();
    clocks.sort_unstable();
    let middle = clocks[(clocks.len() - 1) / 2];
    if u128::from(middle.unsigned_abs()) <= TOLERANCE.as_millis() { 0 } else { middle }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600 * 1000;

    fn of(ahead: &[i64]) -> i64 {
        correction(ahead.iter().copied())
    }

    #[test]
    fn a_node_goes_by_its_own_clock_unless_most_others_disagree() {
        for good in [&[][..], &[0], &[9_000, -9_000], &[40 * DAY, 3], &[-40 * DAY, 3], &[DAY]] {
            assert_eq!(of(good), 0, "{good:?}");
        }
        assert_eq!(of(&[40 * DAY, 40 * DAY + 5]), 40 * DAY, "this one is late");
        assert_eq!(of(&[-40 * DAY, -40 * DAY - 5]), -40 * DAY, "this one is early");
        assert_eq!(of(&[-DAY]), -DAY, "of two the earlier counts");
        assert_eq!(of(&[DAY, -DAY, DAY, -DAY]), 0, "two of five may be off");
    }
}
