//! Units: turns the bare numbers of `cluster.toml` into spans and bytes, by the unit in their key.

use std::time::Duration;

use serde::de::{Error, Unexpected};
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

/// Reads a whole number with its unit: `500ms`, `20s`, `2m`, `1h`.
pub(super) fn span<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    // 32 bits, so that no unit can overflow 64.
    let read = number.parse::<u32>().ok().zip(unit);
    let read = read.map(|(number, unit)| Duration::from_millis(u64::from(number) * unit));
    read.ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &"a number and its unit"))
}
