//! Middle: what time a leader may take it for, when its own clock and those of the others differ.
//!
//! One clock that is far off is never the middle one of 3: so it neither deletes what others would keep nor dates messages
//! to next month. Of 2 (or 3, one being down) the earlier counts, since keeping too long can be mended.
//! Source: the median of clocks, as in Marzullo and Owicki, "Maintaining the Time in a Distributed System" (1983).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::{NodeId, Timestamp};
use crate::mutant::{Mutant, is_planted};

/// How far clocks may differ before a node does not go by its own: far more than a sign of life is under way, far less
/// than anything is kept.
const TOLERANCE: Duration = Duration::from_secs(10);

/// The clocks of the nodes within reach. Each is kept as its distance, in milliseconds, from a clock of this node that
/// never jumps: a wall clock that is set wrong is noticed when it is read, not at the next sign of life.
#[derive(Debug, Default)]
pub struct Clocks {
    others: BTreeMap<NodeId, i64>,
}

impl Clocks {
    /// The clock of another node, at this moment.
    pub fn heard(&mut self, node: NodeId, wall: Timestamp, running: Duration) {
        self.others.insert(node, distance(wall, running));
    }

    /// A node is out of reach.
    pub fn lost(&mut self, node: NodeId) {
        self.others.remove(&node);
    }

    /// What to add to this node's clock, in milliseconds, given what it says at this moment.
    #[must_use]
    pub fn correction(&self, own: Timestamp, running: Duration) -> i64 {
        let own = distance(own, running);
        let mut clocks: Vec<i64> = self.others.values().copied().chain([own]).collect();
        clocks.sort_unstable();
        let off = clocks[(clocks.len() - 1) / 2].saturating_sub(own);
        let near = u128::from(off.unsigned_abs()) <= TOLERANCE.as_millis();
        if near || is_planted(Mutant::ExpiresByLocalClock) { 0 } else { off }
    }

    /// The time a leader on this node may go by, given what its own clock says at this moment.
    #[must_use]
    pub fn agreed(&self, own: Timestamp, running: Duration) -> Timestamp {
        Timestamp(own.0.saturating_add_signed(self.correction(own, running)))
    }
}

fn distance(wall: Timestamp, running: Duration) -> i64 {
    let running = i64::try_from(running.as_millis()).unwrap_or(i64::MAX);
    i64::try_from(wall.0).unwrap_or(i64::MAX).saturating_sub(running)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600 * 1000;
    const NOON: Timestamp = Timestamp(1_800_000_000_000);
    const RUNNING: Duration = Duration::from_secs(77);

    fn of(ahead: &[i64]) -> i64 {
        let mut clocks = Clocks::default();
        for (node, ahead) in (2..).map(NodeId).zip(ahead) {
            clocks.heard(node, Timestamp(NOON.0.saturating_add_signed(*ahead)), RUNNING);
        }
        clocks.correction(NOON, RUNNING)
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

    #[test]
    fn a_jump_is_noticed_at_once_and_who_is_out_of_reach_does_not_count() {
        let mut clocks = Clocks::default();
        clocks.heard(NodeId(2), NOON, RUNNING);
        clocks.heard(NodeId(3), NOON, RUNNING);
        let later = RUNNING + Duration::from_secs(1);
        let right = NOON.after(Duration::from_secs(1));
        let wrong = NOON.after(Duration::from_secs(60 * 86_400));
        assert_eq!(clocks.agreed(right, later), right);
        assert_eq!(clocks.agreed(wrong, later), right);
        clocks.lost(NodeId(2));
        assert_eq!(clocks.agreed(wrong, later), right, "the earlier of two");
        clocks.lost(NodeId(3));
        assert_eq!(clocks.agreed(wrong, later), wrong, "there is no other");
    }
}
