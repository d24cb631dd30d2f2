//! HTTP: one notice, one signed request to the push service.

use std::time::{Duration, UNIX_EPOCH};

use actors::clock;
use actors::ids::Timestamp;
use actors::shard::home::Notice;
use aws_lc_rs::hmac;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{HeaderMap, Request, Uri, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;

use super::Settings;
use super::rules::Answer;
use super::signature::{id, key, sign};

/// A connection that is not used for so long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// Of an answer's body so much is read, for the connection to be used again.
const ANSWER_MAX: usize = 64 * 1024;

/// The address of the push service is none.
#[derive(Debug, thiserror::Error)]
#[error("push.url {0:?} is not the address of a push service; write http://host:port/path")]
pub struct BadAddress(String);

/// What a request says; nothing of a message but where it waits.
#[derive(Debug, Serialize)]
struct Body<'a> {
    user: &'a str,
    device: &'a str,
    conv: String,
    kind: &'static str,
    n: u64,
    unread: u64,
    since_ms: u64,
    id: &'a str,
}

/// The push service.
pub(super) struct Service {
    url: Uri,
    key: hmac::Key,
    timeout: Duration,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Service {
    pub(super) fn new(settings: &Settings) -> Result<Self, BadAddress> {
        let bad = || BadAddress(settings.url.clone());
        let url: Uri = settings.url.parse().map_err(|_| bad())?;
        if url.scheme_str() != Some("http") || url.host().is_none() {
            return Err(bad());
        }
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build_http();
        Ok(Self { url, key: key(&settings.secret), timeout: settings.timeout, client })
    }

    /// Sends a notice and waits for the answer, not longer than the time-out.
    pub(super) async fn post(&self, notice: &Notice) -> Answer {
        let Some(request) = self.request(notice, clock::wall()) else { return Answer::Nothing };
        let exchange = async {
            let response = self.client.request(request).await.ok()?;
            let status = response.status().as_u16();
            let retry_after = retry_after(response.headers(), clock::wall());
            let _said = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
            Some(Answer::Status(status, retry_after))
        };
        let answer = tokio::time::timeout(self.timeout, exchange).await;
        answer.ok().flatten().unwrap_or(Answer::Nothing)
    }

    pub(super) fn request(&self, notice: &Notice, at: Timestamp) -> Option<Request<Full<Bytes>>> {
        let id = id(notice);
        let body = Body {
            user: notice.user.as_str(),
            device: notice.device.as_str(),
            conv: notice.conv.to_string(),
            kind: "message",
            n: notice.n.0,
            unread: notice.unread,
            since_ms: notice.since.0,
            id: &id,
        };
        let body = serde_json::to_vec(&body).ok()?;
        let request = Request::post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("rookery/", env!("CARGO_PKG_VERSION")))
            .header("x-rookery-id", &id)
            .header("x-rookery-timestamp", at.0)
            .header("x-rookery-signature", sign(&self.key, at, &body));
        request.body(Full::new(Bytes::from(body))).ok()
    }
}

/// After which time to ask again (RFC 9110, section 10.2.3): seconds, or a date.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    let date = Timestamp(u64::try_from(date.as_millis()).unwrap_or(u64::MAX));
    Some(date.since(now))
}
