//! Cluster: real processes, real sockets; one file per promise.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says so by failing"
)]

mod described;
mod harness;
mod ports;
#[path = "../../src/auth/signer.rs"]
mod signer;
mod socket;
mod traffic;
mod web;

mod agreement;
mod auth;
mod command_line;
mod crowd;
mod damage;
mod delivery;
mod devices;
mod documents;
mod failover;
mod greeting;
mod groups;
mod history;
mod large;
mod leaving;
mod limits;
mod msgpack;
mod overload;
mod people;
mod presence;
mod push;
mod rejoin;
mod sending;
mod sizes;
mod slow;
