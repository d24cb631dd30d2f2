//! Promise: a client knows from the first frame with whom it speaks, and learns exactly what it did wrong.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{SECRET, shared};
use crate::socket::{JSON, MSGPACK, Socket};
use crate::web;

#[tokio::test]
async fn the_node_speaks_first_and_says_its_limits() {
    let cluster = shared().await;
    let mut socket = Socket::open(&cluster.url("b"), Some(JSON)).await.unwrap();
    let hello = socket.expect_hello().await;
    assert_eq!(hello["node"], "b");
    assert!(hello["server"].as_str().is_some_and(|server| server.contains("rookery")), "{hello}");
    let numbers = [
        ("protocol", 1),
        ("heartbeat_ms", 5_000),
        ("auth_deadline_ms", 10_000),
        ("frame_bytes_max", 65_536),
        ("window", 256),
    ];
    for (name, value) in numbers {
        assert_eq!(hello[name], value, "{name}");
    }
    assert!(hello["server_time_ms"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000));
}

#[tokio::test]
async fn only_unknown_subprotocols_are_refused_before_the_upgrade() {
    let cluster = shared().await;
    let url = cluster.first_url();
    assert_eq!(Socket::open(&url, Some("xmpp")).await.err(), Some(400));
    assert!(Socket::open(&url, None).await.is_ok());
    assert!(Socket::open(&url, Some(MSGPACK)).await.is_ok());
}

#[tokio::test]
async fn authentication_says_where_delivery_goes_on() {
    let cluster = shared().await;
    let alice = cluster.user("alice").await;
    let mut socket = Socket::connect(&cluster.first_url()).await;
    let ok = socket.auth(&alice.token, "phone", None).await;
    assert_eq!(ok["user"], alice.name);
    assert_eq!(ok["device"], "phone");
    assert_eq!(ok["epoch"].as_str().map(str::len), Some(26), "{ok}");
    assert_eq!((ok["n"].as_u64(), ok["head"].as_u64()), (Some(0), Some(0)));
    assert!(ok["resumed"].is_boolean());
    let caught_up = socket.next_event().await;
    assert_eq!((&caught_up["ev"], &caught_up["d"]["n"]), (&json!("caught_up"), &json!(0)));
}

#[tokio::test]
async fn a_wrong_token_closes_with_4303() {
    let cluster = shared().await;
    for token in ["nonsense", "", "a.b.c"] {
        let mut socket = Socket::connect(&cluster.first_url()).await;
        let d = json!({"token": token, "device": "phone"});
        let _ = socket.ask("auth", d).await;
        assert_eq!(socket.expect_close().await, 4303, "{token:?}");
    }
}

#[tokio::test]
async fn an_expired_token_closes_with_4101() {
    let cluster = shared().await;
    let tokens = rookery::auth::Tokens::new(SECRET, "dev");
    let user = actors::ids::UserId::parse("late").unwrap();
    let old = actors::ids::Timestamp(1_700_000_000_000);
    let token = tokens.issue_at(&user, Duration::from_secs(60), old).unwrap().token;
    let mut socket = Socket::connect(&cluster.first_url()).await;
    let _ = socket.ask("auth", json!({"token": token, "device": "phone"})).await;
    assert_eq!(socket.expect_close().await, 4101);
}

#[tokio::test]
async fn the_first_frame_must_be_auth() {
    let cluster = shared().await;
    let mut socket = Socket::connect(&cluster.first_url()).await;
    let _ = socket.ask("ping", json!({})).await;
    assert_eq!(socket.expect_close().await, 4300);
}

#[tokio::test]
async fn whoever_says_nothing_is_sent_away_with_4303() {
    let cluster = shared().await;
    let mut socket = Socket::connect(&cluster.first_url()).await;
    assert_eq!(socket.expect_close().await, 4303);
}

#[tokio::test]
async fn what_cannot_be_parsed_closes_with_4300() {
    let cluster = shared().await;
    let alice = cluster.user("alice").await;
    let broken = [
        Message::text("{\"op\":"),
        Message::text("[1,2]"),
        Message::text(""),
        Message::binary(vec![0xc1_u8, 0xff]),
    ];
    for (device, message) in broken.into_iter().enumerate() {
        let url = cluster.first_url();
        let mut socket = Socket::login(&url, &alice.token, &format!("d{device}")).await;
        let what = format!("{message:?}");
        socket.write(message).await.unwrap();
        assert_eq!(socket.expect_close().await, 4300, "{what}");
    }
}

