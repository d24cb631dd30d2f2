//! One HTTP GET to a node on this or another machine, for the commands that ask.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// Most of an answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// Write it as http://host:port.
    #[error("`{0}` is not an address such as http://127.0.0.1:8180")]
    BadAddress(String),
    /// Nobody listens there, or it went away.
    #[error("no connection ({0})")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
}

/// Asks for `base` + `path` and returns status and body.
pub(crate) async fn get(
    base: &str,
    path: &str,
    within: Duration,
) -> Result<(StatusCode, Bytes), Unanswered> {
    let scheme = if base.contains("://") { "" } else { "http://" };
    let uri: Uri = format!("{scheme}{}{path}", base.trim_end_matches('/'))
        .parse()
        .map_err(|_| Unanswered::BadAddress(base.to_owned()))?;
    if uri.scheme_str() != Some("http") {
        return Err(Unanswered::BadAddress(base.to_owned()));
    }
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let exchange = async {
        let response = client.get(uri).await.map_err(|error| unreachable(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| unreachable(error.as_ref()))?;
        Ok((status, body.to_bytes()))
    };
    match tokio::time::timeout(within, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(Unanswered::TimedOut(within)),
    }
}

/// The innermost cause is the one that helps ("Connection refused").
fn unreachable(error: &(dyn std::error::Error + 'static)) -> Unanswered {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    Unanswered::Unreachable(innermost.to_string())
}
