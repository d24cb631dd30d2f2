//! Problem: how a request over HTTP is refused, in `application/problem+json` (RFC 9457) with the protocol's codes.

use std::borrow::Cow;
use std::time::Duration;

use actors::ids::BadName;
use actors::message::Refusal;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::{NotRenewed, PasswordRefused, SigningFailed, TokenRefused};

pub use crate::codes::Code;

/// The type of a problem's body.
pub(super) const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The status that goes with a code when no other is more exact.
pub(super) const fn status(code: Code) -> StatusCode {
    match code {
        Code::BadRequest | Code::UnknownOp => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Forbidden | Code::Blocked => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Conflict => StatusCode::CONFLICT,
        Code::Gone => StatusCode::GONE,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::MailboxFull => StatusCode::INSUFFICIENT_STORAGE,
        Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A refusal on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    code: Code,
    status: StatusCode,
    detail: Cow<'static, str>,
    field: Option<&'static str>,
    retry_after: Option<Duration>,
    challenge: Option<&'static str>,
}

impl Problem {
    /// A problem with the usual status of its code.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            status: status(code),
            detail: detail.into(),
            field: None,
            retry_after: None,
            challenge: matches!(code, Code::Unauthenticated).then_some("Bearer"),
        }
    }

    /// A field that is missing or not as it must be.
    pub fn field(field: &'static str, must: &str) -> Self {
        let detail = format!("`{field}` {must}");
        Self { field: Some(field), ..Self::new(Code::BadRequest, detail) }
    }

    /// The same problem under a more exact status.
    #[must_use]
    pub fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The same problem, naming the field that has it.
    #[must_use]
    pub fn of(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }

    /// The same problem, saying that repeating helps after a while.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// Our own failure; what it was is for the log and not for the client.
    pub fn internal() -> Self {
        Self::new(Code::Internal, "the node failed; repeating may help")
    }
}

/// Why a request was refused, as RFC 9457 has it and with our own members after `detail`.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Body<'a> {
    /// Always `about:blank`: `code` says what it is.
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    /// The status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong, and what to do about it.
    detail: &'a str,
    #[schema(value_type = Code)]
    code: &'static str,
    /// Whether repeating can help.
    retry: bool,
    /// When it can, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry_after_ms: Option<u64>,
    /// Which field, parameter or header is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<&'static str>,
    /// Names the request in the node's log.
    // Put in by `manners`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    request_id: Option<&'a str>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let millis = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
            retry: self.code.retry(),
            retry_after_ms: self.retry_after.map(millis),
            field: self.field,
            request_id: None,
        };
        let json = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = (self.status, json).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = self.challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(wait) = self.retry_after {
            // Whole seconds, upwards: coming back early would be refused again.
            headers.insert(RETRY_AFTER, HeaderValue::from(millis(wait).div_ceil(1_000).max(1)));
        }
        response
    }
}

impl From<BadName> for Problem {
    fn from(bad: BadName) -> Self {
        Self::field(bad.what, &format!("must be {}", bad.shape))
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let wait_s = match refusal {
            Refusal::MailboxFull => Some(60),
            Refusal::Unavailable | Refusal::Overloaded => Some(1),
            _ => None,
        };
        let problem = Self::new(refusal.into(), refusal.to_string());
        match wait_s {
            Some(seconds) => problem.after(Duration::from_secs(seconds)),
            None => problem,
        }
    }
}

impl From<TokenRefused> for Problem {
    fn from(refused: TokenRefused) -> Self {
        let challenge = match refused {
            TokenRefused::Expired => {
                "Bearer error=\"invalid_token\", error_description=\"expired\""
            }
            TokenRefused::Invalid | TokenRefused::Unfit | TokenRefused::Early => {
                "Bearer error=\"invalid_token\""
            }
        };
        let problem = Self::new(Code::Unauthenticated, refused.to_string());
        Self { challenge: Some(challenge), ..problem }
    }
}

impl From<PasswordRefused> for Problem {
    fn from(refused: PasswordRefused) -> Self {
        match refused {
            PasswordRefused::Busy => {
                Self::new(Code::Unavailable, refused.to_string()).after(Duration::from_secs(2))
            }
            PasswordRefused::Broken => {
                tracing::error!(error = %refused, "a password cannot be judged");
                Self::internal()
            }
        }
    }
}

impl From<NotRenewed> for Problem {
    fn from(refused: NotRenewed) -> Self {
        match refused {
            NotRenewed::Foreign => Self::new(Code::Forbidden, refused.to_string()),
            NotRenewed::TooOld => Self::new(Code::Unauthenticated, refused.to_string()),
            NotRenewed::Failed(failed) => failed.into(),
        }
    }
}

impl From<SigningFailed> for Problem {
    fn from(failed: SigningFailed) -> Self {
        tracing::error!(error = %failed, "no token can be issued");
        Self::internal()
    }
}
