//! Asking: what a client puts on a live socket, and when.

use std::time::Duration;

use super::{ASKED_MAX, Acks, Asked, Effect, Link, Rules, bump, lost};
use crate::client::inbox::{PULL_LIMIT, Wanted};
use crate::client::outbox::Offer;
use crate::client::said::{Fault, Request};

impl Rules {
    pub(super) fn due_live(&mut self, now: Duration, fx: &mut Vec<Effect>) {
        if self.ping_at <= now {
            self.ping_at = now + self.beat();
            let n = if self.settings.acks == Acks::Never { None } else { self.inbox.ride() };
            self.store(n, fx);
            fx.push(Effect::Write(Request::Ping { n }));
        }
        for wanted in self.inbox.due(now) {
            match wanted {
                Wanted::Ack(_) if self.settings.acks == Acks::Never => {}
                Wanted::Ack(n) => {
                    self.store(Some(n), fx);
                    fx.push(Effect::Write(Request::Ack { n }));
                }
                Wanted::Pull(after) => {
                    let id = bump(&mut self.next_id);
                    self.asked.insert(id, Asked::Pull);
                    fx.push(Effect::Write(Request::Pull { id, after, limit: PULL_LIMIT }));
                }
            }
        }
        let mut offers = Vec::new();
        let next_id = &mut self.next_id;
        self.outbox.due(now, &mut || bump(next_id), &mut offers);
        self.write(offers, fx);
        self.ask_queued(now, fx);
    }

    /// What is stored is remembered before it is acknowledged, or a crash between would lose it.
    pub(super) fn store(&self, n: Option<u64>, fx: &mut Vec<Effect>) {
        if n.is_some() {
            fx.extend(self.inbox.position().map(Effect::Store));
        }
    }

    pub(super) fn acknowledge(&mut self, fx: &mut Vec<Effect>) {
        if self.settings.acks == Acks::Never {
            return;
        }
        let n = self.inbox.ride();
        self.store(n, fx);
        fx.extend(n.map(|n| Effect::Write(Request::Ack { n })));
    }

    pub(super) fn offer(&mut self, to: &str, now: Duration, fx: &mut Vec<Effect>) {
        if !self.is_live() {
            return;
        }
        let mut offers = Vec::new();
        let next_id = &mut self.next_id;
        self.outbox.offer(to, now, &mut || bump(next_id), &mut offers);
        self.write(offers, fx);
    }

    pub(super) fn write(&mut self, offers: Vec<Offer>, fx: &mut Vec<Effect>) {
        for Offer { id, number, letter } in offers {
            self.asked.insert(id, Asked::Send(number));
            fx.push(Effect::Write(Request::Send { id, letter }));
        }
    }

    pub(super) fn report(&mut self, conv: &str, fx: &mut Vec<Effect>) {
        if !self.is_live() {
            return;
        }
        let Some(seq) = self.readings.take(conv) else {
            return;
        };
        let id = bump(&mut self.next_id);
        self.asked.insert(id, Asked::Read(conv.to_owned(), seq));
        fx.push(Effect::Write(Request::Read { id, conv: conv.to_owned(), seq }));
    }

    pub(super) fn may_ask(&self) -> Result<(), Fault> {
        if self.link == Link::Stopped {
            return Err(Fault::here("gone", "the client has stopped", false));
        }
        if self.questions.len() >= ASKED_MAX || self.asked.len() >= 64 * ASKED_MAX {
            return Err(Fault::here("rate_limited", "too many requests at once", true));
        }
        Ok(())
    }

    pub(super) fn ask_queued(&mut self, now: Duration, fx: &mut Vec<Effect>) {
        if !self.is_live() {
            return;
        }
        while let Some((ticket, op, d)) = self.questions.take(now) {
            let id = bump(&mut self.next_id);
            self.asked.insert(id, Asked::Other(ticket));
            fx.push(Effect::Write(Request::Other { id: Some(id), op, d }));
        }
    }

    /// What was asked for long enough is answered with why it was not.
    pub(super) fn give_up(&mut self, now: Duration, fx: &mut Vec<Effect>) {
        for (ticket, refusal) in self.questions.given_up(now) {
            self.asked.retain(|_, asked| *asked != Asked::Other(ticket));
            fx.push(Effect::Reply { ticket, result: Err(refusal.unwrap_or_else(lost)) });
        }
    }
}
