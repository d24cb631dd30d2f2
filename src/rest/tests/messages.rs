//! Tests of sending over HTTP.

use std::time::Duration;

use actors::ids::{MessageId, Seq, Timestamp, UserId};
use actors::message::{Accepted, Refusal};
use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};

use super::{Played, SECRET, message, stage, stage_with};
use crate::auth::Tokens;

#[tokio::test]
async fn a_message_is_sent_and_ticked() {
    let stage = stage();
    let mut message = message();
    message["client"] = json!({"a": [1, {"b": 2}]});
    message["reply_to"] = json!(MessageId(9).to_string());
    let reply = stage.send(message).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    let mid = MessageId(7).to_string();
    assert_eq!(reply.body, json!({"mid": mid, "seq": 3, "at": 1000, "dup": false}));
    let sent = stage.homes.sent.lock().unwrap();
    let sent = &sent[0];
    assert_eq!(sent.from.as_str(), "alice");
    assert_eq!(sent.device.as_str(), "http");
    assert_eq!(sent.to.to_string(), "u:bob");
    assert_eq!(sent.cid.as_str(), "c-1");
    assert_eq!(&*sent.content.body, "hi");
    assert_eq!(sent.content.reply_to, Some(MessageId(9)));
    assert_eq!(sent.content.client.as_deref(), Some("{\"a\":[1,{\"b\":2}]}"));
}

#[tokio::test]
async fn a_repeated_message_is_answered_with_200() {
    let dup = Accepted { mid: MessageId(7), seq: Seq(3), at: Timestamp(1_000), dup: true };
    let stage = stage_with(Played { sends: Ok(dup), ..Played::default() }, |_| {});
    let reply = stage.send(message()).await;
    assert_eq!((reply.status, &reply.body["dup"]), (200, &json!(true)));
}

#[tokio::test]
async fn wrong_fields_of_a_message_are_named() {
    let stage = stage();
    let check = async |field: &str, value: Value, says: &str| {
        let mut message = message();
        message[field] = value;
        let reply = stage.send(message).await;
        assert_eq!(reply.refuses(400, "bad_request", says).body["field"], field);
    };
    for field in ["to", "cid", "kind", "body"] {
        check(field, Value::Null, "is missing").await;
        check(field, json!(["x"]), "must be a string").await;
    }
    check("to", json!("bob"), "u:<user> or g:<group>").await;
    check("to", json!("u:Bob"), "u:<user> or g:<group>").await;
    check("to", json!("é:bob"), "u:<user> or g:<group>").await;
    check("cid", json!("c 1"), "1 to 64").await;
    check("kind", json!("Text"), "1 to 64").await;
    check("reply_to", json!("9"), "26 characters").await;
    check("reply_to", json!(9), "must be a string").await;
    check("client", json!([1]), "must be an object").await;
    assert!(stage.homes.sent.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let stage = stage();
    let check = async |field: &str, value: Value, status: u16| {
        let mut message = message();
        message[field] = value;
        let reply = stage.send(message).await;
        assert_eq!(reply.status, status, "{}", reply.body);
        if status == 413 {
            assert_eq!(reply.refuses(413, "too_large", "at most").body["field"], field);
        }
    };
    check("body", json!("x".repeat(32_768)), 201).await;
    check("body", json!("x".repeat(32_769)), 413).await;
    check("client", json!({"a": "x".repeat(1_016)}), 201).await;
    check("client", json!({"a": "x".repeat(1_017)}), 413).await;
    let reply = stage.post("/v1/messages", " ".repeat(65_537)).await;
    reply.refuses(413, "too_large", "65536");
}

#[tokio::test]
async fn malformed_bodies_are_refused() {
    let stage = stage();
    let bodies =
        ["", "{", "nonsense", "[]", "\"x\"", "5", "{\"to\":}", "{\"to\":\"a\",\"to\":\"b\"}"];
    for body in bodies {
        stage.post("/v1/messages", body).await.refuses(400, "bad_request", "the body");
    }
    let array = r#"["u:bob","c-1","text","hi",null,null]"#;
    stage.post("/v1/messages", array).await.refuses(400, "bad_request", "must be a JSON object");
    let bytes = b"{\"to\":\"u:bob\",\"cid\":\"c\",\"kind\":\"text\",\"body\":\"\xff\"}".to_vec();
    stage.post("/v1/messages", bytes).await.refuses(400, "bad_request", "");
    let lone = r#"{"to":"u:bob","cid":"c","kind":"text","body":"\ud800"}"#;
    stage.post("/v1/messages", lone).await.refuses(400, "bad_request", "`body`");
    let deep = format!("{{\"to\":{}", "[".repeat(60_000));
    stage.post("/v1/messages", deep).await.refuses(400, "bad_request", "the body");
    let mut plain = Request::post("/v1/messages").body(Body::from("{}")).unwrap();
    let bearer = format!("Bearer {}", stage.token).parse().unwrap();
    plain.headers_mut().insert(header::AUTHORIZATION, bearer);
    stage.ask(plain).await.refuses(415, "bad_request", "application/json");
}

#[tokio::test]
async fn without_a_good_token_nothing_is_sent() {
    let stage = stage();
    let tokens = Tokens::new(SECRET, "dev");
    let alice = UserId::parse("alice").unwrap();
    let old = tokens.issue_at(&alice, Duration::from_secs(60), Timestamp(1_000)).unwrap().token;
    let check = async |authorization: Option<String>, says: &str, challenge: &str| {
        let mut request = Request::post("/v1/messages")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(message().to_string()))
            .unwrap();
        if let Some(text) = authorization {
            request.headers_mut().insert(header::AUTHORIZATION, text.parse().unwrap());
        }
        let reply = stage.ask(request).await;
        reply.refuses(401, "unauthenticated", says);
        let shown = reply.headers[header::WWW_AUTHENTICATE].to_str().unwrap();
        assert!(shown.starts_with("Bearer") && shown.contains(challenge), "{shown}");
    };
    check(None, "Authorization", "").await;
    check(Some("Basic YTpi".into()), "Authorization", "").await;
    check(Some("Bearer".into()), "Authorization", "").await;
    check(Some("Bearer nonsense".into()), "not one of this cluster", "invalid_token").await;
    check(Some(format!("Bearer {old}")), "expired", "expired").await;
    assert!(stage.homes.sent.lock().unwrap().is_empty());
}

