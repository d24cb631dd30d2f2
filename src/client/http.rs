//! HTTP: the few calls a client makes outside its socket: registering, logging in, sending once.
//!
//! Never     keeps a connection: these calls are rare. Plain `http` only.

use std::net::Ipv6Addr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::said::{Fault, Letter};

/// How long one call may take.
const CALL_WAIT: Duration = Duration::from_secs(10);
/// The longest answer read, bytes.
const ANSWER_MAX: usize = 4 * 1024 * 1024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The address is not `http://host:port`.
    #[error(
        "{0:?} is not the address of a node; write http://host:port, such as http://127.0.0.1:8080"
    )]
    Address(String),
    /// The node could not be reached or broke off; trying another may help.
    #[error("cannot reach {url}: {why}")]
    Unreachable {
        /// Where.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// The node refused.
    #[error("{0}")]
    Refused(Fault),
}

/// A token and whose it is.
#[derive(Debug, Clone, Deserialize)]
pub struct Pass {
    /// Whose.
    pub user: String,
    /// What to show a node.
    pub token: String,
}

/// What sending over HTTP answers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Receipted {
    /// The server's id.
    pub mid: String,
    /// Order inside the conversation.
    pub seq: u64,
    /// When it was accepted, milliseconds since the Unix epoch.
    pub at: u64,
    /// Whether the `cid` had been accepted before.
    #[serde(default)]
    pub dup: bool,
}

/// Registers a user on a node that allows it.
///
/// # Errors
/// `conflict` if the name is taken; see [`Failed`].
pub async fn register(url: &str, user: &str, password: &str) -> Result<Pass, Failed> {
    let body = json!({"user": user, "password": password});
    call(url, Method::POST, "/v1/register", None, Some(&body)).await
}

/// Logs a user in.
///
/// # Errors
/// `unauthenticated` if the password is wrong; see [`Failed`].
pub async fn login(url: &str, user: &str, password: &str) -> Result<Pass, Failed> {
    let body = json!({"user": user, "password": password});
    call(url, Method::POST, "/v1/login", None, Some(&body)).await
}

/// Sends one message without a socket.
///
/// # Errors
/// See [`Failed`]; repeating with the same `cid` is safe.
pub async fn send(url: &str, token: &str, letter: &Letter) -> Result<Receipted, Failed> {
    let body = json!(letter);
    call(url, Method::POST, "/v1/messages", Some(token), Some(&body)).await
}

/// Makes any call of the HTTP interface.
///
/// # Errors
/// See [`Failed`].
pub async fn call<T: DeserializeOwned>(
    url: &str,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: Option<&Value>,
) -> Result<T, Failed> {
    let unreachable = |why: String| Failed::Unreachable { url: url.to_owned(), why };
    let host = host_of(url).ok_or_else(|| Failed::Address(url.to_owned()))?;
    let bytes = body.map(Value::to_string).unwrap_or_default();
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Full::new(Bytes::from(bytes)));
    let request = request.map_err(|_| Failed::Address(url.to_owned()))?;
    let exchange = tokio::time::timeout(CALL_WAIT, exchange(host, request)).await;
    let (status, bytes) = match exchange {
        Ok(Ok(answer)) => answer,
        Ok(Err(why)) => return Err(unreachable(why)),
        Err(_) => return Err(unreachable("no answer in time".to_owned())),
    };
    if !status.is_success() {
        return Err(Failed::Refused(fault_of(status, &bytes)));
    }
    serde_json::from_slice(&bytes).map_err(|e| unreachable(format!("unexpected answer: {e}")))
}

/// Reads the address of a node as somebody types it.
///
/// # Errors
/// [`Failed::Address`], which shows a right one.
pub fn address(typed: &str) -> Result<String, Failed> {
    host_of(typed).map(|_| typed.to_owned()).ok_or_else(|| Failed::Address(typed.to_owned()))
}

/// The `host:port` of an address. Without `http://` in front it must have a port: a bare word may be anything.
#[must_use]
pub fn host_of(url: &str) -> Option<&str> {
    let (rest, port_needed) = match url.split_once("://") {
        Some(("http" | "ws", rest)) => (rest, false),
        Some(_) => return None,
        None => (url, true),
    };
    let authority = rest.split('/').next()?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port_fits =
        port.map_or(!port_needed, |port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(name),
    };
    (port_fits && is_host).then_some(authority)
}

async fn exchange(
    host: &str,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), String> {
    let stream = TcpStream::connect(with_port(host)).await.map_err(|e| e.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        Ok((status, body.map_err(|e| e.to_string())?.to_bytes()))
    };
    let answer = answer.await;
    driver.abort();
    answer
}

/// Adds the port that `http` means when none is named.
pub(super) fn with_port(host: &str) -> String {
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { host.to_owned() } else { format!("{host}:80") }
}

fn fault_of(status: StatusCode, bytes: &[u8]) -> Fault {
    #[derive(Deserialize)]
    struct Problem {
        code: Option<String>,
        detail: Option<String>,
        title: Option<String>,
    }
    let problem: Option<Problem> = serde_json::from_slice(bytes).ok();
    let (code, message) = match problem {
        Some(problem) => (problem.code, problem.detail.or(problem.title)),
        None => (None, None),
    };
    let code = code.unwrap_or_else(|| code_of(status).to_owned());
    let message = message.unwrap_or_else(|| status.to_string());
    let retry = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    Fault { code, message, retry, retry_after_ms: None }
}

fn code_of(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 | 422 => "bad_request",
        401 => "unauthenticated",
        403 => "forbidden",
        404 => "not_found",
        409 => "conflict",
        410 => "gone",
        413 => "too_large",
        429 => "rate_limited",
        503 => "unavailable",
        _ => "internal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_its_host() {
        assert_eq!(host_of("http://127.0.0.1:8080/"), Some("127.0.0.1:8080"));
        assert_eq!(host_of("localhost:81"), Some("localhost:81"));
        assert_eq!(host_of("https://chat.example"), None);
        assert_eq!(host_of("http://[::1]:8080"), Some("[::1]:8080"));
        assert_eq!(host_of("http://[::1]"), Some("[::1]"));
        for wrong in [
            "http://",
            "nonsense",
            "",
            "http://a b:1",
            "http://a:port",
            "http://a:0",
            "http://:80",
            "http://a:70000",
            "[::1",
            "http://[nonsense]:80",
        ] {
            assert_eq!(host_of(wrong), None, "{wrong}");
            let said = address(wrong).unwrap_err().to_string();
            assert!(said.starts_with(&format!("{wrong:?} is not")), "{said}");
            assert!(said.contains("such as http://127.0.0.1:8080"), "{said}");
        }
        assert_eq!(with_port("chat.example"), "chat.example:80");
        assert_eq!(with_port("[::1]:8080"), "[::1]:8080");
    }

    #[test]
    fn a_problem_keeps_its_code() {
        let body = br#"{"type":"about:blank","code":"conflict","detail":"taken"}"#;
        let fault = fault_of(StatusCode::CONFLICT, body);
        assert_eq!((fault.code.as_str(), fault.message.as_str()), ("conflict", "taken"));
        assert_eq!(fault_of(StatusCode::SERVICE_UNAVAILABLE, b"x").code, "unavailable");
    }
}
