//! Gateway: what a connection may do, when, and how it ends.

use std::time::Duration;

use actors::ids::{Number, ShardId, UserId};
use actors::message::{Entry, Position, Refusal, Send};
use actors::packet::{Closed, Question, ToHome};
use actors::router::Inbound;
use actors::session::{Output, RequestRef, Session};

use super::flight::{Bucket, Flight, Named, Waiting};
use super::goodbye::{BadFrame, Goodbye, NotAdmitted};
use super::order::{Mark, Order};
use super::people::Looking;
use super::pressure::Share;
use super::wire::{Body, Code, Draft, Error, Frame, Outgoing, Request};
use super::{Limits, Now, TokenRefused, Verified};

/// How often a session that waits for something looks at its clock.
pub(super) const TICK: Duration = Duration::from_millis(200);
/// How long a drained client may take beyond what it was told to wait.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// What must now be done for a connection, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    /// Say this to the client.
    Tell(Outgoing),
    /// Ask whether there are such users; say what came of it with `inbound`.
    LookUp(RequestRef, Vec<UserId>),
    /// Ask what these users are called; say what came of it with `inbound`.
    Name(RequestRef, Vec<UserId>),
    /// Send this to the home of a mailbox; if that fails, say so with `home_failed`.
    Home(ToHome),
    /// Say from now on when this shard has a new home.
    Watch(ShardId),
    /// No longer.
    Unwatch(ShardId),
    /// End the socket with this code.
    Close(Goodbye),
}

/// How far a connection has come.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Greeted: only `auth` is taken, and only so long.
    Greeted { until: Duration },
    /// The home is asked; nothing else is read meanwhile.
    Authenticating { re: Option<Box<str>> },
    /// Everything goes.
    Open,
    /// The end was said.
    Closing,
}

/// One socket's rules.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) session: Session,
    stage: Stage,
    pub(super) flight: Flight,
    pub(super) bucket: Bucket,
    pub(super) creations: Bucket,
    pub(super) typings: Bucket,
    pub(super) settings: Bucket,
    /// What waits until others were asked about.
    pub(super) looking: Vec<(RequestRef, Looking)>,
    pub(super) order: Order,
    heard: Duration,
    /// When the session, which waits for something, looks at its clock next.
    tick: Option<Duration>,
    token_ends: Option<Duration>,
    drained: Option<Duration>,
}

