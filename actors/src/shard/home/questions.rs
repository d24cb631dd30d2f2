//! Questions: what a home says about a mailbox when asked once.

use super::{Home, Output};
use crate::ids::{Epoch, SessionId, Timestamp, UserId};
use crate::mailbox::cids::Cids;
use crate::mailbox::rules::Mailbox;
use crate::message::{CidUse, Refusal};
use crate::packet::{Answer, Question, Tell};
use crate::shard::replica::Replica;
use crate::shard::state::Change;

/// Ids a session is told at once; a user with more in 30 days has each one looked up.
const CIDS_TOLD_MAX: usize = 8_192;

/// Questions about ids that wait until it is known what became of another message.
const OPEN_MAX: usize = 1_000;

/// A question about ids.
pub(super) struct AskedCids {
    user: UserId,
    session: SessionId,
    request: u32,
    uses: Vec<CidUse>,
    all: bool,
}

/// What is about the user's own things, of which an erased one has none.
const fn asks_of_the_owner(question: &Question) -> bool {
    matches!(
        question,
        Question::Devices
            | Question::Groups
            | Question::Talks { .. }
            | Question::History(_)
            | Question::Open
            | Question::Blocked
            | Question::Settings
            | Question::Profile { .. }
    )
}

/// The change a question asks for; else the question.
fn change(
    question: Question,
    is_known: bool,
    epoch: impl FnOnce() -> Epoch,
) -> Result<Change, Question> {
    Ok(match question {
        Question::RemoveDevice(device) => Change::RemoveDevice(device),
        Question::Erase => Change::Erase,
        Question::People(call) => Change::People(call),
        Question::Group { by, call } => Change::Group { by, call, epoch: epoch() },
        Question::Open if !is_known => Change::Open { epoch: epoch() },
        Question::Password { old, new } => Change::Password { old, new },
        Question::Register(password) if !is_known => Change::Register { epoch: epoch(), password },
        question => return Err(question),
    })
}

impl Home {
    pub(super) fn question(
        &mut self,
        replica: &mut Replica,
        user: UserId,
        (session, request): (SessionId, u32),
        question: Question,
        (wall, chance): (Timestamp, u128),
        out: &mut Vec<Output>,
    ) {
        let mailbox = replica.state().mailbox(&user);
        if mailbox.is_some_and(Mailbox::is_erased) && asks_of_the_owner(&question) {
            let answer = Err(Refusal::Gone);
            out.push(Output::Tell(session, Tell::Answer { request, answer }));
            return;
        }
        let question = match change(question, mailbox.is_some(), || Epoch::new(wall, chance)) {
            Ok(change) => {
                let asked = Self::asked_by(&user, (session, request), &change);
                self.propose(replica, user, change, asked, out);
                return;
            }
            Err(question) => question,
        };
        let answer = match question {
            Question::Devices => {
                let answer = mailbox.map(|mailbox| Answer::Devices(mailbox.devices()));
                answer.ok_or(Refusal::NotFound)
            }
            Question::Credentials => {
                let hash = mailbox.map(|mailbox| mailbox.password().map(Into::into));
                hash.map(Answer::Credentials).ok_or(Refusal::NotFound)
            }
            Question::Cids { uses, all } => {
                let asked = AskedCids { user, session, request, uses, all };
                self.cids(replica, asked, out);
                return;
            }
            Question::Talks { .. } | Question::History(_) | Question::GroupLog { .. } => {
                self.search(replica, user, (session, request), question, out);
                return;
            }
            Question::Groups => {
                mailbox.map(|mailbox| Answer::Groups(mailbox.groups())).ok_or(Refusal::NotFound)
            }
            Question::GroupInfo { by } => match (user.group(), mailbox.and_then(Mailbox::group)) {
                (Some(id), Some(group)) => {
                    group.info(&by).map(|info| Answer::Group(id, Box::new(info)))
                }
                _ => Err(Refusal::NotFound),
            },
            Question::Blocked | Question::Settings | Question::Profile { .. } => {
                Self::of_people(replica, &(user, question))
            }
            Question::Progress { by } => {
                let group = mailbox.and_then(Mailbox::group).ok_or(Refusal::NotFound);
                group.and_then(|group| group.progress(&by)).map(Answer::Progress)
            }
            Question::Presence { by } if mailbox.is_some() => {
                out.push(Output::IsThere(user, (session, request), by));
                return;
            }
            Question::Presence { .. } => Err(Refusal::NotFound),
            // Answered by the lane, which knows who is connected.
            Question::Sessions => Ok(Answer::Sessions(Vec::new())),
            Question::Open => Ok(Answer::Done),
            Question::Register(_) => Err(Refusal::Taken),
            // Invariant: these are changes.
            Question::RemoveDevice(_)
            | Question::Erase
            | Question::Group { .. }
            | Question::People(_)
            | Question::Password { .. } => Err(Refusal::Unavailable),
        };
        out.push(Output::Tell(session, Tell::Answer { request, answer }));
    }

    fn cids(&mut self, replica: &Replica, asked: AskedCids, out: &mut Vec<Output>) {
        let AskedCids { ref user, session, request, ref uses, all } = asked;
        let nobody = Cids::default();
        let cids = replica.state().mailbox(user).map_or(&nobody, Mailbox::cids);
        let now = replica.state().now();
        let heard: Vec<CidUse> = self.heard.of(user).collect();
        let clash = |cid: CidUse| cids.clash(cid, now) || heard.iter().any(|h| h.clashes(cid));
        let taken: Vec<bool> = uses.iter().map(|cid| clash(*cid)).collect();
        let free = uses.iter().zip(&taken).filter(|(_, taken)| !**taken).map(|(cid, _)| *cid);
        if free.clone().any(|cid| self.heard.is_open(user, session, cid)) {
            // Who is not answered asks again.
            if self.open.len() < OPEN_MAX {
                self.open.push(asked);
            }
            return;
        }
        let mut all = if all { cids.short(CIDS_TOLD_MAX) } else { None };
        if let Some(all) = &mut all {
            all.extend(heard.iter().map(|heard| heard.short()));
        }
        for cid in free {
            out.push(Output::Used(user.clone(), session, cid.short()));
            self.heard.word(user.clone(), session, cid);
        }
        let answer = Ok(Answer::Cids { taken, all });
        out.push(Output::Tell(session, Tell::Answer { request, answer }));
    }

    /// Looks again at ids of which it was not known whether they are in use.
    pub(super) fn ask_again(&mut self, replica: &Replica, out: &mut Vec<Output>) {
        for asked in std::mem::take(&mut self.open) {
            self.cids(replica, asked, out);
        }
    }
}
