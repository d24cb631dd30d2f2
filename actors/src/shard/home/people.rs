//! People: what is answered of whom a user blocks, of their settings, and of what they say of themselves.

use super::{Asked, Home};
use crate::ids::{SessionId, UserId};
use crate::message::Refusal;
use crate::message::people::Call;
use crate::packet::{Answer, Question};
use crate::shard::replica::Replica;
use crate::shard::state::Change;

impl Home {
    /// What a change is to be answered with once it is made.
    pub(super) fn asked_by(
        user: &UserId,
        (session, request): (SessionId, u32),
        change: &Change,
    ) -> Asked {
        let shown = match change {
            Change::People(Call::LastSeen(_)) => Question::Settings,
            Change::People(Call::Describe(_)) => Question::Profile { by: user.clone() },
            _ => return Asked::Question(session, request),
        };
        Asked::Shown(session, request, Box::new((user.clone(), shown)))
    }

    /// Answers a question about somebody, from what is agreed on of them.
    pub(super) fn of_people(
        replica: &Replica,
        (user, question): &(UserId, Question),
    ) -> Result<Answer, Refusal> {
        let mailbox = replica.state().mailbox(user).ok_or(Refusal::NotFound)?;
        Ok(match question {
            Question::Blocked => Answer::Blocked(mailbox.blocked()),
            Question::Settings => Answer::Settings(mailbox.settings()),
            Question::Profile { by } => Answer::Profile(Box::new(mailbox.profile_for(by))),
            _ => Answer::Done,
        })
    }
}
