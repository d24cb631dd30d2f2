//! Rules: everything a client decides, as one machine without socket, clock or chance (PROTOCOL.md §2, §3).
//!
//! Owns      where the connection stands, and the inbox, outbox, ticks and readings behind it.
//! Promises  the five lines of "Rules of a client"; every effect is in the order it must happen.
//! Never     does anything: `connection` carries out the effects.

mod asking;
mod hearing;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::closing::{After, Backoff, Pause, after};
use super::inbox::Inbox;
use super::outbox::Outbox;
use super::questions::Questions;
use super::said::{Accepted, Fault, Letter, Request, Resume};
use super::ticks::{Marks, Readings, Ticks};
use super::told::{Event, Why};

/// How long a node may take to greet and to answer `auth`.
const GREETING_WAIT: Duration = Duration::from_secs(10);
/// A connection that lived this long makes the next failure a first one.
const HELD: Duration = Duration::from_secs(2);
/// Requests of the application that may wait for a connection or an answer.
const ASKED_MAX: usize = 1_024;

/// When entries are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// As soon as the application has taken the event.
    #[default]
    Taken,
    /// When the application says so with `ack`.
    Manual,
    /// Never: for tests.
    Never,
}

/// What the rules need to know beforehand.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This device's name.
    pub device: String,
    /// Whether a new credential can be got without the application.
    pub renewable: bool,
    /// Nodes that are tried in turn.
    pub nodes: usize,
    /// Sends in flight per conversation.
    pub window: usize,
    /// Unanswered messages kept; more are refused.
    pub outbox_max: usize,
    /// When entries are acknowledged.
    pub acks: Acks,
}

/// What must now be done, in this order.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields have the names of the protocol")]
pub enum Effect {
    /// Open a socket to a node, after getting a new credential if `renew`.
    Dial { renew: bool },
    /// Close the present socket.
    HangUp,
    /// The next dial goes to this node.
    Prefer(String),
    /// Put a frame on the socket.
    Write(Request),
    /// Remember this before anything later is written.
    Store(Resume),
    /// Tell the application.
    Tell(Event),
    /// A message's fate is known.
    Answer { number: u64, result: Result<Accepted, Fault> },
    /// A request of the application is answered; its `ok` is in the frame at hand.
    Reply { ticket: u64, result: Result<(), Fault> },
}

/// Where the connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Link {
    Idle,
    Waiting(Pause),
    Dialing,
    Greeting { until: Duration },
    Authenticating { until: Duration, node: String },
    Live { since: Duration, leave_at: Option<Duration> },
    Stopped,
}

/// What a request in flight was for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Auth,
    Send(u64),
    Read(String, u64),
    Pull,
    Other(u64),
}

/// See the plaque.
#[derive(Debug)]
pub struct Rules {
    settings: Settings,
    link: Link,
    token: String,
    renew: bool,
    afresh: bool,
    refusal: Option<Fault>,
    backoff: Backoff,
    inbox: Inbox,
    outbox: Outbox,
    ticks: Ticks,
    readings: Readings,
    asked: BTreeMap<u64, Asked>,
    questions: Questions,
    next_id: u64,
    heartbeat: Duration,
    ping_at: Duration,
    heard_at: Duration,
}

impl Rules {
    /// A client that goes on from what an earlier one stored.
    #[must_use]
    pub fn new(settings: Settings, resume: Option<Resume>) -> Self {
        let outbox = Outbox::new(settings.window);
        let backoff = Backoff::over(settings.nodes);
        Self {
            settings,
            link: Link::Idle,
            token: String::new(),
            renew: true,
            afresh: false,
            refusal: None,
            backoff,
            inbox: Inbox::new(resume),
            outbox,
            ticks: Ticks::default(),
            readings: Readings::default(),
            asked: BTreeMap::new(),
            questions: Questions::default(),
            next_id: 0,
            heartbeat: Duration::from_secs(5),
            ping_at: Duration::ZERO,
            heard_at: Duration::ZERO,
        }
    }

    /// Begins: dials.
    pub fn start(&mut self, fx: &mut Vec<Effect>) {
        if self.link == Link::Idle {
            self.dial(fx);
        }
    }

    /// A socket is open, and this is the token to show.
    pub fn dialed(&mut self, token: &str, now: Duration) {
        token.clone_into(&mut self.token);
        self.renew = false;
        self.refusal = None;
        self.heard_at = now;
        self.link = Link::Greeting { until: now + GREETING_WAIT };
    }

    /// No socket could be opened; a node may have said when to come back.
    pub fn dial_failed(
        &mut self,
        why: Why,
        not_before: Duration,
        now: Duration,
        chance: f64,
        fx: &mut Vec<Effect>,
    ) {
        match &why {
            Why::Refused(fault) if !fault.retry => self.stop(why, fx),
            _ => {
                let pause = Pause::new(self.backoff.next(chance), not_before, now);
                self.wait(why, pause, now, fx);
            }
        }
    }

