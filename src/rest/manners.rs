//! Manners: what every answer has: an id for the log, no place in caches unless it says otherwise; and heads of requests
//! within bounds.

use axum::body::{Body, Bytes};
use axum::http::header::{AUTHORIZATION, ETAG, IF_NONE_MATCH, LOCATION, WWW_AUTHENTICATE};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use rand::Rng;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::Instrument;

use super::input::IDEMPOTENCY_KEY;
use super::problem::{Code, PROBLEM, Problem};

/// Names a request, in logs and problems.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken from a client.
const REQUEST_ID_CHARACTERS_MAX: usize = 64;
/// Longest headers of a request together, in bytes.
const HEADERS_BYTES_MAX: usize = 16 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// Longest path with its query, in bytes.
const TARGET_BYTES_MAX: usize = 8 << 10;
/// So long a browser remembers what a page may do.
const PREFLIGHT_SECONDS: u64 = 3_600;

/// Gives a request its id and its answer what every answer has.
pub(super) async fn manners(request: Request<Body>, next: Next) -> Response {
    let id = request_id(request.headers());
    let span = tracing::info_span!("request", request_id = %id);
    let response = match within_bounds(&request) {
        Ok(()) => next.run(request).instrument(span).await,
        Err(problem) => problem.into_response(),
    };
    let mut response = named(problem_of(response).await, &id).await;
    let headers = response.headers_mut();
    // What is private or a token is not for the disk of a browser or a proxy.
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    response
}

/// The client's own id if it is one that a log can hold, or a new one.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    let sane = |id: &&str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        (1..=REQUEST_ID_CHARACTERS_MAX).contains(&id.len()) && id.bytes().all(plain)
    };
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(sane);
    given.map_or_else(|| format!("{:016x}", rand::rng().random::<u64>()), str::to_owned)
}

fn within_bounds(request: &Request<Body>) -> Result<(), Problem> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > TARGET_BYTES_MAX {
        let detail = format!("path and query have at most {TARGET_BYTES_MAX} bytes");
        return Err(Problem::new(Code::TooLarge, detail).status(StatusCode::URI_TOO_LONG));
    }
    let headers = request.headers();
    // As they stand on the wire, with `: ` and the end of the line.
    let bytes: usize = headers.iter().map(|(name, v)| name.as_str().len() + v.len() + 4).sum();
    if bytes > HEADERS_BYTES_MAX || headers.len() > HEADERS_MAX {
        let detail = format!(
            "a request has at most {HEADERS_MAX} headers, together at most {HEADERS_BYTES_MAX} bytes"
        );
        let problem = Problem::new(Code::TooLarge, detail);
        return Err(problem.status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }
    Ok(())
}

/// What `axum` itself refuses, such as a path that is no text, is told like all else.
async fn problem_of(response: Response) -> Response {
    let status = response.status();
    let refused = status.is_client_error() || status.is_server_error();
    if !refused || response.headers().get(CONTENT_TYPE) == Some(&PROBLEM) {
        return response;
    }
    let code = if status.is_client_error() { Code::BadRequest } else { Code::Internal };
    let said = response.into_body().collect().await;
    let said = said.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let detail = String::from_utf8_lossy(&said).into_owned();
    Problem::new(code, detail).status(status).into_response()
}

/// A problem says which request it is about; other answers are left alone.
async fn named(response: Response, id: &str) -> Response {
    if response.headers().get(CONTENT_TYPE) != Some(&PROBLEM) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body = match bytes.strip_suffix(b"}") {
        // An id has nothing that JSON would escape.
        Some(open) => {
            let close = format!(",\"request_id\":\"{id}\"}}");
            Bytes::from([open, close.as_bytes()].concat())
        }
        None => bytes,
    };
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, Body::from(body))
}

/// Lets web pages of these origins call; of none, when there are none. No cookies are taken, so `*` gives nothing away.
pub(super) fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse().ok()))
    };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE, IF_NONE_MATCH, IDEMPOTENCY_KEY, REQUEST_ID])
        .expose_headers([ETAG, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE, REQUEST_ID])
        .max_age(std::time::Duration::from_secs(PREFLIGHT_SECONDS));
    Some(layer)
}
