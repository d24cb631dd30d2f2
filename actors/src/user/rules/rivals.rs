//! Rivals: of two sockets of one device, which one stays.

use super::Attachment;
use crate::packet::Start;

/// Whether an attached session stays when another session of its device attaches: only if it is the newer one.
///
/// A gateway's own count says which that is. Between two gateways clocks do, within limits, for they differ: of two that
/// authenticated at about the same time who comes now is newer, unless it only goes on after a failover; and who seems newer
/// by more than the other can have waited for its home had a wrong clock. Nobody else would replace one that is dead.
pub(super) fn stays(attached: &Attachment, new: &Attachment, start: Start) -> bool {
    /// What honest clocks may differ by, and how long a socket may wait for its home.
    const DECIDED_MS: std::ops::Range<u64> = 2_001..15_000;
    let boot = |a: &Attachment| (a.session.node, a.session.boot);
    if boot(attached) == boot(new) {
        return attached.session.count > new.session.count;
    }
    let goes_on = matches!(start, Start::Continue(_));
    let decided = DECIDED_MS.contains(&attached.since.0.abs_diff(new.since.0));
    (decided || goes_on) && (attached.since, attached.session) > (new.since, new.session)
}
