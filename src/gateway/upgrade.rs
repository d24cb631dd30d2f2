//! Upgrade: turns an HTTP request into a WebSocket, or says why not.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    CONNECTION, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::wire::Code;
use super::{Crowded, Format, GatewayEnv, serve};

/// Characters of a `Sec-WebSocket-Key`: 16 bytes in base64.
const KEY_CHARACTERS: usize = 24;

/// Answers `GET /v1/socket` from some address: 101 and a socket of its own task, or an HTTP error.
pub fn upgrade(env: &Arc<GatewayEnv>, from: Option<IpAddr>, mut request: Request) -> Response {
    let (format, accept) = match check(request.method(), request.headers()) {
        Ok(checked) => checked,
        Err(refused) => return refused.response(),
    };
    let place = match env.roll.take_place(&env.limits, from, env.now().running) {
        Ok(place) => place,
        Err(crowded) => return busy(crowded, env.limits.retry_after),
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let task_env = Arc::clone(env);
    // The handshake's memory goes with its task; what stays is a small one around the socket.
    tokio::spawn(async move {
        match upgraded.await {
            Ok(upgraded) => {
                tokio::spawn(serve(TokioIo::new(upgraded), format, task_env, place));
            }
            Err(error) => tracing::debug!(%error, "upgrade failed"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    // A client that offered none must not be told one (RFC 6455, 4.2.2).
    if request.headers().contains_key(SEC_WEBSOCKET_PROTOCOL) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(format.protocol()));
    }
    response
}

/// Why a request does not become a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotUpgraded {
    #[error("this is a WebSocket: send Connection: upgrade and Upgrade: websocket")]
    NotAsked,
    #[error("Sec-WebSocket-Version must be 13")]
    Version,
    #[error("Sec-WebSocket-Key must be 16 bytes in base64")]
    Key,
    #[error("Sec-WebSocket-Protocol offers neither rookery.v1.json nor rookery.v1.msgpack")]
    Protocol,
}

impl NotUpgraded {
    fn response(self) -> Response {
        let status = match self {
            Self::NotAsked | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Key | Self::Protocol => StatusCode::BAD_REQUEST,
        };
        let mut response = problem(status, Code::BadRequest, &self.to_string(), None);
        let headers = response.headers_mut();
        if status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}

/// Checks a handshake (RFC 6455, 4.2.1) and chooses how to speak.
pub(super) fn check(
    method: &Method,
    headers: &HeaderMap,
) -> Result<(Format, HeaderValue), NotUpgraded> {
    let asked = method == Method::GET
        && words(headers, &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"))
        && words(headers, &UPGRADE).any(|word| word.eq_ignore_ascii_case("websocket"));
    if !asked {
        return Err(NotUpgraded::NotAsked);
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(NotUpgraded::Version);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).ok_or(NotUpgraded::Key)?;
    if key.len() != KEY_CHARACTERS || !key.ends_with(b"==") {
        return Err(NotUpgraded::Key);
    }
    let accept = HeaderValue::try_from(derive_accept_key(key)).map_err(|_| NotUpgraded::Key)?;
    let format = choose(words(headers, &SEC_WEBSOCKET_PROTOCOL)).ok_or(NotUpgraded::Protocol)?;
    Ok((format, accept))
}

/// The subprotocol to speak, of those a client offers: the first that is known, JSON if it offers none.
fn choose<'a>(offered: impl IntoIterator<Item = &'a str>) -> Option<Format> {
    let mut none = true;
    for protocol in offered {
        none = false;
        if let Some(format) = Format::of(protocol) {
            return Some(format);
        }
    }
    none.then_some(Format::Json)
}

/// The words of a header that holds a list, also one that comes several times.
fn words<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

fn busy(crowded: Crowded, retry_after: Duration) -> Response {
    metrics::counter!("rookery_sockets_refused_total", "why" => crowded.label()).increment(1);
    let wait = match crowded {
        Crowded::TooFast(wait) => wait,
        Crowded::Full | Crowded::Strangers => retry_after,
    };
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let mut response = problem(status, Code::Unavailable, &crowded.to_string(), Some(wait));
    // Whole seconds, upwards: coming back early would be refused again.
    let seconds = u64::try_from(wait.as_millis().div_ceil(1_000).max(1)).unwrap_or(u64::MAX);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// A problem of RFC 9457 with the protocol's code.
fn problem(status: StatusCode, code: Code, detail: &str, wait: Option<Duration>) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let wait = wait.map(|wait| format!(r#","retry_after_ms":{}"#, wait.as_millis()));
    let body = format!(
        r#"{{"type":"about:blank","title":"{title}","status":{},"detail":"{detail}","code":"{}","retry":{}{}}}"#,
        status.as_u16(),
        code.as_str(),
        code.retry(),
        wait.unwrap_or_default(),
    );
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let value = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}
