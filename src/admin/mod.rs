//! Admin: what an operator may see, on a listener of its own.
//!
//! Owns      the recorder of metrics.
//! Promises  answers from what this node knows now, without waiting for others, except where a mailbox's home is asked.
//! Never     changes anything; asks for a password (so it listens on loopback unless told otherwise).
//! Fails by  showing an old state of nodes it no longer hears, marked `down`.

mod recorder;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;

use actors::ids::{GroupId, UserId};
use actors::message::Refusal;
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use crate::rest::{Code, Pending, Problem, finish, health_routes};

pub use recorder::{Recorder, RecorderTaken};
pub use view::{
    ClusterView, NodeState, NodeView, ReplicaView, SessionView, ShardView, WhereView, Whom,
};

/// What this room needs to see of the node.
pub trait Observed: Send + Sync {
    /// The cluster as this node knows it.
    fn cluster(&self) -> ClusterView;
    /// Where a user or group is kept, and the user's sockets.
    fn where_is(&self, whom: Whom) -> Pending<'_, Result<WhereView, Refusal>>;
    /// Whether all of this node's shards have leaders.
    fn ready(&self) -> bool;
}

struct Admin {
    observed: Arc<dyn Observed>,
    recorder: Recorder,
}

/// Everything on the operator's listener.
pub fn router(observed: Arc<dyn Observed>, recorder: Recorder) -> Router {
    let watched = observed.clone();
    let routes = Router::new()
        .route("/admin/cluster", get(cluster))
        .route("/admin/where", get(whereabouts))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(Admin { observed, recorder }))
        .merge(health_routes(Arc::new(move || watched.ready())));
    finish(routes)
}

/// `GET /admin/cluster`
async fn cluster(State(admin): State<Arc<Admin>>) -> Json<ClusterView> {
    Json(admin.observed.cluster())
}

/// `GET /admin/where?user=` or `?group=`
async fn whereabouts(
    State(admin): State<Arc<Admin>>,
    RawQuery(query): RawQuery,
) -> Result<Json<WhereView>, Problem> {
    let whom = whom(query.as_deref().unwrap_or_default())?;
    Ok(Json(admin.observed.where_is(whom).await?))
}

/// Valid names need no percent encoding, so none is decoded.
fn whom(query: &str) -> Result<Whom, Problem> {
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("user", name)) => return Ok(Whom::User(UserId::parse(name)?)),
            Some(("group", name)) => return Ok(Whom::Group(GroupId::parse(name)?)),
            _ => {}
        }
    }
    Err(Problem::new(Code::BadRequest, "say `?user=` or `?group=`"))
}

/// `GET /metrics`
async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, kind)], admin.recorder.render()).into_response()
}
