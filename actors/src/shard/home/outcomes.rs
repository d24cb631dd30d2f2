//! Outcomes: what became of a command, told to whoever asked for it.

use super::{Asked, Home, Output};
use crate::ids::ShardId;
use crate::mailbox::desk;
use crate::packet::{Answer, Ask, Tell};
use crate::shard::replica::{Origin, Replica};
use crate::shard::state::Outcome;

impl Home {
    /// A command's outcome is known.
    pub fn outcome(
        &mut self,
        replica: &Replica,
        origin: Origin,
        outcome: Outcome,
        out: &mut Vec<Output>,
    ) {
        match origin {
            Origin::Mailbox(user, ticket) => {
                out.push(Output::Mailbox(user, desk::Input::Outcome { ticket, outcome }));
            }
            Origin::Home(ticket) => match (self.asked.remove(&ticket), outcome) {
                (Some(Asked::Attach(ask)), Outcome::Refused(refusal)) => {
                    let Ask::Attach { life, .. } = ask.ask else { return };
                    let tell = Tell::Attached { life, position: Err(refusal) };
                    out.push(Output::Tell(ask.session, tell));
                }
                (Some(Asked::Attach(ask)), _) => self.finish_attach(replica, ask, out),
                (Some(Asked::Send(session, to, place)), outcome) => {
                    let result = match outcome {
                        Outcome::Accepted(accepted) => Ok(accepted),
                        Outcome::Refused(refusal) => Err(refusal),
                        Outcome::Done => return,
                    };
                    out.push(Output::Tell(session, Tell::Sent { to, place, result }));
                }
                (Some(Asked::Question(session, request)), outcome) => {
                    let answer = match outcome {
                        Outcome::Refused(refusal) => Err(refusal),
                        Outcome::Done | Outcome::Accepted(_) => Ok(Answer::Done),
                    };
                    out.push(Output::Tell(session, Tell::Answer { request, answer }));
                }
                (Some(Asked::Shown(session, request, shown)), outcome) => {
                    let answer = match outcome {
                        Outcome::Refused(refusal) => Err(refusal),
                        Outcome::Done | Outcome::Accepted(_) => Self::of_people(replica, &shown),
                    };
                    out.push(Output::Tell(session, Tell::Answer { request, answer }));
                }
                (None, _) => {}
            },
            Origin::Shard => {}
        }
    }

    /// A command's outcome will never be known here.
    pub fn lost(&mut self, shard: ShardId, origin: Origin, out: &mut Vec<Output>) {
        match origin {
            Origin::Mailbox(user, ticket) => {
                out.push(Output::Mailbox(user, desk::Input::Lost { ticket }));
            }
            Origin::Home(ticket) => {
                let session = match self.asked.remove(&ticket) {
                    Some(Asked::Attach(ask)) => ask.session,
                    Some(
                        Asked::Question(session, _)
                        | Asked::Send(session, ..)
                        | Asked::Shown(session, ..),
                    ) => session,
                    None => return,
                };
                out.push(Output::Tell(session, Tell::NotHome { shard }));
            }
            Origin::Shard => self.post.forget_proposed(),
        }
    }
}
