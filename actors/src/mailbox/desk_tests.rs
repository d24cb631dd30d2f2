//! The desk, tested: streams in order, one answer per proposal, merging.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::ids::{BootId, Cid, Kind, NodeId, Timestamp};
use crate::message::{Accepted, Content};

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn device(name: &str) -> DeviceId {
    DeviceId::parse(name).unwrap()
}

fn session(count: u64) -> SessionId {
    SessionId { node: NodeId(1), boot: BootId(7), count }
}

fn message(cid: u64) -> Box<Send> {
    let kind = Kind::parse("text").unwrap();
    let content = Content { kind, body: "hi".into(), reply_to: None, client: None };
    Box::new(Send {
        from: user("alice"),
        device: device("phone"),
        to: Conversation::User(user("bob")),
        cid: Cid::parse(&cid.to_string()).unwrap(),
        content: Arc::new(content),
    })
}

fn send(life: u32, count: u32, cid: u64) -> Input {
    send_of(session(1), life, count, cid, Ok(()))
}

fn send_of(
    session: SessionId,
    life: u32,
    count: u32,
    cid: u64,
    admission: Result<(), Refusal>,
) -> Input {
    let place = Place { life, count };
    Input::Send { session, place, send: message(cid), mid: MessageId(u128::from(cid)), admission }
}

fn accepted(mid: u128) -> Outcome {
    let (mid, seq) = (MessageId(mid), Seq(1));
    Outcome::Accepted(Accepted { mid, seq, at: Timestamp(5), dup: false })
}

struct Bench {
    desk: Desk,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        Self { desk: Desk::new(user("bob")), now: Duration::from_secs(1) }
    }

    fn give(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.desk.handle(self.now, input, &mut out);
        out
    }

    fn wait_ms(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }
}

fn append(ticket: u64, cid: u64) -> Output {
    let change = Change::Append { mid: MessageId(u128::from(cid)), send: message(cid) };
    Output::Propose { ticket, change }
}

fn broken(life: u32) -> Output {
    Output::Tell(session(1), Tell::Broken { to: user("bob"), life })
}

fn refused(life: u32, count: u32, why: Refusal) -> Output {
    let place = Place { life, count };
    Output::Tell(session(1), Tell::Sent { to: user("bob"), place, result: Err(why) })
}

#[test]
fn a_stream_is_let_in_in_order_only() {
    let mut bench = Bench::new();
    assert_eq!(bench.give(send(3, 2, 2)), [broken(3)]);
    assert_eq!(bench.give(send(3, 1, 1)), [append(1, 1)]);
    assert_eq!(bench.give(send(3, 3, 3)), [broken(3)]);
    assert_eq!(bench.give(send(3, 2, 2)), [append(2, 2)]);
    assert_eq!(bench.give(send(3, 2, 2)), []);
    assert_eq!(bench.give(send(2, 1, 9)), []);
    assert_eq!(bench.give(send(5, 2, 4)), [broken(5)]);
    assert_eq!(bench.give(send(5, 1, 4)), [append(3, 4)]);
    assert_eq!(bench.give(send(3, 3, 3)), []);
    assert_eq!(bench.give(send(0, 1, 8)), [append(4, 8)]);
    bench.desk.check();
}

#[test]
fn every_proposal_is_answered_once() {
    let mut bench = Bench::new();
    bench.give(send(1, 1, 1));
    let place = Place { life: 1, count: 1 };
    let Outcome::Accepted(result) = accepted(1) else { panic!() };
    let told = Tell::Sent { to: user("bob"), place, result: Ok(result) };
    let outcome = Input::Outcome { ticket: 1, outcome: accepted(1) };
    assert_eq!(bench.give(outcome.clone()), [Output::Tell(session(1), told)]);
    assert_eq!(bench.give(outcome), []);
    bench.give(send(1, 2, 2));
    let outcome = Input::Outcome { ticket: 2, outcome: Outcome::Refused(Refusal::Conflict) };
    assert_eq!(bench.give(outcome), [refused(1, 2, Refusal::Conflict)]);
    assert!(bench.desk.is_idle());
}

