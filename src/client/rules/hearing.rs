//! Hearing: what a frame from the node changes.

use std::time::Duration;

use super::{Asked, Effect, GREETING_WAIT, Link, Rules, bump};
use crate::client::outbox::Verdict;
use crate::client::said::{Accepted, Entry, Fault, Frame, Hello, Reply, Request, Signal, Welcome};
use crate::client::told::{Event, Why};

impl Rules {
    /// A frame has arrived.
    pub fn arrived(&mut self, frame: Frame, now: Duration, chance: f64, fx: &mut Vec<Effect>) {
        self.heard_at = now;
        match frame {
            Frame::Ok { re, with } => self.succeeded(re, with, now, fx),
            Frame::Err { re: Some(re), fault } => self.failed(re, fault, now, chance, fx),
            Frame::Err { re: None, fault } => {
                if fault.retry {
                    let wait = Duration::from_millis(fault.retry_after_ms.unwrap_or_default());
                    self.inbox.put_off(now + wait);
                }
                fx.push(Effect::Tell(Event::Fault(fault)));
            }
            Frame::Entry { n, entry } => {
                for (n, entry) in self.inbox.arrive(n, entry, now) {
                    self.apply(n, entry, fx);
                }
            }
            Frame::Signal(signal) => self.signalled(signal, now, fx),
        }
    }

    fn succeeded(&mut self, re: u64, with: Reply, now: Duration, fx: &mut Vec<Effect>) {
        let Some(asked) = self.asked.remove(&re) else {
            return;
        };
        match (asked, with) {
            (Asked::Auth, Reply::Welcome(welcome)) => self.welcomed(&welcome, now, fx),
            (Asked::Send(number), Reply::Accepted(accepted)) => {
                self.accepted(number, accepted, now, fx);
            }
            (Asked::Read(conv, seq), _) => {
                if self.readings.answered(&conv, seq) {
                    self.report(&conv, fx);
                }
            }
            (Asked::Other(ticket), _) => {
                self.questions.answered(ticket);
                fx.push(Effect::Reply { ticket, result: Ok(()) });
            }
            // A reply of another shape answers nothing: the silence will be noticed.
            (Asked::Auth | Asked::Send(_) | Asked::Pull, _) => {}
        }
    }

    fn failed(&mut self, re: u64, fault: Fault, now: Duration, chance: f64, fx: &mut Vec<Effect>) {
        let Some(asked) = self.asked.remove(&re) else {
            return;
        };
        match asked {
            Asked::Auth if fault.retry => self.leave(Why::Refused(fault), now, chance, fx),
            // Nothing wrong with who asks, but with what: the node waits for a better one, which will not come.
            Asked::Auth if fault.code == "bad_request" => {
                fx.push(Effect::HangUp);
                self.detach(fx);
                self.stop(Why::Refused(fault), fx);
            }
            // The node's close says what to do about it.
            Asked::Auth => self.refusal = Some(fault),
            Asked::Send(number) => {
                let to = self.outbox.letter(number).map(|letter| letter.to.clone());
                let verdict = self.outbox.refused(number, re, fault, now, chance);
                match (verdict, to) {
                    (Verdict::Final(fault), Some(to)) => {
                        fx.push(Effect::Answer { number, result: Err(fault) });
                        self.offer(&to, now, fx);
                    }
                    (Verdict::Held(fault, retry_in), Some(conv)) => {
                        fx.push(Effect::Tell(Event::Delayed { conv, fault, retry_in }));
                    }
                    _ => {}
                }
            }
            Asked::Read(conv, seq) => {
                // Refused for good counts as told; otherwise the next reading tells it.
                self.readings.answered(&conv, if fault.retry { 0 } else { seq });
            }
            Asked::Pull => {}
            Asked::Other(ticket) => {
                let refusal = self.questions.refused(ticket, fault, now, chance);
                fx.extend(refusal.map(|fault| Effect::Reply { ticket, result: Err(fault) }));
            }
        }
    }

