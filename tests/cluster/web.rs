//! Web: HTTP as the tests speak it, independent of the node's own code.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::described::{Described, Said};

/// Longest wait for an answer.
const WITHIN: Duration = Duration::from_secs(15);

/// An answer: status and body, read as JSON if it is.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) text: String,
    pub(crate) headers: HeaderMap,
}

/// Sends a request and waits for its answer.
pub(crate) async fn call(
    method: Method,
    url: &str,
    token: Option<&str>,
    body: Option<&Value>,
) -> Result<Answer, String> {
    call_with(method, url, token, body, &[]).await
}

/// The same with more headers.
pub(crate) async fn call_with(
    method: Method,
    url: &str,
    token: Option<&str>,
    body: Option<&Value>,
    headers: &[(&str, &str)],
) -> Result<Answer, String> {
    let mut request = Request::builder().method(method.clone()).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let request = request.body(Full::new(bytes)).unwrap();
    let exchange = async {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.map_err(|error| format!("{error:?}"))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        check(&method, url, status, &headers, &bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Answer {
            status,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            text,
            headers,
        })
    };
    tokio::time::timeout(WITHIN, exchange).await.map_err(|_| format!("no answer from {url}"))?
}

/// Looks whether an answer of the API is as its document says: whatever a test is about, no node answers anything else.
fn check(method: &Method, url: &str, status: u16, headers: &HeaderMap, body: &[u8]) {
    static DESCRIBED: LazyLock<Described> =
        LazyLock::new(|| Described::new(rookery::rest::openapi()));
    let target = url.splitn(4, '/').nth(3).map(|rest| format!("/{rest}")).unwrap_or_default();
    if !target.starts_with("/v1/") {
        return;
    }
    let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok());
    let said = Said { method: method.as_str(), target: &target, status, kind, body };
    DESCRIBED.wrong_with(&said).unwrap_or_else(|wrong| panic!("{wrong}"));
}

/// GET; an unreachable node is an `Err`.
pub(crate) async fn get(url: &str) -> Result<Answer, String> {
    call(Method::GET, url, None, None).await
}

/// POST of a JSON body.
pub(crate) async fn post(url: &str, body: &Value) -> Result<Answer, String> {
    call(Method::POST, url, None, Some(body)).await
}

/// Makes an account and returns its token.
pub(crate) async fn register(url: &str, user: &str) -> String {
    let body = json!({"user": user, "password": "correct horse battery"});
    let answer = post(&format!("{url}/v1/register"), &body).await.unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.body["user"], user);
    answer.body["token"].as_str().expect("a token").to_owned()
}