#[test]
fn losing_leadership_breaks_a_stream_once() {
    let mut bench = Bench::new();
    bench.give(send(1, 1, 1));
    bench.give(send(1, 2, 2));
    bench.give(send(0, 0, 3));
    assert_eq!(bench.give(Input::Lost { ticket: 1 }), [broken(1)]);
    assert_eq!(bench.give(Input::Lost { ticket: 2 }), []);
    assert_eq!(bench.give(Input::Lost { ticket: 3 }), [refused(0, 0, Refusal::Unavailable)]);
    assert_eq!(bench.give(send(1, 3, 3)), [broken(1)]);
    assert_eq!(bench.give(send(2, 1, 1)), [append(4, 1)]);
    bench.desk.check();
}

#[test]
fn what_is_tried_again_is_not_overtaken() {
    let mut bench = Bench::new();
    let full = send_of(session(1), 1, 1, 1, Err(Refusal::MailboxFull));
    assert_eq!(bench.give(full), [refused(1, 1, Refusal::MailboxFull)]);
    assert_eq!(bench.give(send(1, 2, 2)), [broken(1)]);
    assert_eq!(bench.give(send(2, 1, 1)), [append(1, 1)]);
    let later = send_of(session(1), 2, 2, 2, Err(Refusal::Overloaded));
    assert_eq!(bench.give(later), [refused(2, 2, Refusal::Overloaded)]);
    assert_eq!(bench.give(send(2, 3, 3)), [broken(2)]);
    assert_eq!(bench.give(send(3, 1, 2)), [append(2, 2)]);
    // One that will never do holds nobody up.
    let never = send_of(session(1), 3, 2, 3, Err(Refusal::Conflict));
    assert_eq!(bench.give(never), [refused(3, 2, Refusal::Conflict)]);
    assert_eq!(bench.give(send(3, 3, 4)), [append(3, 4)]);
}

#[test]
fn streams_and_sends_in_flight_are_bounded() {
    let mut bench = Bench::new();
    let sessions = STREAMS_MAX as u64 + 1;
    for at in 1..=sessions {
        bench.give(send_of(session(at), 1, 1, at, Ok(())));
        bench.desk.check();
    }
    assert_eq!(bench.give(send(1, 2, 9)), [broken(1)]);
    let newest = bench.give(send_of(session(sessions), 1, 2, 9, Ok(())));
    assert_eq!(newest, [append(sessions + 1, 9)]);
    for _ in bench.desk.in_flight()..IN_FLIGHT_MAX {
        bench.give(send(0, 0, 3));
    }
    assert_eq!(bench.give(send(0, 0, 3)), [refused(0, 0, Refusal::Overloaded)]);
    bench.desk.check();
}

#[test]
fn acknowledgements_and_reads_are_merged() {
    let mut bench = Bench::new();
    let ack = |n| Input::Acknowledge { device: device("phone"), n: Number(n), delivers: true };
    let acked = |n| {
        let change = Change::Acknowledge { device: device("phone"), n: Number(n) };
        Output::Propose { ticket: NOBODY, change }
    };
    assert_eq!(bench.give(ack(1)), [acked(1)]);
    bench.wait_ms(10);
    assert_eq!(bench.give(ack(2)), [Output::FlushIn(Duration::from_millis(40))]);
    assert_eq!(bench.give(ack(4)), []);
    assert_eq!(bench.give(ack(3)), []);
    assert_eq!(bench.give(Input::Seen { device: device("phone") }), []);
    let conv = Conversation::User(user("alice"));
    assert_eq!(bench.give(Input::Read { conv: conv.clone(), seq: Seq(7) }), []);
    assert_eq!(bench.give(Input::Read { conv: conv.clone(), seq: Seq(6) }), []);
    bench.desk.check();
    bench.wait_ms(40);
    let read = Output::Propose { ticket: NOBODY, change: Change::Read { conv, seq: Seq(7) } };
    assert_eq!(bench.give(Input::FlushDue), [acked(4), read]);
    assert!(bench.desk.is_idle());
    assert_eq!(bench.desk.handled(), 7);
    assert_eq!(bench.give(Input::FlushDue), []);
    bench.wait_ms(500);
    assert_eq!(bench.give(Input::Seen { device: device("phone") }), [acked(0)]);
}

