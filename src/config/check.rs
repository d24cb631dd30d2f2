//! Check: what a configuration may say beyond the ranges of its numbers; every clash is named here.

mod auth;
mod push;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::problem::{Finding, Findings};
use super::units::DAY;
use super::{Config, Durability, Node, naming, ranges};

/// What the committed `cluster.toml` has in place of its secrets.
const PLACEHOLDER: &str = "change-me";

/// Looks at everything a well-formed configuration can still get wrong.
pub(super) fn check(config: &Config) -> Findings {
    let mut findings = Findings::default();
    cluster(&mut findings, config);
    nodes(&mut findings, config);
    limits(&mut findings, config);
    storage(&mut findings, config);
    timing(&mut findings, config);
    auth::check(&mut findings, &config.auth);
    http(&mut findings, config);
    push::check(&mut findings, config.push.as_ref());
    findings
}

impl Findings {
    fn wrong(&mut self, key: impl Into<String>, what: impl Into<String>) {
        self.wrong.push(Finding { key: key.into(), what: what.into() });
    }

    fn unwise(&mut self, key: impl Into<String>, what: impl Into<String>) {
        self.unwise.push(Finding { key: key.into(), what: what.into() });
    }

    fn within(&mut self, key: &str, value: impl Into<u64>) {
        let value = value.into();
        let range = ranges::of(key).expect("every number that is checked has a range");
        if !range.contains(&value) {
            let (low, high) = range.into_inner();
            self.wrong(key, format!("must be {low} to {high}, not {value}"));
        }
    }

    fn days(&mut self, key: &str, span: Duration) {
        self.within(key, span.as_secs() / DAY);
    }

