//! Promise: a slow or silent client costs bounded memory and disturbs nobody else.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Cluster, PATIENCE, User, shared};
use crate::socket::Socket;
use crate::traffic::Traffic;

/// Events that a node sends without an acknowledgement, as it says itself.
const WINDOW: u64 = 256;

/// Sends numbered messages with this body behind the number, some at once.
async fn fill(socket: &mut Socket, to: &User, many: u64, body: &str) {
    let mut asked = Vec::new();
    for number in 1..=many {
        let (cid, body) = (format!("m{number}"), format!("{number} {body}"));
        let d = json!({"to": to.conv(), "cid": cid, "kind": "text", "body": body});
        asked.push(socket.ask("send", d).await.expect("the socket is open"));
        if asked.len() == 8 || number == many {
            for id in asked.drain(..) {
                socket.reply(&id).await.expect("there is room");
            }
            // Who writes keeps to the rules: it takes what it is sent.
            let mut newest = 0;
            while let Some(event) = socket.take_event() {
                newest = event["n"].as_u64().unwrap_or(newest);
            }
            if newest > 0 {
                socket.ack(newest).await;
            }
        }
    }
}

fn number_of(event: &Value) -> u64 {
    let body = event["d"]["body"].as_str().unwrap_or_default();
    let number = body.split(' ').next().and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("a number, not {event}"))
}

#[tokio::test]
async fn a_client_that_never_acknowledges_gets_one_window() {
    let cluster = shared().await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let mut a = Socket::login(&cluster.url("a"), &alice.token, "phone").await;
    let (quarter, many) = (WINDOW / 4, WINDOW + WINDOW / 4 + 44);
    fill(&mut a, &bob, many, "").await;
    // Only now: on a busy machine filling takes longer than a silent client is borne with.
    let mut b = Socket::login(&cluster.url("b"), &bob.token, "laptop").await;
    for n in 1..=WINDOW {
        assert_eq!(b.event("message").await["n"], n);
    }
    no_more(&mut b).await;
    b.ack(quarter).await;
    for n in WINDOW + 1..=WINDOW + quarter {
        assert_eq!(b.event("message").await["n"], n);
    }
    no_more(&mut b).await;
    b.ack(WINDOW).await;
    for n in WINDOW + quarter + 1..=many {
        assert_eq!(b.event("message").await["n"], n);
    }
}

/// Nothing is on its way: it would come before the home's answer, and that before the pong.
async fn no_more(socket: &mut Socket) {
    socket.request("device.list", json!({})).await.expect("it is answered");
    socket.tell("ping", json!({})).await;
    let next = socket.next_event().await;
    assert_eq!(next["ev"], "pong", "something beyond the window");
}

/// Gives signs of life and never reads, until the node has hung up.
async fn lives_on(mut socket: Socket) {
    let mut pause = tokio::time::interval(Duration::from_secs(2));
    while socket.frame(&json!({"op": "ping", "d": {}})).await.is_ok() {
        pause.tick().await;
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_dropped_and_disturbs_nobody() {
    /// Messages of 30 KiB: more than a window and than all buffers on the way hold.
    const MANY: u64 = 300;
    /// Far more than what was sent, in all places where a node may keep it; far less than without bounds.
    const GROWTH_MAX: u64 = 256 << 20;
    let cluster = Cluster::start(3).await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let (carol, dave) = (cluster.user("carol").await, cluster.user("dave").await);
    let traffic = Traffic::start(&carol, &[cluster.url("a")], &dave, &[cluster.url("b")]);
    traffic.goes_on(20).await;
    let before: Vec<u64> = cluster.names().iter().map(|name| cluster.memory(name)).collect();
    let mut deaf = Vec::new();
    for (device, node) in [("d1", "a"), ("d2", "b"), ("d3", "c"), ("d4", "b")] {
        let mut socket = Socket::narrow(&cluster.url(node)).await;
        socket.expect_hello().await;
        socket.auth(&bob.token, device, None).await;
        deaf.push(socket);
    }
    let mut a = Socket::login(&cluster.url("a"), &alice.token, "phone").await;
    let deaf: Vec<_> = deaf.into_iter().map(|socket| tokio::spawn(lives_on(socket))).collect();
    fill(&mut a, &bob, MANY, &"x".repeat(30 << 10)).await;
    traffic.goes_on(50).await;
    for (name, before) in cluster.names().iter().zip(before) {
        let grown = cluster.memory(name).saturating_sub(before);
        assert!(grown < GROWTH_MAX, "node {name} has grown by {grown} bytes");
    }
    for socket in deaf {
        let dropped = tokio::time::timeout(PATIENCE, socket).await;
        dropped.expect("who does not read is dropped").expect("it only writes");
    }
    traffic.goes_on(50).await;
    traffic.finish().await;
    // Nothing is lost: a device that reads gets all of it, once and in order.
    let mut b = Socket::login(&cluster.url("c"), &bob.token, "reader").await;
    let mut heard = BTreeSet::new();
    for number in 1..=MANY {
        let message = b.event("message").await;
        assert_eq!(number_of(&message), number);
        assert!(heard.insert(message["d"]["mid"].to_string()), "twice: {message}");
        b.ack(number).await;
    }
}
