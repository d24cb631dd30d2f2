//! Health: whether the process lives, and whether it can serve; the same on both listeners.

use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use super::problem::{Code, Problem};

/// Tells whether all of the node's shards have leaders.
pub type Ready = Arc<dyn Fn() -> bool + Send + Sync>;

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

/// `GET /healthz` and `GET /readyz`.
pub(crate) fn routes(ready: Ready) -> Router {
    let answer = move || {
        let ready = ready();
        async move {
            if ready {
                return Ok(Json(Status { status: "ready" }));
            }
            let problem = Problem::new(Code::Unavailable, "not all shards have leaders");
            Err(problem.after(Duration::from_secs(1)))
        }
    };
    Router::new()
        .route("/healthz", get(|| async { Json(Status { status: "ok" }) }))
        .route("/readyz", get(answer))
}