impl Connection {
    /// A socket that was just greeted.
    pub(super) fn new(session: Session, share: Share, limits: &Limits, now: Now) -> Self {
        Self {
            session,
            stage: Stage::Greeted { until: now.running + limits.auth_deadline },
            flight: Flight::sharing(share),
            bucket: Bucket::default(),
            creations: Bucket::default(),
            typings: Bucket::default(),
            settings: Bucket::default(),
            looking: Vec::new(),
            order: Order::default(),
            heard: now.running,
            tick: None,
            token_ends: None,
            drained: None,
        }
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Whether frames are read now.
    pub(super) fn reads(&self) -> bool {
        matches!(self.stage, Stage::Greeted { .. } | Stage::Open)
    }

    /// Any sign of life.
    pub(super) fn heard(&mut self, now: Now) {
        self.heard = now.running;
    }

    /// A frame. `admit` checks a token and takes a place for its user.
    pub(super) fn frame(
        &mut self,
        frame: Frame,
        limits: &Limits,
        now: Now,
        admit: impl FnOnce(&str) -> Result<Verified, NotAdmitted>,
        acts: &mut Vec<Act>,
    ) {
        self.heard(now);
        let Frame { id, auth, request } = frame;
        match (&self.stage, request) {
            (Stage::Greeted { .. }, Ok(Request::Auth { token, device, resume })) => {
                match admit(&token) {
                    Err(why) => self.not_admitted(id, why, acts),
                    Ok(verified) => {
                        let left = verified.expires_at.since(now.wall);
                        self.token_ends = Some(now.running.saturating_add(left));
                        self.stage = Stage::Authenticating { re: id };
                        let mut out = Vec::new();
                        let Verified { user, .. } = verified;
                        let running = now.running;
                        self.session
                            .authenticate(user, device, resume, now.wall, running, &mut out);
                        self.carry(out, now, acts);
                    }
                }
            }
            (Stage::Greeted { .. }, request) => {
                if let Err(error) = request {
                    acts.push(refuse(id, error));
                }
                if !auth {
                    self.close(Goodbye::BadFrame(BadFrame::NotAuth), acts);
                }
            }
            (Stage::Open, request) => self.open_frame(id, request, limits, now, acts),
            (Stage::Authenticating { .. } | Stage::Closing, _) => {}
        }
    }

    /// Bytes that are no frame, or a kind of message this socket does not speak.
    pub(super) fn bad_frame(&mut self, why: BadFrame, acts: &mut Vec<Act>) {
        self.close(Goodbye::BadFrame(why), acts);
    }

    /// Something for this socket from elsewhere in the cluster.
    pub(super) fn inbound(&mut self, inbound: Inbound, now: Now, acts: &mut Vec<Act>) {
        let mut out = Vec::new();
        match inbound {
            Inbound::Tell(tell) => self.session.tell(tell, now.running, &mut out),
            Inbound::HomeMoved(shard) => self.session.home_moved(shard, now.running, &mut out),
            Inbound::Looked { request, unknown } => {
                self.looked(RequestRef(request), unknown, now, &mut out, acts);
            }
            Inbound::Named { request, names } => {
                self.named(RequestRef(request), names, now, acts);
            }
            Inbound::Drain { wait_ms, elsewhere: url } => {
                let wait = Duration::from_millis(wait_ms) + DRAIN_GRACE;
                self.drained = Some(now.running + wait);
                acts.push(Act::Tell(Outgoing::GoAway { wait_ms, url }));
            }
        }
        self.carry(out, now, acts);
    }

    /// An `Act::Home` for this shard failed.
    pub(super) fn home_failed(&mut self, shard: ShardId, now: Now, acts: &mut Vec<Act>) {
        let mut out = Vec::new();
        self.session.home_failed(shard, now.running, &mut out);
        self.carry(out, now, acts);
    }

    /// When `sweep` must be called next, unless something else happens before.
    pub(super) fn due(&mut self, limits: &Limits, now: Now) -> Duration {
        let quiet = match self.stage {
            Stage::Greeted { until } => until,
            // The session waits for its home, and ticks; or there is nothing to wait for.
            Stage::Authenticating { .. } | Stage::Closing => Duration::MAX,
            Stage::Open => self.heard + limits.heartbeat * 3,
        };
        // Whatever else happens does not put it off: a busy socket would never look.
        let next = self.tick.unwrap_or(now.running + TICK);
        self.tick = self.session.needs_tick().then_some(next);
        let ends = [self.token_ends, self.drained, self.tick, self.order.due()];
        ends.into_iter().flatten().fold(quiet, Duration::min)
    }

    /// Looks at the clock.
    pub(super) fn sweep(&mut self, limits: &Limits, now: Now, acts: &mut Vec<Act>) {
        let over = |end: Option<Duration>| end.is_some_and(|end| now.running >= end);
        let why = match self.stage {
            Stage::Closing => return,
            Stage::Greeted { until } if now.running >= until => Some(Goodbye::NoAuth),
            Stage::Open if now.running >= self.heard + limits.heartbeat * 3 => {
                Some(Goodbye::HeartbeatLost)
            }
            _ if over(self.drained) => Some(Goodbye::GoAway),
            _ if over(self.token_ends) => Some(Goodbye::TokenExpired),
            _ => None,
        };
        if let Some(why) = why {
            return self.close(why, acts);
        }
        if over(self.order.due()) {
            self.forget_old(now);
        }
        if over(self.tick) {
            self.tick = None;
            let mut out = Vec::new();
            self.session.tick(now.running, &mut out);
            self.carry(out, now, acts);
        }
    }

    /// The socket is gone; what is left to do for it.
    pub(super) fn gone(&mut self, now: Now) -> Vec<Act> {
        self.stage = Stage::Closing;
        let (mut out, mut acts) = (Vec::new(), Vec::new());
        self.session.close(&mut out);
        self.carry(out, now, &mut acts);
        acts
    }

    fn not_admitted(&mut self, id: Option<Box<str>>, why: NotAdmitted, acts: &mut Vec<Act>) {
        let (code, goodbye) = match why {
            NotAdmitted::Token(TokenRefused::Expired) => {
                (Code::Unauthenticated, Goodbye::TokenExpired)
            }
            NotAdmitted::Token(_) => (Code::Unauthenticated, Goodbye::AuthenticationFailed),
            NotAdmitted::TooMany => (Code::Forbidden, Goodbye::TooManyConnections),
        };
        acts.push(refuse(id, Error::new(code, why.to_string())));
        self.close(goodbye, acts);
    }

    fn open_frame(
        &mut self,
        id: Option<Box<str>>,
        request: Result<Request, Error>,
        limits: &Limits,
        now: Now,
        acts: &mut Vec<Act>,
    ) {
        let request = match request {
            Ok(request) => request,
            Err(error) => return acts.push(refuse(id, error)),
        };
        let mark = match &request {
            Request::Send(draft) => Some(self.order.mark(draft)),
            _ => None,
        };
        if let Err(error) = self.may(id.as_deref(), &request, mark, limits, now) {
            acts.push(refuse(id, error));
            return self.end_overrun(acts);
        }
        let mut out = Vec::new();
        self.session.alive(now.running, &mut out);
        match request {
            Request::Auth { .. } => {
                let error = Error::new(Code::BadRequest, "op: this socket is authenticated");
                acts.push(refuse(id, error));
            }
            Request::Ack(n) => self.ack(id, n, &mut out, acts),
            Request::Ping(n) => {
                match n {
                    Some(n) => self.ack(id, n, &mut out, acts),
                    None => done(id, acts),
                }
                let (head, server_time) = (self.session.head(), now.wall);
                acts.push(Act::Tell(Outgoing::Pong { head, server_time }));
            }
            Request::Read { conv, seq } => {
                match self.session.read(conv, seq, now.running, &mut out) {
                    Ok(()) => done(id, acts),
                    Err(refusal) => acts.push(refuse(id, refusal.into())),
                }
            }
            Request::Pull { after, limit } => {
                let request = self.flight.start(id, None, Named::Nothing);
                self.session.pull(request, after, limit, now.running, &mut out);
            }
            Request::Send(draft) => self.send(id, mark, *draft, now, &mut out),
            Request::Group(asked) => self.group(id, *asked, limits, now, &mut out, acts),
            Request::Presence(asked) => self.presence(id, asked, limits, now, &mut out, acts),
            Request::People(asked) => self.people(id, *asked, now, &mut out, acts),
            Request::Devices => self.ask(id, Question::Devices, now, &mut out),
            Request::RemoveDevice(device) => {
                self.ask(id, Question::RemoveDevice(device), now, &mut out);
            }
        }
        self.carry(out, now, acts);
    }

    fn ack(&mut self, id: Option<Box<str>>, n: Number, out: &mut Vec<Output>, acts: &mut Vec<Act>) {
        match self.session.ack(n, out) {
            Ok(()) => done(id, acts),
            Err(beyond) => acts.push(refuse(id, Error::new(Code::BadRequest, beyond.to_string()))),
        }
    }

    fn send(
        &mut self,
        id: Option<Box<str>>,
        mark: Option<Mark>,
        draft: Draft,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let Draft { to, cid, content } = draft;
        let (Some(from), Some(device)) = (self.session.user(), self.session.device()) else {
            return;
        };
        let named = Named::To(to.clone());
        let send = Send { from: from.clone(), device: device.clone(), to, cid, content };
        let request = self.flight.start(id, mark, named);
        if let Some(mark) = mark {
            self.order.under_way(mark);
        }
        self.session.send(request, send, now.running, out);
    }

    pub(super) fn ask(
        &mut self,
        id: Option<Box<str>>,
        question: Question,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let named = match &question {
            Question::RemoveDevice(device) => Named::Device(device.clone()),
            _ => Named::Nothing,
        };
        let request = self.flight.start(id, None, named);
        self.session.question(request, question, now.running, out);
    }

    /// Turns what the session wants into what the socket does.
    pub(super) fn carry(&mut self, outputs: Vec<Output>, now: Now, acts: &mut Vec<Act>) {
        for output in outputs {
            match output {
                Output::Home(home) => acts.push(Act::Home(home)),
                Output::Watch(shard) => acts.push(Act::Watch(shard)),
                Output::Unwatch(shard) => acts.push(Act::Unwatch(shard)),
                Output::Attached(position) => self.attached(position, now, acts),
                Output::Refused(refusal) => self.refused(refusal, acts),
                Output::Unavailable => self.unavailable(acts),
                Output::Entries { entries, .. } => tell_all(entries, acts),
                Output::CaughtUp { head } => acts.push(Act::Tell(Outgoing::CaughtUp(head))),
                Output::Sent { request, result } => {
                    self.answer(request, result.map(Body::Sent), now, acts);
                }
                Output::Pulled { request, result } => {
                    let result = result.map(|entries| {
                        tell_all(entries, acts);
                        Body::Done
                    });
                    self.answer(request, result, now, acts);
                }
                Output::Answered { request, answer } => self.told(request, answer, now, acts),
                Output::Unknown { request, user } => self.is_unknown(request, user, now, acts),
                Output::Presence(user, presence) => {
                    acts.push(Act::Tell(Outgoing::Presence(user, presence)));
                }
                Output::Typing { conv, from, on } => {
                    acts.push(Act::Tell(Outgoing::Typing { conv, from, on }));
                }
                Output::Close(Closed::DeviceRemoved) => self.close(Goodbye::DeviceRemoved, acts),
                Output::Close(Closed::Replaced) => self.close(Goodbye::Replaced, acts),
                Output::Close(Closed::Lost) => self.close(Goodbye::Unavailable, acts),
            }
        }
    }

    fn attached(&mut self, position: Position, now: Now, acts: &mut Vec<Act>) {
        let Stage::Authenticating { re } = &mut self.stage else { return };
        let re = re.take();
        self.stage = Stage::Open;
        self.heard = now.running;
        let (Some(re), Some(user), Some(device)) =
            (re, self.session.user().cloned(), self.session.device().cloned())
        else {
            return;
        };
        let body = Body::Auth { user, device, position };
        acts.push(Act::Tell(Outgoing::Ok { re, body }));
    }

    fn refused(&mut self, refusal: Refusal, acts: &mut Vec<Act>) {
        let Stage::Authenticating { re } = &mut self.stage else {
            // A home that took this device before: a new login will say what has changed.
            return self.close(Goodbye::Unavailable, acts);
        };
        let re = re.take();
        acts.push(refuse(re, refusal.into()));
        self.close(Goodbye::AuthenticationFailed, acts);
    }

    fn unavailable(&mut self, acts: &mut Vec<Act>) {
        if let Stage::Authenticating { re } = &mut self.stage {
            let re = re.take();
            acts.push(refuse(re, Refusal::Unavailable.into()));
        }
        self.close(Goodbye::Unavailable, acts);
    }

    pub(super) fn answer(
        &mut self,
        request: RequestRef,
        result: Result<Body, Refusal>,
        now: Now,
        acts: &mut Vec<Act>,
    ) {
        let Waiting { id: re, mark, named, .. } = self.flight.finish(request);
        let is_put_off = matches!(result, Err(Refusal::Unavailable | Refusal::Overloaded));
        let result = result.map_err(|refusal| named.refused(refusal)).map(|body| named.body(body));
        if let Some(mark) = mark {
            self.order.answered(mark, result.as_ref().err(), now.running);
            self.tell_share();
            // What a home refuses is done, too: its place is for another.
            if !is_put_off {
                self.flight.share.answered(now.running);
            }
        }
        match (re, result) {
            (Some(re), Ok(body)) => acts.push(Act::Tell(Outgoing::Ok { re, body })),
            (None, Ok(_)) => {}
            (re, Err(error)) => acts.push(refuse(re, error)),
        }
        self.end_overrun(acts);
    }

    /// More is to be repeated than can be told from what is new.
    fn end_overrun(&mut self, acts: &mut Vec<Act>) {
        if self.order.is_overrun() {
            self.close(Goodbye::Overloaded, acts);
        }
    }

    fn close(&mut self, why: Goodbye, acts: &mut Vec<Act>) {
        if self.stage != Stage::Closing {
            self.stage = Stage::Closing;
            acts.push(Act::Close(why));
        }
    }
}

fn tell_all(entries: Vec<Entry>, acts: &mut Vec<Act>) {
    acts.extend(entries.into_iter().map(|entry| Act::Tell(Outgoing::Entry(entry))));
}

pub(super) fn done(id: Option<Box<str>>, acts: &mut Vec<Act>) {
    if let Some(re) = id {
        acts.push(Act::Tell(Outgoing::Ok { re, body: Body::Done }));
    }
}

pub(super) fn refuse(re: Option<Box<str>>, error: Error) -> Act {
    Act::Tell(Outgoing::Err { re, error })
}
