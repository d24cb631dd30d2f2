//! Laws: the rules alone against a model of a node, under any sequence of faults, one step at a time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use crate::client::rules::{Acks, Effect, Rules, Settings};
use crate::client::said::{
    Accepted, Entry, Fault, Frame, Hello, Letter, Message, Reply, Request, Signal, Welcome,
};
use crate::client::told::{Event, Why};

/// What chance does next.
#[derive(Debug, Clone, Copy)]
enum Step {
    Send(u8),
    Pass,
    LoseReply,
    LoseEntry,
    RepeatEntry,
    Refuse,
    Cut,
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3_u8).prop_map(Step::Send),
        8 => Just(Step::Pass),
        1 => Just(Step::LoseReply),
        1 => Just(Step::LoseEntry),
        1 => Just(Step::RepeatEntry),
        1 => Just(Step::Refuse),
        1 => Just(Step::Cut),
        2 => (1..2_000_u16).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..150)
}

fn settings() -> Settings {
    Settings {
        device: "d".into(),
        renewable: false,
        nodes: 1,
        window: 3,
        outbox_max: 1_000,
        acks: Acks::Taken,
    }
}

/// One client and one node; the client talks to itself, so that its log holds all it sends.
struct Table {
    rules: Rules,
    now: Duration,
    to_node: VecDeque<Request>,
    to_client: VecDeque<Frame>,
    log: Vec<Entry>,
    accepted: BTreeMap<String, u64>,
    seqs: BTreeMap<String, u64>,
    pushed: u64,
    refuse: bool,
    barred: BTreeMap<String, String>,
    acked: u64,
    answered: BTreeMap<u64, u64>,
    heard: Vec<(u64, String)>,
}

impl Table {
    fn new() -> Self {
        let mut table = Self {
            rules: Rules::new(settings(), None),
            now: Duration::ZERO,
            to_node: VecDeque::new(),
            to_client: VecDeque::new(),
            log: Vec::new(),
            accepted: BTreeMap::new(),
            seqs: BTreeMap::new(),
            pushed: 0,
            refuse: false,
            barred: BTreeMap::new(),
            acked: 0,
            answered: BTreeMap::new(),
            heard: Vec::new(),
        };
        table.act(|rules, _, fx| rules.start(fx));
        table
    }

    fn act(&mut self, act: impl FnOnce(&mut Rules, Duration, &mut Vec<Effect>)) {
        let mut fx = Vec::new();
        act(&mut self.rules, self.now, &mut fx);
        self.rules.check();
        for effect in fx {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Dial { .. } => {
                self.to_node.clear();
                self.to_client.clear();
                self.act(|rules, now, _| rules.dialed("t", now));
                let hello = Hello { node: "a".into(), heartbeat_ms: 5_000, window: 256 };
                self.to_client.push_back(Frame::Signal(Signal::Hello(hello)));
            }
            Effect::HangUp => {
                self.to_node.clear();
                self.to_client.clear();
            }
            Effect::Write(request) => self.to_node.push_back(request),
            Effect::Tell(Event::Message { n, message }) => {
                self.heard.push((n, message.mid));
                self.rules.taken(n, self.now);
            }
            Effect::Answer { number, result } => {
                let before = self.answered.insert(number, result.unwrap().seq);
                assert_eq!(before, None, "a message is answered once");
            }
            _ => {}
        }
    }

    fn send(&mut self, conv: u8) {
        self.pushed += 1;
        let letter = Letter::text(&format!("u:{conv}"), format!("c{}", self.pushed), "hi");
        self.act(|rules, now, fx| assert!(rules.send(letter, now, fx).is_ok()));
    }

    /// The node reads one frame and the client one.
    fn pass(&mut self) {
        if let Some(request) = self.to_node.pop_front() {
            self.node(request);
        }
        if let Some(frame) = self.to_client.pop_front() {
            self.act(|rules, now, fx| rules.arrived(frame, now, 0.5, fx));
        }
    }

