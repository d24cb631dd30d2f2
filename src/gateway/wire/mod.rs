//! Wire: the frames a client and a node exchange, in JSON or msgpack.
//!
//! Owns      nothing.
//! Promises  a frame that cannot be parsed is told apart from one that asks for something wrong, and the latter names
//!           the field; what a client put into `body` and `client` comes out as it went in.
//! Never     builds a tree of values: requests are read in place, events are written straight into their bytes.
//! Fails by  refusing.

mod events;
mod msgpack;
mod raw;
mod request;
#[cfg(test)]
mod tests;
mod writer;

use std::borrow::Cow;

pub(crate) use events::{Body, Greeting, Outgoing, Teller};
pub(crate) use request::{Draft, Frame, Request, decode};

use actors::message::Refusal;

/// How frames are written on a socket, as its subprotocol says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `rookery.v1.json`: text messages.
    #[default]
    Json,
    /// `rookery.v1.msgpack`: binary messages.
    Msgpack,
}

impl Format {
    /// The format of a subprotocol's name.
    #[must_use]
    pub fn of(protocol: &str) -> Option<Self> {
        [Self::Json, Self::Msgpack].into_iter().find(|format| format.protocol() == protocol)
    }

    /// The subprotocol's name.
    #[must_use]
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::Json => "rookery.v1.json",
            Self::Msgpack => "rookery.v1.msgpack",
        }
    }
}

/// The protocol's error codes (PROTOCOL section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the protocol page says what each means")]
pub enum Code {
    BadRequest,
    UnknownOp,
    Unauthenticated,
    Forbidden,
    NotFound,
    Conflict,
    TooLarge,
    MailboxFull,
    RateLimited,
    Unavailable,
    Internal,
}

impl Code {
    /// The code as it is on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::UnknownOp => "unknown_op",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::MailboxFull => "mailbox_full",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// Whether repeating the request can help.
    #[must_use]
    pub const fn retry(self) -> bool {
        matches!(self, Self::MailboxFull | Self::RateLimited | Self::Unavailable | Self::Internal)
    }
}

/// Why a request was refused, as the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The code.
    pub code: Code,
    /// In words; names the field of a `bad_request`.
    pub message: Cow<'static, str>,
    /// When repeating may help.
    pub retry_after_ms: Option<u64>,
}

impl Error {
    /// An error without a time to wait.
    #[must_use]
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        const BREATH_MS: u64 = 500;
        let code = match refusal {
            Refusal::NotFound => Code::NotFound,
            Refusal::Conflict | Refusal::Taken => Code::Conflict,
            Refusal::MailboxFull => Code::MailboxFull,
            Refusal::TooManyDevices => Code::Forbidden,
            Refusal::Unavailable => Code::Unavailable,
            Refusal::Overloaded => Code::RateLimited,
        };
        let retry_after_ms = (refusal == Refusal::Overloaded).then_some(BREATH_MS);
        Self { retry_after_ms, ..Self::new(code, refusal.to_string()) }
    }
}
