//! Tests of what all calls have in common: ids, brakes, caches, other sites, bounds, and requests that may be repeated.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{Method, Request, header};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Played, Reply, Stage, account, message, stage, stage_with};
use crate::rest::{Peer, finish, in_common};

fn getting(path: &str) -> axum::http::request::Builder {
    Request::get(path)
}

#[tokio::test]
async fn every_answer_has_an_id_and_a_sane_one_of_the_client_is_kept() {
    let stage = stage();
    let check = async |given: &str, kept: bool| {
        let request = getting("/nowhere").header("x-request-id", given).body(Body::empty());
        let reply = stage.ask(request.unwrap()).await;
        reply.refuses(404, "not_found", "nothing");
        let id = reply.headers["x-request-id"].to_str().unwrap();
        assert_eq!(id == given, kept, "{given}");
    };
    check("a1B2-c3_d4.e5", true).await;
    check(&"x".repeat(64), true).await;
    check(&"x".repeat(65), false).await;
    for bad in ["", "a b", "a\"b", "{}", "a\tb"] {
        check(bad, false).await;
    }
    let ask = async |path| stage.ask(getting(path).body(Body::empty()).unwrap()).await;
    let (one, two) = (ask("/healthz").await, ask("/healthz").await);
    assert_eq!(one.status, 200);
    assert_eq!(one.headers["x-request-id"].len(), 16);
    assert_ne!(one.headers["x-request-id"], two.headers["x-request-id"]);
    assert!(ask("/v1/socket").await.headers.contains_key("x-request-id"));
}

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What one request leaves in the log.
async fn logged() -> String {
    let log = Log::default();
    let writer = log.clone();
    let written = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    let _here = tracing::subscriber::set_default(written);
    let request = getting("/healthz").header("x-request-id", "mine-7").body(Body::empty());
    stage().ask(request.unwrap()).await;
    String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
}

#[tokio::test]
async fn what_is_logged_of_a_request_has_its_id() {
    // A test beside this one, where nobody listens, may just then tell `tracing` that nobody wants the line; whoever
    // listens next is asked again.
    for _ in 0..100 {
        let log = logged().await;
        let Some(line) = log.lines().find(|line| line.contains("answered")) else { continue };
        assert!(line.contains("request_id=mine-7") && line.contains("/healthz"), "{log}");
        return;
    }
    panic!("nothing is logged of a request");
}

#[tokio::test]
async fn what_is_private_is_left_in_no_cache() {
    let stage = stage();
    assert_eq!(stage.send(message()).await.headers[header::CACHE_CONTROL], "no-store");
    let reply = stage.ask(getting("/healthz").body(Body::empty()).unwrap()).await;
    assert_eq!(reply.headers[header::CACHE_CONTROL], "no-store");
}

#[tokio::test]
async fn long_heads_are_refused_in_words() {
    let stage = stage();
    let long = getting("/healthz").header("long", "x".repeat(17 << 10)).body(Body::empty());
    stage.ask(long.unwrap()).await.refuses(431, "too_large", "16384 bytes");
    let ask = async |headers: usize| {
        let many = (0..headers).fold(getting("/healthz"), |b, i| b.header(format!("h-{i}"), "x"));
        stage.ask(many.body(Body::empty()).unwrap()).await
    };
    ask(65).await.refuses(431, "too_large", "64 headers");
    assert_eq!(ask(64).await.status, 200);
    let target = format!("/healthz?{}", "x".repeat(9_000));
    let reply = stage.ask(getting(&target).body(Body::empty()).unwrap()).await;
    reply.refuses(414, "too_large", "8192 bytes");
}

#[tokio::test]
async fn a_user_is_slowed_whatever_they_ask_for() {
    let stage = stage_with(Played::default(), |c| c.limits.http_requests_per_second = 1);
    for _ in 0..2 {
        assert_eq!(stage.post("/v1/token", "").await.status, 200);
    }
    for path in ["/v1/token", "/v1/messages"] {
        let reply = stage.post(path, message().to_string()).await;
        reply.refuses(429, "rate_limited", "of this user");
        assert!(reply.headers.contains_key(header::RETRY_AFTER));
        assert!(reply.body["retry_after_ms"].as_u64().unwrap() <= 1_000);
    }
    let reply = stage.post("/v1/register", account("bob", "correct horse")).await;
    let other = reply.body["token"].as_str().unwrap();
    assert_eq!(stage.post_as(other, "/v1/token", "").await.status, 200);
}

