//! Presence: requests about who is there and who is typing, and what is said of it.

use actors::ids::{Conversation, UserId};
use actors::packet::Presence;

use super::Error;
use super::raw::Raw;
use super::request::{Request, fields, flag, parsed, present, wrong};
use super::writer::Writer;

/// Users that one request may name.
const NAMED_MAX: usize = 100;

/// What a client wants to know of others, or wants them to know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PresenceRequest {
    /// `watch`
    Watch(Vec<UserId>),
    /// `unwatch`
    Unwatch(Vec<UserId>),
    /// `typing`
    Typing {
        /// To whom.
        to: Conversation,
        /// Whether they still are.
        on: bool,
    },
}

impl PresenceRequest {
    /// How many users it names.
    pub(crate) fn names(&self) -> u32 {
        match self {
            Self::Watch(users) | Self::Unwatch(users) => {
                u32::try_from(users.len()).unwrap_or(u32::MAX)
            }
            Self::Typing { .. } => 0,
        }
    }
}

/// Reads a request about presence; none if the op is another.
pub(super) fn request(op: &str, d: Raw<'_>) -> Option<Result<Request, Error>> {
    let asked = match op {
        "watch" => users(d).map(PresenceRequest::Watch),
        "unwatch" => users(d).map(PresenceRequest::Unwatch),
        "typing" => typing(d),
        _ => return None,
    };
    Some(asked.map(Request::Presence))
}

fn users(d: Raw<'_>) -> Result<Vec<UserId>, Error> {
    let [users] = fields(d, &["users"])?;
    let users =
        present("users", users)?.texts().ok_or_else(|| wrong("users", "a list of texts"))?;
    if users.len() > NAMED_MAX {
        return Err(wrong("users", "a list of at most 100 users"));
    }
    let user = |user: &String| UserId::parse(user).map_err(|bad| wrong("users", bad.shape));
    users.iter().map(user).collect()
}

fn typing(d: Raw<'_>) -> Result<PresenceRequest, Error> {
    let [to, on] = fields(d, &["to", "on"])?;
    let to = parsed("to", to, str::parse)?;
    Ok(PresenceRequest::Typing { to, on: flag("on", on)? })
}

/// What is told of one user.
pub(super) fn write(frame: &mut Writer, user: &UserId, presence: Presence) {
    frame.map(3);
    frame.key("user").text(user.as_str());
    frame.key("online").flag(presence.online);
    frame.key("last_seen_ms");
    match presence.last_seen {
        Some(at) => frame.number(at.0),
        None => frame.null(),
    }
}

/// The answer to `watch`.
pub(super) fn write_body(frame: &mut Writer, rows: &[(UserId, Presence)]) {
    frame.map(1);
    frame.key("presence").list(rows.len());
    for (user, presence) in rows {
        frame.item();
        write(frame, user, *presence);
        frame.end_map();
    }
    frame.end_list();
}
