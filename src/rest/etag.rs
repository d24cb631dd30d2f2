//! ETag: lets a client that has an answer already hear only that it is still the same (RFC 9110, section 13).
//!
//! Why weak, and a hash of the whole: the answer is made anyway, so what is saved is the way to the client, and two nodes
//! that say the same give it the same tag.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use xxhash_rust::xxh3::xxh3_128;

use super::problem::Problem;

/// Puts a tag on each JSON answer to a GET, or answers 304 when the client has it. What says itself how it is to be cached
/// keeps that; what does not may be kept by the client alone, who asks each time. A HEAD is answered as a GET would be, and
/// its body is dropped further out.
pub(super) async fn etag(mut request: Request<Body>, next: Next) -> Response {
    match *request.method() {
        Method::GET => {}
        Method::HEAD => *request.method_mut() = Method::GET,
        _ => return next.run(request).await,
    }
    let asked: Vec<HeaderValue> =
        request.headers().get_all(IF_NONE_MATCH).iter().cloned().collect();
    let response = next.run(request).await;
    // A stream, such as an export, is not held up to be hashed.
    let json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if response.status() != StatusCode::OK || !json || response.headers().contains_key(ETAG) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Ok(body) = body.collect().await else {
        return Problem::internal().into_response();
    };
    let bytes = body.to_bytes();
    let Ok(tag) = HeaderValue::try_from(format!("W/\"{:032x}\"", xxh3_128(&bytes))) else {
        return Response::from_parts(head, Body::from(bytes));
    };
    let has = asked.iter().any(|asked| names(asked, &tag));
    head.headers.insert(ETAG, tag);
    let own = HeaderValue::from_static("private, no-cache");
    head.headers.entry(CACHE_CONTROL).or_insert(own);
    if has {
        return unchanged(head.headers);
    }
    Response::from_parts(head, Body::from(bytes))
}

/// 304 with what the 200 would have had, but for the body and what is about it.
fn unchanged(mut headers: HeaderMap) -> Response {
    headers.remove(CONTENT_TYPE);
    headers.remove(CONTENT_LENGTH);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    *response.headers_mut() = headers;
    response
}

/// Whether a list of tags has this one, by the weak comparison (section 8.8.3.2). Ours have no commas inside.
fn names(asked: &HeaderValue, tag: &HeaderValue) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let (Ok(asked), Ok(tag)) = (asked.to_str(), tag.to_str()) else {
        return false;
    };
    asked.trim() == "*" || asked.split(',').any(|one| opaque(one) == opaque(tag))
}
