//! Goodbye: why a node ends a socket, and the close code and words that say so.

use super::TokenRefused;
use super::wire::{Format, Unparsable};

/// Why a client was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAdmitted {
    /// Its token does not hold.
    #[error(transparent)]
    Token(#[from] TokenRefused),
    /// The user has as many sockets as one may have.
    #[error("too many connections of this user")]
    TooMany,
}

/// Why the node ends a socket: the close codes of the protocol page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goodbye {
    GoAway,
    HeartbeatLost,
    SlowConsumer,
    Overloaded,
    Unavailable,
    TokenExpired,
    BadFrame(BadFrame),
    TooBig,
    AuthenticationFailed,
    /// There was no `auth` in time.
    NoAuth,
    DeviceRemoved,
    Replaced,
    TooManyConnections,
}

/// What was wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadFrame {
    /// It is no frame of this format at all.
    Unparsable(Unparsable),
    /// It is of the kind of WebSocket message that the socket's format does not use.
    OtherKind(Format),
    /// It asks for something before it says who it is.
    NotAuth,
    /// The WebSocket itself is broken.
    WebSocket,
}

impl BadFrame {
    /// Tells a developer what to look for; a close frame has room for 123 bytes (RFC 6455, 5.5).
    const fn reason(self) -> &'static str {
        match self {
            Self::Unparsable(Unparsable::Malformed(Format::Json)) => "bad frame: not valid JSON",
            Self::Unparsable(Unparsable::Malformed(Format::Msgpack)) => {
                "bad frame: not valid msgpack"
            }
            Self::Unparsable(Unparsable::NotAnObject) => "bad frame: not an object",
            Self::OtherKind(Format::Json) => "bad frame: this socket speaks JSON, in text messages",
            Self::OtherKind(Format::Msgpack) => {
                "bad frame: this socket speaks msgpack, in binary messages"
            }
            Self::NotAuth => "bad frame: the first must be auth",
            Self::WebSocket => "bad frame: against the rules of WebSocket",
        }
    }
}

impl Goodbye {
    pub(super) const fn code(self) -> u16 {
        match self {
            Self::GoAway => 4001,
            Self::HeartbeatLost => 4002,
            Self::SlowConsumer => 4008,
            Self::Overloaded => 4009,
            Self::Unavailable => 4010,
            Self::TokenExpired => 4101,
            Self::BadFrame(_) => 4300,
            Self::TooBig => 4302,
            Self::AuthenticationFailed | Self::NoAuth => 4303,
            Self::DeviceRemoved => 4304,
            Self::Replaced => 4305,
            Self::TooManyConnections => 4307,
        }
    }

    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::GoAway => "goaway",
            Self::HeartbeatLost => "heartbeat lost",
            Self::SlowConsumer => "slow consumer",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "shard unavailable",
            Self::TokenExpired => "token expired",
            Self::BadFrame(why) => why.reason(),
            Self::TooBig => "frame of more bytes than hello's frame_bytes_max",
            Self::AuthenticationFailed => "authentication failed",
            Self::NoAuth => "no auth within hello's auth_deadline_ms",
            Self::DeviceRemoved => "device removed",
            Self::Replaced => "replaced by a newer socket",
            Self::TooManyConnections => "too many connections",
        }
    }
}
