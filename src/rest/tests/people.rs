//! Tests of blocking, settings and profiles over HTTP, against the rules of a mailbox that is alice's.

use actors::ids::UserId;
use actors::mailbox::rules::Mailbox;
use actors::message::Refusal;
use actors::message::people::Call;
use actors::packet::{Answer, Question};
use axum::body::Body;
use axum::http::{Method, Request, header};
use serde_json::{Value, json};

use super::{Reply, Stage, account, stage};

/// What the home of alice answers; nobody else has a mailbox.
pub(super) fn answer(
    mailbox: &mut Mailbox,
    user: &UserId,
    question: Question,
) -> Result<Answer, Refusal> {
    if user.as_str() != "alice" {
        return Err(Refusal::NotFound);
    }
    let question = match question {
        Question::People(call) => {
            let shown = match &call {
                Call::LastSeen(_) => Question::Settings,
                Call::Describe(_) => Question::Profile { by: user.clone() },
                _ => Question::Open,
            };
            mailbox.wants(call, &mut Vec::new())?;
            shown
        }
        question => question,
    };
    Ok(match question {
        Question::Blocked => Answer::Blocked(mailbox.blocked()),
        Question::Settings => Answer::Settings(mailbox.settings()),
        Question::Profile { by } => Answer::Profile(Box::new(mailbox.profile_for(&by))),
        _ => Answer::Done,
    })
}

async fn call(stage: &Stage, method: Method, path: &str, body: Value) -> Reply {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, format!("Bearer {}", stage.token))
        .body(Body::from(body.to_string()));
    stage.ask(request.unwrap()).await
}

async fn patch(stage: &Stage, path: &str, body: Value) -> Reply {
    call(stage, Method::PATCH, path, body).await
}

#[tokio::test]
async fn who_is_blocked_is_listed_and_no_longer_when_unblocked() {
    let stage = stage();
    for name in ["bob", "cat"] {
        stage.post("/v1/register", account(name, "correct horse")).await;
    }
    for _ in 0..2 {
        for path in ["/v1/blocked/cat", "/v1/blocked/bob"] {
            assert_eq!(call(&stage, Method::PUT, path, json!({})).await.status, 204);
        }
    }
    let list = stage.get("/v1/blocked", &stage.token).await;
    assert_eq!((list.status, list.body), (200, json!({"users": ["bob", "cat"]})));
    for _ in 0..2 {
        assert_eq!(call(&stage, Method::DELETE, "/v1/blocked/cat", json!({})).await.status, 204);
    }
    assert_eq!(stage.get("/v1/blocked", &stage.token).await.body, json!({"users": ["bob"]}));
    let nobody = call(&stage, Method::PUT, "/v1/blocked/nobody", json!({})).await;
    nobody.refuses(404, "not_found", "nobody");
    assert_eq!(nobody.body["field"], "user");
    stage.post("/v1/register", account("alice", "correct horse")).await;
    let oneself = call(&stage, Method::PUT, "/v1/blocked/alice", json!({})).await;
    oneself.refuses(400, "bad_request", "somebody else");
    let wrong = call(&stage, Method::PUT, "/v1/blocked/No%20Name", json!({})).await;
    wrong.refuses(400, "bad_request", "user");
}

#[tokio::test]
async fn settings_are_told_changed_and_not_too_often() {
    let stage = stage();
    let got = stage.get("/v1/settings", &stage.token).await;
    assert_eq!(got.body, json!({"last_seen": "everyone"}));
    let set = patch(&stage, "/v1/settings", json!({"last_seen": "nobody", "later": 1})).await;
    assert_eq!((set.status, &set.body), (200, &json!({"last_seen": "nobody"})));
    assert_eq!(stage.get("/v1/settings", &stage.token).await.body, set.body);
    for body in [json!({}), json!({"last_seen": "sometimes"}), json!({"last_seen": 1}), json!([])] {
        let refused = patch(&stage, "/v1/settings", body).await;
        refused.refuses(400, "bad_request", "");
    }
    // Who hides sees nobody.
    stage.post("/v1/register", account("bob", "correct horse")).await;
    let seen = stage.get("/v1/users/bob/presence", &stage.token).await;
    assert_eq!(seen.body, json!({"user": "bob", "online": false, "last_seen_ms": null}));
    let nobody = stage.get("/v1/users/nobody/presence", &stage.token).await;
    nobody.refuses(404, "not_found", "nobody");
    let mut refused = None;
    for _ in 0..12 {
        let reply = patch(&stage, "/v1/settings", json!({"last_seen": "everyone"})).await;
        refused = (reply.status != 200).then_some(reply).or(refused);
    }
    let refused = refused.expect("too often");
    refused.refuses(429, "rate_limited", "too often");
    assert!(refused.headers.contains_key(header::RETRY_AFTER));
    let seen = stage.get("/v1/users/bob/presence", &stage.token).await;
    assert_eq!(seen.body["last_seen_ms"], 9);
}

#[tokio::test]
async fn a_profile_is_told_and_only_what_is_given_changes() {
    let stage = stage();
    let bare = json!({"user": "alice"});
    assert_eq!(stage.get("/v1/profile", &stage.token).await.body, bare);
    let given = json!({"name": "Alice", "about": "here", "avatar": "blob:1"});
    let said = patch(&stage, "/v1/profile", given).await;
    let whole = json!({"user": "alice", "name": "Alice", "about": "here", "avatar": "blob:1"});
    assert_eq!((said.status, &said.body), (200, &whole));
    let said = patch(&stage, "/v1/profile", json!({"about": "", "name": "Al"})).await;
    let less = json!({"user": "alice", "name": "Al", "avatar": "blob:1"});
    assert_eq!(said.body, less);
    let same = patch(&stage, "/v1/profile", json!({})).await;
    assert_eq!((same.status, &same.body), (200, &less), "without a field nothing changes");
    for path in ["/v1/profile", "/v1/users/alice/profile"] {
        assert_eq!(stage.get(path, &stage.token).await.body, less);
    }
    let nobody = stage.get("/v1/users/nobody/profile", &stage.token).await;
    nobody.refuses(404, "not_found", "nobody");
    for (body, status, code, field) in [
        (json!({"name": 7}), 400, "bad_request", "name"),
        (json!({"name": " "}), 400, "bad_request", "name"),
        (json!({"about": "a\u{7}b"}), 400, "bad_request", "about"),
        (json!({"name": "x".repeat(129)}), 413, "too_large", "name"),
        (json!({"about": "x".repeat(513)}), 413, "too_large", "about"),
        (json!({"avatar": "x".repeat(1025)}), 413, "too_large", "avatar"),
    ] {
        let refused = patch(&stage, "/v1/profile", body.clone()).await;
        refused.refuses(status, code, "");
        assert_eq!(refused.body["field"], field, "{body}");
    }
}
