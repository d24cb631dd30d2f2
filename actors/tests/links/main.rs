//! Links between real processes: order, crashes, freezes, cuts, strangers and floods.
//!
//! A node is a process, since the transport's registries are: each test runs its own binary again, once per node, and
//! speaks with it in lines over its standard input and output.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;
mod node;

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use actors::clock::monotonic;
use harness::{Cluster, Node, PATIENCE, QUEUED, REAPED, REFUSED, ROLE, UNREADY, UPS, Wire, alone};

/// Runs a node when this binary was started by `Node::start`; otherwise there is nothing to test here.
#[test]
fn child() {
    if let Ok(role) = std::env::var(ROLE) {
        node::run(&role);
    }
}

/// Says how long something took, and that it was not too long.
fn within(what: &str, then: Instant, longest: Duration) {
    let took = since(then);
    let _ = writeln!(std::io::stdout(), "{what} after {took:?}");
    assert!(took < longest, "{what} only after {took:?}");
}

fn since(then: Instant) -> Duration {
    monotonic().saturating_duration_since(then)
}

#[test]
fn packets_flow_both_ways_in_order() {
    let _alone = alone();
    // A machine that stands still for a while breaks a link, and what was on it is lost.
    assert!((0..3).any(|_| packets_flow()), "links break again and again");
}

/// Whether no link broke.
fn packets_flow() -> bool {
    let cluster = Cluster::of(3);
    let mut nodes = cluster.started();
    for node in &mut nodes {
        node.wait_status(UNREADY, |unready| unready == 0);
    }
    for (from, to) in [(0, 2_u16), (1, 1), (2, 1), (0, 3)] {
        nodes[from].tell(&format!("send {to} 20000 250 1"));
        nodes[from].tell(&format!("send {to} 200 20 0"));
        nodes[from].tell(&format!("send {to} 30 1000000 2"));
    }
    for (from, to) in [(1_u16, 2_usize), (2, 1), (3, 1), (1, 3)] {
        for (class, count) in [(1, 20_000), (0, 200), (2, 30)] {
            if !nodes[to - 1].receives(from, class, count, |event| event.starts_with("down")) {
                return false;
            }
        }
    }
    nodes.iter_mut().all(|node| {
        node.wait_status(QUEUED, |queued| queued == 0);
        node.ask("status", "status")[REAPED] == 0
    })
}

#[test]
fn a_killed_peer_is_noticed_at_once_and_back_soon_after_its_restart() {
    let _alone = alone();
    let cluster = Cluster::of(2);
    let mut nodes = cluster.started();
    for round in 0..5_u64 {
        nodes[0].forget();
        let killed = monotonic();
        drop(nodes.pop());
        nodes[0].wait("down 2", PATIENCE);
        within("killed peer missed", killed, Duration::from_secs(2));
        let started = monotonic();
        nodes.push(Node::start(&cluster, 2, 77 + round));
        nodes[0].wait(&format!("up 2 {}", 77 + round), PATIENCE);
        within("restarted peer back", started, Duration::from_secs(3));
        nodes[1].wait_status(UPS, |up| up == 1);
        nodes[0].tell("send 2 100 250 1");
        nodes[1].tell("send 1 100 250 1");
        nodes[0].wait_received(2, 1, 100);
        nodes[1].wait_received(1, 1, 100);
    }
}

#[test]
fn a_frozen_peer_is_given_up_in_a_second_and_costs_no_memory() {
    let _alone = alone();
    let cluster = Cluster::of(2);
    let mut nodes = cluster.started();
    for _ in 0..3 {
        nodes[0].forget();
        let before = nodes[0].ask("usage", "usage");
        let frozen = monotonic();
        nodes[1].signal("-STOP");
        nodes[0].tell("flood 2 3000");
        nodes[0].wait("down 2", PATIENCE);
        within("frozen peer given up", frozen, Duration::from_millis(2_500));
        let flooded = nodes[0].wait("flooded", PATIENCE);
        let counts: Vec<u64> = flooded.split(' ').skip(1).map(|n| n.parse().unwrap()).collect();
        assert!(counts[1] > 0, "refused for want of credit: {flooded}");
        assert!(counts[2] > 0, "refused for want of a link: {flooded}");
        let after = nodes[0].ask("usage", "usage");
        assert!(after[0] < before[0] + 64 * 1024, "KiB: {before:?} grew to {after:?}");
        assert!(after[2] <= before[2] + 1, "sockets: {before:?} grew to {after:?}");
        let thawed = monotonic();
        nodes[1].signal("-CONT");
        nodes[0].wait("up 2", PATIENCE);
        within("thawed peer back", thawed, Duration::from_secs(3));
        nodes[1].wait_status(UPS, |up| up == 1);
        nodes[0].wait_status(UPS, |up| up == 1);
        nodes[0].tell("send 2 100 250 1");
        nodes[1].wait_received(1, 1, 100);
    }
}

