//! Config: what an operator decides, read from `cluster.toml`; nonsense is refused at the start, naming file, line and key.
//!
//! Owns      nothing; a `Config` is read once and never changes.
//! Promises  every number is in the range that `ranges` states; every list of names and addresses is free of clashes.
//! Never     guesses: an unknown key is an error, and a missing secret has no default.
//! Fails by  returning all it found wrong at once, so that a file is repaired in one go.

mod auth;
mod check;
mod dev;
mod naming;
mod problem;
mod push;
mod ranges;
mod reading;
#[cfg(test)]
mod tests;
mod units;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actors::ids::NodeId;
use serde::Deserialize;

pub use auth::{Auth, Issuer};
pub use problem::{ConfigError, Problem, Warning};
pub use push::Push;

/// Everything in `cluster.toml`; the same file serves all nodes of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What all nodes share, fixed when the cluster is born.
    pub cluster: Cluster,
    /// The nodes, in the order of their birth: the first is node 1.
    #[serde(rename = "node", default)]
    pub nodes: Vec<Node>,
    /// Who may come in.
    pub auth: Auth,
    /// What mailboxes keep.
    #[serde(default)]
    pub mailbox: Mailbox,
    /// What a client may ask for.
    #[serde(default)]
    pub limits: Limits,
    /// Disk and memory.
    #[serde(default)]
    pub storage: Storage,
    /// Elections.
    #[serde(default)]
    pub raft: Raft,
    /// Links between nodes.
    #[serde(default)]
    pub link: Link,
    /// Manners of the HTTP API.
    #[serde(default)]
    pub http: Http,
    /// Who is told of devices that sleep through messages; nobody, if left out.
    pub push: Option<Push>,
    /// How the process runs and stops.
    #[serde(default)]
    pub process: Process,
    /// What is allowed but unwise; `check` shows it.
    #[serde(skip)]
    pub warnings: Vec<Warning>,
}

/// What all nodes share.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Names the cluster, in its data directories and as the issuer of its tokens.
    pub name: String,
    /// Into how many shards users are hashed; fixed at birth.
    #[serde(default = "shards")]
    pub shards: u16,
    /// The secret by which nodes know each other.
    pub cookie: Secret,
    /// On how many nodes a shard is kept, when there are so many.
    #[serde(default = "replicas")]
    pub replicas: u16,
}

const fn shards() -> u16 {
    64
}

const fn replicas() -> u16 {
    3
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "NodeText", deny_unknown_fields)]
pub struct Node {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where clients come in, by HTTP and WebSocket.
    pub listen: SocketAddr,
    /// Where the operator comes in.
    pub admin_listen: SocketAddr,
    /// Where the other nodes come in.
    pub cluster_listen: SocketAddr,
    /// What the other nodes dial, `host:port`.
    pub cluster_dial: String,
    /// What clients are told to connect to, without a slash at the end.
    pub url: String,
    /// Its data directory.
    pub data: PathBuf,
}

/// A node as written, before what it leaves out is filled in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeText {
    name: String,
    listen: SocketAddr,
    admin_listen: Option<SocketAddr>,
    cluster_listen: SocketAddr,
    cluster_dial: Option<String>,
    url: Option<String>,
    data: PathBuf,
}

impl From<NodeText> for Node {
    fn from(text: NodeText) -> Self {
        // A port past the last becomes 0, which `check` refuses.
        let admin = text.listen.port().checked_add(100).unwrap_or_default();
        let url = text.url.unwrap_or_else(|| format!("http://{}", text.listen));
        Self {
            admin_listen: text.admin_listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], admin))),
            cluster_dial: text.cluster_dial.unwrap_or_else(|| text.cluster_listen.to_string()),
            url: url.trim_end_matches('/').to_owned(),
            name: text.name,
            listen: text.listen,
            cluster_listen: text.cluster_listen,
            data: text.data,
        }
    }
}

impl Node {
    /// The base address of its operator's HTTP.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin_listen)
    }
}

