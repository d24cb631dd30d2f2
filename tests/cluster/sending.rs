//! Promise: one check mark means stored, whoever repeats is answered and not doubled, and ticks only go forward.

use hyper::Method;
use serde_json::{Value, json};

use crate::harness::{Cluster, User, shared};
use crate::socket::Socket;
use crate::web::call;

/// Two users on two different nodes.
async fn pair(cluster: &Cluster) -> (User, Socket, User, Socket) {
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let a = Socket::login(&cluster.url("a"), &alice.token, "phone").await;
    let b = Socket::login(&cluster.url("b"), &bob.token, "laptop").await;
    (alice, a, bob, b)
}

#[tokio::test]
async fn a_message_gets_its_three_ticks() {
    let cluster = shared().await;
    let (alice, mut a, bob, mut b) = pair(&cluster).await;
    let ok = a.send(&bob.conv(), "hello-1", "hi bob ☺").await;
    assert_eq!((ok["seq"].as_u64(), ok["dup"].as_bool()), (Some(1), Some(false)));
    assert_eq!(ok["mid"].as_str().map(str::len), Some(26));

    let message = b.event("message").await;
    assert_eq!(message["n"], 1);
    let d = &message["d"];
    let expected = json!({"mid": ok["mid"], "conv": alice.conv(), "from": alice.name, "device": "phone",
        "seq": 1, "at": ok["at"], "kind": "text", "body": "hi bob ☺"});
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&d[key], value, "{key} of {message}");
    }

    let sent = a.event("sent").await;
    assert_eq!((&sent["d"]["mid"], &sent["d"]["cid"]), (&ok["mid"], &json!("hello-1")));
    assert_eq!(sent["d"]["conv"], bob.conv());
    assert!(sent["d"].get("body").is_none_or(Value::is_null), "the sending device has it: {sent}");

    b.ack(1).await;
    let delivered = a.receipt("delivered", 1).await;
    assert_eq!((&delivered["by"], &delivered["conv"]), (&json!(bob.name), &json!(bob.conv())));
    assert_eq!(delivered["read"], 0, "not read yet");
    b.tell("read", json!({"conv": alice.conv(), "seq": 1})).await;
    assert_eq!(a.receipt("read", 1).await["delivered"], 1);
}

#[tokio::test]
async fn reading_implies_delivery_and_never_goes_back() {
    let cluster = shared().await;
    let (alice, mut a, bob, mut b) = pair(&cluster).await;
    for i in 1..=3 {
        a.send(&bob.conv(), &format!("c{i}"), "text").await;
    }
    b.event("message").await;
    b.tell("read", json!({"conv": alice.conv(), "seq": 2})).await;
    let first = a.receipt("read", 2).await;
    assert!(first["delivered"].as_u64() >= Some(2), "{first}");
    b.tell("read", json!({"conv": alice.conv(), "seq": 1})).await;
    b.tell("read", json!({"conv": alice.conv(), "seq": 3})).await;
    let (mut delivered, mut read) = (first["delivered"].as_u64(), first["read"].as_u64());
    while read < Some(3) {
        let next = a.event("receipt").await;
        assert!(next["d"]["delivered"].as_u64() >= delivered && next["d"]["read"].as_u64() >= read);
        (delivered, read) = (next["d"]["delivered"].as_u64(), next["d"]["read"].as_u64());
        assert!(read <= delivered, "{next}");
    }
}

#[tokio::test]
async fn a_retried_message_is_stored_once() {
    let cluster = shared().await;
    let (alice, mut a, bob, mut b) = pair(&cluster).await;
    let first = a.send(&bob.conv(), "same", "once").await;
    let again = a.send(&bob.conv(), "same", "once").await;
    // Another device through another node is the same user.
    let mut tablet = Socket::login(&cluster.url("c"), &alice.token, "tablet").await;
    let third = tablet.send(&bob.conv(), "same", "once").await;
    for repeated in [&again, &third] {
        assert_eq!(repeated["dup"], true);
        for key in ["mid", "seq", "at"] {
            assert_eq!(repeated[key], first[key], "{key}");
        }
    }
    a.send(&bob.conv(), "next", "twice").await;
    let seqs = [b.event("message").await, b.event("message").await].map(|m| m["d"]["seq"].as_u64());
    assert_eq!(seqs, [Some(1), Some(2)]);
}

