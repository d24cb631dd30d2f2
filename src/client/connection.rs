//! Connection: carries out what the rules decide, on a real socket with a real clock.
//!
//! Owns      the socket or the attempt to open one, what is waiting to be written, and one timer.
//! Promises  `step` may be dropped at any moment without losing anything.
//! Never     decides: it asks `Rules`. Never spawns: whoever calls `step` gives it its time.
//! Why a poll function and no task: a load generator runs thousands of these, each inside its own loop.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use actors::clock;
use futures_util::{Sink, Stream};
use serde_json::Value;
use tokio::time::Sleep;
use tokio_tungstenite::tungstenite::{self, Message as Packet};

use super::dial::{Credential, Dial, NoSocket, Socket, packet};
use super::frames;
use super::http;
use super::options::{Options, Seen};
use super::rules::{Effect, Rules, Settings};
use super::said::{Accepted, Fault, Frame, Letter};
use super::told::Event;

/// Frames read before what they led to is handed over.
const READ_BATCH: usize = 64;

/// What a step brought.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields have the names of the protocol")]
pub enum Happened {
    /// Something the application hears.
    Event(Event),
    /// A message's fate is known.
    Answered { number: u64, result: Result<Accepted, Fault> },
    /// A request is answered.
    Replied { ticket: u64, result: Result<Value, Fault> },
}

type Dialing = Pin<Box<dyn Future<Output = Result<(Socket, String), NoSocket>> + Send>>;

enum Wire {
    None,
    Dialing(Dialing),
    Open(Box<Socket>),
    /// Hung up; the close is on its way.
    Closing(Box<Socket>),
}

/// See the plaque.
pub struct Connection {
    options: Options,
    rules: Rules,
    start: Instant,
    wire: Wire,
    url: usize,
    token: Option<String>,
    out: VecDeque<Packet>,
    unflushed: bool,
    answers: VecDeque<Happened>,
    events: VecDeque<Event>,
    timer: Option<Pin<Box<Sleep>>>,
    timer_at: Option<Duration>,
    effects: Vec<Effect>,
}