    fn millis(&mut self, key: &str, span: Duration) {
        self.within(key, u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    }
}

fn cluster(findings: &mut Findings, config: &Config) {
    let cluster = &config.cluster;
    if !is_name(&cluster.name) {
        findings.wrong("cluster.name", not_a_name(&cluster.name));
    }
    findings.within("cluster.shards", cluster.shards);
    findings.within("cluster.replicas", cluster.replicas);
    if cluster.replicas.is_multiple_of(2) {
        let what = "an even number of replicas survives no more failures than one less";
        findings.unwise("cluster.replicas", what);
    }
    let nodes = config.nodes.len();
    if nodes > 0 && config.replicas() < usize::from(cluster.replicas) {
        let (there, copies) = match nodes {
            1 => ("there is 1 node".to_owned(), "1 copy".to_owned()),
            _ => (format!("there are {nodes} nodes"), format!("{nodes} copies")),
        };
        let what =
            format!("{there}, so there will be {copies} of each part, not {}", cluster.replicas);
        findings.unwise("cluster.replicas", what);
    }
    let cookie = cluster.cookie.reveal();
    if !(16..=256).contains(&cookie.len()) {
        let what = format!("must be 16 to 256 bytes, not {}", cookie.len());
        findings.wrong("cluster.cookie", what);
    }
    placeholder(findings, "cluster.cookie", cookie);
}

/// What stands in a file that everybody has is no secret.
fn placeholder(findings: &mut Findings, key: &str, secret: &str) {
    if secret.starts_with(PLACEHOLDER) {
        let what = "is the example's, which everybody knows: put in `openssl rand -hex 32`";
        findings.unwise(key, what);
    }
}

fn http(findings: &mut Findings, config: &Config) {
    for (i, origin) in (1..).zip(&config.http.cors_origins) {
        let plain = is_url(origin) && origin.matches('/').count() == 2;
        if origin != "*" && !plain {
            let what = format!(
                "must be an origin as browsers send it, such as \"https://chat.example.org\" \
                 (no path, no slash at the end), or \"*\", not {origin:?}"
            );
            findings.wrong(format!("http.cors_origins[{i}]"), what);
        }
    }
}

/// A name that goes into node names, file names and tokens.
fn is_name(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    name.len() <= 32
        && name.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && name.bytes().all(ok)
}

fn not_a_name(given: &str) -> String {
    format!("must be 1 to 32 of a-z 0-9 -, beginning with a letter, not {given:?}")
}

fn nodes(findings: &mut Findings, config: &Config) {
    if config.nodes.is_empty() {
        findings.wrong("node", "there must be at least one [[node]]");
    }
    if config.nodes.len() > 100 {
        findings.wrong("node", format!("at most 100 nodes, not {}", config.nodes.len()));
    }
    for (i, node) in (1..).zip(&config.nodes) {
        one_node(findings, &format!("node[{i}]"), node);
    }
    clashes(findings, &config.nodes);
    if config.nodes.len() == 2 {
        findings
            .unwise("node", "with 2 nodes nothing is accepted while either is down; use 1 or 3");
    }
}

fn one_node(findings: &mut Findings, key: &str, node: &Node) {
    if !is_name(&node.name) {
        findings.wrong(format!("{key}.name"), not_a_name(&node.name));
    }
    for (address, name) in addresses(node) {
        if address.port() == 0 {
            let what = format!("must have a port from 1 to 65535, not {address}");
            findings.wrong(format!("{key}.{name}"), what);
        }
    }
    // What was left out is as the address it is taken from, of which it was told that it has no port.
    let told = |from: SocketAddr, text: &str| from.port() == 0 && text == from.to_string();
    if !is_dialable(&node.cluster_dial) && !told(node.cluster_listen, &node.cluster_dial) {
        let what = format!(
            "must be host:port as the other nodes reach it, not {:?}; it may be left out when \
             cluster_listen names one address",
            node.cluster_dial
        );
        findings.wrong(format!("{key}.cluster_dial"), what);
    }
    if !is_url(&node.url) && !told(node.listen, node.url.trim_start_matches("http://")) {
        let what = format!(
            "must be http://host:port or https://host as clients reach it, not {:?}; it may be \
             left out when listen names one address",
            node.url
        );
        findings.wrong(format!("{key}.url"), what);
    }
    if node.data.as_os_str().is_empty() {
        findings.wrong(format!("{key}.data"), "must be a directory, not \"\"");
    }
    if !node.admin_listen.ip().is_loopback() {
        let what = "is reachable from other machines, and asks for no password";
        findings.unwise(format!("{key}.admin_listen"), what);
    }
}

const fn addresses(node: &Node) -> [(SocketAddr, &'static str); 3] {
    [
        (node.listen, "listen"),
        (node.admin_listen, "admin_listen"),
        (node.cluster_listen, "cluster_listen"),
    ]
}

/// A host and a port that can be connected to: not 0.0.0.0, not port 0.
fn is_dialable(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let named = match address.parse::<SocketAddr>() {
        Ok(address) => !address.ip().is_unspecified(),
        Err(_) => is_host(host),
    };
    named && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_host(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

fn is_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let Some(rest) = rest else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let plain = rest.bytes().all(|b| b.is_ascii_graphic() && !b"?#@\"".contains(&b));
    let somewhere = is_host(authority) || is_dialable(authority);
    let nowhere = authority.starts_with("0.0.0.0") || authority.starts_with("[::]");
    plain && somewhere && !nowhere
}

/// The same name, address or directory twice.
fn clashes(findings: &mut Findings, nodes: &[Node]) {
    let names: Vec<_> = nodes.iter().map(|node| Some(&*node.name)).collect();
    let called = |i: usize| naming::node(&names, i - 1);
    let mut bearers = BTreeMap::new();
    for (i, node) in (1..).zip(nodes) {
        if let Some(first) = bearers.insert(&*node.name, i) {
            let what = format!("{:?} is the name of {} already", node.name, called(first));
            findings.wrong(format!("node[{i}].name"), what);
        }
    }
    let all: Vec<(usize, &Node)> = (1..).zip(nodes).collect();
    for (at, (i, node)) in all.iter().enumerate() {
        let mut own: Vec<(&str, SocketAddr)> = Vec::new();
        for (address, name) in addresses(node) {
            let within = own.iter().find(|(_, other)| same(*other, address));
            let before = within.map(|(name, _)| (*i, *name));
            if let Some((first, other)) = before.or_else(|| taken(&all[..at], node, address)) {
                let what = format!("{address} is taken by {other} of {}", called(first));
                findings.wrong(format!("node[{i}].{name}"), what);
            }
            own.push((name, address));
        }
        let twin =
            all[..at].iter().find(|(_, o)| o.data == node.data && machine(o) == machine(node));
        if let Some((first, _)) = twin {
            let what = format!("{} is the directory of {}", node.data.display(), called(*first));
            findings.wrong(format!("node[{i}].data"), what);
        }
    }
}

/// Which earlier node has an address, if any, and as what.
fn taken(
    earlier: &[(usize, &Node)],
    node: &Node,
    address: SocketAddr,
) -> Option<(usize, &'static str)> {
    earlier.iter().find_map(|(i, other)| {
        // 0.0.0.0 and 127.0.0.1 mean another thing on each machine.
        let local = address.ip().is_unspecified() || address.ip().is_loopback();
        let apart = machine(other) != machine(node) && local;
        let hit = addresses(other).into_iter().find(|(used, _)| !apart && same(*used, address));
        hit.map(|(_, name)| (*i, name))
    })
}

/// Nodes that are dialled at the same host share a machine.
fn machine(node: &Node) -> &str {
    node.cluster_dial.rsplit_once(':').map_or(node.cluster_dial.as_str(), |(host, _)| host)
}

fn same(a: SocketAddr, b: SocketAddr) -> bool {
    let anywhere = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || anywhere)
}

fn limits(findings: &mut Findings, config: &Config) {
    let mailbox = &config.mailbox;
    findings.days("mailbox.history_days", mailbox.history);
    findings.days("mailbox.expiry_days", mailbox.expiry);
    findings.within("mailbox.entries_max", mailbox.entries_max);
    findings.within("mailbox.bytes_max_mib", mailbox.bytes_max >> 20);

    let limits = &config.limits;
    findings.within("limits.frame_bytes_max", limits.frame_bytes_max);
    findings.within("limits.body_bytes_max", limits.body_bytes_max);
    if limits.frame_bytes_max < limits.body_bytes_max.saturating_add(2_048) {
        let (least, given) = (limits.body_bytes_max.saturating_add(2_048), limits.frame_bytes_max);
        let what = format!(
            "must leave 2048 bytes around a body: at least limits.body_bytes_max + 2048 = {least}, not {given}"
        );
        findings.wrong("limits.frame_bytes_max", what);
    }
    for (key, value) in [
        ("limits.window", limits.window),
        ("limits.connections_max", limits.connections_max),
        ("limits.sockets_per_user_max", limits.sockets_per_user_max),
        ("limits.sockets_per_second", limits.sockets_per_second),
        ("limits.sockets_burst", limits.sockets_burst),
        ("limits.strangers_per_address_max", limits.strangers_per_address_max),
        ("limits.requests_in_flight_max", limits.requests_in_flight_max),
        ("limits.sends_in_flight_max", limits.sends_in_flight_max),
        ("limits.frames_per_second", limits.frames_per_second),
        ("limits.frames_burst", limits.frames_burst),
        ("limits.logins_parallel", limits.logins_parallel),
        ("limits.login_failures_per_minute", limits.login_failures_per_minute),
        ("limits.logins_per_address_per_minute", limits.logins_per_address_per_minute),
        ("limits.http_requests_in_flight_max", limits.http_requests_in_flight_max),
        ("limits.login_failures_per_user_per_minute", limits.login_failures_per_user_per_minute),
        ("limits.http_requests_per_second", limits.http_requests_per_second),
        (
            "limits.http_requests_per_address_per_second",
            limits.http_requests_per_address_per_second,
        ),
        ("limits.http_messages_per_second", limits.http_messages_per_second),
    ] {
        findings.within(key, value);
    }
    if limits.http_messages_per_second > limits.http_requests_per_second {
        let what =
            "is never reached: a user may send only limits.http_requests_per_second requests";
        findings.unwise("limits.http_messages_per_second", what);
    }
    findings.within("limits.http_timeout_s", limits.http_timeout.as_secs());
}

fn storage(findings: &mut Findings, config: &Config) {
    let storage = &config.storage;
    findings.within("storage.checkpoint_seconds", storage.checkpoint.as_secs());
    findings.within("storage.memory_budget_mib", storage.memory_budget >> 20);
    if storage.durability == Durability::Memory {
        let what = "a check mark no longer means that the message survives a power cut";
        findings.unwise("storage.durability", what);
    }
    if storage.unsafe_disk {
        let what = "checkpoints may be missing after a power cut";
        findings.unwise("storage.unsafe_disk", what);
    }
}

fn timing(findings: &mut Findings, config: &Config) {
    let raft = &config.raft;
    findings.millis("raft.tick_ms", raft.tick);
    findings.within("raft.heartbeat_ticks", raft.heartbeat_ticks);
    findings.within("raft.election_ticks", raft.election_ticks);
    if raft.election_ticks < raft.heartbeat_ticks.saturating_mul(2) {
        let (least, given) = (raft.heartbeat_ticks.saturating_mul(2), raft.election_ticks);
        let what = format!(
            "must be at least twice raft.heartbeat_ticks, {least}, or leaders are voted out in vain; not {given}"
        );
        findings.wrong("raft.election_ticks", what);
    }
    findings.millis("link.probe_ms", config.link.probe);
    findings.millis("link.suspect_ms", config.link.suspect);
    if config.link.suspect < config.link.probe * 2 {
        let (least, given) = ((config.link.probe * 2).as_millis(), config.link.suspect.as_millis());
        let what = format!(
            "must be at least twice link.probe_ms, {least}, or good links are given up; not {given}"
        );
        findings.wrong("link.suspect_ms", what);
    }
    findings.within("process.lanes", config.process.lanes);
    let drain = config.process.drain_timeout.as_secs();
    findings.within("process.drain_timeout_s", drain);
}
