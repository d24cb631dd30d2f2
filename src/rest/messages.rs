//! Messages: sending one over HTTP, by the same rules as over a socket.

use std::sync::Arc;

use actors::ids::{Cid, Conversation, DeviceId, Kind, MessageId, UserId};
use actors::message::{self, Accepted, Content, Refusal};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::problem::{Code, Problem};
use super::{Rest, input};
use crate::shapes::{self, Conv, Mid};

/// The device that messages sent over HTTP are from.
const DEVICE: &str = "http";
/// Longest `client` object, in bytes of JSON.
const CLIENT_BYTES_MAX: usize = 1_024;

/// A message, as sent.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewMessage)]
struct Draft<'a> {
    #[serde(borrow)]
    #[schema(value_type = Conv)]
    to: Option<&'a RawValue>,
    /// May be left out when there is an `Idempotency-Key`.
    #[serde(borrow)]
    #[schema(value_type = Option<shapes::Cid>)]
    cid: Option<&'a RawValue>,
    #[serde(borrow)]
    #[schema(value_type = shapes::Kind)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    #[schema(value_type = shapes::MessageBody)]
    body: Option<&'a RawValue>,
    /// The message that this one answers.
    #[serde(borrow)]
    #[schema(value_type = Option<Mid>)]
    reply_to: Option<&'a RawValue>,
    /// An object of at most 1 KiB that is passed through unread.
    #[serde(borrow)]
    #[schema(value_type = Option<Object>)]
    client: Option<&'a RawValue>,
}

/// One check mark.
#[derive(Serialize, ToSchema)]
struct Ticked {
    #[schema(value_type = Mid)]
    mid: String,
    /// Its number in the conversation.
    seq: u64,
    /// When it was taken, in milliseconds since the Unix epoch.
    at: u64,
    /// Whether this `cid` was taken before; then this is the first answer again.
    dup: bool,
}

/// Sends a message.
///
/// Answered when it is on the disks of a majority of the mailbox's replicas. The same `cid` again (within 30 days, on any
/// node) gets the first answer; with another `to`, `kind` or `body` it is a `conflict`.
#[utoipa::path(
    post,
    path = "/v1/messages",
    tag = "messages",
    params((
        "Idempotency-Key" = Option<shapes::Cid>, Header,
        description = "Stands for a `cid` that the body leaves out. If both are there, they must be the same.",
    )),
    request_body(content = Draft, examples(
        ("to a user" = (value = json!({"to": "u:bob", "cid": "m-1", "kind": "text", "body": "hi"}))),
        ("once more" = (value = json!({"to": "u:bob", "cid": "m-1", "kind": "text", "body": "hi"}))),
        ("with all there is" = (value = json!({
            "to": "u:bob", "cid": "m-2", "kind": "text", "body": "hi again",
            "reply_to": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "client": {"draft": 7},
        }))),
        ("to a group" = (value = json!({
            "to": "g:XEQFQBPNY8S2KN2NMB33Y7", "cid": "m-3", "kind": "text", "body": "hi all",
        }))),
    )),
    responses(
        (status = 201, description = "One check mark.", body = Ticked),
        (status = 200, description = "It was taken before.", body = Ticked),
    ),
    extensions(("x-codes" = json!(["not_found", "forbidden", "blocked", "conflict", "mailbox_full"]))),
)]
pub(super) async fn send(
    State(rest): State<Arc<Rest>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let from = rest.caller(request.headers()).await?.user;
    rest.brakes.message(&from)?;
    let key = input::idempotency_key(request.headers())?;
    let (bytes, _place) = rest.body(request).await?;
    let send = compose(rest.message_body_max, from, key, &bytes)?;
    let to = send.to.clone();
    let sent = rest.homes.send_once(send, rest.timeout).await;
    let Accepted { mid, seq, at, dup } = sent.map_err(|refusal| match (refusal, &to) {
        (Refusal::NotFound, Conversation::User(user)) => {
            Problem::new(Code::NotFound, format!("no such user: {user}")).of("to")
        }
        (Refusal::NotFound, Conversation::Group(group)) => {
            Problem::new(Code::NotFound, format!("no such group: {group}")).of("to")
        }
        _ => refusal.into(),
    })?;
    let status = if dup { StatusCode::OK } else { StatusCode::CREATED };
    let ticked = Ticked { mid: mid.to_string(), seq: seq.0, at: at.0, dup };
    Ok((status, Json(ticked)).into_response())
}

pub(super) fn compose(
    body_max: usize,
    from: UserId,
    key: Option<Cid>,
    bytes: &[u8],
) -> Result<message::Send, Problem> {
    let draft: Draft<'_> = input::object(bytes)?;
    let to = input::text("to", draft.to)?;
    let to = to.parse::<Conversation>();
    // The form of the whole is more help here than that of its part.
    let to = to.map_err(|_| Problem::field("to", "must be u:<user> or g:<group>"))?;
    let cid = input::cid(draft.cid, key)?;
    let kind = input::text("kind", draft.kind)?;
    let body = input::text("body", draft.body)?;
    if body.len() > body_max {
        let detail = format!("`body` has at most {body_max} bytes");
        return Err(Problem::new(Code::TooLarge, detail).of("body"));
    }
    let reply_to = input::optional_text("reply_to", draft.reply_to)?;
    let reply_to = reply_to.map(|mid| input::name("reply_to", MessageId::parse(&mid)));
    let content = Content {
        kind: input::name("kind", Kind::parse(&kind))?,
        body: body.into(),
        reply_to: reply_to.transpose()?,
        client: draft.client.map(client).transpose()?,
    };
    Ok(message::Send {
        from,
        device: input::name("device", DeviceId::parse(DEVICE))?,
        to,
        cid,
        content: Arc::new(content),
    })
}

/// An object that is passed through unread.
fn client(raw: &RawValue) -> Result<Box<str>, Problem> {
    let text = raw.get();
    if !text.starts_with('{') {
        return Err(Problem::field("client", "must be an object"));
    }
    if text.len() > CLIENT_BYTES_MAX {
        let detail = format!("`client` has at most {CLIENT_BYTES_MAX} bytes");
        return Err(Problem::new(Code::TooLarge, detail).of("client"));
    }
    Ok(text.into())
}