#[test]
fn garbage_and_silence_on_the_port_hurt_nobody() {
    let _alone = alone();
    let cluster = Cluster::of(2);
    let mut nodes = cluster.started();
    let before = nodes[0].ask("usage", "usage")[0];
    let port = cluster.0[&1];
    let mut strangers = Vec::new();
    for round in 0..300_u32 {
        let mut stranger = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let bytes: Vec<u8> = match round % 4 {
            // Silence, noise, the start of a frame far too long, the start of one just short enough.
            0 => Vec::new(),
            1 => (0..5_000_u32).map(|n| (n * (round + 7) % 251) as u8).collect(),
            2 => u64::MAX.to_be_bytes().to_vec(),
            _ => [&(250_000_u64).to_be_bytes()[..], &[1; 100_000]].concat(),
        };
        // It may have been closed already.
        let _ = stranger.write_all(&bytes);
        strangers.push(stranger);
    }
    nodes[0].wait_status(UNREADY, |unready| unready == 0);
    let after = nodes[0].ask("usage", "usage")[0];
    assert!(after < before + 16 * 1024, "{before} KiB grew to {after} KiB");
    nodes[0].tell("send 2 1000 250 1");
    nodes[1].tell("send 1 1000 250 1");
    nodes[0].wait_received(2, 1, 1_000);
    nodes[1].wait_received(1, 1, 1_000);
    assert_eq!(nodes[0].ask("status", "status")[REAPED], 0);
    drop(strangers);
}

#[test]
fn a_wrong_cookie_or_cluster_is_refused() {
    let _alone = alone();
    let cluster = Cluster::of(3);
    let mut first = Node::start(&cluster, 1, 5);
    let mut wrong = Node::start_as(&cluster, 2, 6, "rookery", "wrong");
    let mut other = Node::start_as(&cluster, 3, 7, "another", "cookie");
    first.wait_status(REFUSED, |refused| refused > 3);
    for node in [&mut first, &mut wrong, &mut other] {
        assert_eq!(node.ask("status", "status")[UPS], 0);
        assert!(!node.events.iter().any(|event| event.starts_with("up")));
    }
    drop(wrong);
    let mut right = Node::start(&cluster, 2, 8);
    first.wait("up 2 8", PATIENCE);
    right.wait("up 1 5", PATIENCE);
}

#[test]
fn a_panic_in_a_link_is_contained_and_healed() {
    let _alone = alone();
    let cluster = Cluster::of(3);
    let mut nodes = cluster.started();
    for node in &mut nodes {
        node.forget();
    }
    for _ in 0..3 {
        nodes[0].tell("panic 2");
        nodes[1].wait("down 1", PATIENCE);
        nodes[1].wait("up 1", PATIENCE);
        nodes[0].wait("down 2", PATIENCE);
        nodes[0].wait("up 2", PATIENCE);
        nodes[0].wait_status(UPS, |up| up == 2);
        nodes[0].tell("send 2 100 250 1");
        nodes[1].wait_received(1, 1, 100);
    }
    assert!(!nodes[2].events.iter().any(|event| event.starts_with("down")));
}