/// A text that never gets into a log.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What mailboxes keep.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mailbox {
    /// How long a delivered message stays readable; zero: until all devices have it.
    #[serde(rename = "history_days", deserialize_with = "units::days")]
    pub history: Duration,
    /// How long an undelivered message and a `cid` live, and when an unseen device is forgotten.
    #[serde(rename = "expiry_days", deserialize_with = "units::days")]
    pub expiry: Duration,
    /// Most entries waiting in one mailbox.
    pub entries_max: u32,
    /// Most bytes waiting in one mailbox.
    #[serde(rename = "bytes_max_mib", deserialize_with = "units::mebibytes")]
    pub bytes_max: u64,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self {
            history: Duration::from_secs(30 * units::DAY),
            expiry: Duration::from_secs(30 * units::DAY),
            entries_max: 20_000,
            bytes_max: 64 << 20,
        }
    }
}

/// What a client may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest frame of a socket and longest body of an HTTP request, in bytes.
    pub frame_bytes_max: u32,
    /// Longest `body` of a message, in bytes.
    pub body_bytes_max: u32,
    /// Most durable events unacknowledged on a socket.
    pub window: u32,
    /// Most connections of clients to one node.
    pub connections_max: u32,
    /// Most sockets of one user on one node.
    pub sockets_per_user_max: u32,
    /// Sockets one node takes each second, on average.
    pub sockets_per_second: u32,
    /// Sockets one node takes at once after a quiet time.
    pub sockets_burst: u32,
    /// Most sockets from one address that have not authenticated; loopback is exempt.
    pub strangers_per_address_max: u32,
    /// Most requests unanswered on a socket.
    pub requests_in_flight_max: u32,
    /// Most messages unanswered on all sockets of one node.
    pub sends_in_flight_max: u32,
    /// Frames a socket may send each second, on average.
    pub frames_per_second: u32,
    /// Frames a socket may send at once after a quiet time.
    pub frames_burst: u32,
    /// Most passwords hashed at once; zero: one a core.
    pub logins_parallel: u32,
    /// Wrong logins of one user from one address a minute.
    pub login_failures_per_minute: u32,
    /// Wrong logins of one user from all addresses a minute.
    pub login_failures_per_user_per_minute: u32,
    /// Logins and registrations from one address a minute; loopback is exempt.
    pub logins_per_address_per_minute: u32,
    /// Most HTTP requests being worked on by one node.
    pub http_requests_in_flight_max: u32,
    /// HTTP requests of one user each second, on average.
    pub http_requests_per_second: u32,
    /// HTTP requests from one address each second, on average; loopback is exempt.
    pub http_requests_per_address_per_second: u32,
    /// Messages one user may send over HTTP each second, on average.
    pub http_messages_per_second: u32,
    /// How long an HTTP request may wait for a majority.
    #[serde(rename = "http_timeout_s", deserialize_with = "units::seconds")]
    pub http_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 65_536,
            body_bytes_max: 32_768,
            window: 256,
            connections_max: 20_000,
            sockets_per_user_max: 64,
            sockets_per_second: 2_000,
            sockets_burst: 10_000,
            strangers_per_address_max: 1_000,
            requests_in_flight_max: 256,
            sends_in_flight_max: 16_384,
            frames_per_second: 2_000,
            frames_burst: 4_000,
            logins_parallel: 0,
            login_failures_per_minute: 10,
            login_failures_per_user_per_minute: 60,
            logins_per_address_per_minute: 120,
            http_requests_in_flight_max: 1_024,
            http_requests_per_second: 400,
            http_requests_per_address_per_second: 2_000,
            http_messages_per_second: 200,
            http_timeout: Duration::from_secs(5),
        }
    }
}

/// What a check mark promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A majority has the message on disk.
    Disk,
    /// A majority has it in memory; for experiments.
    Memory,
}

