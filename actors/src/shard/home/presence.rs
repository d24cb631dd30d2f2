//! Presence: who may know of whom, and what is kept of when they were last there.

use super::{Home, Output};
use crate::ids::{SessionId, Timestamp, UserId};
use crate::mailbox::rules::Mailbox;
use crate::message::Refusal;
use crate::packet::{Presence, Regard, Tell};
use crate::shard::replica::Replica;

/// What another user is told of the owner of a mailbox. Who may not see them is told what is told of those who never came:
/// asked each time something is told.
#[must_use]
pub fn presence_of(owner: &Mailbox, by: &UserId, online: bool) -> Presence {
    if owner.shows_itself_to(by) {
        Presence { online, last_seen: owner.last_seen() }
    } else {
        Presence::default()
    }
}

/// Whether a user had a session a moment ago, as far as can be told by their signs of life.
#[must_use]
pub fn was_there_lately(owner: &Mailbox, wall: Timestamp) -> bool {
    /// Signs of life are noted each half a minute, and wait a little for company.
    const SIGNS_MS: u64 = 45_000;
    owner.last_seen().is_some_and(|seen| wall.0.saturating_sub(seen.0) < SIGNS_MS)
}

impl Home {
    /// What a session wants to know of a user, or wants them to know.
    pub(super) fn regard(
        replica: &Replica,
        user: UserId,
        session: SessionId,
        regard: Regard,
        out: &mut Vec<Output>,
    ) {
        let known = replica.state().mailbox(&user).is_some();
        match regard {
            Regard::Watch { .. } if !known => {
                out.push(Output::Tell(session, Tell::Presence(user, Err(Refusal::NotFound))));
            }
            // Who is not there hears nothing.
            Regard::Typing { .. } | Regard::TypingTo { .. } if !known => {}
            regard => out.push(Output::Regard(user, session, regard)),
        }
    }
}