    /// The socket has closed.
    pub fn closed(
        &mut self,
        code: Option<u16>,
        reason: String,
        now: Duration,
        chance: f64,
        fx: &mut Vec<Effect>,
    ) {
        if matches!(self.link, Link::Idle | Link::Waiting(_) | Link::Stopped) {
            return;
        }
        let why = match self.refusal.take() {
            Some(fault) => Why::Refused(fault),
            None => Why::Closed(code, reason),
        };
        self.detach(fx);
        match after(code) {
            After::Stop => self.stop(why, fx),
            After::Renew if !self.settings.renewable => self.stop(why, fx),
            next => {
                self.renew |= next == After::Renew;
                self.afresh |= next == After::Afresh;
                let pause = self.next_pause(now, chance);
                self.wait(why, pause, now, fx);
            }
        }
    }

    /// Sends a message: now, or as soon as it is its turn. Ends a long pause of the connection or the conversation.
    ///
    /// # Errors
    /// The outbox is full or the client has stopped; the message was not taken.
    pub fn send(
        &mut self,
        letter: Letter,
        now: Duration,
        fx: &mut Vec<Effect>,
    ) -> Result<u64, Fault> {
        if self.link == Link::Stopped {
            return Err(Fault::here("gone", "the client has stopped", false));
        }
        if self.outbox.len() >= self.settings.outbox_max {
            return Err(Fault::here("rate_limited", "too many unanswered messages", true));
        }
        let to = letter.to.clone();
        if let Link::Waiting(pause) = &mut self.link {
            pause.hurry();
        }
        self.outbox.hurry(&to);
        let number = self.outbox.push(letter);
        self.offer(&to, now, fx);
        Ok(number)
    }

    /// The user has read a conversation up to `seq`.
    pub fn read(&mut self, conv: &str, seq: u64, fx: &mut Vec<Effect>) {
        if self.readings.want(conv, seq) {
            self.report(conv, fx);
        }
    }

    /// Asks a node something, once; returns the ticket that the answer will carry.
    ///
    /// # Errors
    /// Too much is asked at once, or the client has stopped.
    pub fn ask(
        &mut self,
        op: &str,
        d: Value,
        now: Duration,
        fx: &mut Vec<Effect>,
    ) -> Result<u64, Fault> {
        self.may_ask()?;
        let ticket = self.questions.once(op, d);
        self.ask_queued(now, fx);
        Ok(ticket)
    }

    /// Asks a node something that may safely be asked twice, until it is answered or refused for good, for a minute at
    /// most. Ends a long pause of the connection.
    ///
    /// # Errors
    /// Too much is asked at once, or the client has stopped.
    pub fn insist(
        &mut self,
        op: &str,
        d: Value,
        now: Duration,
        fx: &mut Vec<Effect>,
    ) -> Result<u64, Fault> {
        self.may_ask()?;
        if let Link::Waiting(pause) = &mut self.link {
            pause.hurry();
        }
        let ticket = self.questions.insist(op, d, now);
        self.ask_queued(now, fx);
        Ok(ticket)
    }

    /// Says something that needs no answer, if there is a connection.
    pub fn tell(&self, op: &str, d: Value, fx: &mut Vec<Effect>) {
        if self.is_live() {
            fx.push(Effect::Write(Request::Other { id: None, op: op.to_owned(), d }));
        }
    }

    /// The application has taken the event of entry `n`.
    pub fn taken(&mut self, n: u64, now: Duration) {
        if self.settings.acks == Acks::Taken {
            self.inbox.store(n, now);
        }
    }

    /// The application has stored everything up to `n`.
    pub fn ack(&mut self, n: u64, now: Duration) {
        if self.settings.acks == Acks::Manual {
            self.inbox.store(n, now);
        }
    }

    /// The application ends the connection for good.
    pub fn shut(&mut self, fx: &mut Vec<Effect>) {
        if self.link == Link::Stopped {
            return;
        }
        if self.is_live() {
            self.acknowledge(fx);
        }
        fx.push(Effect::HangUp);
        self.detach(fx);
        self.stop(Why::Asked, fx);
    }

    /// Does what time has made due.
    pub fn due(&mut self, now: Duration, chance: f64, fx: &mut Vec<Effect>) {
        self.give_up(now, fx);
        match self.link {
            Link::Waiting(Pause { until, .. }) if until <= now => self.dial(fx),
            Link::Greeting { until } | Link::Authenticating { until, .. } if until <= now => {
                self.leave(Why::Silent, now, chance, fx);
            }
            Link::Live { leave_at: Some(at), .. } if at <= now => {
                self.acknowledge(fx);
                fx.push(Effect::HangUp);
                self.detach(fx);
                let pause = Pause::new(Duration::ZERO, Duration::ZERO, now);
                self.wait(Why::GoAway, pause, now, fx);
            }
            Link::Live { .. } if self.heard_at + self.patience() <= now => {
                self.leave(Why::Silent, now, chance, fx);
            }
            Link::Live { .. } => self.due_live(now, fx),
            _ => {}
        }
    }