#[tokio::test]
async fn an_address_is_slowed_whatever_it_asks_for_and_loopback_is_not() {
    let stage =
        stage_with(Played::default(), |c| c.limits.http_requests_per_address_per_second = 1);
    let from = async |address: &str, path: &str| {
        let mut request = Request::post(path).body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer(address.parse::<SocketAddr>().unwrap()));
        stage.ask(request).await
    };
    for _ in 0..2 {
        from("192.0.2.1:9", "/v1/token").await.refuses(401, "unauthenticated", "Bearer");
    }
    for path in ["/v1/token", "/v1/messages", "/v1/login"] {
        let reply = from("192.0.2.1:7", path).await;
        reply.refuses(429, "rate_limited", "from this address");
        assert!(reply.headers.contains_key(header::RETRY_AFTER));
    }
    from("192.0.2.2:9", "/v1/token").await.refuses(401, "unauthenticated", "Bearer");
    for _ in 0..5 {
        from("127.0.0.1:9", "/v1/token").await.refuses(401, "unauthenticated", "Bearer");
    }
    // How many sockets come is the gateway's to say, and a balancer must hear whether the node lives.
    for path in ["/v1/socket", "/healthz"] {
        let mut request = getting(path).body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer("192.0.2.1:9".parse::<SocketAddr>().unwrap()));
        assert_ne!(stage.ask(request).await.status, 429);
    }
}