    fn welcomed(&mut self, welcome: &Welcome, now: Duration, fx: &mut Vec<Effect>) {
        let Link::Authenticating { node, .. } = &self.link else {
            return;
        };
        let node = node.clone();
        self.link = Link::Live { since: now, leave_at: None };
        self.afresh = false;
        self.ping_at = now + self.beat();
        let fresh = self.inbox.attach(welcome, now);
        let Welcome { n, head, resumed, .. } = *welcome;
        fx.push(Effect::Tell(Event::Connected { node, n, head, resumed }));
        if fresh {
            let reason = welcome.reason.clone().unwrap_or_else(|| "unknown_epoch".to_owned());
            fx.push(Effect::Tell(Event::Fresh { n, reason }));
        }
        let mut offers = Vec::new();
        let next_id = &mut self.next_id;
        self.outbox.offer_all(now, &mut || bump(next_id), &mut offers);
        self.write(offers, fx);
        for conv in self.readings.open() {
            self.report(&conv, fx);
        }
        self.ask_queued(now, fx);
    }

    fn accepted(&mut self, number: u64, accepted: Accepted, now: Duration, fx: &mut Vec<Effect>) {
        let Some(to) = self.outbox.letter(number).map(|letter| letter.to.clone()) else {
            return;
        };
        self.outbox.accepted(number);
        let seq = accepted.seq;
        fx.push(Effect::Answer { number, result: Ok(accepted) });
        self.raise(to.clone(), seq, 0, 0, fx);
        self.offer(&to, now, fx);
    }

    fn apply(&mut self, n: u64, entry: Entry, fx: &mut Vec<Effect>) {
        match entry {
            Entry::Message(message) => fx.push(Effect::Tell(Event::Message { n, message })),
            Entry::Sent(sent) => {
                let (conv, seq) = (sent.conv.clone(), sent.seq);
                fx.push(Effect::Tell(Event::Sent { n, sent }));
                self.raise(conv, seq, 0, 0, fx);
            }
            Entry::Receipt(receipt) => {
                let (conv, delivered, read) =
                    (receipt.conv.clone(), receipt.delivered, receipt.read);
                fx.push(Effect::Tell(Event::Receipt { n, receipt }));
                self.raise(conv, 0, delivered, read, fx);
            }
            Entry::Group(change) => fx.push(Effect::Tell(Event::Group { n, change })),
            Entry::Expired(expired) => fx.push(Effect::Tell(Event::Expired { n, expired })),
            Entry::Other { ev, d } => fx.push(Effect::Tell(Event::Other { n, ev, d })),
        }
    }

    fn raise(&mut self, conv: String, sent: u64, delivered: u64, read: u64, fx: &mut Vec<Effect>) {
        if let Some(marks) = self.ticks.raise(&conv, sent, delivered, read) {
            fx.push(Effect::Tell(Event::Ticks { conv, marks }));
        }
    }

    fn signalled(&mut self, signal: Signal, now: Duration, fx: &mut Vec<Effect>) {
        match signal {
            Signal::Hello(hello) => self.greeted(hello, now, fx),
            Signal::Pong { head, .. } => self.inbox.heard_head(head, now),
            Signal::CaughtUp { n } => {
                self.inbox.caught_up(n, now);
                fx.push(Effect::Tell(Event::CaughtUp { n }));
            }
            Signal::GoAway { wait_ms, url } => {
                fx.extend(url.map(Effect::Prefer));
                if let Link::Live { leave_at, .. } = &mut self.link {
                    leave_at.get_or_insert(now + Duration::from_millis(wait_ms));
                }
            }
            Signal::Presence(presence) => fx.push(Effect::Tell(Event::Presence(presence))),
            Signal::Typing(typing) => fx.push(Effect::Tell(Event::Typing(typing))),
            Signal::Other { ev, d } => fx.push(Effect::Tell(Event::Signal { ev, d })),
        }
    }

    fn greeted(&mut self, hello: Hello, now: Duration, fx: &mut Vec<Effect>) {
        if !matches!(self.link, Link::Greeting { .. }) {
            return;
        }
        self.heartbeat = Duration::from_millis(hello.heartbeat_ms.max(10));
        self.link = Link::Authenticating { until: now + GREETING_WAIT, node: hello.node };
        let id = bump(&mut self.next_id);
        self.asked.insert(id, Asked::Auth);
        let resume = if self.afresh { None } else { self.inbox.position() };
        let (token, device) = (self.token.clone(), self.settings.device.clone());
        fx.push(Effect::Write(Request::Auth { id, token, device, resume }));
    }
}
