//! Ranges: what each number in `cluster.toml` may be, in the unit of its key.

use std::ops::RangeInclusive;

const RANGES: &[(&str, RangeInclusive<u64>)] = &[
    ("cluster.shards", 1..=4_096),
    ("cluster.replicas", 1..=7),
    ("auth.token_days", 1..=3_650),
    ("auth.session_days", 0..=3_650),
    ("auth.issuer.leeway_s", 0..=600),
    ("auth.issuer.reload_s", 1..=3_600),
    ("mailbox.history_days", 0..=3_650),
    ("mailbox.expiry_days", 1..=3_650),
    ("mailbox.entries_max", 16..=10_000_000),
    ("mailbox.bytes_max_mib", 1..=65_536),
    ("limits.frame_bytes_max", 4_096..=1_048_576),
    ("limits.body_bytes_max", 256..=32_768),
    ("limits.window", 1..=4_096),
    ("limits.connections_max", 1..=1_000_000),
    ("limits.sockets_per_user_max", 1..=100_000),
    ("limits.sockets_per_second", 1..=1_000_000),
    ("limits.sockets_burst", 1..=1_000_000),
    ("limits.strangers_per_address_max", 1..=1_000_000),
    ("limits.requests_in_flight_max", 1..=65_536),
    ("limits.sends_in_flight_max", 1..=1_048_576),
    ("limits.frames_per_second", 1..=1_000_000),
    ("limits.frames_burst", 1..=1_000_000),
    ("limits.logins_parallel", 0..=1_024),
    ("limits.login_failures_per_minute", 1..=100_000),
    ("limits.login_failures_per_user_per_minute", 1..=100_000),
    ("limits.logins_per_address_per_minute", 1..=100_000),
    ("limits.http_requests_in_flight_max", 1..=1_000_000),
    ("limits.http_requests_per_second", 1..=100_000),
    ("limits.http_requests_per_address_per_second", 1..=1_000_000),
    ("limits.http_messages_per_second", 1..=100_000),
    ("limits.http_timeout_s", 1..=60),
    ("storage.checkpoint_seconds", 1..=3_600),
    ("storage.memory_budget_mib", 16..=1_048_576),
    ("raft.tick_ms", 5..=1_000),
    ("raft.heartbeat_ticks", 1..=100),
    ("raft.election_ticks", 2..=1_000),
    ("link.probe_ms", 10..=10_000),
    ("link.suspect_ms", 20..=60_000),
    ("process.lanes", 1..=256),
    ("process.drain_timeout_s", 0..=3_600),
];

/// What the number of this key may be.
pub(super) fn of(key: &str) -> Option<RangeInclusive<u64>> {
    RANGES.iter().find(|(name, _)| *name == key).map(|(_, range)| range.clone())
}
