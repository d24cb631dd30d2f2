//! Tests of renewing tokens and of changing passwords.

use std::time::Duration;

use actors::clock;
use actors::ids::{Timestamp, UserId};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::{Played, Reply, SECRET, Stage, account, message, stage, stage_with};
use crate::auth::signer::{Signer, jwks};
use crate::auth::{By, Tokens};
use crate::config::{self, Config};

const DAY: Duration = Duration::from_secs(86_400);

fn alice() -> UserId {
    UserId::parse("alice").unwrap()
}

async fn change(stage: &Stage, token: &str, old: &str, new: &str) -> Reply {
    stage.post_as(token, "/v1/password", json!({"old": old, "new": new}).to_string()).await
}

async fn registered(stage: &Stage) -> String {
    let reply = stage.post("/v1/register", account("bob", "correct horse")).await;
    reply.body["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_good_token_gets_a_new_one() {
    let stage = stage();
    let reply = stage.post("/v1/token", "").await;
    assert_eq!((reply.status, &reply.body["user"]), (200, &json!("alice")), "{}", reply.body);
    assert_eq!(reply.headers["cache-control"], "no-store");
    let tokens = Tokens::new(SECRET, "dev");
    let (old, new) = (stage.token.as_str(), reply.body["token"].as_str().unwrap());
    let (old, new) = (tokens.verify(old).unwrap(), tokens.verify(new).unwrap());
    assert!(new.expires_at > old.expires_at, "{new:?}");
    assert_eq!((new.by, &new.user), (old.by, &old.user), "the login is the same");
    assert_eq!(reply.body["expires_at"], new.expires_at.0);
    stage.post_as("nonsense", "/v1/token", "").await.refuses(401, "unauthenticated", "not one of");
}

#[tokio::test]
async fn a_session_ends_however_often_it_is_renewed() {
    let stage = stage_with(Played::default(), |config| config.auth.session = 2 * DAY);
    let tokens = Tokens::new(SECRET, "dev");
    let ago =
        |span: Duration| Timestamp(clock::wall().0 - u64::try_from(span.as_millis()).unwrap());
    let yesterday = tokens.issue_at(&alice(), 30 * DAY, ago(DAY)).unwrap().token;
    let reply = stage.post_as(&yesterday, "/v1/token", "").await;
    let left = tokens.verify(reply.body["token"].as_str().unwrap()).unwrap().expires_at;
    assert!(left <= clock::wall().after(DAY), "a day of the two is over");
    let before = tokens.issue_at(&alice(), 30 * DAY, ago(3 * DAY)).unwrap().token;
    let reply = stage.post_as(&before, "/v1/token", "").await;
    reply.refuses(401, "unauthenticated", "log in again");
    let reply = stage.post("/v1/register", account("bob", "correct horse")).await;
    let fresh = tokens.verify(reply.body["token"].as_str().unwrap()).unwrap().expires_at;
    assert!(fresh <= clock::wall().after(2 * DAY), "the first token is no longer than the session");
}

#[tokio::test]
async fn a_password_is_changed_by_who_knows_it() {
    let stage = stage();
    let token = registered(&stage).await;
    let reply = change(&stage, &token, "correct horse", "battery staple").await;
    assert_eq!((reply.status, reply.body), (204, Value::String(String::new())));
    let reply = stage.post("/v1/login", account("bob", "correct horse")).await;
    reply.refuses(401, "unauthenticated", "wrong");
    let reply = stage.post("/v1/login", account("bob", "battery staple")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(stage.post_as(&token, "/v1/token", "").await.status, 200, "tokens stay good");
}

#[tokio::test]
async fn a_password_is_not_changed_by_who_does_not_know_it() {
    let stage = stage_with(Played::default(), |c| c.limits.login_failures_per_minute = 2);
    let token = registered(&stage).await;
    let reply = change(&stage, &token, "wrong horse!", "battery staple").await;
    assert_eq!(reply.refuses(403, "forbidden", "`old`").body["field"], "old");
    // Guesses are counted together with those of logging in.
    let reply = stage.post("/v1/login", account("bob", "wrong horse!")).await;
    reply.refuses(401, "unauthenticated", "wrong");
    let reply = change(&stage, &token, "correct horse", "battery staple").await;
    reply.refuses(429, "rate_limited", "wrong passwords");
    assert!(reply.headers.contains_key("retry-after"));
    // Alice has no password at all.
    let reply = change(&stage, &stage.token, "correct horse", "battery staple").await;
    reply.refuses(403, "forbidden", "`old`");
    let reply = change(&stage, "nonsense", "correct horse", "battery staple").await;
    reply.refuses(401, "unauthenticated", "not one of");
}

#[tokio::test]
async fn wrong_fields_of_a_change_are_named() {
    let stage = stage();
    let token = registered(&stage).await;
    let check = async |body: Value, field: &str, says: &str| {
        let reply = stage.post_as(&token, "/v1/password", body.to_string()).await;
        assert_eq!(reply.refuses(400, "bad_request", says).body["field"], field);
    };
    check(json!({"new": "battery staple"}), "old", "is missing").await;
    check(json!({"old": "correct horse"}), "new", "is missing").await;
    check(json!({"old": "correct horse", "new": "1234567"}), "new", "8 characters").await;
    check(json!({"old": "correct horse", "new": "x".repeat(257)}), "new", "8 characters").await;
    check(json!({"old": "x".repeat(257), "new": "battery staple"}), "old", "8 characters").await;
    check(json!({"old": 5, "new": "battery staple"}), "old", "must be a string").await;
}

/// An API that knows an issuer with this key; the file lives as long as the directory.
fn beside(signer: &Signer, dir: &tempfile::TempDir) -> Stage {
    let path = dir.path().join("jwks.json");
    std::fs::write(&path, jwks(&[signer])).unwrap();
    stage_with(Played::default(), |config: &mut Config| {
        config.auth.issuer = Some(config::Issuer {
            public_key: None,
            jwks: Some(path.clone()),
            issuer: None,
            audience: Some("chat".to_owned()),
            leeway: Duration::ZERO,
            user_claim: "sub".to_owned(),
            reload: Duration::from_secs(30),
        });
    })
}

#[tokio::test]
async fn a_user_of_the_issuer_gets_a_mailbox_once() {
    let (signer, dir) = (Signer::new("k", Algorithm::EdDSA), tempfile::tempdir().unwrap());
    let stage = beside(&signer, &dir);
    let exp = clock::wall().after(DAY).0 / 1_000;
    let token = signer.sign(&json!({"sub": "carol", "aud": "chat", "exp": exp}));
    for _ in 0..3 {
        let reply = stage.post_as(&token, "/v1/messages", message().to_string()).await;
        assert_eq!(reply.status, 201, "{}", reply.body);
    }
    assert_eq!(stage.homes.sent.lock().unwrap()[0].from.as_str(), "carol");
    assert_eq!(stage.send(message()).await.status, 201);
    let opened = stage.homes.opened.lock().unwrap().clone();
    assert_eq!(opened, [UserId::parse("carol").unwrap()], "and for nobody else");
    let unfit = signer.sign(&json!({"sub": "carol", "aud": "mail", "exp": exp}));
    let reply = stage.post_as(&unfit, "/v1/messages", message().to_string()).await;
    reply.refuses(401, "unauthenticated", "`aud`");
}

#[tokio::test]
async fn a_token_of_the_issuer_is_not_renewed_here() {
    let (signer, dir) = (Signer::new("k", Algorithm::EdDSA), tempfile::tempdir().unwrap());
    let stage = beside(&signer, &dir);
    let exp = clock::wall().after(DAY).0 / 1_000;
    let token = signer.sign(&json!({"sub": "carol", "aud": "chat", "exp": exp}));
    assert_eq!(stage.rest.tokens.verify(&token).unwrap().by, By::Issuer);
    let reply = stage.post_as(&token, "/v1/token", "").await;
    reply.refuses(403, "forbidden", "get a new one there");
}