#[tokio::test]
async fn a_cid_used_for_something_else_is_a_conflict() {
    let cluster = shared().await;
    let (_alice, mut a, bob, _b) = pair(&cluster).await;
    a.send(&bob.conv(), "once", "body").await;
    for (kind, body) in [("text", "other body"), ("media", "body")] {
        let d = json!({"to": bob.conv(), "cid": "once", "kind": kind, "body": body});
        assert_eq!(a.refused("send", d).await, "conflict");
    }
}

#[tokio::test]
async fn whoever_has_seen_the_tick_finds_the_cid_in_use() {
    const ROUNDS: usize = 30;
    let cluster = shared().await;
    let (alice, mut phone, bob, _b) = pair(&cluster).await;
    let carol = cluster.user("carol").await;
    let mut tablet = Socket::login(&cluster.url("b"), &alice.token, "tablet").await;
    let mut desk = Socket::login(&cluster.url("c"), &alice.token, "desk").await;
    let urls = ["a", "b", "c"].map(|node| format!("{}/v1/messages", cluster.url(node)));
    let d = |to: String, cid: String| json!({"to": to, "cid": cid, "kind": "text", "body": ""});
    let over_http = async |round: usize, d: &Value| {
        let url = &urls[round % urls.len()];
        call(Method::POST, url, Some(&alice.token), Some(d)).await.expect("answered")
    };
    for round in 0..ROUNDS {
        let (first, again) =
            (d(bob.conv(), format!("s{round}")), d(carol.conv(), format!("s{round}")));
        let (user, other) =
            if round % 2 == 0 { (&mut phone, &mut tablet) } else { (&mut tablet, &mut desk) };
        user.request("send", first).await.expect("accepted");
        assert_eq!(other.refused("send", again.clone()).await, "conflict", "socket, socket");
        assert_eq!(over_http(round, &again).await.status, 409, "socket, HTTP");

        let (first, again) =
            (d(bob.conv(), format!("h{round}")), d(carol.conv(), format!("h{round}")));
        assert_eq!(over_http(round, &first).await.status, 201);
        if round % 2 == 0 {
            assert_eq!(other.refused("send", again.clone()).await, "conflict", "HTTP, socket");
        }
        assert_eq!(over_http(round + 1, &again).await.status, 409, "HTTP, HTTP");
    }
}

/// Also after all nodes were killed, and for whoever never connected.
#[tokio::test]
async fn a_cid_used_for_somebody_else_is_a_conflict_on_any_socket() {
    let cluster = Cluster::start(3).await;
    let (alice, mut a, bob, _b) = pair(&cluster).await;
    let carol = cluster.user("carol").await;
    let mut tablet = Socket::login(&cluster.url("c"), &alice.token, "tablet").await;
    a.send(&bob.conv(), "once", "body").await;
    let again = json!({"to": carol.conv(), "cid": "once", "kind": "text", "body": "body"});
    assert_eq!(a.refused("send", again.clone()).await, "conflict");
    assert_eq!(tablet.refused("send", again.clone()).await, "conflict");
    // What was refused took nothing else along, and is nothing the next one collides with.
    assert_eq!(tablet.send(&carol.conv(), "twice", "body").await["seq"], 1);
    assert_eq!(tablet.send(&bob.conv(), "once", "body").await["dup"], true);

    cluster.kill9_all();
    cluster.start_all();
    cluster.ready().await;
    for node in ["b", "c"] {
        let mut new = Socket::login(&cluster.url(node), &alice.token, "phone").await;
        assert_eq!(new.refused("send", again.clone()).await, "conflict", "after the restart");
        assert_eq!(new.send(&bob.conv(), "once", "body").await["dup"], true);
        new.leave().await;
    }
    let url = format!("{}/v1/messages", cluster.url("a"));
    let problem = call(Method::POST, &url, Some(&alice.token), Some(&again)).await.unwrap();
    assert_eq!((problem.status, problem.body["code"].as_str()), (409, Some("conflict")));

    // Also of somebody who never connected before.
    let guest = cluster.guest("guest");
    let first = json!({"to": bob.conv(), "cid": "once", "kind": "text", "body": "body"});
    let answer = call(Method::POST, &url, Some(&guest.token), Some(&first)).await.unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    let problem = call(Method::POST, &url, Some(&guest.token), Some(&again)).await.unwrap();
    assert_eq!((problem.status, problem.body["code"].as_str()), (409, Some("conflict")));
}

