//! Tests of registering and logging in.

use std::net::SocketAddr;

use actors::message::Refusal;
use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};

use super::{Played, Reply, SECRET, account, stage, stage_with};
use crate::auth::Tokens;
use crate::rest::Peer;

#[tokio::test]
async fn who_registers_gets_a_token_and_can_log_in() {
    let stage = stage();
    let reply = stage.post("/v1/register", account("bob", "correct horse")).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    assert_eq!(reply.body["user"], "bob");
    assert_eq!(reply.headers[header::CACHE_CONTROL], "no-store");
    let tokens = Tokens::new(SECRET, "dev");
    let verified = tokens.verify(reply.body["token"].as_str().unwrap()).unwrap();
    assert_eq!(verified.user.as_str(), "bob");
    assert_eq!(verified.expires_at.0, reply.body["expires_at"].as_u64().unwrap());

    let reply = stage.post("/v1/login", account("bob", "correct horse")).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert!(tokens.verify(reply.body["token"].as_str().unwrap()).is_ok());
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let stage = stage();
    stage.post("/v1/register", account("bob", "correct horse")).await;
    let again = stage.post("/v1/register", account("bob", "another horse")).await;
    again.refuses(409, "conflict", "exists already");
}

#[tokio::test]
async fn a_registration_whose_answer_was_lost_is_not_taken_by_another() {
    let stage = stage_with(Played { forgetful: true, ..Played::default() }, |_| {});
    let reply = stage.post("/v1/register", account("bob", "correct horse")).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
}

#[tokio::test]
async fn a_closed_cluster_takes_no_registrations() {
    let stage = stage_with(Played::default(), |config| config.auth.open_registration = false);
    let reply = stage.post("/v1/register", account("bob", "correct horse")).await;
    reply.refuses(403, "forbidden", "operator");
}

#[tokio::test]
async fn registering_and_logging_in_are_closed_apart() {
    let stage = stage_with(Played::default(), |config| config.auth.login = false);
    let reply = stage.post("/v1/register", account("bob", "correct horse")).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    let reply = stage.post("/v1/login", account("bob", "correct horse")).await;
    reply.refuses(403, "forbidden", "get a token from its operator");
    let change = json!({"old": "correct horse", "new": "another horse"}).to_string();
    stage.post("/v1/password", change).await.refuses(403, "forbidden", "takes no passwords");
}

#[tokio::test]
async fn wrong_fields_of_an_account_are_named() {
    let stage = stage();
    let check = async |body: Value, field: &str, says: &str| {
        let reply = stage.post("/v1/register", body.to_string()).await;
        assert_eq!(reply.refuses(400, "bad_request", says).body["field"], field);
    };
    check(json!({"password": "correct horse"}), "user", "is missing").await;
    check(json!({"user": null, "password": "correct horse"}), "user", "is missing").await;
    check(json!({"user": 5, "password": "correct horse"}), "user", "must be a string").await;
    check(json!({"user": "Bob", "password": "correct horse"}), "user", "a-z").await;
    check(json!({"user": "", "password": "correct horse"}), "user", "1 to 64").await;
    check(json!({"user": "bob"}), "password", "is missing").await;
    check(json!({"user": "bob", "password": "1234567"}), "password", "8 characters").await;
    // Four characters, more bytes.
    check(
        json!({"user": "bob", "password": "\u{4f60}\u{597d}\u{4e16}\u{754c}"}),
        "password",
        "8 characters",
    )
    .await;
    check(json!({"user": "bob", "password": "x".repeat(257)}), "password", "8 characters").await;
    let odd = json!({"user": "bob", "password": "x".repeat(256), "nonsense": [1, 2]});
    let reply = stage.post("/v1/register", odd.to_string()).await;
    assert_eq!(reply.status, 201, "unknown fields are ignored: {}", reply.body);
}

#[tokio::test]
async fn an_unknown_user_reads_like_a_wrong_password() {
    let stage = stage();
    stage.post("/v1/register", account("bob", "correct horse")).await;
    let wrong = stage.post("/v1/login", account("bob", "wrong horse!")).await;
    let unknown = stage.post("/v1/login", account("nobody", "wrong horse!")).await;
    wrong.refuses(401, "unauthenticated", "wrong user or password");
    assert_eq!(wrong.headers[header::WWW_AUTHENTICATE], "Bearer");
    let nameless = |reply: &Reply| {
        let mut body = reply.body.clone();
        body.as_object_mut().unwrap().remove("request_id");
        body
    };
    assert_eq!(nameless(&wrong), nameless(&unknown));
    assert_eq!(wrong.status, unknown.status);
}

