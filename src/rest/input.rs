//! Input: reads what a client sent, within bounds, and names the field that is wrong.

use std::time::Duration;

use actors::ids::Cid;
use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, Request, StatusCode};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::problem::{Code, Problem};

/// Names a request that may be repeated, in place of a `cid` in its body (draft-ietf-httpapi-idempotency-key-header).
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// A body must have arrived whole after this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a body that is too large so much is read and thrown away, so that the client is still there for the answer.
const DISCARDED_MAX: usize = 4 << 20;

/// Takes the token out of `Authorization: Bearer …`.
pub(super) fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let missing = || {
        let detail = "send `Authorization: Bearer <token>` with a token from /v1/login";
        Problem::new(Code::Unauthenticated, detail)
    };
    let value = headers.get(AUTHORIZATION).ok_or_else(missing)?;
    let (scheme, token) =
        value.to_str().ok().and_then(|v| v.split_once(' ')).ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing());
    }
    Ok(token.trim())
}

/// Takes the key out of `Idempotency-Key: …`, with or without the quotes that the draft wants around it.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<Cid>, Problem> {
    let mut all = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (first, second) = (all.next(), all.next());
    let Some(key) = first else { return Ok(None) };
    let key = key.to_str().unwrap_or_default().trim();
    let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    match (Cid::parse(key), second) {
        (Ok(key), None) => Ok(Some(key)),
        (_, Some(_)) => Err(Problem::field("Idempotency-Key", "must be there once")),
        (Err(bad), None) => {
            Err(Problem::field("Idempotency-Key", &format!("must be {}", bad.shape)))
        }
    }
}

/// The `cid` of the body, or the key of the head; if both are there, they must be the same.
pub(super) fn cid(raw: Option<&RawValue>, key: Option<Cid>) -> Result<Cid, Problem> {
    let own = optional_text("cid", raw)?.map(|cid| name("cid", Cid::parse(&cid))).transpose()?;
    match (own, key) {
        (Some(own), Some(key)) if own != key => {
            Err(Problem::field("cid", "is not what `Idempotency-Key` says; send one of them"))
        }
        (Some(cid), _) | (None, Some(cid)) => Ok(cid),
        (None, None) => {
            Err(Problem::field("cid", "is missing; `Idempotency-Key` would do in its place"))
        }
    }
}

/// Reads a JSON body of at most `max` bytes.
pub(super) async fn json(request: Request<Body>, max: usize) -> Result<Vec<u8>, Problem> {
    let (head, body) = request.into_parts();
    if !is_json(&head.headers) {
        let detail = "the body must be JSON: send `Content-Type: application/json`";
        let problem = Problem::new(Code::BadRequest, detail);
        return Err(problem.status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let length = head.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length > DISCARDED_MAX) {
        return Err(too_large(max));
    }
    match tokio::time::timeout(BODY_TIMEOUT, collect(body, max)).await {
        Ok(read) => read,
        Err(_) => {
            let problem = Problem::new(Code::BadRequest, "the body did not arrive in time");
            Err(problem.status(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

fn too_large(max: usize) -> Problem {
    Problem::new(Code::TooLarge, format!("the body of a request has at most {max} bytes"))
}

async fn collect(mut body: Body, max: usize) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(Problem::new(Code::BadRequest, "the body broke off"));
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length = length.saturating_add(data.len());
        if length <= max {
            bytes.extend_from_slice(&data);
        } else if length > DISCARDED_MAX {
            break;
        }
    }
    if length > max {
        return Err(too_large(max));
    }
    Ok(bytes)
}

/// Reads a JSON object whose fields are looked at one by one afterwards.
pub(super) fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    let read = serde_json::from_slice(bytes);
    // An array of the right length would be taken for the object.
    if read.is_ok() && first != Some(&b'{') {
        return Err(Problem::new(Code::BadRequest, "the body must be a JSON object"));
    }
    read.map_err(|error| match error.classify() {
        serde_json::error::Category::Data if first != Some(&b'{') => {
            Problem::new(Code::BadRequest, "the body must be a JSON object")
        }
        _ => Problem::new(Code::BadRequest, format!("the body is not as it must be: {error}")),
    })
}

/// A field that must be there and be a text.
pub(super) fn text(field: &'static str, raw: Option<&RawValue>) -> Result<String, Problem> {
    optional_text(field, raw)?.ok_or_else(|| Problem::field(field, "is missing"))
}

/// A field that is a text if it is there; `null` is not there.
pub(super) fn optional_text(
    field: &'static str,
    raw: Option<&RawValue>,
) -> Result<Option<String>, Problem> {
    raw.map(|raw| serde_json::from_str(raw.get()))
        .transpose()
        .map_err(|_| Problem::field(field, "must be a string"))
}

/// A name in the protocol's form.
pub(super) fn name<T>(
    field: &'static str,
    parsed: Result<T, actors::ids::BadName>,
) -> Result<T, Problem> {
    parsed.map_err(|bad| Problem::field(field, &format!("must be {}", bad.shape)))
}
