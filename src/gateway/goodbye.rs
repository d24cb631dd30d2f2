//! Goodbye: why a node ends a socket, and the close code that says so.

/// Why the node ends a socket: the close codes of the protocol page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goodbye {
    GoAway,
    HeartbeatLost,
    SlowConsumer,
    Overloaded,
    Unavailable,
    TokenExpired,
    BadFrame,
    TooBig,
    AuthenticationFailed,
    DeviceRemoved,
    Replaced,
    TooManyConnections,
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
            Self::BadFrame => 4300,
            Self::TooBig => 4302,
            Self::AuthenticationFailed => 4303,
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
            Self::BadFrame => "bad frame",
            Self::TooBig => "too big",
            Self::AuthenticationFailed => "authentication failed",
            Self::DeviceRemoved => "device removed",
            Self::Replaced => "replaced by a newer socket",
            Self::TooManyConnections => "too many connections",
        }
    }
}