    /// When `due` next has something to do, at the earliest.
    #[must_use]
    pub fn wake(&self) -> Option<Duration> {
        let link = match &self.link {
            Link::Waiting(Pause { until, .. }) => Some(*until),
            Link::Greeting { until } | Link::Authenticating { until, .. } => Some(*until),
            Link::Live { leave_at, .. } => {
                let silent = Some(self.heard_at + self.patience());
                let acks = if self.settings.acks == Acks::Never { None } else { self.inbox.wake() };
                let times = [*leave_at, silent, Some(self.ping_at), acks, self.outbox.wake()];
                times.into_iter().flatten().min()
            }
            Link::Idle | Link::Dialing | Link::Stopped => None,
        };
        [link, self.questions.wake(self.is_live())].into_iter().flatten().min()
    }

    /// Whether the reply to this request is the application's to read.
    #[must_use]
    pub fn is_question(&self, re: u64) -> bool {
        matches!(self.asked.get(&re), Some(Asked::Other(_)))
    }

    /// Whether requests go out at once.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.link, Link::Live { .. })
    }

    /// Whether the client has stopped for good.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.link == Link::Stopped
    }

    /// How many messages are unanswered.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.outbox.len()
    }

    /// The unanswered messages in order.
    pub fn letters(&self) -> impl Iterator<Item = &Letter> {
        self.outbox.letters()
    }

    /// Entries dropped because they had been applied before, since this was last asked.
    pub fn take_duplicates(&mut self) -> u64 {
        std::mem::take(&mut self.inbox.duplicates)
    }

    /// Where a later client would resume.
    #[must_use]
    pub fn position(&self) -> Option<Resume> {
        self.inbox.position()
    }

    /// The newest entry applied.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.inbox.last()
    }

    /// The marks of a conversation.
    #[must_use]
    pub fn marks(&self, conv: &str) -> Marks {
        self.ticks.of(conv)
    }

    /// States what always holds.
    pub fn check(&self) {
        self.inbox.check();
        self.outbox.check();
        // Invariant: nothing is asked of a node that is not there.
        debug_assert!(
            self.asked.is_empty()
                || matches!(self.link, Link::Live { .. } | Link::Authenticating { .. })
        );
    }
}

/// Coming and going.
impl Rules {
    fn dial(&mut self, fx: &mut Vec<Effect>) {
        self.link = Link::Dialing;
        fx.push(Effect::Dial { renew: self.renew });
    }

    fn leave(&mut self, why: Why, now: Duration, chance: f64, fx: &mut Vec<Effect>) {
        fx.push(Effect::HangUp);
        self.detach(fx);
        let pause = self.next_pause(now, chance);
        self.wait(why, pause, now, fx);
    }

    fn next_pause(&mut self, now: Duration, chance: f64) -> Pause {
        match self.link {
            Link::Live { leave_at: Some(at), .. } => {
                return Pause::new(Duration::ZERO, at.saturating_sub(now), now);
            }
            Link::Live { since, .. } if since + HELD <= now => self.backoff.reset(),
            _ => {}
        }
        Pause::new(self.backoff.next(chance), Duration::ZERO, now)
    }

    fn wait(&mut self, why: Why, pause: Pause, now: Duration, fx: &mut Vec<Effect>) {
        self.link = Link::Waiting(pause);
        let retry_in = Some(pause.until - now);
        fx.push(Effect::Tell(Event::Disconnected { why, retry_in }));
    }

    fn stop(&mut self, why: Why, fx: &mut Vec<Effect>) {
        self.link = Link::Stopped;
        for ticket in self.questions.drain() {
            fx.push(Effect::Reply { ticket, result: Err(lost()) });
        }
        fx.push(Effect::Tell(Event::Disconnected { why, retry_in: None }));
    }

    /// The socket is gone: what was in flight is unknown; messages and what is insisted on are repeated.
    fn detach(&mut self, fx: &mut Vec<Effect>) {
        for (_, asked) in std::mem::take(&mut self.asked) {
            if let Asked::Other(ticket) = asked
                && !self.questions.lost(ticket)
            {
                fx.push(Effect::Reply { ticket, result: Err(lost()) });
            }
        }
        self.outbox.detach();
        self.readings.detach();
        self.inbox.detach();
    }

    /// Pings go out a little before they are due.
    fn beat(&self) -> Duration {
        self.heartbeat * 4 / 5
    }

    /// How long a node may be silent: two pings unanswered, and some.
    fn patience(&self) -> Duration {
        self.heartbeat * 5 / 2
    }
}

fn bump(next: &mut u64) -> u64 {
    *next += 1;
    *next
}

fn lost() -> Fault {
    Fault::here("unavailable", "the connection was lost before the answer came", true)
}
