//! Health: whether the process lives, and whether it can serve; the same on both listeners.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::{Json, Router};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::{Code, Problem};

/// Tells whether all of the node's shards have leaders.
pub type Ready = Arc<dyn Fn() -> bool + Send + Sync>;

#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
struct Status {
    /// `ok` or `ready`.
    status: &'static str,
}

/// `GET /healthz` and `GET /readyz`.
pub(crate) fn routes(ready: Ready) -> Router {
    described().split_for_parts().0.with_state(ready)
}

/// The same, not yet asking anybody, and what they are.
pub(super) fn described() -> OpenApiRouter<Ready> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz))
}

/// Tells that the process lives.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "health",
    responses((status = 200, description = "It does.", body = Status)),
    security(()),
)]
async fn healthz() -> Json<Status> {
    Json(Status { status: "ok" })
}

/// Tells whether the node can serve: whether every shard has a leader.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    responses((status = 200, description = "It can.", body = Status)),
    security(()),
    extensions(("x-codes" = json!(["unavailable"]))),
)]
async fn readyz(State(ready): State<Ready>) -> Result<Json<Status>, Problem> {
    if ready() {
        return Ok(Json(Status { status: "ready" }));
    }
    let problem = Problem::new(Code::Unavailable, "not all shards have leaders");
    Err(problem.after(Duration::from_secs(1)))
}