#[tokio::test]
async fn nobody_can_be_written_to_who_does_not_exist() {
    let cluster = shared().await;
    let alice = cluster.user("alice").await;
    let mut a = Socket::login(&cluster.first_url(), &alice.token, "phone").await;
    for to in ["u:nobody-by-this-name", "g:no-such-group"] {
        let d = json!({"to": to, "cid": "c", "kind": "text", "body": ""});
        assert_eq!(a.refused("send", d).await, "not_found", "{to}");
    }
}

#[tokio::test]
async fn a_body_too_large_is_refused_and_the_largest_arrives() {
    let cluster = shared().await;
    let (_alice, mut a, bob, mut b) = pair(&cluster).await;
    let limit = 32 << 10;
    let d = json!({"to": bob.conv(), "cid": "big", "kind": "text", "body": "x".repeat(limit + 1)});
    assert_eq!(a.refused("send", d).await, "too_large");
    a.send(&bob.conv(), "fits", &"y".repeat(limit)).await;
    assert_eq!(b.event("message").await["d"]["body"].as_str().map(str::len), Some(limit));
}

#[tokio::test]
async fn what_rides_along_arrives_unread() {
    let cluster = shared().await;
    let (alice, mut a, bob, mut b) = pair(&cluster).await;
    let first = a.send(&bob.conv(), "q", "question").await;
    b.event("message").await;
    let client = json!({"colour": "blue", "deep": [1, {"x": null}]});
    let d = json!({"to": alice.conv(), "cid": "r", "kind": "application/x.y+z", "body": "",
        "reply_to": first["mid"], "client": client});
    b.request("send", d).await.unwrap();
    let answer = a.event("message").await;
    assert_eq!(answer["d"]["reply_to"], first["mid"]);
    assert_eq!(answer["d"]["client"], client);
    assert_eq!(answer["d"]["kind"], "application/x.y+z");
}

#[tokio::test]
async fn many_at_once_arrive_in_the_order_they_were_sent() {
    const MANY: u64 = 600;
    let cluster = shared().await;
    let (_alice, mut a, bob, mut b) = pair(&cluster).await;
    let conv = bob.conv();
    let send = async {
        let mut ids = Vec::new();
        for i in 1..=MANY {
            let d =
                json!({"to": conv, "cid": format!("m{i}"), "kind": "text", "body": i.to_string()});
            ids.push(a.ask("send", d).await.unwrap());
            // No more than a node lets one socket have in flight.
            if let Some(old) = ids.len().checked_sub(100) {
                a.reply(&ids[old]).await.unwrap();
            }
        }
        for (i, id) in ids.iter().enumerate().skip(ids.len() - 99) {
            assert_eq!(a.reply(id).await.unwrap()["seq"], i + 1);
        }
    };
    let receive = async {
        for i in 1..=MANY {
            let message = b.event("message").await;
            assert_eq!((message["n"].as_u64(), message["d"]["seq"].as_u64()), (Some(i), Some(i)));
            assert_eq!(message["d"]["body"], i.to_string());
            b.ack(i).await;
        }
    };
    tokio::join!(send, receive);
}

#[tokio::test]
async fn one_can_write_to_oneself() {
    let cluster = shared().await;
    let alice = cluster.user("alice").await;
    let mut a = Socket::login(&cluster.first_url(), &alice.token, "phone").await;
    let ok = a.send(&alice.conv(), "note", "milk").await;
    let message = a.event("message").await;
    assert_eq!((&message["d"]["mid"], &message["d"]["body"]), (&ok["mid"], &json!("milk")));
}

#[tokio::test]
async fn an_operators_token_lets_in_a_user_who_never_registered() {
    let cluster = shared().await;
    let User { name, token } = cluster.guest("guest");
    let mut guest = Socket::login(&cluster.first_url(), &token, "phone").await;
    let alice = cluster.user("alice").await;
    guest.send(&alice.conv(), "c", "hello").await;
    let mut a = Socket::login(&cluster.url("b"), &alice.token, "phone").await;
    a.event("message").await;
    a.send(&format!("u:{name}"), "c", "welcome").await;
    assert_eq!(guest.event("message").await["d"]["body"], "welcome");
}
