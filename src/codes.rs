//! Codes: why something was refused, in the protocol's words; the same on a socket and over HTTP.
//!
//! Owns      nothing.
//! Promises  one table: a code that is not here is never said.
//! Never     knows how a refusal is written: frames are the gateway's, problems are `rest`'s.
//! Fails by  nothing.

use actors::message::Refusal;
use utoipa::ToSchema;

/// The protocol's error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum Code {
    /// The request cannot be understood: correct it.
    BadRequest,
    /// No such op.
    UnknownOp,
    /// No valid token or password: log in.
    Unauthenticated,
    /// Not allowed here, or not to this user.
    Forbidden,
    /// Nothing has this name.
    NotFound,
    /// It contradicts what is there.
    Conflict,
    /// It was there, and is no longer.
    Gone,
    /// Too many bytes.
    TooLarge,
    /// The recipient has too much waiting: repeat when they have been online.
    MailboxFull,
    /// The recipient does not want to hear from this user.
    Blocked,
    /// Too often: wait.
    RateLimited,
    /// No majority, or the node is too busy: repeat.
    Unavailable,
    /// Our own failure.
    Internal,
}

impl Code {
    /// All of them, in the order of the protocol page.
    pub const ALL: [Self; 13] = [
        Self::BadRequest,
        Self::UnknownOp,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::Gone,
        Self::TooLarge,
        Self::MailboxFull,
        Self::Blocked,
        Self::RateLimited,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The code as clients read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::UnknownOp => "unknown_op",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::TooLarge => "too_large",
            Self::MailboxFull => "mailbox_full",
            Self::Blocked => "blocked",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// Whether repeating the same request can help.
    #[must_use]
    pub const fn retry(self) -> bool {
        matches!(self, Self::MailboxFull | Self::RateLimited | Self::Unavailable | Self::Internal)
    }
}

impl From<Refusal> for Code {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound | Refusal::NoSuchMember => Self::NotFound,
            Refusal::Conflict | Refusal::Taken | Refusal::LastAdmin => Self::Conflict,
            Refusal::MailboxFull => Self::MailboxFull,
            Refusal::Gone => Self::Gone,
            Refusal::TooManyDevices | Refusal::NotAMember | Refusal::NotAnAdmin => Self::Forbidden,
            Refusal::GroupFull | Refusal::TooManyBlocked => Self::TooLarge,
            Refusal::Blocked => Self::Blocked,
            Refusal::Oneself => Self::BadRequest,
            Refusal::Unavailable => Self::Unavailable,
            Refusal::Overloaded => Self::RateLimited,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_page_lists_exactly_these() {
        let page = include_str!("gateway/PROTOCOL.md");
        let (_, list) = page.split_once("\nCodes: ").expect("the page has a list");
        let (list, _) = list.split_once(". ").expect("the list ends");
        let listed: Vec<&str> =
            list.split_whitespace().map(|code| code.trim_matches('`')).collect();
        assert_eq!(listed, Code::ALL.map(Code::as_str));
    }

    #[test]
    fn the_documents_have_the_same_words() {
        let schema = serde_json::to_value(<Code as utoipa::PartialSchema>::schema()).unwrap();
        assert_eq!(schema["enum"], serde_json::json!(Code::ALL.map(Code::as_str)));
    }

    #[test]
    fn what_a_mailbox_refuses_for_now_clients_are_told_to_repeat() {
        for refusal in [
            Refusal::NotFound,
            Refusal::Conflict,
            Refusal::Taken,
            Refusal::MailboxFull,
            Refusal::TooManyDevices,
            Refusal::Unavailable,
            Refusal::Overloaded,
            Refusal::NotAMember,
            Refusal::NotAnAdmin,
            Refusal::NoSuchMember,
            Refusal::GroupFull,
            Refusal::LastAdmin,
            Refusal::Gone,
            Refusal::Blocked,
            Refusal::Oneself,
            Refusal::TooManyBlocked,
        ] {
            assert_eq!(Code::from(refusal).retry(), refusal.retry(), "{refusal:?}");
        }
    }
}
