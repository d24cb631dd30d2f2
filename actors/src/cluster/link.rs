//! Link: everything one node says to one other, and how it notices that the other is gone.
//!
//! Owns      the sessions to its peer, which of them counts, and what was taken from it.
//! Promises  packets of one class arrive in the order they were left, without gaps, between `up` and `down`.
//! Never     stops a remote actor (that would take the whole session down with it) or waits for anything.
//! Fails by  being replaced by a new one; the sessions end with it, so both ends start afresh.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef};
use ractor_cluster::{NodeSessionMessage, RactorMessage};

use super::dial::dial;
use super::frame::{self, Head, Hello, Joiner, Kind, Rest};
use super::gate::Gate;
use super::links::Shared;
use super::net;
use super::rules::{Class, Detector, Health, Pairing, Receipts, Redial};
use crate::ids::BootId;
use crate::packet::Packet;

/// What a link is told.
#[derive(RactorMessage)]
pub(super) enum Msg {
    /// Packets wait at the gate.
    Flush,
    /// A frame from the peer.
    Arrived { head: Head, bytes: Vec<u8> },
    /// A session to the peer is ready.
    SessionReady { session: ActorRef<NodeSessionMessage>, boot: BootId },
    /// A session has ended.
    SessionLost(ActorId),
    /// The node server has died, and all sessions with it.
    AllLost,
    /// `probe` has passed.
    ProbeDue,
    /// It may be time to dial.
    DialDue,
    /// A dial has come to something or to nothing.
    DialEnded,
}

/// The actor.
pub(super) struct Link;

/// What a link is started with.
pub(super) struct Arguments {
    pub(super) shared: Arc<Shared>,
    pub(super) gate: Arc<Gate>,
    pub(super) address: String,
}

pub(super) struct State {
    myself: ActorRef<Msg>,
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    address: String,
    /// Ready sessions; the last one counts. There are several only until the node server has elected one.
    sessions: Vec<Session>,
    pairing: Pairing,
    detector: Detector,
    redial: Redial,
    receipts: Receipts,
    joiner: Joiner,
    /// The peer's newest clock, and when it came in.
    clock: Option<(u32, Duration)>,
}

struct Session {
    actor: ActorRef<NodeSessionMessage>,
    boot: BootId,
    /// The peer's router. Remote: only ever cast to.
    router: ActorRef<Vec<u8>>,
}

impl Actor for Link {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments { shared, gate, address } = arguments;
        if gate.close() {
            shared.inbound.down(gate.node);
        }
        gate.serve(myself.clone());
        myself.cast(Msg::ProbeDue)?;
        Ok(State {
            myself,
            pairing: Pairing::default(),
            detector: Detector::new(&shared.timing),
            redial: Redial::new(&shared.timing),
            receipts: Receipts::default(),
            joiner: Joiner::default(),
            clock: None,
            sessions: Vec::new(),
            shared,
            gate,
            address,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Flush => state.flush(),
            Msg::Arrived { head, bytes } => state.arrived(&head, &bytes),
            Msg::SessionReady { session, boot } => state.session_ready(session, boot),
            Msg::SessionLost(id) => state.session_lost(id),
            Msg::AllLost => state.all_lost(),
            Msg::ProbeDue => state.probe(),
            Msg::DialDue => state.dial_if_due(),
            Msg::DialEnded => {
                state.redial.ended();
                state.plan_dial();
            }
        }
        Ok(())
    }
}

impl State {
    /// Sends all that waits at the gate.
    fn flush(&mut self) {
        for (class, mut frame) in self.gate.take() {
            let head = self.head(Kind::Packets(class));
            frame::stamp(&mut frame, &head);
            self.cast(frame);
        }
    }

