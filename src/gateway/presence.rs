//! Presence: what a connection does about who is there and who is typing.

use actors::ids::{Conversation, UserId};
use actors::message::Refusal;
use actors::session::{Output, RequestRef};

use super::flight::Named;
use super::rules::{Act, Connection, done, refuse};
use super::wire::{Code, Error, PresenceRequest};
use super::{Limits, Now};

impl Connection {
    pub(super) fn presence(
        &mut self,
        id: Option<Box<str>>,
        asked: PresenceRequest,
        limits: &Limits,
        now: Now,
        out: &mut Vec<Output>,
        acts: &mut Vec<Act>,
    ) {
        match asked {
            PresenceRequest::Watch(users) => {
                if let Err(too_many) = self.session.may_watch(&users, now.running, out) {
                    let error = Error::new(Code::TooLarge, too_many.to_string());
                    return acts.push(refuse(id, error));
                }
                let request = self.flight.start(id, None, Named::Nothing);
                self.session.watch(request, users, now.running, out);
            }
            PresenceRequest::Unwatch(users) => {
                self.session.unwatch(&users, out);
                done(id, acts);
            }
            PresenceRequest::Typing { to, on } => {
                let (rate, burst) = (limits.typings_per_second, limits.typings_burst);
                if let Err(wait) = self.typings.take(10, rate, burst, now.running) {
                    let error = Error::too_fast("typing is said too often", wait);
                    return acts.push(refuse(id, error));
                }
                self.session.typing(&to, on, out);
                done(id, acts);
            }
        }
    }

    /// A watch names somebody whom nobody knows.
    pub(super) fn is_unknown(
        &mut self,
        request: RequestRef,
        user: UserId,
        now: Now,
        acts: &mut Vec<Act>,
    ) {
        self.flight.rename(request, Named::To(Conversation::User(user)));
        self.answer(request, Err(Refusal::NotFound), now, acts);
    }
}