    fn node(&mut self, request: Request) {
        let reply = |re, with| Frame::Ok { re, with };
        match request {
            Request::Auth { id, resume, .. } => {
                self.barred.clear();
                let n = resume.map_or(self.acked, |resume| resume.n);
                let head = self.log.len() as u64;
                let resumed = true;
                let welcome = Welcome { epoch: "e".into(), n, head, resumed, reason: None };
                self.to_client.push_back(reply(id, Reply::Welcome(welcome)));
                self.push_from(n);
                self.to_client.push_back(Frame::Signal(Signal::CaughtUp { n: head }));
            }
            Request::Send { id, letter } => self.take(id, &letter),
            Request::Ack { n } | Request::Ping { n: Some(n) } => {
                assert!(n <= self.heard.len() as u64, "acknowledged before it was stored");
                self.acked = self.acked.max(n);
                self.pong();
            }
            Request::Ping { n: None } => self.pong(),
            Request::Pull { id, after, .. } => {
                self.to_client.push_back(reply(id, Reply::Other));
                self.push_from(after);
            }
            Request::Read { id, .. } => self.to_client.push_back(reply(id, Reply::Other)),
            Request::Other { .. } => {}
        }
    }

    fn pong(&mut self) {
        let head = self.log.len() as u64;
        self.to_client.push_back(Frame::Signal(Signal::Pong { head, server_time_ms: 0 }));
    }

    fn take(&mut self, id: u64, letter: &Letter) {
        // As a node does: after a refusal that may pass, the conversation is closed on this socket until the
        // refused one comes again.
        let barred = self.barred.get(&letter.to).is_some_and(|cid| *cid != letter.cid);
        let known = self.accepted.contains_key(&letter.cid);
        let refused = std::mem::take(&mut self.refuse);
        if !known && (refused || barred) {
            self.barred.entry(letter.to.clone()).or_insert_with(|| letter.cid.clone());
            let fault = Fault::here("unavailable", "", true);
            self.to_client.push_back(Frame::Err { re: Some(id), fault });
            return;
        }
        if !barred {
            self.barred.remove(&letter.to);
        }
        let dup = self.accepted.contains_key(&letter.cid);
        if !dup {
            let seq = self.seqs.entry(letter.to.clone()).or_default();
            *seq += 1;
            self.accepted.insert(letter.cid.clone(), *seq);
            self.log.push(Entry::Message(Message {
                mid: letter.cid.clone(),
                conv: letter.to.clone(),
                from: "me".into(),
                device: "d".into(),
                seq: *seq,
                at: 0,
                kind: "text".into(),
                body: String::new(),
                reply_to: None,
                client: None,
            }));
            self.push_from(self.log.len() as u64 - 1);
        }
        let (mid, seq) = (letter.cid.clone(), self.accepted[&letter.cid]);
        let accepted = Accepted { mid, seq, at: 0, dup };
        self.to_client.push_back(Frame::Ok { re: id, with: Reply::Accepted(accepted) });
    }

    fn push_from(&mut self, after: u64) {
        for (i, entry) in self.log.iter().enumerate().skip(after as usize) {
            self.to_client.push_back(Frame::Entry { n: i as u64 + 1, entry: entry.clone() });
        }
    }

    fn step(&mut self, step: Step) {
        let is_reply = |frame: &Frame| matches!(frame, Frame::Ok { with: Reply::Accepted(_), .. });
        let is_entry = |frame: &Frame| matches!(frame, Frame::Entry { .. });
        match step {
            Step::Send(conv) => self.send(conv),
            Step::Pass => self.pass(),
            Step::Refuse => self.refuse = true,
            Step::LoseReply => {
                let at = self.to_client.iter().position(is_reply);
                at.and_then(|at| self.to_client.remove(at));
            }
            Step::LoseEntry => {
                let at = self.to_client.iter().position(is_entry);
                at.and_then(|at| self.to_client.remove(at));
            }
            Step::RepeatEntry => {
                let entry = self.to_client.iter().find(|frame| is_entry(frame)).cloned();
                self.to_client.extend(entry);
            }
            Step::Cut => {
                self.to_node.clear();
                self.to_client.clear();
                let why = String::new();
                self.act(|rules, now, fx| rules.closed(None, why, now, 0.5, fx));
            }
            Step::Wait(ms) => {
                self.now += Duration::from_millis(ms.into());
                self.act(|rules, now, fx| rules.due(now, 0.5, fx));
            }
        }
    }

