//! Units: turns the bare numbers of `cluster.toml` into spans and bytes, by the unit in their key.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Seconds in a day.
pub(super) const DAY: u64 = 24 * 60 * 60;

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    // 32 bits, so that no unit can overflow 64.
    u32::deserialize(from).map(u64::from)
}

/// Reads days.
pub(super) fn days<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    number(from).map(|n| Duration::from_secs(n * DAY))
}

/// Reads seconds.
pub(super) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    number(from).map(Duration::from_secs)
}

/// Reads milliseconds.
pub(super) fn milliseconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    number(from).map(Duration::from_millis)
}

/// Reads MiB into bytes.
pub(super) fn mebibytes<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    number(from).map(|n| n << 20)
}
