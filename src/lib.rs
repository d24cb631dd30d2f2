//! rookery: a self-hosted chat cluster.
//!
//! Clients speak WebSocket to any node. What a user has not fetched yet waits in a *mailbox*, kept on a majority of
//! three nodes' disks before its sender sees a check mark. Kill any node: nothing that got its check mark is lost, nobody
//! sees anything twice, and service goes on.
//!
//! # The way of a message
//!
//! ```text
//!  alice ══ WebSocket ══ gateway            any node: frames in, frames out; one Session per socket
//!                           │
//!                        Router             knows which node leads each shard, and every local session
//!                           │  (a link of ractor_cluster, when that node is another)
//!                        Mailbox(bob)       on the home of bob: admits streams in order, proposes
//!                           │
//!                        Shard 17           one of 64 Raft groups: journal on a majority, then apply
//!                        ╱      ╲
//!       tick to alice ◄──        ──► User(bob) ──► bob's sessions, on whichever nodes they are
//! ```
//!
//! # Where things are
//!
//! | room | job |
//! |---|---|
//! | `main.rs`, `cli` | arguments, signals, exit codes; `rookery dev` |
//! | [`config`] | `cluster.toml` → `Config`; refuses nonsense, naming line and key |
//! | [`node`] | starts the parts in order and stops them in reverse, with deadlines |
//! | [`gateway`] | one port for sockets and HTTP; one socket: bytes ↔ frames ↔ session rules |
//! | [`rest`] | register, login, and what else clients ask by HTTP |
//! | [`admin`] | health, metrics, where things are; on a listener of its own |
//! | [`push`] | tells the operator's push service of devices that sleep through messages |
//! | [`auth`] | passwords, tokens, and the keys of the operator's own issuer |
//! | [`codes`] | why something is refused, in the protocol's words |
//! | `shapes` | what names and numbers look like, for the documents that nodes serve |
//! | `fuzzing` | runs all that reads a client's or an operator's bytes, for `fuzz/` and its twin among the tests |
//! | [`client`] | the client that examples, tests and the load generator share |
//! | crate [`actors`] | the chat itself: ids, messages, sessions, mailboxes, shards, storage, links |
//!
//! What a message and an idle user cost, and how that is measured: `benches/PERFORMANCE.md`.
//!
//! # What is deliberately absent
//!
//! - `actors` has never heard of HTTP, WebSocket, JSON or command lines; this crate never touches a disk or Raft.
//! - No `rules.rs` reads a clock, draws a random number, or waits: whole clusters run in one thread under a seed.
//! - No node is special, and none is needed: a client may reconnect to any of them, and only a majority matters.
//! - Nothing looks inside a message body.
//! - Nothing is answered before it is durable: no write-behind, no "probably stored".
//! - No two nodes in one process: actor registries are process-wide.

pub mod admin;
pub mod auth;
pub mod client;
pub mod codes;
pub mod config;
#[cfg(test)]
#[path = "../tests/cluster/described.rs"]
mod described;
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
pub mod node;
pub mod push;
pub mod rest;
mod shapes;
