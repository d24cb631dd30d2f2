//! Clock: the one place that reads what time it is.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::ids::Timestamp;

/// Reads the wall clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one reader of the clock")]
pub fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Reads the monotonic clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one reader of the clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}
