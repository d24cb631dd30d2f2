//! Tests of paths, methods and connections, over real sockets where it matters.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Played, stage, stage_with};
use crate::config::Config;
use crate::rest::{Seats, bind, serve};

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let stage = stage();
    for path in ["/", "/v1", "/v2/login", "/metrics", "/admin/cluster", "/admin/where?user=bob"] {
        let reply = stage.ask(Request::get(path).body(Body::empty()).unwrap()).await;
        reply.refuses(404, "not_found", "nothing at this path");
    }
    let reply = stage.ask(Request::get("/v1/login").body(Body::empty()).unwrap()).await;
    reply.refuses(405, "bad_request", "method");
    assert_eq!(reply.headers[header::ALLOW], "POST");
    let reply = stage.ask(Request::delete("/healthz").body(Body::empty()).unwrap()).await;
    reply.refuses(405, "bad_request", "method");
    let reply = stage.ask(Request::get("/healthz").body(Body::empty()).unwrap()).await;
    assert_eq!((reply.status, reply.body), (200, json!({"status": "ok"})));
    let reply = stage.ask(Request::get("/readyz").body(Body::empty()).unwrap()).await;
    assert_eq!(reply.status, 200);
}

/// A served API on loopback, for one test.
struct Served {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    done: tokio::task::JoinHandle<std::io::Result<()>>,
}

fn served(connections_max: u32) -> Served {
    served_by(connections_max, |_| {})
}

fn served_by(connections_max: u32, change: impl Fn(&mut Config)) -> Served {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let seats = Seats::new(connections_max);
    let done =
        tokio::spawn(serve(listener, stage_with(Played::default(), change).router, seats, stopped));
    Served { address, stop, done }
}

/// Opens a connection, writes to it and reads until it is closed or silent.
fn talk(address: SocketAddr, text: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    // A time-out means that the connection stays open, which is what some tests want to see.
    let _ = stream.read_to_end(&mut bytes);
    (stream, String::from_utf8_lossy(&bytes).into_owned())
}

async fn talks(address: SocketAddr, text: String) -> (TcpStream, String) {
    tokio::task::spawn_blocking(move || talk(address, &text)).await.unwrap()
}

#[tokio::test]
async fn requests_are_served_over_a_socket_until_the_stop() {
    let served = served(10);
    let (_open, text) =
        talks(served.address, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".into()).await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    let (_, text) =
        talks(served.address, "GET /v1/socket HTTP/1.1\r\nHost: x\r\n\r\n".into()).await;
    assert!(text.contains("127.0.0.1:"), "the socket's handler knows the peer: {text}");
    served.stop.send(true).unwrap();
    let done = tokio::time::timeout(Duration::from_secs(5), served.done).await;
    assert!(done.unwrap().unwrap().is_ok(), "an idle connection does not hold the stop up");
    assert!(TcpStream::connect(served.address).is_err());
}

#[tokio::test]
async fn long_heads_are_refused() {
    let served = served(10);
    let long = "x".repeat(20_000);
    let text = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nLong: {long}\r\n\r\n");
    let (_, text) = talks(served.address, text).await;
    assert!(text.starts_with("HTTP/1.1 431 ") && text.contains("too_large"), "{text}");
    let many = "A: b\r\n".repeat(100);
    let text = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    let (_, text) = talks(served.address, text).await;
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
    let (_, text) = talks(served.address, "nonsense\r\n\r\n".into()).await;
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
}

#[tokio::test]
async fn past_the_seats_connections_are_told_to_come_back() {
    let served = served(1);
    let ask = || talks(served.address, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".into());
    let (open, text) = ask().await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let (_, text) = talks(served.address, String::new()).await;
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{text}");
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["code"], "unavailable");
    drop(open);
    let mut tries = 0;
    while !ask().await.1.starts_with("HTTP/1.1 200") {
        tries += 1;
        assert!(tries < 20, "the seat of a closed connection is free again");
    }
}

#[tokio::test]
async fn a_large_body_is_answered_before_it_is_complete_or_after() {
    let served = served(10);
    let token = stage().token;
    let head = |length: usize| {
        format!(
            "POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let (_, text) = talks(served.address, head(1 << 40)).await;
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    let whole = head(1 << 20) + &" ".repeat(1 << 20);
    let (_, text) = talks(served.address, whole).await;
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
}

#[tokio::test]
async fn what_the_framework_refuses_is_a_problem_as_well() {
    let stage = stage();
    let paths = [
        "/v1/messages/%FF",
        "/v1/users/%FF/presence",
        "/v1/conversations/%FF/messages",
        "/v1/groups/%FF",
    ];
    for path in paths {
        let reply = stage.get(path, &stage.token).await;
        reply.refuses(400, "bad_request", "UTF-8");
    }
}

#[tokio::test]
async fn bodies_that_are_slow_to_come_take_no_place_from_others() {
    let served = served_by(10, |config| config.limits.http_requests_in_flight_max = 1);
    let head = |path: &str, length: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n"
        )
    };
    let account = r#"{"user": "bob", "password": "correct horse"}"#;
    let (_slow, text) = talks(served.address, head("/v1/login", 9)).await;
    assert_eq!(text, "", "it waits for the body");
    let whole = head("/v1/register", account.len()) + account;
    let (_, text) = talks(served.address, whole).await;
    assert!(text.starts_with("HTTP/1.1 201 "), "{text}");
}