#[test]
fn what_no_sender_waits_for_is_merged_for_longer() {
    let mut bench = Bench::new();
    let device = device("phone");
    let ack = |n, delivers| Input::Acknowledge { device: device.clone(), n: Number(n), delivers };
    let acked = |n| {
        let change = Change::Acknowledge { device: device.clone(), n: Number(n) };
        Output::Propose { ticket: NOBODY, change }
    };
    assert_eq!(bench.give(ack(1, false)), [acked(1)]);
    bench.wait_ms(20);
    assert_eq!(bench.give(ack(2, false)), [Output::FlushIn(Duration::from_millis(480))]);
    assert_eq!(bench.give(ack(3, true)), [Output::FlushIn(Duration::from_millis(30))]);
    assert_eq!(bench.give(ack(4, false)), []);
    bench.desk.check();
    bench.wait_ms(30);
    assert_eq!(bench.give(Input::FlushDue), [acked(4)]);
    bench.wait_ms(60);
    assert_eq!(bench.give(ack(5, true)), [acked(5)]);
    bench.desk.check();
}

#[test]
fn many_conversations_read_at_once_do_not_pile_up() {
    let mut bench = Bench::new();
    for at in 0..1000 {
        let conv = Conversation::User(user(&format!("u{at}")));
        bench.give(Input::Read { conv, seq: Seq(1) });
        bench.desk.check();
    }
}

/// A gateway's stream, as sessions keep it: unanswered sends, repeated in order under each new life.
#[derive(Default)]
struct Sender {
    life: u32,
    waiting: VecDeque<(u64, Place)>,
    before: Vec<(Place, u64)>,
    next_cid: u64,
    count: u32,
}

impl Sender {
    fn send(&mut self) -> (Place, u64) {
        if self.waiting.is_empty() {
            self.life += 1;
            self.count = 0;
        }
        self.count += 1;
        self.next_cid += 1;
        let place = Place { life: self.life, count: self.count };
        self.waiting.push_back((self.next_cid, place));
        (place, self.next_cid)
    }

    fn reopen(&mut self) -> Vec<(Place, u64)> {
        self.life += 1;
        self.count = 0;
        let mut frames = Vec::new();
        for (cid, place) in &mut self.waiting {
            self.count += 1;
            self.before.push((*place, *cid));
            *place = Place { life: self.life, count: self.count };
            frames.push((*place, *cid));
        }
        frames
    }
}

#[derive(Debug, Clone)]
enum Step {
    Send,
    /// The frame at this place of what is on its way arrives.
    Arrive(usize),
    Repeat(usize),
    Drop(usize),
    Reopen,
    Commit,
    Lose,
    Refuse(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Send),
        6 => Just(Step::Arrive(0)),
        1 => (0..4_usize).prop_map(Step::Arrive),
        1 => (0..4_usize).prop_map(Step::Repeat),
        1 => (0..4_usize).prop_map(Step::Drop),
        1 => Just(Step::Reopen),
        3 => Just(Step::Commit),
        1 => Just(Step::Lose),
        1 => (0..4_usize).prop_map(Step::Refuse),
    ]
}

/// The world around one desk: a sender, frames on their way, and a log that stores each cid once.
struct World {
    bench: Bench,
    sender: Sender,
    wire: VecDeque<(Place, u64)>,
    proposed: VecDeque<(u64, Place, u64)>,
    stored: Vec<u64>,
    answered: BTreeSet<u64>,
}