impl Connection {
    /// Prepares a connection; the first step dials.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let settings = Settings {
            device: options.device.clone(),
            renewable: matches!(options.credential, Credential::Password { .. }),
            nodes: options.urls.len(),
            window: options.window,
            outbox_max: options.outbox_max,
            acks: options.acks,
        };
        let mut connection = Self {
            rules: Rules::new(settings, options.resume.clone()),
            options,
            start: clock::monotonic(),
            wire: Wire::None,
            url: 0,
            token: None,
            out: VecDeque::new(),
            unflushed: false,
            answers: VecDeque::new(),
            events: VecDeque::new(),
            timer: None,
            timer_at: None,
            effects: Vec::new(),
        };
        connection.with_rules(|rules, _, _, fx| rules.start(fx));
        connection
    }

    /// What the rules know.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Waits until something has happened. `None` after the end.
    pub async fn step(&mut self) -> Option<Happened> {
        self.step_if(true).await
    }

    /// Like `step`, but without room for events only answers come out.
    pub async fn step_if(&mut self, room: bool) -> Option<Happened> {
        poll_fn(|cx| self.poll_step(cx, room)).await
    }

    /// What has already happened, without waiting. Events taken are acknowledged in time.
    pub fn take(&mut self, room: bool) -> Option<Happened> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        if !room {
            return None;
        }
        let event = self.events.pop_front()?;
        if let Some(n) = event.n() {
            self.rules.taken(n, self.start.elapsed());
        }
        Some(Happened::Event(event))
    }

    /// How many entries came again since this was last asked, and were dropped.
    pub fn take_duplicates(&mut self) -> u64 {
        self.rules.take_duplicates()
    }

    /// Sends a message; its number is in the answer that will come.
    ///
    /// # Errors
    /// The message was not taken; see [`Rules::send`].
    pub fn send(&mut self, letter: Letter) -> Result<u64, Fault> {
        self.with_rules(|rules, now, _, fx| rules.send(letter, now, fx))
    }

    /// The user has read a conversation up to `seq`.
    pub fn read(&mut self, conv: &str, seq: u64) {
        self.with_rules(|rules, _, _, fx| rules.read(conv, seq, fx));
    }

    /// Asks the node something; the ticket is in the answer that will come.
    ///
    /// # Errors
    /// Too much is asked at once; see [`Rules::ask`].
    pub fn ask(&mut self, op: &str, d: Value) -> Result<u64, Fault> {
        self.with_rules(|rules, now, _, fx| rules.ask(op, d, now, fx))
    }

    /// Asks the node something that may safely be asked twice; see [`Rules::insist`].
    ///
    /// # Errors
    /// Too much is asked at once.
    pub fn insist(&mut self, op: &str, d: Value) -> Result<u64, Fault> {
        self.with_rules(|rules, now, _, fx| rules.insist(op, d, now, fx))
    }

    /// Says something that needs no answer.
    pub fn tell(&mut self, op: &str, d: Value) {
        self.with_rules(|rules, _, _, fx| rules.tell(op, d, fx));
    }

    /// Everything up to `n` is stored (with [`Acks::Manual`]).
    pub fn ack(&mut self, n: u64) {
        self.with_rules(|rules, now, _, _| rules.ack(n, now));
    }

    /// Ends the connection; steps until `None` say goodbye properly.
    pub fn shut(&mut self) {
        self.with_rules(|rules, _, _, fx| rules.shut(fx));
    }

    /// Drops the socket as a network would, for tests: the client notices and comes back.
    pub fn cut(&mut self) {
        if matches!(self.wire, Wire::Open(_)) {
            self.wire = Wire::None;
            self.ended(None, "cut".to_owned());
        }
    }

    fn with_rules<T>(
        &mut self,
        act: impl FnOnce(&mut Rules, Duration, f64, &mut Vec<Effect>) -> T,
    ) -> T {
        let mut effects = std::mem::take(&mut self.effects);
        let now = self.start.elapsed();
        let chance = rand::Rng::random(&mut rand::rng());
        let answer = act(&mut self.rules, now, chance, &mut effects);
        for effect in effects.drain(..) {
            self.perform(effect, None);
        }
        self.effects = effects;
        answer
    }

    fn perform(&mut self, effect: Effect, frame: Option<&[u8]>) {
        match effect {
            Effect::Dial { renew } => self.dial(renew),
            Effect::HangUp => self.hang_up(),
            Effect::Prefer(url) => self.prefer(url),
            Effect::Write(request) => {
                let bytes = frames::encode(&request, self.options.format);
                self.observe(Seen::Out(&bytes));
                self.out.push_back(packet(bytes, self.options.format));
            }
            Effect::Store(position) => {
                if let Some(keeper) = &self.options.keeper {
                    keeper(&position);
                }
            }
            Effect::Tell(event) => self.tell_application(event),
            Effect::Answer { number, result } => {
                self.answers.push_back(Happened::Answered { number, result });
            }
            Effect::Reply { ticket, result } => {
                let format = self.options.format;
                let read = |()| frame.and_then(|bytes| frames::decode_ok(bytes, format).ok());
                let result = result.map(|ok| read(ok).unwrap_or(Value::Null));
                self.answers.push_back(Happened::Replied { ticket, result });
            }
        }
    }

    /// Durable events are bounded by the node's window; ephemeral ones by being dropped.
    fn tell_application(&mut self, event: Event) {
        let ephemeral = matches!(
            event,
            Event::Presence(_)
                | Event::Typing(_)
                | Event::Signal { .. }
                | Event::Fault(_)
                | Event::Delayed { .. }
        );
        if !ephemeral || self.events.len() < self.options.events_max {
            self.events.push_back(event);
        }
    }

    fn dial(&mut self, renew: bool) {
        let urls = &self.options.urls;
        let url = urls.get(self.url % urls.len().max(1)).cloned().unwrap_or_default();
        let dial = Dial {
            url,
            user: self.options.user.clone(),
            credential: self.options.credential.clone(),
            token: if renew { None } else { self.token.clone() },
            format: self.options.format,
        };
        self.out.clear();
        self.wire = Wire::Dialing(Box::pin(dial.open()));
    }

    fn prefer(&mut self, url: String) {
        // Such as one behind TLS, which this client does not speak.
        if http::host_of(&url).is_none() {
            return;
        }
        let at = self.options.urls.iter().position(|known| *known == url);
        let at = at.unwrap_or_else(|| {
            self.options.urls.push(url);
            self.options.urls.len() - 1
        });
        // Leaving turns to the next one: stand before it.
        self.url = (at + self.options.urls.len() - 1) % self.options.urls.len();
    }

    fn hang_up(&mut self) {
        self.wire = match std::mem::replace(&mut self.wire, Wire::None) {
            Wire::Open(socket) => {
                self.out.push_back(Packet::Close(None));
                self.observe(Seen::Ended);
                self.turn();
                Wire::Closing(socket)
            }
            _ => Wire::None,
        };
    }

    /// The next attempt goes to the next node.
    fn turn(&mut self) {
        self.url = self.url.wrapping_add(1);
    }

    fn ended(&mut self, code: Option<u16>, reason: String) {
        self.observe(Seen::Ended);
        self.out.clear();
        self.turn();
        self.with_rules(|rules, now, chance, fx| rules.closed(code, reason, now, chance, fx));
    }

    fn observe(&self, seen: Seen<'_>) {
        if let Some(observer) = &self.options.observer {
            observer(seen);
        }
    }
}