async fn cross(stage: &Stage, method: Method, origin: &str) -> Reply {
    let request = Request::builder()
        .method(method)
        .uri("/v1/messages")
        .header(header::ORIGIN, origin)
        .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
        .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization,idempotency-key");
    stage.ask(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn pages_of_other_sites_may_not_call_unless_they_are_named() {
    let (allow, page) = (header::ACCESS_CONTROL_ALLOW_ORIGIN, "https://chat.example.org");
    let closed = stage();
    let reply = cross(&closed, Method::OPTIONS, page).await;
    assert!(!reply.headers.contains_key(&allow) && reply.status == 405);

    let named = stage_with(Played::default(), |c| c.http.cors_origins = vec![page.to_owned()]);
    let reply = cross(&named, Method::OPTIONS, page).await;
    assert_eq!((reply.status, &reply.headers[&allow]), (200, &page.parse().unwrap()));
    let headers = reply.headers[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap();
    assert!(headers.contains("authorization") && headers.contains("idempotency-key"), "{headers}");
    let methods = reply.headers[header::ACCESS_CONTROL_ALLOW_METHODS].to_str().unwrap();
    assert!(methods.contains("POST") && methods.contains("DELETE"), "{methods}");
    let reply = cross(&named, Method::POST, page).await;
    reply.refuses(401, "unauthenticated", "");
    assert_eq!(reply.headers[&allow], page, "problems can be read, too");
    let exposed = reply.headers[header::ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap();
    assert!(exposed.contains("retry-after") && exposed.contains("x-request-id"), "{exposed}");
    let reply = cross(&named, Method::OPTIONS, "https://evil.example.org").await;
    assert!(!reply.headers.contains_key(&allow));

    let open = stage_with(Played::default(), |c| c.http.cors_origins = vec!["*".to_owned()]);
    let reply = cross(&open, Method::OPTIONS, "https://any.example.org").await;
    assert_eq!(reply.headers[&allow], "*");
}

/// Answers that other rooms may give, behind what all calls have.
fn answers(stage: &Stage) -> Router {
    let routes = Router::new()
        .route("/v1/list", get(async || Json(json!({"chats": [1, 2, 3]}))))
        .route("/v1/other", get(async || Json(json!({"chats": [1, 2]}))))
        .route("/v1/export", get(async || ([(header::CONTENT_TYPE, "application/jsonl")], "{}")))
        .route("/v1/public", get(async || ([(header::CACHE_CONTROL, "max-age=9")], Json(1))));
    finish(in_common(routes, &stage.rest).with_state(stage.rest.clone()))
}

#[tokio::test]
async fn what_a_client_has_already_is_not_sent_again() {
    let stage = stage();
    let ask = async |path: &str, tag: Option<&str>| {
        let mut request = getting(path).body(Body::empty()).unwrap();
        if let Some(tag) = tag {
            request.headers_mut().insert(header::IF_NONE_MATCH, tag.parse().unwrap());
        }
        stage.ask_of(answers(&stage), request).await
    };
    let first = ask("/v1/list", None).await;
    assert_eq!((first.status, &first.body), (200, &json!({"chats": [1, 2, 3]})));
    assert_eq!(first.headers[header::CACHE_CONTROL], "private, no-cache");
    let tag = first.headers[header::ETAG].to_str().unwrap();
    assert!(tag.starts_with("W/\"") && tag.len() == 36, "{tag}");
    let strong = tag.trim_start_matches("W/");
    for has in [tag, strong, "*", &format!("\"x\", {tag}"), &format!("{tag} ,W/\"y\"")] {
        let reply = ask("/v1/list", Some(has)).await;
        assert_eq!((reply.status, reply.body), (304, Value::String(String::new())), "{has}");
        assert_eq!(reply.headers[header::ETAG], tag);
        assert_eq!(reply.headers[header::CACHE_CONTROL], "private, no-cache");
        assert!(!reply.headers.contains_key(header::CONTENT_TYPE));
    }
    for (has, status) in [(None, 200), (Some(tag), 304)] {
        let mut request = getting("/v1/list").method("HEAD").body(Body::empty()).unwrap();
        if let Some(tag) = has {
            request.headers_mut().insert(header::IF_NONE_MATCH, tag.parse().unwrap());
        }
        let reply = stage.ask_of(answers(&stage), request).await;
        assert_eq!((reply.status, reply.bytes.len()), (status, 0));
        assert_eq!(reply.headers[header::ETAG], tag, "as a GET would say");
    }
    for other in ["\"x\"", "W/\"\"", ""] {
        assert_eq!(ask("/v1/list", Some(other)).await.status, 200, "{other}");
    }
    let reply = ask("/v1/other", Some(tag)).await;
    assert_eq!((reply.status, reply.headers[header::ETAG] == *tag), (200, false));
    let reply = ask("/v1/public", None).await;
    assert_eq!(reply.headers[header::CACHE_CONTROL], "max-age=9", "who says so keeps that");
    let reply = ask("/v1/export", Some("*")).await;
    assert_eq!((reply.status, reply.headers.contains_key(header::ETAG)), (200, false));
    let request = Request::post("/v1/list").header(header::IF_NONE_MATCH, "*").body(Body::empty());
    let reply = stage.ask_of(answers(&stage), request.unwrap()).await;
    reply.refuses(405, "bad_request", "method");
}

#[tokio::test]
async fn a_key_in_the_head_stands_for_the_cid() {
    let stage = stage();
    let send = async |cid: Option<&str>, keys: &[&str]| {
        let mut message = message();
        message["cid"] = json!(cid);
        let mut request = Request::post("/v1/messages")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", stage.token));
        for key in keys {
            request = request.header("Idempotency-Key", *key);
        }
        stage.ask(request.body(Body::from(message.to_string())).unwrap()).await
    };
    let took = async |cid: Option<&str>, key: &str, is: &str| {
        assert_eq!(send(cid, &[key]).await.status, 201);
        let sent = stage.homes.sent.lock().unwrap();
        assert_eq!(sent.last().unwrap().cid.as_str(), is);
    };
    took(None, "k-1", "k-1").await;
    took(None, "\"k-2\"", "k-2").await;
    took(Some("k-3"), "k-3", "k-3").await;
    let count = stage.homes.sent.lock().unwrap().len();
    let reply = send(Some("c-1"), &["k-1"]).await;
    assert_eq!(reply.refuses(400, "bad_request", "`Idempotency-Key`").body["field"], "cid");
    let reply = send(None, &[]).await;
    assert_eq!(reply.refuses(400, "bad_request", "is missing").body["field"], "cid");
    for bad in ["", "a b", "\"", &"x".repeat(65)] {
        let reply = send(None, &[bad]).await;
        assert_eq!(reply.refuses(400, "bad_request", "1 to 64").body["field"], "Idempotency-Key");
    }
    send(None, &["k-1", "k-1"]).await.refuses(400, "bad_request", "once");
    assert_eq!(stage.homes.sent.lock().unwrap().len(), count, "nothing of it was sent");
}
