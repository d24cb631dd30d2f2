//! Session: the rules of one socket's attachment to its own mailbox, and of what it asks there.

mod asks;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use asks::Waiting;
pub(super) use watching::Watching;

use super::cids;
use super::streams::{Streams, Turn};
use super::{AckedTooFar, Limits, Output, RequestRef};
use crate::ids::{DeviceId, Epoch, Number, SessionId, ShardId, Timestamp, UserId, shard_of};
use crate::message::{CidUse, Entry, Position, Refusal, Resume, Send, What};
use crate::packet::{Ask, Closed, Start, Tell, ToHome};

/// One socket, as seen from its gateway.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    limits: Arc<Limits>,
    shards: u16,
    home: ShardId,
    /// Counts attachments from 1.
    life: u32,
    stage: Stage,
    caught_up: CaughtUp,
    who: Option<(UserId, DeviceId)>,
    start: Start,
    since: Timestamp,
    /// The life of the log that the client was told of; none before the first attachment.
    epoch: Option<Epoch>,
    sent: Number,
    acked: Number,
    head: Number,
    /// When the newest attachment was asked for.
    asked: Duration,
    /// When the home was told last that the client is alive.
    alive: Option<Duration>,
    waiting: Option<Box<Waiting>>,
    streams: Option<Box<Streams>>,
    watching: Option<Box<Watching>>,
    /// Whether the user has other sessions.
    company: bool,
    /// Whether the user shows themselves to nobody, and so is shown nobody.
    hides: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not authenticated.
    New,
    /// Between homes.
    Parked {
        /// Since when.
        since: Duration,
        /// When to ask again.
        retry: Duration,
    },
    /// The home pushes.
    Attached,
    /// Closed, or given up.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CaughtUp {
    No,
    Told,
}

impl Session {
    /// Makes the session of a new socket, in a cluster of so many shards.
    #[must_use]
    pub fn new(id: SessionId, shards: u16, limits: Arc<Limits>) -> Self {
        Self {
            id,
            limits,
            shards,
            home: ShardId(0),
            life: 0,
            stage: Stage::New,
            caught_up: CaughtUp::No,
            who: None,
            start: Start::Device,
            since: Timestamp(0),
            epoch: None,
            sent: Number(0),
            acked: Number(0),
            head: Number(0),
            asked: Duration::ZERO,
            alive: None,
            waiting: None,
            streams: None,
            watching: None,
            company: false,
            hides: false,
        }
    }

    /// Attaches to the user's mailbox; answered by `Attached`, `Refused` or `Unavailable`.
    ///
    /// `since` is the gateway's wall clock: of two sockets of one device the newer wins.
    pub fn authenticate(
        &mut self,
        user: UserId,
        device: DeviceId,
        resume: Option<Resume>,
        since: Timestamp,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        if self.stage != Stage::New {
            return;
        }
        self.home = shard_of(&user, self.shards);
        self.who = Some((user, device));
        self.start = resume.map_or(Start::Device, Start::Resume);
        self.since = since;
        out.push(Output::Watch(self.home));
        self.stage = Stage::Parked { since: now, retry: now };
        self.attach(now, out);
    }

