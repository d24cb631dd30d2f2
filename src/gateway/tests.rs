//! Gateway: what one client sees, over a socket in memory and a home that is a model.

mod crowd;
mod model;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actors::clock;
use actors::ids::{BootId, DeviceId, NodeId, SessionId, Timestamp, UserId};
use actors::message::Refusal;
use actors::packet::{Ask, Closed, Regard, Tell};
use actors::router::Inbound;
use actors::session::{self, Session};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::order::REFUSED_MAX;
use super::pressure::Share;
use super::rules::{Connection, TICK};
use super::upgrade::{NotUpgraded, check};
use super::wire::{Frame, Request};
use super::{Crowded, Format, Limits, Now, Roll, Sessions, Verified, serve, upgrade};
use crate::auth::By;
use model::{PATIENCE, node};

fn message(cid: &str) -> Value {
    json!({"to": "u:bob", "cid": cid, "kind": "text", "body": "hi"})
}

#[tokio::test]
async fn a_client_is_greeted_authenticated_and_caught_up() {
    let node = node(|_| ());
    for format in [Format::Json, Format::Msgpack] {
        let mut client = node.connect(format).await;
        let hello = client.hear().await;
        assert_eq!((&hello["ev"], &hello["d"]["window"]), (&json!("hello"), &json!(256)));
        let auth = json!({"id": "a", "op": "auth", "d": {"token": "good", "device": "phone"}});
        match format {
            Format::Json => client.say(auth.to_string()).await,
            Format::Msgpack => {
                let bytes = rmp_serde::to_vec(&auth).unwrap();
                client.0.send(Message::binary(bytes)).await.unwrap();
            }
        }
        let ok = client.hear().await;
        assert_eq!((&ok["re"], &ok["ok"]["user"]), (&json!("a"), &json!("alice")));
        assert_eq!((&ok["ok"]["n"], &ok["ok"]["head"]), (&json!(1), &json!(3)));
        assert_eq!(client.hear().await["n"], json!(2));
        assert_eq!(client.hear().await["d"]["body"], json!("three"));
        assert_eq!(client.hear().await, json!({"ev": "caught_up", "d": {"n": 3}}));
        client.0.close(None).await.unwrap();
        node.until(|node| node.env.roll.sockets() == 0).await;
    }
    assert!(node.model.heard(|ask| matches!(ask, Ask::Detach { life: 1 })));
}