    /// No more faults: time passes until all is answered and heard.
    fn settle(&mut self) {
        self.refuse = false;
        for _ in 0..20_000 {
            self.pass();
            if !self.to_node.is_empty() || !self.to_client.is_empty() {
                continue;
            }
            if self.answered.len() as u64 == self.pushed && self.heard.len() == self.log.len() {
                return;
            }
            self.now = self.rules.wake().expect("it waits for something").max(self.now);
            self.act(|rules, now, fx| rules.due(now, 0.5, fx));
        }
        panic!("it never settled: {:?}", self.rules);
    }
}

#[test]
fn something_to_say_ends_a_long_wait_for_the_next_attempt() {
    let (mut rules, mut fx, mut now) = (Rules::new(settings(), None), Vec::new(), Duration::ZERO);
    let gone = || Why::Unreachable("gone".into());
    rules.start(&mut fx);
    for _ in 0..8 {
        rules.dial_failed(gone(), Duration::ZERO, now, 1.0, &mut fx);
        now = rules.wake().unwrap();
        rules.due(now, 1.0, &mut fx);
    }
    rules.dial_failed(gone(), Duration::ZERO, now, 1.0, &mut fx);
    assert_eq!(rules.wake(), Some(now + Duration::from_secs(30)));
    let said = now + Duration::from_millis(100);
    rules.send(Letter::text("u:a", "c1".into(), "hi"), said, &mut fx).unwrap();
    let soon = now + Duration::from_millis(3_875);
    assert_eq!(rules.wake(), Some(soon));
    fx.clear();
    rules.due(soon, 1.0, &mut fx);
    assert_eq!(fx, [Effect::Dial { renew: true }]);
}

proptest! {
    #[test]
    fn whatever_fails_every_message_is_stored_once_in_order_and_told_once(steps in steps()) {
        let mut table = Table::new();
        for step in steps {
            table.step(step);
        }
        table.settle();
        prop_assert_eq!(table.accepted.len() as u64, table.pushed);
        // Numbers were told without gap or repetition.
        let told: Vec<u64> = table.heard.iter().map(|(n, _)| *n).collect();
        prop_assert_eq!(told, (1..=table.pushed).collect::<Vec<_>>());
        // In each conversation the order of writing is the order of storing.
        let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
        for entry in &table.log {
            let Entry::Message(message) = entry else { continue };
            let written: u64 = message.mid[1..].parse().unwrap();
            let before = newest.insert(&message.conv, written).unwrap_or(0);
            prop_assert!(written > before, "{} overtook {}", before, written);
        }
    }
}

#[test]
fn an_auth_that_is_malformed_is_not_tried_again() {
    let (mut rules, mut fx, now) = (Rules::new(settings(), None), Vec::new(), Duration::ZERO);
    rules.start(&mut fx);
    rules.dialed("token", now);
    let hello = Hello { node: "a".into(), heartbeat_ms: 5_000, window: 256 };
    rules.arrived(Frame::Signal(Signal::Hello(hello)), now, 1.0, &mut fx);
    let id = fx.iter().find_map(|effect| match effect {
        Effect::Write(Request::Auth { id, .. }) => Some(*id),
        _ => None,
    });
    let fault = Fault::here("bad_request", "device: must be 1 to 32 of A-Z a-z 0-9 . _ -", false);
    fx.clear();
    rules.arrived(Frame::Err { re: id, fault: fault.clone() }, now, 1.0, &mut fx);
    let why = Why::Refused(fault);
    assert_eq!(fx, [Effect::HangUp, Effect::Tell(Event::Disconnected { why, retry_in: None })]);
    assert!(rules.is_stopped());
}
