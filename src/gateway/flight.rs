//! Flight: the requests of one socket that wait for their answer, and how fast they may come.

use std::time::Duration;

use actors::ids::{Conversation, DeviceId, GroupId};
use actors::message::Refusal;
use actors::session::RequestRef;

use super::order::Mark;
use super::pressure::Share;
use super::wire::{Body, Error, GroupBody, Request};

/// Whom or what a request names: that may turn out not to exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    Nothing,
    To(Conversation),
    Device(DeviceId),
    /// A group that is being made.
    Made(GroupId),
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(super) struct Waiting {
    request: RequestRef,
    pub(super) id: Option<Box<str>>,
    pub(super) mark: Option<Mark>,
    pub(super) named: Named,
}

/// The `id`s of requests in flight.
#[derive(Debug)]
pub(super) struct Flight {
    newest: u32,
    waiting: Vec<Waiting>,
    /// Of the messages that all sockets have on their way.
    pub(super) share: Share,
}

impl Flight {
    /// An empty table keeps room for so many.
    const KEPT: usize = 8;

    /// An empty one, that has its share of what all sockets may send.
    pub(super) fn sharing(share: Share) -> Self {
        Self { newest: 0, waiting: Vec::new(), share }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.waiting.iter().any(|waiting| waiting.id.as_deref() == Some(id))
    }

    /// Takes a request in, under a number that is not in flight; a send with its mark.
    pub(super) fn start(
        &mut self,
        id: Option<Box<str>>,
        mark: Option<Mark>,
        named: Named,
    ) -> RequestRef {
        self.newest = self.newest.wrapping_add(1) & (u32::MAX >> 1);
        let request = RequestRef(self.newest);
        if mark.is_some() {
            self.share.take();
        }
        self.waiting.push(Waiting { request, id, mark, named });
        request
    }

    /// What a request names turns out to be something else.
    pub(super) fn rename(&mut self, request: RequestRef, named: Named) {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.request == request) {
            waiting.named = named;
        }
    }

    /// Gives back a request that is answered now.
    pub(super) fn finish(&mut self, request: RequestRef) -> Waiting {
        let found = self.waiting.iter().position(|waiting| waiting.request == request);
        let Some(place) = found else {
            return Waiting { request, id: None, mark: None, named: Named::Nothing };
        };
        let waiting = self.waiting.swap_remove(place);
        if waiting.mark.is_some() {
            self.share.give_back();
        }
        if self.waiting.is_empty() && self.waiting.capacity() > Self::KEPT {
            self.waiting = Vec::new();
        }
        waiting
    }
}

impl Named {
    /// The answer, with the name of what was made.
    pub(super) fn body(&self, body: Body) -> Body {
        match self {
            Self::Made(group) => Body::Group(GroupBody::Made(group.clone())),
            _ => body,
        }
    }

    /// A refusal in words: what does not exist is named.
    pub(super) fn refused(&self, refusal: Refusal) -> Error {
        let error = Error::from(refusal);
        let message = match (refusal, self) {
            (Refusal::NotFound, Self::To(Conversation::User(user))) => {
                format!("no such user: {user}")
            }
            (Refusal::NotFound, Self::To(Conversation::Group(group))) => {
                format!("no such group: {group}")
            }
            (Refusal::NotFound, Self::Device(device)) => format!("no such device: {device}"),
            _ => return error,
        };
        Error { message: message.into(), ..error }
    }
}

/// What a request weighs, in tenths of a frame; never more than a whole burst.
pub(super) fn weight_of(request: &Request, burst: u32) -> u32 {
    match request {
        // What keeps the protocol going is cheap, and refusing it would only make things worse.
        Request::Ack(_) | Request::Ping(_) => 1,
        // Each user named is looked up.
        Request::Group(asked) => (10 * (1 + asked.names())).min(burst.max(1).saturating_mul(10)),
        Request::People(asked) => (10 * (1 + asked.names())).min(burst.max(1).saturating_mul(10)),
        // Each user named has a home that is asked.
        Request::Presence(asked) => (10 + asked.names()).min(burst.max(1).saturating_mul(10)),
        _ => 10,
    }
}

/// How fast frames may come: a leaky bucket, kept as the moment when it will be empty (GCRA).
#[derive(Debug, Default)]
pub(super) struct Bucket {
    empty_at: Duration,
}

impl Bucket {
    /// Takes a frame of some weight (10 is a whole one) in, or says how long to wait.
    pub(super) fn take(
        &mut self,
        weight: u32,
        per_second: u32,
        burst: u32,
        now: Duration,
    ) -> Result<(), Duration> {
        if per_second == 0 {
            return Ok(());
        }
        let each = Duration::from_secs(1) / per_second;
        let full = each * burst;
        let empty_at = self.empty_at.max(now) + each * weight / 10;
        if empty_at > now + full {
            return Err(empty_at - now - full);
        }
        self.empty_at = empty_at;
        Ok(())
    }
}