impl World {
    fn arrive(&mut self, (place, cid): (Place, u64), admission: Result<(), Refusal>) {
        let out = self.bench.give(send_of(session(1), place.life, place.count, cid, admission));
        self.take(out, Some((place, cid)));
    }

    fn take(&mut self, out: Vec<Output>, asked: Option<(Place, u64)>) {
        for output in out {
            match output {
                Output::Propose { ticket, .. } => {
                    let (place, cid) = asked.unwrap();
                    self.proposed.push_back((ticket, place, cid));
                }
                Output::Tell(_, Tell::Broken { life, .. }) => {
                    if life == self.sender.life {
                        let frames = self.sender.reopen();
                        self.wire.extend(frames);
                    }
                }
                Output::Tell(_, Tell::Sent { place, result, .. }) => self.told(place, result.err()),
                other => panic!("unexpected {other:?}"),
            }
        }
        self.bench.desk.check();
    }

    fn told(&mut self, place: Place, refused: Option<Refusal>) {
        let current = self.sender.waiting.iter().position(|(_, at)| *at == place);
        match (current, refused) {
            (Some(_), Some(Refusal::Overloaded)) => {
                let frames = self.sender.reopen();
                self.wire.extend(frames);
            }
            (Some(at), _) => drop(self.sender.waiting.remove(at)),
            (None, None) => {
                let before = self.sender.before.iter().find(|(at, _)| *at == place);
                let cid = before.map(|(_, cid)| *cid);
                self.sender.waiting.retain(|(waiting, _)| Some(*waiting) != cid);
            }
            (None, Some(_)) => {}
        }
    }

    fn commit(&mut self) {
        let Some((ticket, _, cid)) = self.proposed.pop_front() else { return };
        assert!(self.answered.insert(ticket), "answered once");
        if !self.stored.contains(&cid) {
            self.stored.push(cid);
        }
        let outcome = accepted(u128::from(cid));
        let out = self.bench.give(Input::Outcome { ticket, outcome });
        self.take(out, None);
    }

    /// Leadership goes: all proposed after the newest commit is lost, in order.
    fn lose(&mut self) {
        for (ticket, ..) in std::mem::take(&mut self.proposed) {
            let out = self.bench.give(Input::Lost { ticket });
            self.take(out, None);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send => {
                let frame = self.sender.send();
                self.wire.push_back(frame);
            }
            Step::Arrive(at) => {
                if let Some(frame) = self.wire.remove(at) {
                    self.arrive(frame, Ok(()));
                }
            }
            Step::Repeat(at) => {
                if let Some(frame) = self.wire.get(at).copied() {
                    self.arrive(frame, Ok(()));
                }
            }
            Step::Drop(at) => drop(self.wire.remove(at)),
            Step::Reopen => {
                let frames = self.sender.reopen();
                self.wire.extend(frames);
            }
            Step::Commit => self.commit(),
            Step::Lose => self.lose(),
            Step::Refuse(at) => {
                if let Some(frame) = self.wire.remove(at) {
                    self.arrive(frame, Err(Refusal::Overloaded));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_later_message_never_overtakes(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World {
            bench: Bench::new(),
            sender: Sender::default(),
            wire: VecDeque::new(),
            proposed: VecDeque::new(),
            stored: Vec::new(),
            answered: BTreeSet::new(),
        };
        for step in steps {
            world.step(step);
        }
        // Then all goes well: everything unanswered gets through.
        for _ in 0..3 {
            world.step(Step::Reopen);
            while !world.wire.is_empty() {
                world.step(Step::Arrive(0));
            }
            while !world.proposed.is_empty() {
                world.commit();
            }
        }
        prop_assert!(world.sender.waiting.is_empty());
        prop_assert!(world.bench.desk.is_idle());
        let ordered: Vec<u64> = (1..=world.sender.next_cid).collect();
        prop_assert_eq!(&world.stored, &ordered);
    }
}
