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

use super::problem::{Code, Problem};
use super::{Rest, input};

/// The device that messages sent over HTTP are from.
const DEVICE: &str = "http";
/// Longest `client` object, in bytes of JSON.
const CLIENT_BYTES_MAX: usize = 1_024;

/// A message, as sent.
#[derive(Deserialize)]
struct Draft<'a> {
    #[serde(borrow)]
    to: Option<&'a RawValue>,
    #[serde(borrow)]
    cid: Option<&'a RawValue>,
    #[serde(borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    reply_to: Option<&'a RawValue>,
    #[serde(borrow)]
    client: Option<&'a RawValue>,
}

/// One check mark.
#[derive(Serialize)]
struct Ticked {
    mid: String,
    seq: u64,
    at: u64,
    dup: bool,
}

/// `POST /v1/messages`
pub(super) async fn send(
    State(rest): State<Arc<Rest>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let from = rest.caller(request.headers()).await?.user;
    rest.brakes.message(&from)?;
    let key = input::idempotency_key(request.headers())?;
    let bytes = input::json(request, rest.body_max).await?;
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
