//! Room: whether a connection takes a request now, or says when to come again.

use super::flight::weight_of;
use super::order::{Cause, Mark};
use super::rules::{Connection, TICK};
use super::wire::{Code, Error, Request};
use super::{Limits, Now};

impl Connection {
    /// Whether a request may go on now; a send also for the sake of those before it.
    pub(super) fn may(
        &mut self,
        id: Option<&str>,
        request: &Request,
        mark: Option<Mark>,
        limits: &Limits,
        now: Now,
    ) -> Result<(), Error> {
        let Some(mark) = mark else {
            return self.has_room(id, request, limits, now);
        };
        let held = self.order.may(mark, now.running);
        let room = held.and_then(|()| {
            let room = self.has_room(id, request, limits, now).map_err(|error| (error, Cause::Own));
            let place = room.and_then(|()| self.has_place(limits));
            place.map_err(|(error, cause)| {
                if error.code.retry() {
                    self.order.put_off(mark, &error, cause, now.running);
                }
                error
            })
        });
        self.tell_share();
        room
    }

    /// Forgets what should long have come again, also while the client asks for nothing.
    pub(super) fn forget_old(&mut self, now: Now) {
        self.order.forget_old(now.running);
        self.tell_share();
    }

    /// Says how many of this socket's messages wait for a place.
    pub(super) fn tell_share(&mut self) {
        self.flight.share.without_place(self.order.without_place());
    }

    fn has_place(&self, limits: &Limits) -> Result<(), (Error, Cause)> {
        self.flight.share.room(limits.sends_max).map_err(|wait| {
            (Error::too_fast("the node has more to do than it can", wait), Cause::NoPlace)
        })
    }

    fn has_room(
        &mut self,
        id: Option<&str>,
        request: &Request,
        limits: &Limits,
        now: Now,
    ) -> Result<(), Error> {
        let (rate, burst) = (limits.frames_per_second, limits.frames_burst);
        let weight = weight_of(request, burst);
        if let Err(wait) = self.bucket.take(weight, rate, burst, now.running) {
            let error = Error::too_fast("too many frames", wait);
            if matches!(request, Request::Send(_)) {
                self.order.pause(&error, wait, now.running);
            }
            return Err(error);
        }
        if id.is_some_and(|id| self.flight.has(id)) {
            return Err(Error::new(Code::BadRequest, "id: is in flight already"));
        }
        // What is answered at once is never in flight; and who may not acknowledge is told nothing more.
        let is_done_at_once =
            matches!(request, Request::Ack(_) | Request::Ping(_) | Request::Read { .. });
        if self.flight.len() >= limits.requests_max && !is_done_at_once {
            return Err(Error::too_fast("too many requests in flight", TICK));
        }
        Ok(())
    }
}
