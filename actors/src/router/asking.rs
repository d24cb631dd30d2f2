//! Asking: one question, or one send, to the home of a mailbox, repeated until it is answered or too late.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::{Inbound, Router};
use crate::clock;
use crate::ids::{SessionId, UserId};
use crate::inbox::inbox;
use crate::message::{Accepted, Refusal, Send};
use crate::packet::{Answer, Ask, Place, Question, Tell, ToHome};

/// How long an unanswered ask waits before it is repeated; every ask is safe to repeat.
const REPEAT_AFTER: Duration = Duration::from_millis(400);
/// Users looked up at the same time.
const LOOKED_UP_AT_ONCE: usize = 64;
/// How long to wait when there is no home.
const HOMELESS_WAIT: Duration = Duration::from_millis(50);

impl Router {
    /// Asks a mailbox's home one question. Repeats it until the answer comes or `within` is over (`Unavailable`).
    ///
    /// Repeating `Register` can answer `Taken` for one's own first try: compare the credentials then.
    pub async fn ask(
        &self,
        user: &UserId,
        question: Question,
        within: Duration,
    ) -> Result<Answer, Refusal> {
        let ask = Ask::Question { request: 1, question };
        let answered = |tell| match tell {
            Tell::Answer { answer, .. } => Some(answer),
            _ => None,
        };
        self.repeat(user, ask, within, answered).await
    }

    /// Sends one message outside any stream. Repeats it until it is answered or `within` is over (`Unavailable`); first
    /// asks the sender's own mailbox whether the `cid` stands for another message (`Conflict`).
    pub async fn send_once(&self, send: Send, within: Duration) -> Result<Accepted, Refusal> {
        let deadline = clock::monotonic() + within;
        let question = Question::Cids { uses: vec![send.cid_use()], all: false };
        if let Answer::Cids { taken, .. } = self.ask(&send.from, question, within).await?
            && taken.contains(&true)
        {
            return Err(Refusal::Conflict);
        }
        let (to, place) = (send.to.owner(), Place { life: 0, count: 0 });
        let ask = Ask::Send { place, send: Box::new(send) };
        let answered = |tell| match tell {
            Tell::Sent { result, .. } => Some(result),
            _ => None,
        };
        let left = deadline.saturating_duration_since(clock::monotonic());
        self.repeat(&to, ask, left, answered).await
    }

    /// Asks of each of these users whether there is such a user; a session of this node is told `Looked`.
    pub fn look_up(&self, session: SessionId, request: u32, users: Vec<UserId>, within: Duration) {
        let router = self.clone();
        tokio::spawn(async move {
            let unknown = router.unknown_of(users, within).await;
            router.put(session.count, Inbound::Looked { request, unknown });
        });
    }

    /// One of these users whom nobody knows, if there is any.
    pub async fn unknown_of(
        &self,
        users: Vec<UserId>,
        within: Duration,
    ) -> Result<Option<UserId>, Refusal> {
        let mut asked = JoinSet::new();
        for user in users {
            if asked.len() >= LOOKED_UP_AT_ONCE
                && let Some(found) = asked.join_next().await
                && let Some(user) = found.unwrap_or(Err(Refusal::Unavailable))?
            {
                return Ok(Some(user));
            }
            let router = self.clone();
            asked.spawn(async move {
                match router.ask(&user, Question::Devices, within).await {
                    Ok(_) => Ok(None),
                    Err(Refusal::NotFound) => Ok(Some(user)),
                    Err(refusal) => Err(refusal),
                }
            });
        }
        while let Some(found) = asked.join_next().await {
            if let Some(user) = found.unwrap_or(Err(Refusal::Unavailable))? {
                return Ok(Some(user));
            }
        }
        Ok(None)
    }

    async fn repeat<T>(
        &self,
        user: &UserId,
        ask: Ask,
        within: Duration,
        answered: impl Fn(Tell) -> Option<Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let (inbox, mut arrivals) = inbox();
        let session = Registered(self, self.open_session(inbox));
        let shard = self.shard_of(user);
        let deadline = clock::monotonic() + within;
        let mut next = clock::monotonic();
        loop {
            let to_home =
                ToHome { shard, user: user.clone(), session: session.1, ask: ask.clone() };
            let wait = if self.home(to_home).is_ok() { REPEAT_AFTER } else { HOMELESS_WAIT };
            next = (next + wait).min(deadline);
            while let Ok(inbound) = timeout_at(next.into(), arrivals.recv()).await {
                // It was closed: nothing can come any more.
                let Some(inbound) = inbound else { return Err(Refusal::Unavailable) };
                let answer = match *inbound {
                    Inbound::Tell(Tell::NotHome { .. }) => {
                        next = next.min(clock::monotonic() + HOMELESS_WAIT);
                        None
                    }
                    Inbound::Tell(tell) => answered(tell),
                    Inbound::HomeMoved(_)
                    | Inbound::Looked { .. }
                    | Inbound::Named { .. }
                    | Inbound::Drain { .. } => None,
                };
                if let Some(answer) = answer {
                    return answer;
                }
            }
            if clock::monotonic() >= deadline {
                return Err(Refusal::Unavailable);
            }
            next = next.max(clock::monotonic());
        }
    }
}

/// Forgets the session when dropped, even if the caller gave up.
pub(super) struct Registered<'a>(pub(super) &'a Router, pub(super) SessionId);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.close_session(self.1);
    }
}

#[cfg(test)]
mod tests {
    use std::iter::empty;

    use super::*;
    use crate::ids::{BootId, NodeId};

    #[tokio::test]
    async fn who_asks_ends_with_the_session_it_is_answered_at() {
        const WITHIN: Duration = Duration::from_secs(20);
        let router = Router::new(NodeId(1), BootId(1), 4, empty());
        let bob = UserId::parse("bob").unwrap();
        let begun = clock::monotonic();
        let (asked, ()) = tokio::join!(router.ask(&bob, Question::Devices, WITHIN), async {
            let next = router.open_session(inbox().0);
            router.close_session(SessionId { count: next.count - 1, ..next });
        });
        assert_eq!(asked, Err(Refusal::Unavailable));
        assert!(clock::monotonic() - begun < WITHIN / 2, "it asked on, though nobody can answer");
    }
}
