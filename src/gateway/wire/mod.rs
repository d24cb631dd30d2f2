//! Wire: the frames a client and a node exchange, in JSON or msgpack.
//!
//! Owns      nothing.
//! Promises  a frame that cannot be parsed is told apart from one that asks for something wrong, and the latter names
//!           the field; what a client put into `body` and `client` comes out as it went in.
//! Never     builds a tree of values: requests are read in place, events are written straight into their bytes.
//! Fails by  refusing.

mod described;
mod events;
mod group;
mod msgpack;
mod people;
mod presence;
mod raw;
mod request;
#[cfg(test)]
mod tests;
mod writer;

use std::borrow::Cow;
use std::time::Duration;

pub(crate) use described::{EVENTS, Event, OPS, Op, REFUSED, Shape};
pub(crate) use events::{Body, Greeting, Outgoing, Teller};
pub(crate) use group::{GroupBody, GroupRequest};
pub(crate) use people::PeopleRequest;
pub(crate) use presence::PresenceRequest;
pub(crate) use request::{Draft, Frame, Request, Unparsable, decode};

use actors::ids::{DeviceId, MessageId, Number, Seq, Timestamp};
use actors::message::{Entry, Refusal, What};

pub use crate::codes::Code;

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

    /// Too much at once: what is repeated after this time may go on.
    #[must_use]
    pub fn too_fast(message: &'static str, wait: Duration) -> Self {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        Self { retry_after_ms: Some(wait_ms), ..Self::new(Code::RateLimited, message) }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        const BREATH_MS: u64 = 500;
        let retry_after_ms = (refusal == Refusal::Overloaded).then_some(BREATH_MS);
        Self { retry_after_ms, ..Self::new(refusal.into(), refusal.to_string()) }
    }
}

/// For fuzzing: reads a frame in both formats and writes in both what a node makes of it; answers whether it was one.
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    let read = [Format::Json, Format::Msgpack].map(|format| decode(format, bytes));
    let frames: Vec<Frame> = read.into_iter().flatten().collect();
    let known = !frames.is_empty();
    for Frame { id, request, .. } in frames {
        let outgoing = match request {
            Ok(Request::Send(draft)) => copy_of(*draft),
            Ok(_) => Outgoing::Ok { re: id.unwrap_or_default(), body: Body::Done },
            Err(error) => Outgoing::Err { re: id, error },
        };
        for format in [Format::Json, Format::Msgpack] {
            let _told = Teller { format, device: None }.tell(&outgoing);
        }
    }
    known
}

/// What the sender's other devices are told of a message.
fn copy_of(draft: Draft) -> Outgoing {
    let Ok(device) = DeviceId::parse("phone") else { return Outgoing::CaughtUp(Number(0)) };
    let (Draft { to: conv, cid, content }, at) = (draft, Timestamp(1));
    let what = What::Sent { mid: MessageId(1), conv, seq: Seq(1), at, cid, device, content };
    Outgoing::Entry(Entry { n: Number(1), at, what })
}
