//! Tests of presence over HTTP.

use std::time::Duration;

use actors::ids::UserId;
use actors::message::Refusal;
use serde_json::json;

use super::{Played, SECRET, account, stage, stage_with};
use crate::auth::Tokens;

#[tokio::test]
async fn whoever_has_a_token_may_ask_of_anybody() {
    let stage = stage();
    stage.post("/v1/register", account("bob", "correct horse")).await;
    let reply = stage.get("/v1/users/bob/presence", &stage.token).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.body, json!({"user": "bob", "online": false, "last_seen_ms": 9}));
    assert_eq!(reply.headers["cache-control"], "no-store");
    let carol = UserId::parse("carol").unwrap();
    let token = Tokens::new(SECRET, "dev").issue(&carol, Duration::from_secs(60)).unwrap().token;
    let reply = stage.get("/v1/users/bob/presence", &token).await;
    assert_eq!(reply.body, json!({"user": "bob", "online": true, "last_seen_ms": null}));
}

#[tokio::test]
async fn whom_nobody_knows_and_who_says_not_who_they_are_is_refused() {
    let stage = stage();
    let reply = stage.get("/v1/users/nobody/presence", &stage.token).await;
    reply.refuses(404, "not_found", "nobody");
    let reply = stage.get("/v1/users/No%20Body/presence", &stage.token).await;
    reply.refuses(400, "bad_request", "user");
    let reply = stage.get("/v1/users/bob/presence", "nonsense").await;
    reply.refuses(401, "unauthenticated", "token");
    let busy = stage_with(Played { asks: Err(Refusal::Unavailable), ..Played::default() }, |_| {});
    let reply = busy.get("/v1/users/bob/presence", &busy.token).await;
    reply.refuses(503, "unavailable", "");
}