/// Disk and memory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// What a check mark promises.
    pub durability: Durability,
    /// How often changed mailboxes are written to sled.
    #[serde(rename = "checkpoint_seconds", deserialize_with = "units::seconds")]
    pub checkpoint: Duration,
    /// Most bytes of mailboxes kept in memory by one node.
    #[serde(rename = "memory_budget_mib", deserialize_with = "units::mebibytes")]
    pub memory_budget: u64,
    /// Whether to start although sled cannot be made to sync.
    pub unsafe_disk: bool,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            durability: Durability::Disk,
            checkpoint: Duration::from_secs(5),
            memory_budget: 512 << 20,
            unsafe_disk: false,
        }
    }
}

/// Elections.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raft {
    /// One tick.
    #[serde(rename = "tick_ms", deserialize_with = "units::milliseconds")]
    pub tick: Duration,
    /// Ticks without a leader before an election; up to twice as many, drawn at random.
    pub election_ticks: u32,
    /// Ticks between a leader's signs of life.
    pub heartbeat_ticks: u32,
}

impl Default for Raft {
    fn default() -> Self {
        Self { tick: Duration::from_millis(100), election_ticks: 15, heartbeat_ticks: 5 }
    }
}

/// Links between nodes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Link {
    /// How often a peer is asked for a sign of life.
    #[serde(rename = "probe_ms", deserialize_with = "units::milliseconds")]
    pub probe: Duration,
    /// Silence after which a link is given up and dialled anew.
    #[serde(rename = "suspect_ms", deserialize_with = "units::milliseconds")]
    pub suspect: Duration,
}

impl Default for Link {
    fn default() -> Self {
        Self { probe: Duration::from_millis(150), suspect: Duration::from_millis(600) }
    }
}

/// Manners of the HTTP API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Web pages of these origins may call it from a browser; `*`: all.
    pub cors_origins: Vec<String>,
}

/// How the process runs and stops.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Process {
    /// Threads that carry shards and sockets.
    pub lanes: u16,
    /// How long a stopping node waits for its clients to go.
    #[serde(rename = "drain_timeout_s", deserialize_with = "units::seconds")]
    pub drain_timeout: Duration,
}

impl Default for Process {
    fn default() -> Self {
        Self { lanes: 1, drain_timeout: Duration::from_secs(10) }
    }
}

/// No node of this name is in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no [[node]] is named {name:?}; there are {known}")]
pub struct UnknownNode {
    /// The name that was asked for.
    pub name: String,
    /// The names there are.
    pub known: String,
}

impl Config {
    /// Reads and checks a file; the error shows every offending line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&file, &text),
            Err(source) => Err(ConfigError::Unreadable { file, source }),
        }
    }

    /// Checks a text; `file` is only for the error.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let page = problem::Page::new(file, text);
        let reading = page.read()?;
        let mut findings = reading.config.as_ref().map(check::check).unwrap_or_default();
        reading.without_stand_ins(&mut findings);
        match reading.config {
            Some(mut config) if reading.misfits.is_empty() && findings.wrong.is_empty() => {
                config.warnings = page.warnings(findings.unwise);
                Ok(config)
            }
            _ => Err(page.refused(&reading.misfits, findings.wrong)),
        }
    }

    /// Writes the text of a development cluster on loopback: clients at `port + i`, the operator at `port + 100 + i`,
    /// links at `port + 200 + i`.
    #[must_use]
    pub fn dev(nodes: u16, port: u16, data: &Path, secret: &str, cookie: &str) -> String {
        dev::render(nodes, port, data, secret, cookie)
    }

    /// Finds a node and its id by its name.
    pub fn node(&self, name: &str) -> Result<(NodeId, &Node), UnknownNode> {
        self.ids().find(|(_, node)| node.name == name).ok_or_else(|| UnknownNode {
            name: name.to_owned(),
            known: self.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// The nodes with their ids, in the order of their birth.
    pub fn ids(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        (1..).map(NodeId).zip(&self.nodes)
    }

    /// How many passwords are hashed at once.
    #[must_use]
    pub fn logins_parallel(&self) -> usize {
        match self.limits.logins_parallel {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            n => n as usize,
        }
    }

    /// On how many nodes a shard is kept in this cluster.
    #[must_use]
    pub fn replicas(&self) -> usize {
        usize::from(self.cluster.replicas).min(self.nodes.len())
    }
}
