//! People: what a connection does about blocking, settings and profiles, and what members of a group are called.

use std::collections::BTreeMap;
use std::sync::Arc;

use actors::ids::{Conversation, GroupId, UserId};
use actors::message::Refusal;
use actors::message::group::{Call, Info};
use actors::message::people;
use actors::packet::{Answer, Question};
use actors::session::{Output, RequestRef};

use super::Now;
use super::flight::Named;
use super::rules::{Act, Connection, refuse};
use super::wire::{Body, Error, GroupBody, PeopleRequest};

/// Changes of who may see a user that a socket makes at once, and each second: all who watch are told of each.
const SETTINGS_AT_ONCE: u32 = 10;
const SETTINGS_PER_SECOND: u32 = 1;

/// What waits until others were asked about.
#[derive(Debug)]
pub(super) enum Looking {
    /// Whether there are all the users in a call.
    Group(GroupId, Call),
    /// Whether there is a user to block.
    Block(UserId),
    /// What a group's members are called.
    Names(GroupId, Box<Info>),
}

impl Connection {
    pub(super) fn people(
        &mut self,
        id: Option<Box<str>>,
        asked: PeopleRequest,
        now: Now,
        out: &mut Vec<Output>,
        acts: &mut Vec<Act>,
    ) {
        let Some(by) = self.session.user().cloned() else { return };
        let question = match asked {
            PeopleRequest::Blocked => Question::Blocked,
            PeopleRequest::Settings => Question::Settings,
            PeopleRequest::Profile => Question::Profile { by },
            PeopleRequest::Call(people::Call::Block(user)) => {
                let named = Named::To(Conversation::User(user.clone()));
                let request = self.flight.start(id, None, named);
                self.looking.push((request, Looking::Block(user.clone())));
                return acts.push(Act::LookUp(request, vec![user]));
            }
            PeopleRequest::Call(call) => {
                let (rate, burst) = (SETTINGS_PER_SECOND, SETTINGS_AT_ONCE);
                if matches!(call, people::Call::LastSeen(_))
                    && let Err(wait) = self.settings.take(10, rate, burst, now.running)
                {
                    let error = Error::too_fast("settings are changed too often", wait);
                    return acts.push(refuse(id, error));
                }
                Question::People(call)
            }
        };
        self.ask(id, question, now, out);
    }

    /// What a request waited for, if it did.
    pub(super) fn looked_for(&mut self, request: RequestRef) -> Option<Looking> {
        let found = self.looking.iter().position(|(waiting, _)| *waiting == request);
        found.map(|place| self.looking.swap_remove(place).1)
    }

    /// A home has answered a question; of a group's members it is asked, too, what they are called.
    pub(super) fn told(
        &mut self,
        request: RequestRef,
        answer: Result<Answer, Refusal>,
        now: Now,
        acts: &mut Vec<Act>,
    ) {
        match answer {
            Ok(Answer::Group(group, info)) => {
                let users = info.members.iter().map(|(user, _)| user.clone()).collect();
                self.looking.push((request, Looking::Names(group, info)));
                acts.push(Act::Name(request, users));
            }
            answer => self.answer(request, answer.map(Body::from), now, acts),
        }
    }

    /// It is known what a group's members are called, as far as it can be.
    pub(super) fn named(
        &mut self,
        request: RequestRef,
        names: BTreeMap<UserId, Arc<str>>,
        now: Now,
        acts: &mut Vec<Act>,
    ) {
        if let Some(Looking::Names(group, info)) = self.looked_for(request) {
            let body = Body::Group(GroupBody::Info(group, info, names));
            self.answer(request, Ok(body), now, acts);
        }
    }
}
