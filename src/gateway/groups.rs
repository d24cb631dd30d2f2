//! Groups: what a connection does about groups. Who is to be in one is looked up first, so that a wrong name is told.

use actors::ids::{Conversation, GroupId, UserId};
use actors::message::Refusal;
use actors::message::group::Call;
use actors::message::people;
use actors::packet::Question;
use actors::session::{Output, RequestRef};

use super::flight::Named;
use super::people::Looking;
use super::rules::{Act, Connection, refuse};
use super::wire::{Error, GroupRequest};
use super::{Limits, Now};

impl Connection {
    pub(super) fn group(
        &mut self,
        id: Option<Box<str>>,
        asked: GroupRequest,
        limits: &Limits,
        now: Now,
        out: &mut Vec<Output>,
        acts: &mut Vec<Act>,
    ) {
        let Some(by) = self.session.user().cloned() else { return };
        let (group, question) = match asked {
            GroupRequest::List => return self.ask(id, Question::Groups, now, out),
            GroupRequest::Create { cid, title, members } => {
                let (rate, burst) = (limits.groups_per_second, limits.groups_burst);
                if let Err(wait) = self.creations.take(10, rate, burst, now.running) {
                    return acts.push(refuse(id, Error::too_fast("too many new groups", wait)));
                }
                let group = GroupId::made_by(&by, &cid);
                let users = members.iter().filter(|user| **user != by).cloned().collect();
                let named = Named::Made(group.clone());
                let call = Call::Create { title, members };
                let request = self.flight.start(id, None, named);
                return self.look_up(request, users, (group, call), now, out, acts);
            }
            GroupRequest::Call(group, call) => {
                if let Call::Add(users) = &call {
                    let users = users.clone();
                    let named = Named::To(Conversation::Group(group.clone()));
                    let request = self.flight.start(id, None, named);
                    return self.look_up(request, users, (group, call), now, out, acts);
                }
                (group, Question::Group { by, call: Box::new(call) })
            }
            GroupRequest::Info(group) => (group, Question::GroupInfo { by }),
            GroupRequest::Receipts(group) => (group, Question::Progress { by }),
        };
        let named = Named::To(Conversation::Group(group.clone()));
        let request = self.flight.start(id, None, named);
        self.session.question_group(request, &group, question, now.running, out);
    }

    fn look_up(
        &mut self,
        request: RequestRef,
        users: Vec<UserId>,
        (group, call): (GroupId, Call),
        now: Now,
        out: &mut Vec<Output>,
        acts: &mut Vec<Act>,
    ) {
        self.looking.push((request, Looking::Group(group, call)));
        if users.is_empty() {
            self.looked(request, Ok(None), now, out, acts);
        } else {
            acts.push(Act::LookUp(request, users));
        }
    }

    /// It is known whether there are all the users that something is about.
    pub(super) fn looked(
        &mut self,
        request: RequestRef,
        unknown: Result<Option<UserId>, Refusal>,
        now: Now,
        out: &mut Vec<Output>,
        acts: &mut Vec<Act>,
    ) {
        let Some(waiting) = self.looked_for(request) else { return };
        match (unknown, waiting, self.session.user().cloned()) {
            (Ok(None), Looking::Group(group, call), Some(by)) => {
                let question = Question::Group { by, call: Box::new(call) };
                self.session.question_group(request, &group, question, now.running, out);
            }
            (Ok(None), Looking::Block(user), _) => {
                let question = Question::People(people::Call::Block(user));
                self.session.question(request, question, now.running, out);
            }
            (Ok(Some(user)), ..) => {
                self.flight.rename(request, Named::To(Conversation::User(user)));
                self.answer(request, Err(Refusal::NotFound), now, acts);
            }
            (Err(refusal), ..) => self.answer(request, Err(refusal), now, acts),
            (Ok(None), Looking::Group(..) | Looking::Names(..), _) => {}
        }
    }
}