#[tokio::test]
async fn refusals_of_a_home_keep_their_codes() {
    let check = async |refusal: Refusal, status: u16, (code, words): (&str, &str), retry: bool| {
        let stage = stage_with(Played { sends: Err(refusal), ..Played::default() }, |_| {});
        let reply = stage.send(message()).await;
        reply.refuses(status, code, words);
        assert_eq!(reply.body["retry"], retry);
        assert_eq!(reply.headers.contains_key(header::RETRY_AFTER), retry);
    };
    check(Refusal::NotFound, 404, ("not_found", "no such user: bob"), false).await;
    check(Refusal::Conflict, 409, ("conflict", ""), false).await;
    check(Refusal::MailboxFull, 507, ("mailbox_full", ""), true).await;
    check(Refusal::Unavailable, 503, ("unavailable", ""), true).await;
    check(Refusal::Overloaded, 429, ("rate_limited", ""), true).await;

    let unknown = Played { sends: Err(Refusal::NotFound), ..Played::default() };
    let stage = stage_with(unknown, |_| {});
    let reply = stage.send(json!({"to": "g:x", "cid": "c", "kind": "text", "body": ""})).await;
    reply.refuses(404, "not_found", "no such group: x");
}

#[tokio::test]
async fn a_user_may_send_so_fast_and_no_faster() {
    let stage = stage_with(Played::default(), |c| c.limits.http_messages_per_second = 1);
    for _ in 0..2 {
        assert_eq!(stage.send(message()).await.status, 201);
    }
    stage.send(message()).await.refuses(429, "rate_limited", "too many messages");
}

#[tokio::test]
async fn past_the_places_requests_are_told_to_come_back() {
    let stage = stage_with(Played::default(), |c| c.limits.http_requests_in_flight_max = 0);
    stage.send(message()).await.refuses(503, "unavailable", "too many requests");
}
