//! Promise: who comes in is the operator's to say: by their own issuer, and with keys and secrets that change while the
//! cluster runs.

use std::path::Path;
use std::time::Duration;

use actors::clock;
use hyper::Method;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Cluster, ROOKERY, SECRET, eventually, scratch, shared, unique};
use crate::signer::{Signer, jwks};
use crate::socket::Socket;
use crate::web::{self, Answer};

const PASSWORD: &str = "correct horse battery";

/// Seconds since the epoch, this far ahead.
fn ahead(span: Duration) -> u64 {
    clock::wall().after(span).0 / 1_000
}

fn token(signer: &Signer, user: &str) -> String {
    signer.sign(&json!({"sub": user, "aud": "chat", "exp": ahead(Duration::from_secs(600))}))
}

/// Puts a whole file in the place of another, as an operator's tools do.
fn replace(path: &Path, text: &str) {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(&fresh, path).unwrap();
}

/// Three nodes that know an issuer with this key.
async fn beside(signer: &Signer) -> (Cluster, TempDir) {
    let dir = scratch();
    let file = dir.path().join("jwks.json");
    replace(&file, &jwks(&[signer]));
    let settings =
        format!("[auth.issuer]\njwks = '{}'\naudience = 'chat'\nreload_s = 1", file.display());
    (Cluster::with(3, &settings).await, dir)
}

