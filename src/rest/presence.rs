//! Presence: whether a user is there, and when they last were.

use std::sync::Arc;

use actors::ids::UserId;
use actors::packet::{Answer, Presence, Question};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use super::{Rest, input, people};
use crate::shapes::User;

/// How a user is.
#[derive(Serialize, ToSchema)]
#[schema(as = Presence)]
struct Shown {
    #[schema(value_type = User)]
    user: String,
    /// Whether one of their sockets is open.
    online: bool,
    /// The last sign of life of any device, in milliseconds since the Unix epoch; null if none is remembered.
    #[schema(required = true)]
    last_seen_ms: Option<u64>,
}

/// Tells whether a user is there, and when they last were.
#[utoipa::path(
    get,
    path = "/v1/users/{user}/presence",
    operation_id = "presence",
    tag = "users",
    params(("user" = User, Path, description = "Whose.", example = "bob")),
    responses((status = 200, description = "How they are.", body = Shown)),
    extensions(("x-codes" = json!(["not_found"]))),
)]
pub(super) async fn get(
    State(rest): State<Arc<Rest>>,
    Path(user): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let by = rest.caller(&headers).await?.user;
    let user = input::name("user", UserId::parse(&user))?;
    let question = Question::Presence { by: by.clone() };
    let asked = rest.homes.ask(&user, question, rest.timeout);
    let (asked, hides) = tokio::join!(asked, people::hides(&rest, &by));
    let answer = asked.map_err(|refusal| people::of_user(refusal, &user))?;
    let Answer::Presence(rows) = answer else { return Err(Problem::internal()) };
    let Some((_, presence)) = rows.into_iter().next() else { return Err(Problem::internal()) };
    let presence = if hides? && by != user { Presence::default() } else { presence };
    let shown = Shown {
        user: user.to_string(),
        online: presence.online,
        last_seen_ms: presence.last_seen.map(|at| at.0),
    };
    Ok(([(CACHE_CONTROL, "no-store")], Json(shown)).into_response())
}