    fn arrived(&mut self, head: &Head, bytes: &[u8]) {
        let body = bytes.get(frame::HEAD_BYTES..).unwrap_or_default();
        self.gate.count(|counts| counts.frames_in += 1);
        if head.kind == Kind::Hello {
            self.hello(head, body);
        } else if !self.pairing.belongs(head.boot, head.life) {
            self.gate.count(|counts| counts.stale += 1);
            return;
        }
        let now = self.shared.now();
        self.detector.heard(now);
        self.clock = Some((head.clock, now));
        if self.pairing.about_us(head.echo) {
            self.gate.taken(head.taken);
            self.measure(head.clock_echo);
        }
        if let Kind::Packets(class) = head.kind {
            self.deliver(class, head.rest, body);
        }
        if self.receipts.worth_telling() {
            self.tell_taken();
        }
    }

    fn hello(&mut self, head: &Head, body: &[u8]) {
        let me = self.shared.me;
        let honest = frame::unpack_hello(body)
            .is_some_and(|hello| *hello.cluster == *self.shared.cluster && hello.to == me);
        if !honest {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let heard = self.pairing.hello(head.boot, head.life, head.echo);
        if heard.new_life {
            self.receipts = Receipts::default();
            self.joiner = Joiner::default();
            self.go_down();
        }
        if heard.answer {
            self.say_hello();
        }
        match self.pairing.up() {
            Some(boot) if !self.gate.is_up() => {
                self.gate.open(boot);
                tracing::info!(node = %self.gate.node, "link is up");
                self.shared.inbound.up(self.gate.node, boot);
            }
            Some(_) => {}
            None => self.go_down(),
        }
    }

    fn deliver(&mut self, class: Class, rest: Rest, body: &[u8]) {
        let joined = self.joiner.join(class, rest, body);
        self.receipts.took(class, body.len() as u64);
        let Some((packets, undecodable)) = joined else {
            return;
        };
        self.gate.count(|counts| {
            counts.undecodable += undecodable;
            counts.packets_in += packets.len() as u64;
        });
        if !packets.is_empty() {
            self.shared.inbound.packets(self.gate.node, packets);
        }
    }

    /// Reports what was taken: with what waits anyway, or in a frame of its own.
    fn tell_taken(&mut self) {
        self.flush();
        if self.receipts.worth_telling() {
            let head = self.head(Kind::Credit);
            self.cast(frame::bare(&head, None));
        }
    }

    fn measure(&mut self, clock_echo: u32) {
        if clock_echo != 0 {
            let micros = clock(self.shared.now()).wrapping_sub(clock_echo);
            let rtt = Duration::from_micros(u64::from(micros));
            self.gate.count(|counts| counts.rtt = Some(rtt));
        }
    }

    fn session_ready(&mut self, actor: ActorRef<NodeSessionMessage>, boot: BootId) {
        let name = net::name(boot);
        let router = actor
            .get_children()
            .into_iter()
            .find(|child| child.get_name().as_deref() == Some(&*name));
        let Some(router) = router else {
            actor.stop(Some("no router".to_owned()));
            return;
        };
        // Sessions of an older boot are dead, whether they know it or not. Those of the same boot are left to the
        // node servers, which elect one and the same at both ends.
        let (same, old): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sessions)
            .into_iter()
            .partition(|session| session.boot == boot);
        for session in old {
            session.actor.stop(Some("older boot".to_owned()));
        }
        self.sessions = same;
        self.sessions.push(Session { actor, boot, router: ActorRef::from(router) });
        self.session_changed();
    }

    fn session_lost(&mut self, id: ActorId) {
        let current = self.sessions.last().map(|session| session.actor.get_id());
        self.sessions.retain(|session| session.actor.get_id() != id);
        match (current == Some(id), self.sessions.is_empty()) {
            (true, true) => self.all_lost(),
            (true, false) => self.session_changed(),
            (false, _) => {}
        }
    }

    /// Another session counts from now on: a new life.
    fn session_changed(&mut self) {
        self.go_down();
        self.pairing.opened(self.gate.next_life());
        self.detector.opened(self.shared.now());
        self.clock = None;
        self.say_hello();
    }