#[tokio::test]
async fn guessing_is_slowed_and_logging_in_is_not() {
    let stage = stage_with(Played::default(), |c| c.limits.login_failures_per_minute = 2);
    stage.post("/v1/register", account("bob", "correct horse")).await;
    for _ in 0..3 {
        let reply = stage.post("/v1/login", account("bob", "correct horse")).await;
        assert_eq!(reply.status, 200);
    }
    for _ in 0..2 {
        stage.post("/v1/login", account("bob", "wrong horse!")).await;
    }
    let reply = stage.post("/v1/login", account("bob", "correct horse")).await;
    reply.refuses(429, "rate_limited", "wait");
    let seconds = reply.headers[header::RETRY_AFTER].to_str().unwrap();
    assert!((1..=30).contains(&seconds.parse::<u32>().unwrap()), "{seconds}");
    assert!(reply.body["retry_after_ms"].as_u64().unwrap() <= 30_000);
    let other = stage.post("/v1/login", account("carol", "wrong horse!")).await;
    other.refuses(401, "unauthenticated", "wrong");
}

#[tokio::test]
async fn guessing_from_many_addresses_is_slowed_too() {
    let stage = stage_with(Played::default(), |c| c.limits.login_failures_per_user_per_minute = 3);
    stage.post("/v1/register", account("bob", "correct horse")).await;
    let from = async |host: u8, user: &str, password: &str| {
        let mut request = Request::post("/v1/login")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(account(user, password)))
            .unwrap();
        request.extensions_mut().insert(Peer(SocketAddr::from(([192, 0, 2, host], 9))));
        stage.ask(request).await
    };
    assert_eq!(from(9, "bob", "correct horse").await.status, 200);
    for host in 1..=3 {
        from(host, "bob", "wrong horse!").await.refuses(401, "unauthenticated", "wrong");
    }
    let reply = from(4, "bob", "correct horse").await;
    reply.refuses(429, "rate_limited", "wrong passwords");
    assert!(reply.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(from(9, "bob", "correct horse").await.status, 200, "where they were before");
    from(9, "bob", "wrong horse!").await.refuses(401, "unauthenticated", "wrong");
    from(4, "carol", "wrong horse!").await.refuses(401, "unauthenticated", "wrong");
}

#[tokio::test]
async fn an_address_is_slowed_and_loopback_is_not() {
    let stage = stage_with(Played::default(), |c| c.limits.logins_per_address_per_minute = 2);
    let from = async |address: &str| {
        let mut request = Request::post("/v1/login")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(account("bob", "wrong horse!")))
            .unwrap();
        request.extensions_mut().insert(Peer(address.parse::<SocketAddr>().unwrap()));
        stage.ask(request).await
    };
    for _ in 0..2 {
        from("[2001:db8::1]:9").await.refuses(401, "unauthenticated", "wrong");
    }
    from("[2001:db8::2]:9").await.refuses(429, "rate_limited", "address");
    for address in ["127.0.0.1:9", "[::1]:9", "127.0.0.1:9", "[::1]:9", "127.0.0.1:9"] {
        from(address).await.refuses(401, "unauthenticated", "wrong");
    }
}

#[tokio::test]
async fn who_has_logged_in_there_is_not_locked_out_by_others_behind_the_address() {
    let stage = stage_with(Played::default(), |c| {
        c.limits.logins_per_address_per_minute = 4;
        c.limits.login_failures_per_minute = 2;
    });
    let from = async |call: &str, host: u8, user: &str, password: &str| {
        let mut request = Request::post(call)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(account(user, password)))
            .unwrap();
        request.extensions_mut().insert(Peer(SocketAddr::from(([192, 0, 2, host], 9))));
        stage.ask(request).await
    };
    let login = async |host, user, password| from("/v1/login", host, user, password).await;
    assert_eq!(from("/v1/register", 1, "bob", "correct horse").await.status, 201);
    assert_eq!(login(1, "bob", "correct horse").await.status, 200);
    for user in ["guess-1", "guess-2"] {
        login(1, user, "wrong horse!").await.refuses(401, "unauthenticated", "");
    }
    login(1, "guess-3", "wrong horse!").await.refuses(429, "rate_limited", "address");
    from("/v1/register", 1, "dan", "correct horse").await.refuses(429, "rate_limited", "address");
    for _ in 1..=2 {
        assert_eq!(login(1, "bob", "correct horse").await.status, 200, "he was there before");
    }
    login(1, "bob", "correct horse").await.refuses(429, "rate_limited", "address");
}

#[tokio::test]
async fn without_a_majority_nobody_logs_in() {
    let homes = Played { asks: Err(Refusal::Unavailable), ..Played::default() };
    let stage = stage_with(homes, |_| {});
    for path in ["/v1/login", "/v1/register"] {
        let reply = stage.post(path, account("bob", "correct horse")).await;
        reply.refuses(503, "unavailable", "majority");
    }
}
