//! Tests of leaving: copies that are read slowly, and tokens of who is gone.

use actors::message::Refusal;
use axum::body::Body;
use axum::http::{Request, header};
use tower::Service;

use super::{Played, stage, stage_with};

#[tokio::test]
async fn a_copy_that_nobody_reads_takes_no_place_from_others() {
    let stage = stage_with(Played::default(), |c| c.limits.http_requests_in_flight_max = 1);
    let bearer = format!("Bearer {}", stage.token);
    let request = Request::get("/v1/export").header(header::AUTHORIZATION, bearer);
    let copy = stage.router.clone().call(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(copy.status(), 200);
    assert_eq!(stage.post("/v1/token", "").await.status, 200);
    let second = stage.get("/v1/export", &stage.token).await;
    second.refuses(429, "rate_limited", "on its way");
    assert!(second.headers.contains_key(header::RETRY_AFTER));
    drop(copy);
    assert_eq!(stage.get("/v1/export", &stage.token).await.status, 200);
}

#[tokio::test]
async fn who_was_erased_gets_no_new_token() {
    let played = Played { asks: Err(Refusal::Gone), ..Played::default() };
    let stage = stage_with(played, |_| {});
    stage.post("/v1/token", "").await.refuses(410, "gone", "left for good");
}

#[tokio::test]
async fn who_never_had_a_mailbox_may_renew() {
    let played = Played { asks: Err(Refusal::NotFound), ..Played::default() };
    assert_eq!(stage_with(played, |_| {}).post("/v1/token", "").await.status, 200);
    assert_eq!(stage().post("/v1/token", "").await.status, 200);
}