/// One step, driven by whoever polls.
impl Connection {
    fn poll_step(&mut self, cx: &mut Context<'_>, room: bool) -> Poll<Option<Happened>> {
        loop {
            let moved = self.poll_wire(cx);
            self.poll_write(cx);
            if let Some(happened) = self.take(room) {
                return Poll::Ready(Some(happened));
            }
            let over = self.rules.is_stopped() && self.events.is_empty();
            if over && matches!(self.wire, Wire::None) {
                return Poll::Ready(None);
            }
            if !moved && self.poll_timer(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Dials or reads. True if there may be more.
    fn poll_wire(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.wire {
            Wire::None => false,
            Wire::Dialing(dialing) => match dialing.as_mut().poll(cx) {
                Poll::Pending => false,
                Poll::Ready(outcome) => {
                    self.dialed(outcome);
                    true
                }
            },
            Wire::Closing(_) => false,
            Wire::Open(_) => self.poll_read(cx),
        }
    }

    fn dialed(&mut self, outcome: Result<(Socket, String), NoSocket>) {
        self.wire = Wire::None;
        match outcome {
            Ok((socket, token)) => {
                let urls = &self.options.urls;
                self.observe(Seen::Opened(&urls[self.url % urls.len()]));
                self.wire = Wire::Open(Box::new(socket));
                self.token = Some(token.clone());
                self.with_rules(|rules, now, _, _| rules.dialed(&token, now));
            }
            Err(NoSocket { why, not_before }) => {
                self.turn();
                self.with_rules(|rules, now, chance, fx| {
                    rules.dial_failed(why, not_before, now, chance, fx);
                });
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> bool {
        for _ in 0..READ_BATCH {
            let Wire::Open(socket) = &mut self.wire else {
                return true;
            };
            match Pin::new(socket.as_mut()).poll_next(cx) {
                Poll::Pending => return false,
                Poll::Ready(Some(Ok(packet))) => self.received(packet),
                Poll::Ready(Some(Err(e))) => {
                    self.wire = Wire::None;
                    self.ended(None, e.to_string());
                }
                Poll::Ready(None) => {
                    self.wire = Wire::None;
                    self.ended(None, "the connection ended".to_owned());
                }
            }
        }
        true
    }

    fn received(&mut self, packet: Packet) {
        match packet {
            Packet::Text(text) => self.frame(text.as_bytes()),
            Packet::Binary(bytes) => self.frame(&bytes),
            Packet::Close(frame) => {
                let (code, reason) = frame.map_or((None, String::new()), |frame| {
                    (Some(frame.code.into()), frame.reason.as_str().to_owned())
                });
                // The library has queued the answering close: it is flushed before the socket goes.
                if let Wire::Open(socket) = std::mem::replace(&mut self.wire, Wire::None) {
                    self.wire = Wire::Closing(socket);
                }
                self.unflushed = true;
                self.ended(code, reason);
            }
            Packet::Ping(_) | Packet::Pong(_) | Packet::Frame(_) => self.unflushed = true,
        }
    }

    fn frame(&mut self, bytes: &[u8]) {
        self.observe(Seen::In(bytes));
        let frame: Frame = match frames::decode(bytes, self.options.format) {
            Ok(frame) => frame,
            Err(e) => {
                tracing::debug!(error = %e, "a frame that cannot be read was passed over");
                return;
            }
        };
        let mut effects = std::mem::take(&mut self.effects);
        let now = self.start.elapsed();
        let chance = match &frame {
            Frame::Err { .. } => rand::Rng::random(&mut rand::rng()),
            _ => 0.5,
        };
        self.rules.arrived(frame, now, chance, &mut effects);
        for effect in effects.drain(..) {
            self.perform(effect, Some(bytes));
        }
        self.effects = effects;
    }

    /// Writes what is waiting, as far as the socket takes it.
    fn poll_write(&mut self, cx: &mut Context<'_>) {
        match self.poll_send(cx) {
            Poll::Pending | Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(e)) => {
                let was_open = matches!(self.wire, Wire::Open(_));
                self.wire = Wire::None;
                self.out.clear();
                if was_open {
                    self.ended(None, e.to_string());
                }
                cx.waker().wake_by_ref();
            }
        }
        // A goodbye gets one attempt: a node that does not take it is not waited for.
        if matches!(self.wire, Wire::Closing(_)) {
            self.wire = Wire::None;
            self.out.clear();
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), tungstenite::Error>> {
        let (Wire::Open(socket) | Wire::Closing(socket)) = &mut self.wire else {
            self.unflushed = false;
            return Poll::Ready(Ok(()));
        };
        let mut socket = Pin::new(socket.as_mut());
        while !self.out.is_empty() {
            ready!(socket.as_mut().poll_ready(cx))?;
            let Some(packet) = self.out.pop_front() else {
                break;
            };
            socket.as_mut().start_send(packet)?;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(socket.as_mut().poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready if something became due and was done.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(wake) = self.rules.wake() else {
            return Poll::Pending;
        };
        let now = self.start.elapsed();
        if wake <= now {
            self.with_rules(Rules::due);
            return Poll::Ready(());
        }
        // A timer that is early enough is left alone: re-arming costs more than one needless wake.
        if self.timer_at.is_none_or(|armed| armed > wake || armed <= now) {
            let deadline = tokio::time::Instant::from_std(self.start + wake);
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(deadline),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(deadline))),
            }
            self.timer_at = Some(wake);
        }
        let Some(timer) = &mut self.timer else {
            return Poll::Pending;
        };
        ready!(timer.as_mut().poll(cx));
        self.timer_at = None;
        Poll::Ready(())
    }
}