    fn all_lost(&mut self) {
        self.sessions.clear();
        self.go_down();
        self.pairing.closed();
        self.detector.closed();
        self.redial.lost(self.shared.now(), chance());
        self.plan_dial();
    }

    fn go_down(&mut self) {
        if self.gate.close() {
            tracing::info!(node = %self.gate.node, "link is down");
            self.shared.inbound.down(self.gate.node);
        }
    }

    fn probe(&mut self) {
        let now = self.shared.now();
        self.gate.sample(now);
        if self.detector.look(now) == Health::Suspect {
            self.reap();
        } else if self.gate.is_up() {
            self.beat();
        } else if !self.sessions.is_empty() {
            self.say_hello();
        } else {
            self.dial_if_due();
        }
        // Armed anew each time: an interval would make up for missed ticks in a burst.
        self.myself.send_after(self.shared.timing.probe, || Msg::ProbeDue);
    }

    /// The peer is silent. Ends the sessions ourselves, for nobody else would.
    fn reap(&mut self) {
        tracing::warn!(node = %self.gate.node, "peer is silent, its session is ended");
        self.gate.count(|counts| counts.reaped += 1);
        for session in &self.sessions {
            session.actor.stop(Some("silent".to_owned()));
        }
        self.all_lost();
    }

    fn beat(&mut self) {
        let beat = Packet::Beat(self.shared.inbound.beat());
        // Refused only when the peer takes nothing at all, and then the detector is about to speak.
        let _ = self.gate.send(Class::Control, &[beat]);
    }

    fn say_hello(&mut self) {
        let hello = Hello { cluster: self.shared.cluster.as_str().into(), to: self.gate.node };
        let head = self.head(Kind::Hello);
        self.cast(frame::bare(&head, Some(&hello)));
        self.gate.count(|counts| counts.frames_out += 1);
    }

    fn dial_if_due(&mut self) {
        let now = self.shared.now();
        if !self.sessions.is_empty() || !self.redial.due(now) {
            return;
        }
        self.redial.begun(now, chance());
        let label = self.shared.label(self.gate.node);
        let dialling = dial(self.shared.clone(), self.address.clone(), label);
        let link = self.myself.clone();
        tokio::spawn(async move {
            dialling.await;
            // A link that was replaced meanwhile plans its own dials.
            let _ = link.cast(Msg::DialEnded);
        });
    }

    fn plan_dial(&mut self) {
        if self.sessions.is_empty() {
            let wait = self.redial.wait(self.shared.now());
            self.myself.send_after(wait, || Msg::DialDue);
        }
    }

    fn head(&mut self, kind: Kind) -> Head {
        let now = self.shared.now();
        let clock_echo = self.clock.map_or(0, |(theirs, then)| {
            theirs.wrapping_add(clock(now.saturating_sub(then))).max(1)
        });
        Head {
            kind,
            rest: Rest::Whole,
            from: self.shared.me,
            boot: self.shared.boot,
            life: self.pairing.ours().unwrap_or_default(),
            echo: self.pairing.echo(),
            clock: clock(now),
            clock_echo,
            taken: self.receipts.tell(),
        }
    }

    fn cast(&mut self, frame: Vec<u8>) {
        let Some(session) = self.sessions.last() else {
            return;
        };
        if session.router.cast(frame).is_err() {
            // The router is gone without the session: the peer replaces it, and then starts afresh.
            session.actor.stop(Some("router gone".to_owned()));
        }
    }
}

/// A span as the head of a frame holds it: microseconds, wrapping, never 0.
fn clock(span: Duration) -> u32 {
    let micros = span.as_micros() & u128::from(u32::MAX);
    u32::try_from(micros).unwrap_or_default().max(1)
}

fn chance() -> u32 {
    use rand::Rng;
    rand::rng().random()
}