async fn call(url: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Answer {
    web::call(Method::POST, &format!("{url}{path}"), token, body).await.unwrap()
}

async fn login(url: &str, user: &str, password: &str) -> Answer {
    call(url, "/v1/login", None, Some(&json!({"user": user, "password": password}))).await
}

async fn send(url: &str, token: &str, to: &str, cid: &str) -> Answer {
    let body = json!({"to": format!("u:{to}"), "cid": cid, "kind": "text", "body": "hi"});
    call(url, "/v1/messages", Some(token), Some(&body)).await
}

/// Whether a token is taken at this node, by HTTP.
async fn taken(url: &str, token: &str) -> bool {
    // What is refused for its body has passed the door.
    match call(url, "/v1/messages", Some(token), Some(&json!({}))).await.status {
        400 => true,
        401 => false,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn users_of_an_issuer_come_in_by_socket_and_by_http() {
    let signer = Signer::new("k1", Algorithm::ES256);
    let (cluster, _dir) = beside(&signer).await;
    let (carol, dave) = (token(&signer, "carol"), token(&signer, "dave"));
    let url = cluster.first_url();
    assert_eq!(send(&url, &carol, "dave", "early").await.status, 404, "nobody has seen dave yet");
    // Carol has a mailbox by having sent, dave by having connected.
    let mut d = Socket::login(&cluster.urls()[1], &dave, "phone").await;
    let sent = send(&url, &carol, "dave", "m1").await;
    assert_eq!(sent.status, 201, "{sent:?}");
    let heard = d.event("message").await;
    assert_eq!(heard["d"]["from"], "carol");
    d.send("u:carol", "m2", "hello").await;
    // Beside it, accounts of the cluster itself go on.
    let bob = cluster.user("bob").await;
    assert_eq!(send(&url, &bob.token, "carol", "m3").await.status, 201);
    let mut c = Socket::login(&cluster.urls()[2], &carol, "laptop").await;
    let bodies: Vec<Value> = c.backlog().await.iter().map(|e| e["d"]["from"].clone()).collect();
    assert!(bodies.contains(&json!("dave")) && bodies.contains(&json!(bob.name)), "{bodies:?}");

    let mail = json!({"sub": "carol", "aud": "mail", "exp": ahead(Duration::from_secs(60))});
    let mut m = Socket::connect(&url).await;
    let _ = m.ask("auth", json!({"token": signer.sign(&mail), "device": "phone"})).await;
    assert_eq!(m.expect_close().await, 4303);
    // The clocks may differ by half a minute, and not by a whole one.
    let old = json!({"sub": "carol", "aud": "chat", "exp": ahead(Duration::ZERO) - 60});
    let mut m = Socket::connect(&url).await;
    let _ = m.ask("auth", json!({"token": signer.sign(&old), "device": "phone"})).await;
    assert_eq!(m.expect_close().await, 4101);
}

#[tokio::test]
async fn an_issuer_changes_its_keys_while_the_cluster_runs() {
    let (one, two) = (Signer::new("k1", Algorithm::ES256), Signer::new("k2", Algorithm::EdDSA));
    let (cluster, dir) = beside(&one).await;
    let file = dir.path().join("jwks.json");
    let (first, second) = (token(&one, "carol"), token(&two, "carol"));
    let everywhere = async |token: &str, good: bool| {
        for url in cluster.urls() {
            eventually("a node should follow the file", || async {
                (taken(&url, token).await == good).then_some(())
            })
            .await;
        }
    };
    everywhere(&first, true).await;
    everywhere(&second, false).await;
    replace(&file, &jwks(&[&one, &two]));
    everywhere(&second, true).await;
    everywhere(&first, true).await;
    replace(&file, &jwks(&[&two]));
    everywhere(&first, false).await;
    replace(&file, "{\"keys\": [");
    for name in cluster.names() {
        eventually("a node should say that the file is broken", || async {
            cluster.log(&name).contains("those from before stay").then_some(())
        })
        .await;
    }
    everywhere(&second, true).await;
    for name in cluster.names() {
        assert_eq!(cluster.log(&name).matches("those from before stay").count(), 1, "told once");
    }
}

/// Changes the configuration of a cluster that does not run yet, or starts again.
fn rewrite(cluster: &Cluster, from: &str, to: &str) {
    let file = cluster.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{from} is not in: {text}");
    std::fs::write(file, text.replacen(from, to, 1)).unwrap();
}

#[tokio::test]
async fn a_secret_is_changed_without_logging_anybody_out() {
    const NEW: &str = "another-secret-another-secret-another-secret";
    let cluster = Cluster::start(1).await;
    let (url, bob) = (cluster.first_url(), cluster.user("bob").await);
    let again = async |from: &str, to: &str| {
        cluster.terminate("a").await;
        rewrite(&cluster, from, to);
        cluster.start_all();
        cluster.ready().await;
    };
    let before = format!("token_secret = \"{SECRET}\"");
    let both = format!("token_secret = \"{NEW}\"\nold_secrets = [\"{SECRET}\"]");
    again(&before, &both).await;
    assert!(taken(&url, &bob.token).await, "a token of the old secret");
    let renewed = call(&url, "/v1/token", Some(&bob.token), None).await;
    assert_eq!((renewed.status, &renewed.body["user"]), (200, &json!(bob.name)), "{renewed:?}");
    let fresh = renewed.body["token"].as_str().unwrap();
    assert!(taken(&url, fresh).await);
    again(&both, &format!("token_secret = \"{NEW}\"")).await;
    assert!(!taken(&url, &bob.token).await, "its time is over");
    assert!(taken(&url, fresh).await, "who renewed in time stays");
}

#[tokio::test]
async fn a_renewed_token_opens_sockets_at_every_node() {
    let cluster = shared().await;
    let bob = cluster.user("bob").await;
    for url in cluster.urls() {
        let renewed = call(&url, "/v1/token", Some(&bob.token), None).await;
        assert_eq!(renewed.status, 200, "{renewed:?}");
        assert_eq!(renewed.headers["cache-control"], "no-store");
        let token = renewed.body["token"].as_str().unwrap();
        let mut socket = Socket::connect(&cluster.first_url()).await;
        let ok = socket.auth(token, "phone", None).await;
        assert_eq!(ok["user"], bob.name);
    }
    let refused = call(&cluster.first_url(), "/v1/token", Some("nonsense"), None).await;
    assert_eq!((refused.status, &refused.body["code"]), (401, &json!("unauthenticated")));
}

#[tokio::test]
async fn a_password_changed_at_one_node_is_changed_at_all() {
    let cluster = shared().await;
    let (urls, bob) = (cluster.urls(), cluster.user("bob").await);
    let change = async |url: &str, old: &str, new: &str| {
        let body = json!({"old": old, "new": new});
        call(url, "/v1/password", Some(&bob.token), Some(&body)).await
    };
    assert_eq!(change(&urls[0], "wrong horse!", "battery staple").await.status, 403);
    assert_eq!(change(&urls[0], PASSWORD, "battery staple").await.status, 204);
    for url in &urls {
        assert_eq!(login(url, &bob.name, PASSWORD).await.status, 401);
        assert_eq!(login(url, &bob.name, "battery staple").await.status, 200);
        assert!(taken(url, &bob.token).await, "tokens stay good");
    }
    // Two at once: one of them, and nobody is told yes for nothing.
    let (one, two) = tokio::join!(
        change(&urls[1], "battery staple", "first of the two"),
        change(&urls[2], "battery staple", "second of the two"),
    );
    for (answer, password) in [(&one, "first of the two"), (&two, "second of the two")] {
        let good = login(&urls[0], &bob.name, password).await.status == 200;
        assert_eq!(good, answer.status == 204, "{one:?} {two:?}");
        assert!(good || [403, 409].contains(&answer.status), "{answer:?}");
    }
    assert_ne!(one.status, two.status, "{one:?} {two:?}");
}

#[tokio::test]
async fn guessing_is_slowed_and_who_guesses_hears_how_long() {
    let cluster = Cluster::with(1, "[limits]\nlogin_failures_per_minute = 3").await;
    let (url, bob) = (cluster.first_url(), cluster.user("bob").await);
    for _ in 0..3 {
        assert_eq!(login(&url, &bob.name, "wrong horse!").await.status, 401);
    }
    let body = json!({"old": "wrong horse!", "new": "battery staple"});
    for answer in [
        login(&url, &bob.name, PASSWORD).await,
        call(&url, "/v1/password", Some(&bob.token), Some(&body)).await,
    ] {
        assert_eq!((answer.status, &answer.body["code"]), (429, &json!("rate_limited")));
        let seconds: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=20).contains(&seconds), "{answer:?}");
        assert_eq!(answer.body["request_id"], answer.headers["x-request-id"].to_str().unwrap());
    }
    assert!(taken(&url, &bob.token).await, "who is in stays in");
    assert_eq!(login(&url, &unique("carol"), "wrong horse!").await.status, 401);
}

#[tokio::test]
async fn a_request_with_a_key_may_be_repeated_at_another_node() {
    let cluster = shared().await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let body = json!({"to": bob.conv(), "kind": "text", "body": "hi"});
    let send = async |url: &str, id: &str| {
        let headers = [("idempotency-key", "\"order-66\""), ("x-request-id", id)];
        let url = format!("{url}/v1/messages");
        let answer = web::call_with(Method::POST, &url, Some(&alice.token), Some(&body), &headers);
        let answer = answer.await.unwrap();
        assert_eq!(answer.headers["x-request-id"], id);
        answer
    };
    let first = send(&cluster.urls()[0], "one").await;
    let again = send(&cluster.urls()[1], "two").await;
    assert_eq!((first.status, again.status), (201, 200), "{first:?} {again:?}");
    assert_eq!(first.body["mid"], again.body["mid"]);
}

#[tokio::test]
async fn a_cluster_is_not_started_with_keys_that_cannot_be_read() {
    let dir = scratch();
    let file = dir.path().join("key.pem");
    let lines = format!("[auth.issuer]\npublic_key = '{}'\naudience = 'chat'", file.display());
    let cluster = Cluster::prepared(1, &lines);
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(ROOKERY);
        command.args(arguments).arg(cluster.config_file()).stdin(std::process::Stdio::null());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&["check"]);
    assert!(code == Some(2) && said.contains("auth.issuer") && said.contains("key.pem"), "{said}");
    let (code, said) = run(&["node", "--name", "a", "--config"]);
    assert!(code == Some(2) && said.contains("key.pem"), "{said}");
    let signer = Signer::new("k", Algorithm::RS256);
    std::fs::write(&file, signer.pem()).unwrap();
    let (code, said) = run(&["check"]);
    assert_eq!(code, Some(0), "{said}");
    rewrite(&cluster, "open_registration = true", "login = false\nown_tokens = false");
    let (code, said) = run(&["token", "--user", "alice", "--config"]);
    assert!(code == Some(2) && said.contains("own_tokens"), "{said}");
    cluster.start_all();
    cluster.ready().await;
    let url = cluster.first_url();
    assert!(taken(&url, &token(&signer, "carol")).await);
    assert!(!taken(&url, &cluster.guest("alice").token).await, "of the cluster's own secret");
    let refused = login(&url, "alice", PASSWORD).await;
    assert_eq!((refused.status, &refused.body["code"]), (403, &json!("forbidden")));
}
