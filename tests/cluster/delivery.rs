//! Promise: what waits for a user is delivered in order, once, on whichever node they come back to.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Cluster, User, shared};
use crate::socket::{Over, Socket};

/// Sends `count` texts `1`, `2` … from a new user to `to`.
async fn fill(cluster: &Cluster, to: &User, count: u64) -> User {
    let sender = cluster.user("sender").await;
    let mut socket = Socket::login(&cluster.url("c"), &sender.token, "phone").await;
    for i in 1..=count {
        socket.send(&to.conv(), &format!("c{i}"), &i.to_string()).await;
    }
    sender
}

fn numbers(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["n"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn messages_wait_for_who_is_away() {
    let cluster = shared().await;
    let bob = cluster.user("bob").await;
    let sender = fill(&cluster, &bob, 20).await;
    let mut socket = Socket::connect(&cluster.url("b")).await;
    let ok = socket.auth(&bob.token, "phone", None).await;
    assert_eq!((ok["n"].as_u64(), ok["head"].as_u64()), (Some(0), Some(20)));
    let backlog = socket.backlog().await;
    assert_eq!(numbers(&backlog), (1..=20).collect::<Vec<_>>());
    for (i, event) in (1..).zip(&backlog) {
        assert_eq!((&event["d"]["seq"], &event["d"]["body"]), (&json!(i), &json!(i.to_string())));
        assert_eq!(event["d"]["from"], sender.name);
    }
}

#[tokio::test]
async fn a_device_goes_on_from_what_it_acknowledged() {
    let cluster = shared().await;
    let bob = cluster.user("bob").await;
    fill(&cluster, &bob, 10).await;
    let mut socket = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    socket.backlog().await;
    // The pong after it says that the acknowledgement was read.
    socket.tell("ping", json!({"n": 4})).await;
    socket.event("pong").await;
    socket.leave().await;
    // Acknowledgements are merged for a moment; repeating a few entries after a crash is allowed, here nothing crashed.
    let mut socket = Socket::connect(&cluster.url("c")).await;
    let ok = socket.auth(&bob.token, "phone", None).await;
    assert_eq!(ok["n"], 4);
    assert_eq!(numbers(&socket.backlog().await), [5, 6, 7, 8, 9, 10]);
}

#[tokio::test]
async fn a_client_resumes_on_any_node_from_what_it_has_stored() {
    let cluster = shared().await;
    let bob = cluster.user("bob").await;
    fill(&cluster, &bob, 10).await;
    let mut socket = Socket::connect(&cluster.url("a")).await;
    let epoch = socket.auth(&bob.token, "phone", None).await["epoch"].clone();
    socket.backlog().await;
    socket.leave().await;
    for (node, n) in [("b", 7), ("c", 10)] {
        let mut socket = Socket::connect(&cluster.url(node)).await;
        let resume = json!({"n": n, "epoch": epoch});
        let ok = socket.auth(&bob.token, "phone", Some(resume)).await;
        assert_eq!((&ok["resumed"], &ok["n"], &ok["epoch"]), (&json!(true), &json!(n), &epoch));
        assert_eq!(numbers(&socket.backlog().await), (n + 1..=10).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn an_unknown_epoch_starts_from_the_oldest_entry_kept() {
    let cluster = shared().await;
    let bob = cluster.user("bob").await;
    fill(&cluster, &bob, 3).await;
    let mut socket = Socket::connect(&cluster.url("a")).await;
    let resume = json!({"n": 2, "epoch": "01ARZ3NDEKTSV4RRFFQ69G5FAV"});
    let ok = socket.auth(&bob.token, "phone", Some(resume)).await;
    assert_eq!((&ok["resumed"], &ok["reason"]), (&json!(false), &json!("unknown_epoch")));
    assert_eq!(numbers(&socket.backlog().await), [1, 2, 3]);
}

#[tokio::test]
async fn no_more_than_a_window_is_unacknowledged() {
    let cluster = shared().await;
    let bob = cluster.user("bob").await;
    fill(&cluster, &bob, 300).await;
    let mut socket = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    for n in 1..=256_u64 {
        assert_eq!(socket.next_event().await["n"], n);
    }
    let more = socket.try_event(Duration::from_millis(700)).await;
    assert_eq!(more, Err(Over::Silent), "the window is full");
    socket.ack(100).await;
    let rest = socket.backlog().await;
    assert_eq!(numbers(&rest), (257..=300).collect::<Vec<_>>());
}

#[tokio::test]
async fn entries_can_be_pulled_again() {
    let cluster = shared().await;
    let bob = cluster.user("bob").await;
    fill(&cluster, &bob, 9).await;
    let mut socket = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    let first = socket.backlog().await;
    socket.tell("pull", json!({"after": 3, "limit": 4})).await;
    for expected in &first[3..7] {
        assert_eq!(&socket.next_event().await, expected);
    }
}

#[tokio::test]
async fn a_pong_tells_the_time_and_the_newest_number() {
    let cluster = shared().await;
    let bob = cluster.user("bob").await;
    fill(&cluster, &bob, 2).await;
    let mut socket = Socket::login(&cluster.url("b"), &bob.token, "phone").await;
    socket.backlog().await;
    socket.tell("ping", json!({})).await;
    let pong = socket.event("pong").await;
    assert_eq!(pong["d"]["head"], 2);
    assert!(pong["d"]["server_time_ms"].is_u64());
}

#[tokio::test]
async fn history_of_zero_days_keeps_nothing_that_was_delivered() {
    let cluster = Cluster::with(1, "[mailbox]\nhistory_days = 0").await;
    let url = cluster.first_url();
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let mut a = Socket::login(&url, &alice.token, "phone").await;
    let mut b = Socket::connect(&url).await;
    let epoch = b.auth(&bob.token, "phone", None).await["epoch"].clone();
    for i in 1..=5 {
        a.send(&bob.conv(), &format!("c{i}"), "gone soon").await;
    }
    for n in 1..=5_u64 {
        assert_eq!(b.event("message").await["n"], n);
    }
    b.ack(5).await;
    a.receipt("delivered", 5).await;
    a.send(&bob.conv(), "c6", "still here").await;
    assert_eq!(b.event("message").await["n"], 6, "numbers never start again");
    b.leave().await;
    // Whoever asks for what is gone is told so.
    let mut b = Socket::connect(&url).await;
    let resume = json!({"n": 1, "epoch": epoch});
    let ok = b.auth(&bob.token, "new", Some(resume)).await;
    assert_eq!((&ok["resumed"], &ok["reason"]), (&json!(false), &json!("trimmed")));
    let left = b.backlog().await;
    assert_eq!(left.last().map(|event| &event["d"]["body"]), Some(&json!("still here")));
    assert!(left.len() < 6, "{left:?}");
}