#[test]
fn a_cut_is_noticed_in_a_second_and_the_link_back_soon_after_it_heals() {
    let _alone = alone();
    let cluster = Cluster::of(2);
    let wire = Wire::default();
    let mut nodes =
        [Node::start_wired(&cluster, 1, 1, &wire), Node::start_wired(&cluster, 2, 2, &wire)];
    for _ in 0..3 {
        for (node, other) in nodes.iter_mut().zip([2, 1]) {
            node.wait_status(UPS, |up| up == 1);
            node.forget();
            node.tell(&format!("send {other} 1000 250 1"));
        }
        let cut = monotonic();
        wire.cut(true);
        for (node, other) in nodes.iter_mut().zip([2, 1]) {
            node.wait(&format!("down {other}"), PATIENCE);
        }
        within("cut noticed at both ends", cut, Duration::from_millis(2_500));
        // Long enough for dials to fail at every stage.
        while since(cut) < Duration::from_secs(3) {
            nodes[0].breathe();
        }
        assert_eq!(nodes[0].ask("status", "status")[UPS], 0);
        let healed = monotonic();
        wire.cut(false);
        for (node, other) in nodes.iter_mut().zip([2, 1]) {
            node.wait(&format!("up {other}"), PATIENCE);
        }
        within("healed link up at both ends", healed, Duration::from_secs(3));
        let [left, right] = &mut nodes;
        flows(left, right, 2);
        flows(right, left, 1);
    }
}

#[test]
fn any_actor_may_be_killed() {
    let _alone = alone();
    let cluster = Cluster::of(2);
    let mut nodes = cluster.started();
    for _ in 0..10 {
        let (left, right) = nodes.split_at_mut(1);
        let (left, right) = (&mut left[0], &mut right[0]);
        left.ask("kill", "killed");
        flows(left, right, 2);
        flows(right, left, 1);
    }
}

#[test]
fn a_node_that_stops_is_missed_at_once() {
    let _alone = alone();
    let cluster = Cluster::of(2);
    let mut nodes = cluster.started();
    drop(nodes[1].input.take());
    nodes[0].wait("down 2", PATIENCE);
    assert!(nodes[1].process.wait().unwrap().success());
}

/// Sends until something arrives: the link may just be going down, or not be up yet.
fn flows(from: &mut Node, to: &mut Node, number: u16) {
    let until = monotonic() + PATIENCE;
    let sender = 3 - number;
    loop {
        let sent = from.ask(&format!("send {number} 50 250 1"), "sent");
        let patience = monotonic() + Duration::from_millis(500);
        while monotonic() < patience {
            let report = to.ask(&format!("report {sender} 1"), "report");
            assert_eq!(report[1], 0, "out of order");
            if sent[0] == 50 && report[2] == sent[2] {
                return;
            }
            to.breathe();
        }
        assert!(monotonic() < until, "nothing arrives");
    }
}

/// Prints what a packet costs; only when `ROOKERY_FIGURES` is set, since it takes a while and asserts nothing.
#[test]
fn figures() {
    if std::env::var_os("ROOKERY_FIGURES").is_none() {
        return;
    }
    let _alone = alone();
    let cluster = Cluster::of(3);
    let mut nodes = cluster.started();
    let count = 2_000_000_u64;
    let usage = |nodes: &mut Vec<Node>| -> Vec<u64> {
        nodes.iter_mut().map(|n| n.ask("usage", "usage")[1]).collect()
    };
    let frames = nodes[0].ask("status", "status")[6];
    let (then, before) = (monotonic(), usage(&mut nodes));
    nodes[0].tell(&format!("send 2 {count} 250 1"));
    nodes[1].wait_received(1, 1, count);
    let (took, after) = (since(then), usage(&mut nodes));
    let frames = nodes[0].ask("status", "status")[6] - frames;
    let each = |node: usize| (after[node] - before[node]) as f64 * 1_000.0 / count as f64;
    let rate = count as f64 / took.as_secs_f64();
    let mut out = std::io::stdout().lock();
    let packed = count / frames.max(1);
    writeln!(out, "250 B: {rate:.0}/s, {packed} a frame").unwrap();
    writeln!(out, "CPU each: {:.2} us to send, {:.2} us to receive", each(0), each(1)).unwrap();
    nodes[0].wait_status(QUEUED, |queued| queued == 0);
    let (then, before) = (monotonic(), usage(&mut nodes));
    while since(then) < Duration::from_secs(10) {
        nodes[0].breathe();
    }
    let (took, after) = (since(then), usage(&mut nodes));
    let rtt = nodes[0].ask("status", "status")[5];
    for node in 0..nodes.len() {
        let share = (after[node] - before[node]) as f64 / took.as_secs_f64() / 10.0;
        writeln!(out, "idle node {}: {share:.2} % of a core", node + 1).unwrap();
    }
    writeln!(out, "round trip {rtt} us").unwrap();
}
