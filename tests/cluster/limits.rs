//! Promise: too much is refused by name and for a while, and what is repeated then is neither doubled nor overtaken.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Cluster, PATIENCE, User};
use crate::socket::Socket;

/// Two users of a cluster of one node with these settings; one of them is online.
async fn pair(settings: &str) -> (Cluster, User, User, Socket) {
    let cluster = Cluster::with(1, settings).await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let a = Socket::login(&cluster.first_url(), &alice.token, "phone").await;
    (cluster, alice, bob, a)
}

fn message(to: &User, number: u64, body: &str) -> Value {
    json!({"to": to.conv(), "cid": format!("m{number}"), "kind": "text", "body": body})
}

/// Takes everything that waits and says so; returns the bodies.
async fn fetch(cluster: &Cluster, user: &User) -> Vec<Value> {
    let mut socket = Socket::login(&cluster.first_url(), &user.token, "laptop").await;
    let backlog = socket.backlog().await;
    let newest = backlog.last().and_then(|event| event["n"].as_u64()).expect("something waits");
    socket.request("ack", json!({"n": newest})).await.expect("it was sent");
    socket.leave().await;
    let messages = backlog.into_iter().filter(|event| event["ev"] == "message");
    messages.map(|event| event["d"]["body"].clone()).collect()
}

/// Repeats a message until there is room for it.
async fn taken(socket: &mut Socket, d: Value) -> Value {
    let until = async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        loop {
            pause.tick().await;
            match socket.request("send", d.clone()).await {
                Ok(ok) => return ok,
                Err(err) => assert_eq!(err["code"], "mailbox_full", "{err}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, until).await.expect("there should be room again")
}

#[tokio::test]
async fn who_sends_too_fast_and_repeats_is_heard_in_order() {
    const MANY: u64 = 60;
    let settings = "[limits]\nframes_per_second = 50\nframes_burst = 20";
    let (cluster, _alice, bob, mut a) = pair(settings).await;
    let mut asked = BTreeMap::new();
    for number in 1..=MANY {
        let d = message(&bob, number, &number.to_string());
        asked.insert(a.ask("send", d).await.unwrap(), number);
    }
    let (mut refused, mut seqs) = (0, BTreeMap::new());
    while seqs.len() < asked.len() {
        a.read().await.expect("the socket stays");
        while let Some((id, reply)) = a.take_reply() {
            let number = asked.remove(&id).expect("each request is answered once");
            if let Some(seq) = reply["ok"]["seq"].as_u64() {
                seqs.insert(number, seq);
                asked.insert(id, number);
                continue;
            }
            let err = &reply["err"];
            assert_eq!((&err["code"], &err["retry"]), (&json!("rate_limited"), &json!(true)));
            assert!(err["retry_after_ms"].as_u64() > Some(0), "{err}");
            refused += 1;
            let d = message(&bob, number, &number.to_string());
            asked.insert(a.ask("send", d).await.unwrap(), number);
        }
    }
    assert!(refused > 0, "the limit was never reached");
    assert!(seqs.iter().all(|(number, seq)| number == seq), "{seqs:?}");
    let bodies: Vec<Value> = (1..=MANY).map(|number| json!(number.to_string())).collect();
    assert_eq!(fetch(&cluster, &bob).await, bodies);
}

#[tokio::test]
async fn a_full_mailbox_takes_more_once_its_user_was_there() {
    let (cluster, _alice, bob, mut a) = pair("[mailbox]\nentries_max = 16").await;
    for number in 1..=16 {
        a.send(&bob.conv(), &format!("m{number}"), "").await;
    }
    // What it has is answered, and other mailboxes are not concerned.
    assert_eq!(a.send(&bob.conv(), "m16", "").await["dup"], true);
    let err = a.request("send", message(&bob, 17, "")).await.unwrap_err();
    assert_eq!((&err["code"], &err["retry"]), (&json!("mailbox_full"), &json!(true)), "{err}");
    let carol = cluster.user("carol").await;
    a.send(&carol.conv(), "c1", "").await;
    assert_eq!(fetch(&cluster, &bob).await.len(), 16);
    assert_eq!(taken(&mut a, message(&bob, 17, "")).await["seq"], 17);
    assert_eq!(a.send(&bob.conv(), "m18", "").await["seq"], 18);
}

#[tokio::test]
async fn a_mailbox_is_full_by_its_bytes_as_well() {
    let (cluster, _alice, bob, mut a) = pair("[mailbox]\nbytes_max_mib = 1").await;
    let body = "x".repeat(32 << 10);
    let fill = async |a: &mut Socket, from: u64| {
        for number in from..from + 100 {
            if let Err(err) = a.request("send", message(&bob, number, &body)).await {
                assert_eq!(err["code"], "mailbox_full", "{err}");
                return number - from;
            }
        }
        panic!("100 bodies of 32 KiB fit into 1 MiB")
    };
    let first = fill(&mut a, 1).await;
    assert!((30..=33).contains(&first), "1 MiB holds 31 of 32 KiB and some, not {first}");
    assert_eq!(fetch(&cluster, &bob).await.len() as u64, first);
    taken(&mut a, message(&bob, first + 1, &body)).await;
    assert_eq!(fill(&mut a, first + 2).await, first - 1);
}