#[tokio::test]
async fn a_frame_too_big_closes_with_4302() {
    let cluster = shared().await;
    let alice = cluster.user("alice").await;
    let mut socket = Socket::login(&cluster.first_url(), &alice.token, "phone").await;
    let big = json!({"id": "1", "op": "ping", "d": {"x": "y".repeat(70_000)}});
    let _ = socket.frame(&big).await;
    assert_eq!(socket.expect_close().await, 4302);
}

#[tokio::test]
async fn unknown_ops_and_wrong_fields_are_answered_and_the_socket_stays() {
    let cluster = shared().await;
    let alice = cluster.user("alice").await;
    let mut socket = Socket::login(&cluster.first_url(), &alice.token, "phone").await;
    let unknown = socket.request("teleport", json!({})).await.unwrap_err();
    let code = unknown["code"].as_str().unwrap();
    assert!(["unknown_op", "bad_request"].contains(&code), "{unknown}");
    let wrong: [(&str, Value, &str); 7] = [
        ("send", json!({"to": "u:bob", "cid": "c", "kind": "text"}), "body"),
        ("send", json!({"to": "u:bob", "cid": "c", "kind": "text", "body": 7}), "body"),
        ("send", json!({"to": "bob", "cid": "c", "kind": "text", "body": ""}), "to"),
        ("send", json!({"to": "u:bob", "cid": "a b", "kind": "text", "body": ""}), "cid"),
        ("send", json!({"to": "u:bob", "cid": "c", "kind": "TEXT", "body": ""}), "kind"),
        ("read", json!({"conv": "u:bob", "seq": "many"}), "seq"),
        ("pull", json!({"after": -1, "limit": 5}), "after"),
    ];
    for (op, d, field) in wrong {
        let err = socket.request(op, d.clone()).await.unwrap_err();
        assert_eq!(err["code"], "bad_request", "{op} {d}");
        assert_eq!(err["retry"], false);
        assert!(err["message"].as_str().unwrap().contains(field), "{err} should name `{field}`");
    }
    socket.tell("teleport", json!({})).await;
    assert_eq!(socket.stray_error().await["code"], unknown["code"]);
    socket.tell("ping", json!({})).await;
    assert_eq!(socket.event("pong").await["d"]["head"], 0);
}

#[tokio::test]
async fn unknown_fields_are_ignored() {
    let cluster = shared().await;
    let alice = cluster.user("alice").await;
    let bob = cluster.user("bob").await;
    let mut socket = Socket::login(&cluster.first_url(), &alice.token, "phone").await;
    let d =
        json!({"to": bob.conv(), "cid": "c1", "kind": "text", "body": "", "colour": {"r": [1]}});
    let frame = json!({"x": [], "id": "free text!", "op": "send", "d": d});
    socket.frame(&frame).await.unwrap();
    assert_eq!(socket.reply("free text!").await.unwrap()["seq"], 1);
}

#[tokio::test]
async fn silence_of_three_heartbeats_closes_with_4002() {
    let cluster = shared().await;
    let alice = cluster.user("alice").await;
    let mut socket = Socket::login(&cluster.first_url(), &alice.token, "phone").await;
    assert_eq!(socket.expect_close().await, 4002);
}

#[tokio::test]
async fn health_and_metrics_are_where_they_should_be() {
    let cluster = shared().await;
    let (url, admin) = (cluster.first_url(), cluster.admin_url("a"));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(web::get(&format!("{url}{path}")).await.unwrap().status, 200, "{path}");
    }
    let metrics = web::get(&format!("{admin}/metrics")).await.unwrap();
    assert!(metrics.status == 200 && metrics.text.contains("# TYPE"), "{}", metrics.text);
    let hidden = web::get(&format!("{url}/admin/cluster")).await.unwrap();
    assert_eq!(hidden.status, 404, "the operator's pages are not for clients");
}

#[tokio::test]
async fn a_token_is_had_by_registering_once_and_logging_in_ever_after() {
    let cluster = shared().await;
    let alice = cluster.user_via("alice", &cluster.url("c")).await;
    let url = cluster.url("b");
    let login = |password: &str| {
        let body = json!({"user": alice.name, "password": password});
        let url = format!("{url}/v1/login");
        async move { web::post(&url, &body).await.unwrap() }
    };
    let right = login("correct horse battery").await;
    assert_eq!(right.status, 200, "{right:?}");
    let wrong = login("incorrect horse").await;
    assert_eq!((wrong.status, wrong.body["code"].as_str()), (401, Some("unauthenticated")));
    let again = json!({"user": alice.name, "password": "somebody else's"});
    let taken = web::post(&format!("{url}/v1/register"), &again).await.unwrap();
    assert_eq!((taken.status, taken.body["code"].as_str()), (409, Some("conflict")));
    let token = right.body["token"].as_str().unwrap();
    Socket::login(&url, token, "phone").await;
}