#[tokio::test]
async fn requests_are_answered_once_and_refused_by_name() {
    let node = node(|_| ());
    let mut client = node.open().await;
    client.ask("1", "send", message("c1")).await;
    let ok = client.hear().await;
    assert_eq!(
        (&ok["re"], &ok["ok"]["seq"], &ok["ok"]["dup"]),
        (&json!("1"), &json!(1), &json!(false))
    );
    client.ask("2", "send", json!({"to": "g:x", "cid": "c2", "kind": "k", "body": ""})).await;
    let unknown = json!({"code": "not_found", "message": "no such group: x", "retry": false});
    assert_eq!(client.hear().await["err"], unknown);
    client.ask("3", "send", json!({"to": "u:bob", "cid": "c1", "kind": "k", "body": ""})).await;
    assert_eq!(client.hear().await["err"]["code"], json!("conflict"));
    client.ask("4", "group.conquer", json!({})).await;
    let refused = client.hear().await;
    assert_eq!((&refused["re"], &refused["err"]["code"]), (&json!("4"), &json!("unknown_op")));
    client.say(r#"{"op":"ack","d":{"n":"x"}}"#).await;
    let refused = client.hear().await;
    assert_eq!((&refused["re"], &refused["err"]["code"]), (&Value::Null, &json!("bad_request")));
    client.ask("5", "ack", json!({"n": 4})).await;
    assert_eq!(client.hear().await["err"]["code"], json!("bad_request"));
    client.ask("6", "ack", json!({"n": 3})).await;
    assert_eq!(client.hear().await, json!({"re": "6", "ok": {}}));
    client.say(r#"{"op":"ping"}"#).await;
    assert_eq!(client.hear().await["d"]["head"], json!(3));
    client.ask("7", "pull", json!({"after": 1, "limit": 1})).await;
    assert_eq!(client.hear().await["d"]["body"], json!("again"));
    assert_eq!(client.hear().await["re"], json!("7"));
    client.ask("8", "device.list", json!({})).await;
    assert_eq!(client.hear().await["ok"]["devices"][0]["acked_n"], json!(3));
    client.ask("9", "device.remove", json!({"device": "x"})).await;
    assert_eq!(client.hear().await["err"]["message"], json!("no such device: x"));
    client.ask("10", "read", json!({"conv": "u:bob", "seq": 1})).await;
    assert_eq!(client.hear().await["re"], json!("10"));
    client.ask("11", "auth", json!({"token": "good", "device": "phone"})).await;
    assert_eq!(client.hear().await["err"]["code"], json!("bad_request"));
    *node.model.refusal.lock().unwrap() = Some(Refusal::NotFound);
    client.ask("13", "send", message("c13")).await;
    let refused = client.hear().await["err"].clone();
    assert_eq!(
        (&refused["code"], &refused["message"]),
        (&json!("not_found"), &json!("no such user: bob"))
    );
    *node.model.refusal.lock().unwrap() = Some(Refusal::MailboxFull);
    client.ask("12", "send", message("c12")).await;
    let refused = client.hear().await;
    assert_eq!(
        (&refused["err"]["code"], &refused["err"]["retry"]),
        (&json!("mailbox_full"), &json!(true))
    );
}

#[tokio::test]
async fn nothing_overtakes_a_message_that_was_refused_for_now() {
    let node = node(|_| ());
    let mut client = node.open().await;
    let mut send = async |cid: &str, to: &str| {
        let d = json!({"to": to, "cid": cid, "kind": "text", "body": "hi"});
        client.ask(cid, "send", d).await;
        let reply = client.hear().await;
        assert_eq!(reply["re"], json!(cid));
        reply["err"].clone()
    };
    *node.model.refusal.lock().unwrap() = Some(Refusal::MailboxFull);
    assert_eq!(send("c1", "u:bob").await["code"], json!("mailbox_full"));
    *node.model.refusal.lock().unwrap() = None;
    for cid in ["c2", "c3"] {
        let refused = send(cid, "u:bob").await;
        assert_eq!((&refused["code"], &refused["retry"]), (&json!("mailbox_full"), &json!(true)));
        assert!(refused["retry_after_ms"].as_u64() > Some(0), "{refused}");
    }
    assert_eq!(send("d1", "u:carol").await, Value::Null);
    assert_eq!(send("c3", "u:bob").await["code"], json!("mailbox_full"));
    for cid in ["c1", "c2", "c3", "c4"] {
        assert_eq!(send(cid, "u:bob").await, Value::Null, "{cid}");
    }
}

#[tokio::test]
async fn a_socket_ends_before_it_lets_something_overtake_what_it_cannot_remember() {
    let node = node(|limits| limits.frames_per_second = 0);
    let client = node.open().await;
    *node.model.refusal.lock().unwrap() = Some(Refusal::MailboxFull);
    let (mut write, mut read) = client.0.split();
    let write = async {
        for n in 0..REFUSED_MAX + 100 {
            // The refusal passes before the socket has heard all.
            if n == REFUSED_MAX {
                *node.model.refusal.lock().unwrap() = None;
            }
            let text = json!({"id": format!("{n}"), "op": "send", "d": message(&format!("c{n}"))});
            if write.send(Message::text(text.to_string())).await.is_err() {
                return;
            }
        }
    };
    let read = async {
        let mut refused = 0;
        loop {
            match timeout(PATIENCE, read.next()).await.expect("in time") {
                Some(Ok(Message::Text(text))) => {
                    assert!(text.contains("mailbox_full"), "nothing goes on: {text}");
                    refused += 1;
                }
                Some(Ok(Message::Close(Some(frame)))) => return (refused, u16::from(frame.code)),
                other => panic!("a refusal or the end, not {other:?}"),
            }
        }
    };
    let ((), heard) = tokio::join!(write, read);
    assert_eq!(heard, (REFUSED_MAX + 1, 4009));
}

#[tokio::test]
async fn too_many_requests_are_refused() {
    let node = node(|limits| limits.requests_max = 2);
    let mut client = node.open().await;
    node.model.silent.store(true, Ordering::Relaxed);
    for id in ["1", "1", "2", "3"] {
        client.ask(id, "send", message(id)).await;
    }
    let refused = client.hear().await;
    assert_eq!((&refused["re"], &refused["err"]["code"]), (&json!("1"), &json!("bad_request")));
    let refused = client.hear().await;
    assert_eq!((&refused["re"], &refused["err"]["code"]), (&json!("3"), &json!("rate_limited")));
    assert!(refused["err"]["retry_after_ms"].as_u64().unwrap() > 0);
    // What is answered at once needs no place among them.
    client.ask("4", "ack", json!({"n": 0})).await;
    assert_eq!(client.hear().await, json!({"re": "4", "ok": {}}));
    client.ask("5", "ping", json!({})).await;
    assert_eq!(client.hear().await, json!({"re": "5", "ok": {}}));
    assert_eq!(client.hear().await["ev"], "pong");
}

#[tokio::test]
async fn too_many_frames_are_refused() {
    let node = node(|limits| (limits.frames_per_second, limits.frames_burst) = (1, 2));
    let mut client = node.open().await;
    let mut refused = 0;
    for n in 0..4 {
        client.ask("r", "device.remove", json!({"device": format!("d{n}")})).await;
        refused += u64::from(client.hear().await["err"]["code"] == json!("rate_limited"));
    }
    assert_eq!(refused, 2);
}

#[tokio::test]
async fn presence_is_watched_within_bounds() {
    let node = node(|limits| {
        limits.session = Arc::new(actors::session::Limits { watched_max: 2, ..Default::default() });
    });
    let mut client = node.open().await;
    let row = |user| json!({"user": user, "online": true, "last_seen_ms": 8});
    client.ask("w1", "watch", json!({"users": ["bob", "cat"]})).await;
    let ok = json!({"presence": [row("bob"), row("cat")]});
    assert_eq!(client.hear().await, json!({"re": "w1", "ok": ok}));
    client.ask("w2", "watch", json!({"users": ["cat", "dan"]})).await;
    let refused = client.hear().await["err"].clone();
    assert_eq!(refused["code"], "too_large");
    assert!(refused["message"].as_str().unwrap().contains("at most 2"), "{refused}");
    client.ask("u", "unwatch", json!({"users": ["bob"]})).await;
    assert_eq!(client.hear().await, json!({"re": "u", "ok": {}}));
    client.ask("w3", "watch", json!({"users": ["dan"]})).await;
    assert_eq!(client.hear().await["ok"], json!({"presence": [row("dan")]}));
    client.ask("u", "unwatch", json!({"users": ["cat", "dan"]})).await;
    client.hear().await;
    client.ask("w4", "watch", json!({"users": ["bob", "nobody"]})).await;
    let refused = client.hear().await;
    assert_eq!((&refused["re"], &refused["err"]["code"]), (&json!("w4"), &json!("not_found")));
    assert_eq!(refused["err"]["message"], "no such user: nobody");
    *node.model.refusal.lock().unwrap() = Some(actors::message::Refusal::Overloaded);
    client.ask("w5", "watch", json!({"users": ["eve"]})).await;
    assert_eq!(client.hear().await["err"]["code"], "rate_limited");
}

#[tokio::test]
async fn typing_is_passed_on_so_many_times_and_no_more() {
    let node = node(|limits| (limits.typings_per_second, limits.typings_burst) = (1, 2));
    let mut client = node.open().await;
    for id in ["t1", "t2"] {
        client.ask(id, "typing", json!({"to": "u:bob", "on": id == "t1"})).await;
        assert_eq!(client.hear().await, json!({"re": id, "ok": {}}));
    }
    client.ask("t3", "typing", json!({"to": "g:G1", "on": true})).await;
    let refused = client.hear().await["err"].clone();
    assert_eq!(refused["code"], "rate_limited");
    assert!(refused["retry_after_ms"].as_u64().is_some_and(|ms| ms <= 1_000), "{refused}");
    let heard = node.model.heard.lock().unwrap();
    let typing = |ask: &&Ask| matches!(ask, Ask::Regard(_));
    let to = UserId::parse("bob").unwrap();
    let said = [true, false].map(|on| Ask::Regard(Regard::TypingTo { to: to.clone(), on }));
    assert_eq!(heard.iter().filter(typing).cloned().collect::<Vec<_>>(), said);
}

#[tokio::test]
async fn the_first_frame_must_be_auth_and_every_frame_a_frame() {
    let node = node(|_| ());
    let text = |text: &str| Message::text(text.to_owned());
    let bytes = |bytes: &[u8]| Message::binary(bytes.to_vec());
    for (format, frame, why) in [
        (Format::Json, text(r#"{"op":"ping"}"#), "auth"),
        (Format::Json, text(r#"{"op":"what"}"#), "auth"),
        (Format::Json, text("{"), "not valid JSON"),
        (Format::Json, text("hello"), "not valid JSON"),
        (Format::Json, text(r#"[{"op":"ping"}]"#), "not an object"),
        (Format::Json, bytes(&[0x80]), "text messages"),
        (Format::Msgpack, text(r#"{"op":"ping"}"#), "binary messages"),
        (Format::Msgpack, bytes(&[0xc1]), "not valid msgpack"),
        (Format::Msgpack, bytes(&[0x90]), "not an object"),
    ] {
        let mut client = node.connect(format).await;
        let what = format!("{frame:?}");
        client.0.send(frame).await.unwrap();
        let (code, reason) = client.closed_because().await;
        assert_eq!(code, 4300, "{what}");
        assert!(reason.contains(why) && reason.len() <= 123, "{what}: {reason}");
    }
    let mut client = node.open().await;
    client.say("{").await;
    assert_eq!(client.closed().await, 4300, "also after auth");
    // A wrong field of `auth` is only refused.
    let mut client = node.connect(Format::Json).await;
    client.hear().await;
    client.ask("a", "auth", json!({"token": "good"})).await;
    assert_eq!(client.hear().await["err"]["code"], json!("bad_request"));
    client.auth("good").await;
    assert_eq!(client.hear().await["ok"]["user"], json!("alice"));
}

#[tokio::test]
async fn a_frame_that_is_too_big_closes() {
    let node = node(|_| ());
    let client = node.open().await;
    let (mut write, mut read) = client.0.split();
    let big = "x".repeat(70_000);
    let write = async {
        let _ = write.send(Message::text(big)).await;
    };
    let read = async {
        loop {
            match timeout(PATIENCE, read.next()).await.expect("in time") {
                Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
                Some(Ok(_)) => {}
                other => panic!("a close frame, not {other:?}"),
            }
        }
    };
    assert_eq!(tokio::join!(write, read).1, 4302);
    let mut client = node.open().await;
    client
        .ask(
            "1",
            "send",
            json!({"to": "u:bob", "cid": "c", "kind": "k", "body": "x".repeat(40_000)}),
        )
        .await;
    assert_eq!(client.hear().await["err"]["code"], json!("too_large"));
}

#[tokio::test]
async fn who_does_not_authenticate_is_closed() {
    let node = node(|limits| limits.auth_deadline = Duration::from_millis(50));
    let mut client = node.connect(Format::Json).await;
    let (code, reason) = client.closed_because().await;
    assert!(code == 4303 && reason.contains("auth_deadline_ms"), "{code} {reason}");
    for (token, code) in [("bad", 4303), ("expired", 4101)] {
        let mut client = node.connect(Format::Json).await;
        client.hear().await;
        client.auth(token).await;
        assert_eq!(client.hear().await["err"]["code"], json!("unauthenticated"));
        assert_eq!(client.closed().await, code);
    }
}

#[tokio::test]
async fn a_token_that_ends_closes_its_socket() {
    let node = node(|_| ());
    let mut client = node.connect(Format::Json).await;
    client.auth("short").await;
    assert_eq!(client.closed().await, 4101);
}

#[tokio::test]
async fn a_silent_client_is_closed() {
    let node = node(|limits| limits.heartbeat = Duration::from_millis(60));
    let mut client = node.open().await;
    for _ in 0..6 {
        sleep(Duration::from_millis(50)).await;
        client.say(r#"{"op":"ping"}"#).await;
        assert_eq!(client.hear().await["ev"], json!("pong"));
    }
    assert_eq!(client.closed().await, 4002);
}

#[tokio::test]
async fn a_replaced_or_removed_device_is_closed() {
    let node = node(|_| ());
    for (why, code) in [(Closed::Replaced, 4305), (Closed::DeviceRemoved, 4304)] {
        let mut client = node.open().await;
        node.model.tell_all(&Inbound::Tell(Tell::Closed { life: 1, why }));
        assert_eq!(client.closed().await, code);
    }
}

#[tokio::test]
async fn without_a_home_the_client_is_sent_away() {
    let node = node(|limits| {
        let first_attach = Duration::from_millis(50);
        limits.session = Arc::new(session::Limits { first_attach, ..session::Limits::default() });
    });
    node.model.down.store(true, Ordering::Relaxed);
    let mut client = node.connect(Format::Json).await;
    client.hear().await;
    client.auth("good").await;
    assert_eq!(client.hear().await["err"]["code"], json!("unavailable"));
    assert_eq!(client.closed().await, 4010);
    node.model.down.store(false, Ordering::Relaxed);
    *node.model.refusal.lock().unwrap() = Some(Refusal::TooManyDevices);
    let mut client = node.connect(Format::Json).await;
    client.hear().await;
    client.auth("good").await;
    assert_eq!(client.hear().await["err"]["code"], json!("forbidden"));
    assert_eq!(client.closed().await, 4303);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed() {
    let node = node(|limits| limits.flush = Duration::from_millis(50));
    let mut client = node.open().await;
    node.model.push(4..=40, &"x".repeat(10_000));
    node.until(|node| node.env.roll.sockets() == 0).await;
    assert_eq!(client.closed().await, 4008);
}

#[tokio::test]
async fn a_user_has_only_so_many_sockets() {
    let node = node(|limits| limits.sockets_per_user_max = 1);
    let mut first = node.open().await;
    let mut second = node.connect(Format::Json).await;
    second.hear().await;
    second.auth("good").await;
    assert_eq!(second.closed().await, 4307);
    first.0.close(None).await.unwrap();
    node.until(|node| node.env.roll.sockets_of(&UserId::parse("alice").unwrap()) == 0).await;
    node.open().await;
}

#[tokio::test]
async fn a_drained_client_is_told_when_to_come_back() {
    let node = node(|_| ());
    let mut client = node.open().await;
    let mut other = node.open().await;
    node.model.tell_all(&Inbound::Drain { wait_ms: 20, elsewhere: None });
    let told = json!({"ev": "goaway", "d": {"reason": "drain", "wait_ms": 20}});
    assert_eq!([client.hear().await, other.hear().await], [told.clone(), told]);
    let elsewhere = Some("http://b:1".into());
    node.model.tell_all(&Inbound::Drain { wait_ms: 30, elsewhere });
    let told = json!({"reason": "drain", "wait_ms": 30, "url": "http://b:1"});
    assert_eq!(
        [client.hear().await, other.hear().await].map(|e| e["d"].clone()),
        [told.clone(), told]
    );
    client.ask("1", "send", message("c1")).await;
    assert_eq!(client.hear().await["re"], json!("1"));
    assert_eq!(client.closed().await, 4001);
}

#[tokio::test]
async fn a_panic_ends_one_socket_and_is_counted() {
    let node = node(|_| ());
    let mut other = node.open().await;
    let mut client = node.connect(Format::Json).await;
    client.hear().await;
    client.auth("broken").await;
    node.until(|node| node.env.roll.crashed() == 1 && node.env.roll.sockets() == 1).await;
    other.say(r#"{"op":"ping"}"#).await;
    assert_eq!(other.hear().await["ev"], json!("pong"));
}

#[tokio::test]
async fn the_actor_nudges_sockets_also_after_a_restart() {
    let roll = Roll::new(clock::monotonic());
    let id = SessionId { node: NodeId(1), boot: BootId(1), count: 1 };
    let pulse = roll.enter(id);
    for _ in 0..2 {
        pulse.set_due(Duration::ZERO);
        let (actor, task) = ractor::Actor::spawn(None, Sessions, Arc::clone(&roll)).await.unwrap();
        timeout(PATIENCE, pulse.nudged()).await.expect("in time");
        actor.stop(None);
        task.await.unwrap();
    }
}

#[tokio::test]
async fn buffers_shrink_without_losing_a_byte() {
    let node = node(|limits| limits.burst_over = Duration::ZERO);
    let mut client = node.open().await;
    for n in 0..50_usize {
        let body = "x".repeat(n * n * 10);
        let d = json!({"to": "u:bob", "cid": format!("c{n}"), "kind": "k", "body": body});
        let text = json!({"id": format!("{n}"), "op": "send", "d": d}).to_string();
        // Every other message comes in parts, with pings between.
        if n % 2 == 0 {
            client.say(text).await;
        } else {
            client.say_in_parts(&text).await;
        }
        assert_eq!(client.hear().await["re"], json!(n.to_string()));
    }
    node.model.push(4..=60, &"y".repeat(3_000));
    for n in 4..=60 {
        assert_eq!(client.hear().await["n"], json!(n));
    }
}

#[tokio::test]
async fn a_socket_is_small() {
    let node = node(|_| ());
    let (_near, far) = tokio::io::duplex(64);
    let place = node.env.roll.take_place(&node.env.limits, None, Duration::ZERO).unwrap();
    let size = size_of_val(&serve(far, Format::Json, Arc::clone(&node.env), place));
    assert!(size < 2_600, "{size}");
}

#[tokio::test]
async fn a_storm_of_logins_is_spread_over_time() {
    let node = node(|limits| (limits.sockets_per_second, limits.sockets_burst) = (10, 3));
    let ms = Duration::from_millis;
    let take = |now| node.env.roll.take_place(&node.env.limits, None, ms(now)).map(drop);
    for _ in 0..3 {
        take(0).unwrap();
    }
    assert_eq!(take(0), Err(Crowded::TooFast(ms(100))));
    assert_eq!(take(60), Err(Crowded::TooFast(ms(40))));
    take(100).unwrap();
    assert_eq!(take(100), Err(Crowded::TooFast(ms(100))));
}

#[tokio::test]
async fn one_address_has_only_so_many_sockets_that_say_not_whose_they_are() {
    let node = node(|limits| limits.strangers_per_address_max = 2);
    let take = |from: &str| {
        let from = from.parse().ok();
        node.env.roll.take_place(&node.env.limits, from, Duration::ZERO)
    };
    let (mut first, second) = (take("192.0.2.1").unwrap(), take("::ffff:192.0.2.1").unwrap());
    assert_eq!(take("192.0.2.1").unwrap_err(), Crowded::Strangers);
    let neighbours = ["192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(take);
    assert!(neighbours.iter().all(Result::is_ok), "{neighbours:?}");
    assert_eq!(take("2001:db8::3").unwrap_err(), Crowded::Strangers);
    first.is_known();
    let third = take("192.0.2.1").unwrap();
    assert_eq!(take("192.0.2.1").unwrap_err(), Crowded::Strangers);
    drop((first, second));
    take("192.0.2.1").unwrap();
    drop(third);
    let many: Vec<_> = (0..50).map(|_| take("127.0.0.1").unwrap()).collect();
    assert_eq!(many.len(), 50, "loopback is exempt");
}

fn headers(changes: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut all = BTreeMap::from([
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]);
    all.extend(changes.iter().copied());
    let header = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    all.into_iter().map(header).collect()
}

#[test]
fn a_handshake_is_checked() {
    let checked = |changes: &[(&'static str, &'static str)]| {
        check(&Method::GET, &headers(changes)).map(|(format, _)| format)
    };
    let accept = check(&Method::GET, &headers(&[])).unwrap().1;
    assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let protocol = |offered| checked(&[("sec-websocket-protocol", offered)]);
    assert_eq!(checked(&[]), Ok(Format::Json));
    assert_eq!(protocol("rookery.v1.msgpack"), Ok(Format::Msgpack));
    assert_eq!(protocol("x, rookery.v1.msgpack,rookery.v1.json"), Ok(Format::Msgpack));
    assert_eq!(protocol("x, y"), Err(NotUpgraded::Protocol));
    assert_eq!(checked(&[("upgrade", "h2c")]), Err(NotUpgraded::NotAsked));
    assert_eq!(checked(&[("connection", "close")]), Err(NotUpgraded::NotAsked));
    assert_eq!(checked(&[("sec-websocket-version", "8")]), Err(NotUpgraded::Version));
    assert_eq!(checked(&[("sec-websocket-key", "short")]), Err(NotUpgraded::Key));
    assert_eq!(check(&Method::POST, &headers(&[])).unwrap_err(), NotUpgraded::NotAsked);
}

#[tokio::test]
async fn an_http_request_becomes_a_socket_while_there_is_room() {
    let node = node(|limits| limits.sockets_max = 1);
    let env = Arc::clone(&node.env);
    let handler =
        move |request: axum::extract::Request| async move { upgrade(&env, None, request) };
    let app = axum::Router::new().route("/v1/socket", axum::routing::get(handler));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let request = || {
        let mut request = format!("ws://{address}/v1/socket").into_client_request().unwrap();
        let offered = HeaderValue::from_static("other, rookery.v1.json");
        request.headers_mut().insert("sec-websocket-protocol", offered);
        request
    };
    let (mut ws, response) = tokio_tungstenite::connect_async(request()).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "rookery.v1.json");
    let hello = timeout(PATIENCE, ws.next()).await.unwrap().unwrap().unwrap();
    assert!(hello.to_text().unwrap().contains(r#""ev":"hello""#));
    let refused = tokio_tungstenite::connect_async(request()).await.unwrap_err();
    let tokio_tungstenite::tungstenite::Error::Http(response) = refused else {
        panic!("an HTTP answer, not {refused:?}");
    };
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn a_request_that_becomes_no_socket_hears_so_in_a_problem() {
    let node = node(|limits| (limits.sockets_per_second, limits.sockets_burst) = (1, 1));
    let ask = |asks: bool| {
        let mut request = axum::http::Request::get("/v1/socket");
        if asks {
            request = request
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        }
        upgrade(&node.env, None, request.body(axum::body::Body::empty()).unwrap())
    };
    let problem = async |response: axum::response::Response| {
        let bytes = axum::body::to_bytes(response.into_body(), 4_096).await.unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()
    };
    let plain = problem(ask(false)).await;
    assert_eq!((&plain["code"], &plain["retry"]), (&json!("bad_request"), &json!(false)));
    assert_eq!(ask(true).status(), 101);
    let busy = ask(true);
    assert_eq!(
        (busy.status().as_u16(), &busy.headers()["retry-after"]),
        (503, &"1".parse().unwrap())
    );
    let busy = problem(busy).await;
    assert_eq!((&busy["code"], &busy["retry"]), (&json!("unavailable"), &json!(true)));
    assert!(busy["retry_after_ms"].as_u64().is_some_and(|ms| (1..=1_000).contains(&ms)), "{busy}");
}

#[test]
fn whatever_else_happens_a_session_that_waits_looks_at_its_clock() {
    let at = |ms| Now { running: Duration::from_millis(ms), wall: Timestamp(ms) };
    let limits = Limits::default();
    let id = SessionId { node: NodeId(1), boot: BootId(1), count: 1 };
    let session = Session::new(id, 4, Arc::clone(&limits.session));
    let mut connection = Connection::new(session, Share::of(&Arc::default()), &limits, at(0));
    let request =
        Request::Auth { token: "t".into(), device: DeviceId::parse("d").unwrap(), resume: None };
    let admit = |_: &str| {
        let user = UserId::parse("ann").unwrap();
        Ok(Verified { user, expires_at: Timestamp(1 << 40), by: By::Issuer })
    };
    let mut acts = Vec::new();
    let frame = Frame { id: None, auth: true, request: Ok(request) };
    connection.frame(frame, &limits, at(0), admit, &mut acts);
    let due = connection.due(&limits, at(0));
    assert_eq!(due, TICK, "the home has not answered yet");
    for ms in (10..200).step_by(10) {
        let busy = Tell::Used { cid: 1 };
        connection.inbound(Inbound::Tell(busy), at(ms), &mut acts);
        assert_eq!(connection.due(&limits, at(ms)), due, "at {ms}");
    }
    connection.sweep(&limits, at(200), &mut acts);
    assert_eq!(connection.due(&limits, at(210)), at(410).running, "and so on");
}