    /// Whose session this is; none before authentication.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        self.who.as_ref().map(|(user, _)| user)
    }

    /// The device on this socket; none before authentication.
    #[must_use]
    pub fn device(&self) -> Option<&DeviceId> {
        self.who.as_ref().map(|(_, device)| device)
    }

    /// The newest entry of the log, as far as known.
    #[must_use]
    pub fn head(&self) -> Number {
        self.head.max(self.sent)
    }

    /// Whether `tick` has something to watch over; an idle session has not.
    #[must_use]
    pub fn needs_tick(&self) -> bool {
        let asks = || self.waiting.is_some() || self.watching.as_ref().is_some_and(|w| w.asks());
        matches!(self.stage, Stage::Parked { .. })
            || (self.stage == Stage::Attached
                && (asks() || self.streams.as_ref().is_some_and(|s| !s.is_empty())))
    }

    /// The device has everything up to `n`; refused beyond what this socket was sent.
    pub fn ack(&mut self, n: Number, out: &mut Vec<Output>) -> Result<(), AckedTooFar> {
        if n > self.sent {
            return Err(AckedTooFar { newest: self.sent });
        }
        if n > self.acked {
            self.acked = n;
            self.acknowledge(out);
        }
        Ok(())
    }

    /// The client is alive; the home hears it now and then.
    pub fn alive(&mut self, now: Duration, out: &mut Vec<Output>) {
        let due = self.alive.is_none_or(|told| now.saturating_sub(told) >= self.limits.alive);
        if due && self.stage == Stage::Attached {
            self.alive = Some(now);
            self.ask(Ask::Alive, out);
            // An acknowledgement lost on the way is made good here.
            self.acknowledge(out);
        }
    }

    /// Forwards a message to its recipient's mailbox; answered by `Sent`.
    pub fn send(&mut self, request: RequestRef, send: Send, now: Duration, out: &mut Vec<Output>) {
        self.streams.get_or_insert_default();
        self.with_streams(now, |streams, turn| streams.send(turn, request, send, out));
        self.ask_cids(now, out);
    }

    /// What a home says.
    pub fn tell(&mut self, tell: Tell, now: Duration, out: &mut Vec<Output>) {
        match tell {
            Tell::Attached { life, position } => self.attached(life, position, now, out),
            Tell::Entries { life, entries, head } => self.entries(life, entries, head, now, out),
            Tell::CaughtUp { life, head } => self.all_pushed(life, head, out),
            Tell::Pulled { life, entries } => self.pulled(life, entries, now, out),
            Tell::Sent { to, place, result } => {
                self.with_streams(now, |streams, turn| {
                    streams.answered(turn, &to, place, result, out);
                });
            }
            Tell::Broken { to, life } => {
                self.with_streams(now, |streams, turn| streams.broken(turn, &to, life, out));
            }
            Tell::NotHome { shard } => self.not_home(shard, now, out),
            Tell::Closed { life, why } => self.closed(life, why, now, out),
            Tell::Answer { request, answer } if cids::is_own(request) => {
                self.cids_told(request, answer, now, out);
            }
            Tell::Answer { request, answer } => self.answered(RequestRef(request), answer, out),
            Tell::Company { life, others } => self.company = others && life == self.life,
            Tell::Used { cid } => {
                if let Some(streams) = &mut self.streams {
                    streams.cids().learn(cid);
                }
            }
            Tell::Presence(user, told) => self.told_presence(user, told, now, out),
            Tell::Typing { conv, from, on } => out.push(Output::Typing { conv, from, on }),
            Tell::Hides(hides) => self.hide(hides, now, out),
            Tell::Cards(_) => {} // asked for by others than sessions
        }
        self.ask_cids(now, out);
    }

    /// The shard has a new home, or the way to it is back.
    pub fn home_moved(&mut self, shard: ShardId, now: Duration, out: &mut Vec<Output>) {
        if shard == self.home {
            self.park(now, now);
            if matches!(self.stage, Stage::Parked { .. }) {
                self.attach(now, out);
            }
        }
        self.ask_elsewhere_at(shard, now);
        self.watch_again(shard, now, out);
        self.with_streams(now, |streams, turn| streams.home_moved(turn, shard, out));
    }

    /// An `Output::Home` for this shard could not be sent.
    pub fn home_failed(&mut self, shard: ShardId, now: Duration, out: &mut Vec<Output>) {
        let retry = now + self.limits.retry;
        if shard == self.home {
            self.park(retry, now);
        }
        self.ask_again_at(shard, retry, now, out);
    }

    /// Repeats what may have been lost and gives up what waited too long; call it each 200 ms or so while
    /// `needs_tick`.
    pub fn tick(&mut self, now: Duration, out: &mut Vec<Output>) {
        if let Stage::Parked { since, retry } = self.stage {
            let limits = &self.limits;
            let first = self.epoch.is_none();
            let patience = if first { limits.first_attach } else { limits.parked };
            if now.saturating_sub(since) >= patience {
                self.stage = Stage::Over;
                out.push(Output::Unavailable);
            } else if now >= retry {
                self.attach(now, out);
            }
        }
        self.tick_waiting(now, out);
        self.tick_watching(now, out);
        let attached = self.stage == Stage::Attached;
        self.with_streams(now, |streams, turn| {
            if !attached {
                streams.cids().ask_again();
            }
            streams.tick(turn, out);
        });
        self.ask_cids(now, out);
    }

    /// The socket is gone.
    pub fn close(&mut self, out: &mut Vec<Output>) {
        self.watch_nobody(out);
        if self.life > 0 {
            self.ask(Ask::Detach { life: self.life }, out);
            out.push(Output::Unwatch(self.home));
        }
        if let Some(streams) = &self.streams {
            streams.unwatch(self.home, out);
        }
        self.stage = Stage::Over;
    }

    /// States what always holds.
    pub fn check(&self) {
        // Invariant: nobody acknowledges what was not sent.
        assert!(self.acked <= self.sent);
        // Invariant: only what is known can be attached to.
        assert!(self.stage != Stage::Attached || (self.epoch.is_some() && self.who.is_some()));
        if let Some(streams) = &self.streams {
            streams.check();
        }
        self.check_watching();
    }

    #[cfg(test)]
    pub(super) fn streams_are_empty(&self) -> bool {
        self.streams.as_ref().is_none_or(|streams| streams.is_empty())
    }

    fn attach(&mut self, now: Duration, out: &mut Vec<Output>) {
        let Some((_, device)) = &self.who else { return };
        self.life += 1;
        self.company = false;
        self.asked = now;
        // Many log in at once: the first attachment is asked for more and more rarely.
        let rarer = if self.epoch.is_none() { self.life.min(3) } else { 1 };
        if let Stage::Parked { retry, .. } = &mut self.stage {
            *retry = now + self.limits.answer * rarer;
        }
        let start = match self.epoch {
            None => self.start,
            Some(epoch) => Start::Continue(Resume { n: self.sent, epoch }),
        };
        let ask = Ask::Attach {
            life: self.life,
            device: device.clone(),
            start,
            acked: self.acked,
            since: self.since,
        };
        self.ask(ask, out);
    }

    fn attached(
        &mut self,
        life: u32,
        position: Result<Position, Refusal>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let Stage::Parked { retry, .. } = &mut self.stage else {
            return;
        };
        if life != self.life {
            return;
        }
        match position {
            Err(Refusal::Unavailable | Refusal::Overloaded) => *retry = now + self.limits.retry,
            Err(refusal) => {
                self.stage = Stage::Over;
                out.push(Output::Refused(refusal));
            }
            Ok(position) => self.positioned(position, now, out),
        }
    }

    fn positioned(&mut self, position: Position, now: Duration, out: &mut Vec<Output>) {
        match self.epoch {
            None => {
                self.epoch = Some(position.epoch);
                self.sent = position.from;
                self.acked = position.from;
                out.push(Output::Attached(position));
            }
            // The log is another one, or what the client lacks is gone: only a new `auth` can tell it so.
            Some(epoch) if epoch != position.epoch || position.from > self.sent => {
                self.stage = Stage::Over;
                out.push(Output::Unavailable);
                return;
            }
            Some(_) => {}
        }
        self.head = self.head.max(position.head);
        self.stage = Stage::Attached;
        self.alive = Some(now);
        self.repeat(now, out);
    }

    fn entries(
        &mut self,
        life: u32,
        mut entries: Vec<Entry>,
        head: Number,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        if self.stage != Stage::Attached || life != self.life {
            return;
        }
        let mut gap = false;
        entries.retain(|entry| {
            let next = entry.n == self.sent.next();
            gap |= entry.n > self.sent.next();
            if next {
                self.sent = entry.n;
            }
            next
        });
        self.head = self.head.max(head);
        self.learn(&entries);
        if !entries.is_empty() {
            out.push(Output::Entries { entries, head: self.head() });
        }
        if gap {
            self.reattach(now, out);
        }
    }

    /// Learns which `cid`s are in use, also from the user's other devices.
    fn learn(&mut self, entries: &[Entry]) {
        let Some(streams) = &mut self.streams else {
            return;
        };
        for entry in entries {
            if let What::Sent { cid, .. } = &entry.what {
                streams.cids().learn(CidUse::short_of(cid));
            }
        }
    }

    fn all_pushed(&mut self, life: u32, head: Number, out: &mut Vec<Output>) {
        let current = self.stage == Stage::Attached && life == self.life;
        if current && self.caught_up == CaughtUp::No {
            self.caught_up = CaughtUp::Told;
            self.head = self.head.max(head);
            out.push(Output::CaughtUp { head });
        }
    }

    fn closed(&mut self, life: u32, why: Closed, now: Duration, out: &mut Vec<Output>) {
        if life != self.life || matches!(self.stage, Stage::New | Stage::Over) {
            return;
        }
        match why {
            Closed::Lost => self.reattach(now, out),
            Closed::Replaced | Closed::DeviceRemoved => {
                self.stage = Stage::Over;
                out.push(Output::Close(why));
            }
        }
    }

    /// Attaches anew at once, but not faster than `retry`.
    fn reattach(&mut self, now: Duration, out: &mut Vec<Output>) {
        let earliest = self.asked + self.limits.retry;
        self.park(earliest.max(now), now);
        if earliest <= now {
            self.attach(now, out);
        }
    }

    /// What was asked of this shard was asked of a node that does not lead it.
    fn not_home(&mut self, shard: ShardId, now: Duration, out: &mut Vec<Output>) {
        let retry = now + self.limits.retry / 2;
        // Soon after an attachment it is the old home's answer to what crossed the news of the new one; what waits was
        // asked again since.
        let late = self.stage == Stage::Attached && now < self.asked + self.limits.answer;
        if shard == self.home && !late {
            self.park(retry, now);
        }
        self.ask_again_at(shard, retry, now, out);
    }

    /// What the shard was asked for others than the session's own mailbox is asked again, not before this moment.
    fn ask_again_at(
        &mut self,
        shard: ShardId,
        retry: Duration,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        self.ask_elsewhere_at(shard, retry);
        self.ask_of_presence_at(shard, retry);
        self.with_streams(now, |streams, _| streams.home_failed(shard, retry, out));
    }

    fn park(&mut self, retry_at: Duration, now: Duration) {
        match &mut self.stage {
            Stage::Attached => self.stage = Stage::Parked { since: now, retry: retry_at },
            Stage::Parked { retry, .. } => *retry = retry_at.min(*retry),
            Stage::New | Stage::Over => {}
        }
    }

    fn acknowledge(&self, out: &mut Vec<Output>) {
        if self.stage == Stage::Attached && self.acked > Number(0) {
            self.ask(Ask::Acknowledge { life: self.life, n: self.acked }, out);
        }
    }

    fn ask(&self, ask: Ask, out: &mut Vec<Output>) {
        if let Some((user, _)) = &self.who {
            let (shard, user, session) = (self.home, user.clone(), self.id);
            out.push(Output::Home(ToHome { shard, user, session, ask }));
        }
    }

    fn with_streams(&mut self, now: Duration, act: impl FnOnce(&mut Streams, Turn<'_>)) {
        // Between homes nobody can be asked, and the user goes on writing.
        let knows_all = !self.company && self.head <= self.sent;
        let all_told = self.stage != Stage::Attached || knows_all;
        let (session, home, shards) = (self.id, self.home, self.shards);
        let (limits, watching) = (&*self.limits, self.watching.as_deref());
        let turn = Turn { session, home, limits, now, shards, all_told, watching };
        if let Some(streams) = &mut self.streams {
            act(streams, turn);
        }
    }
}
