//! Mailbox, tested: what it promises, and that a checkpoint holds all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::image::{self, Opening, Stored};
use super::log::Found;
use super::rules::{DEVICES_MAX, Effect, Mailbox, Now, Policy};
use crate::ids::{Cid, Conversation, DeviceId, Epoch, Kind, MessageId, Number, Seq};
use crate::ids::{ShardId, Timestamp, UserId};
use crate::message::{Accepted, Content, Entry, Position, Refusal, Resume, Resumed, Send, What};
use crate::packet::{Enclosed, Envelope, Start};
use crate::shard::state::{Batch, CLOCK_STEP_MAX, State};

mod account;
mod own;

use own::{copied, used};

const DAY: Duration = Duration::from_secs(86_400);
const BIRTH: Timestamp = Timestamp(1_000_000);

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn device(name: &str) -> DeviceId {
    DeviceId::parse(name).unwrap()
}

fn message(from: &str, cid: &str, body: &str) -> Send {
    let kind = Kind::parse("text").unwrap();
    let content = Content { kind, body: body.into(), reply_to: None, client: None };
    Send {
        from: user(from),
        device: device("phone"),
        to: Conversation::User(user("bob")),
        cid: Cid::parse(cid).unwrap(),
        content: Arc::new(content),
    }
}

fn policy(history_days: u32) -> Policy {
    Policy { expiry: 30 * DAY, history: history_days * DAY }
}

struct Bench {
    mailbox: Mailbox,
    clock: Timestamp,
    policy: Policy,
    mids: u128,
}

impl Bench {
    fn new(history_days: u32) -> Self {
        let mailbox = Mailbox::new(user("bob"), Epoch(1));
        Self { mailbox, clock: BIRTH, policy: policy(history_days), mids: 0 }
    }

    fn now(&self) -> Now {
        Now {
            wall: self.clock,
            cautious: self.clock,
            policy: self.policy,
            large: crate::mailbox::rules::LARGE_GROUP,
        }
    }

    fn pass(&mut self, span: Duration) {
        self.clock = self.clock.after(span);
    }

    fn append(&mut self, from: &str, cid: &str) -> (Result<Accepted, Refusal>, Vec<Effect>) {
        self.mids += 1;
        let (mut effects, mid) = (Vec::new(), MessageId(self.mids));
        let send = message(from, cid, "hi");
        let result = self.mailbox.append(send, mid, self.now(), &mut effects);
        self.mailbox.check();
        (result, effects)
    }

    fn connect(&mut self, name: &str) -> Result<(), Refusal> {
        self.mailbox.ensure_device(&device(name), self.now())
    }

    fn ack(&mut self, name: &str, n: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.mailbox.acknowledge(&device(name), Number(n), self.now(), &mut effects);
        self.mailbox.check();
        effects
    }

    fn expire(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.mailbox.expire(self.now(), &mut effects);
        self.mailbox.check();
        let due = self.mailbox.due(self.policy);
        assert!(due.is_none_or(|at| at > self.clock), "nothing is left to do");
        effects
    }

    fn low(&self) -> u64 {
        self.mailbox.log().low().0
    }
}

fn receipt(to: &str, delivered: u64, read: u64) -> Effect {
    let (delivered, read) = (Seq(delivered), Seq(read));
    let what = Enclosed::Receipt { by: user("bob"), delivered, read };
    Effect::Enclose(Envelope { to: user(to), what })
}

fn expired(to: &str, mid: u128, seq: u64) -> Effect {
    let what = Enclosed::Expired { by: user("bob"), mid: MessageId(mid), seq: Seq(seq) };
    Effect::Enclose(Envelope { to: user(to), what })
}

#[test]
fn a_message_is_logged_and_copied_to_its_sender() {
    let mut bench = Bench::new(30);
    let (result, effects) = bench.append("alice", "c1");
    let (mid, seq, at) = (MessageId(1), Seq(1), BIRTH);
    assert_eq!(result, Ok(Accepted { mid, seq, at, dup: false }));
    let send = message("alice", "c1", "hi");
    let (from, device, content) = (send.from, send.device, send.content);
    let what = What::Message {
        mid,
        from: from.clone(),
        device: device.clone(),
        seq,
        content: Arc::clone(&content),
    };
    let entry = Entry { n: Number(1), at, what };
    let conv = Conversation::User(user("bob"));
    let what = Enclosed::Sent { mid, conv, seq, at, cid: send.cid, device, content };
    let copy = Envelope { to: from, what };
    assert_eq!(effects, [Effect::Logged(entry), Effect::Enclose(copy)]);
}

#[test]
fn a_retried_message_is_stored_once() {
    let mut bench = Bench::new(30);
    let first = bench.append("alice", "c1").0.unwrap();
    bench.pass(29 * DAY);
    let again = bench.append("alice", "c1");
    assert_eq!(again, (Ok(Accepted { dup: true, ..first }), vec![]));
    let mut effects = Vec::new();
    let other = message("alice", "c1", "other");
    let other = bench.mailbox.append(other, MessageId(9), bench.now(), &mut effects);
    assert_eq!((other, effects.len()), (Err(Refusal::Conflict), 0));
    assert_eq!(bench.append("carol", "c1").0.unwrap().seq, Seq(1));
}

#[test]
fn a_cid_is_free_again_after_its_time() {
    let mut bench = Bench::new(60);
    bench.connect("phone").unwrap();
    bench.append("alice", "c1").0.unwrap();
    bench.ack("phone", 1);
    bench.pass(30 * DAY);
    bench.ack("phone", 1);
    bench.expire();
    assert!(!bench.append("alice", "c1").0.unwrap().dup);
    assert_eq!(bench.low(), 0, "history keeps the first");
}

#[test]
fn receipts_follow_the_first_device_and_never_go_back() {
    let mut bench = Bench::new(30);
    bench.connect("phone").unwrap();
    bench.connect("tablet").unwrap();
    bench.append("alice", "c1").0.unwrap();
    bench.append("carol", "c1").0.unwrap();
    bench.append("alice", "c2").0.unwrap();
    let told = bench.ack("phone", 3);
    assert_eq!(told, [receipt("alice", 2, 0), receipt("carol", 1, 0)]);
    assert_eq!(bench.ack("phone", 2), []);
    assert_eq!(bench.mailbox.device(&device("phone")).unwrap().acked, Number(3));
    assert_eq!(bench.ack("tablet", 3), []);
    let mut effects = Vec::new();
    let conv = Conversation::User(user("alice"));
    for seq in [1, 1, 99] {
        bench.mailbox.read(&conv, Seq(seq), &mut effects);
    }
    assert_eq!(effects, [receipt("alice", 2, 1), receipt("alice", 2, 2)]);
}

#[test]
fn a_receipt_is_logged_only_when_it_says_more() {
    let mut bench = Bench::new(30);
    let mut logged = Vec::new();
    for (delivered, read) in [(3, 1), (2, 1), (3, 1), (3, 3)] {
        let (delivered, read) = (Seq(delivered), Seq(read));
        let receipt = Enclosed::Receipt { by: user("alice"), delivered, read };
        bench.mailbox.receive(receipt, bench.now(), &mut logged);
        bench.mailbox.check();
    }
    assert_eq!(logged.len(), 2);
}

#[test]
fn without_history_entries_go_when_every_device_has_them() {
    let mut bench = Bench::new(0);
    bench.connect("phone").unwrap();
    bench.connect("tablet").unwrap();
    bench.append("alice", "c1").0.unwrap();
    bench.append("alice", "c2").0.unwrap();
    bench.ack("phone", 2);
    assert_eq!(bench.low(), 0);
    bench.ack("tablet", 1);
    assert_eq!(bench.low(), 1);
    let mut effects = Vec::new();
    bench.mailbox.remove_device(&device("tablet"), bench.now(), &mut effects).unwrap();
    assert_eq!((effects.len(), bench.low()), (1, 2));
    assert!(bench.append("alice", "c1").0.unwrap().dup);
}

#[test]
fn history_keeps_entries_that_every_device_has() {
    let mut bench = Bench::new(30);
    bench.connect("phone").unwrap();
    bench.append("alice", "c1").0.unwrap();
    bench.pass(10 * DAY);
    bench.ack("phone", 1);
    bench.pass(29 * DAY);
    bench.ack("phone", 1);
    bench.expire();
    assert_eq!(bench.low(), 0);
    bench.pass(2 * DAY);
    bench.expire();
    assert_eq!(bench.low(), 1);
}

#[test]
fn history_waits_for_a_device_that_came_later() {
    let mut bench = Bench::new(7);
    bench.connect("phone").unwrap();
    bench.append("alice", "c1").0.unwrap();
    bench.ack("phone", 1);
    bench.pass(6 * DAY);
    bench.connect("tablet").unwrap();
    bench.pass(3 * DAY);
    bench.expire();
    assert_eq!(bench.low(), 0);
    bench.ack("tablet", 1);
    assert_eq!(bench.low(), 1);
}

#[test]
fn what_was_never_fetched_expires_and_its_sender_is_told_once() {
    let mut bench = Bench::new(30);
    bench.connect("phone").unwrap();
    bench.append("alice", "c1").0.unwrap();
    bench.pass(DAY);
    bench.append("carol", "c1").0.unwrap();
    bench.pass(29 * DAY - Duration::from_millis(1));
    bench.ack("phone", 0);
    assert_eq!(bench.expire(), []);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.expire(), [expired("alice", 1, 1)]);
    assert_eq!((bench.expire(), bench.low()), (vec![], 1));
    assert_eq!(bench.ack("phone", 2), [receipt("carol", 1, 0)]);
    bench.pass(31 * DAY);
    let gone = Effect::DeviceGone(device("phone"));
    assert_eq!(bench.expire(), [gone]);
    bench.pass(31 * DAY);
    assert_eq!((bench.expire(), bench.low()), (vec![], 2));
}

#[test]
fn a_cid_is_remembered_as_long_as_it_was_promised() {
    let mut bench = Bench::new(0);
    bench.connect("phone").unwrap();
    bench.append("alice", "c1").0.unwrap();
    bench.ack("phone", 1);
    bench.pass(30 * DAY - Duration::from_millis(1));
    bench.ack("phone", 1);
    assert_eq!((bench.expire(), bench.low()), (vec![], 1));
    assert!(bench.append("alice", "c1").0.unwrap().dup);
}

#[test]
fn a_clock_that_jumps_expires_nothing() {
    let mut bench = Bench::new(30);
    bench.connect("phone").unwrap();
    bench.append("alice", "c1").0.unwrap();
    let jumped = Now { wall: BIRTH.after(400 * DAY), ..bench.now() };
    let mut effects = Vec::new();
    bench.mailbox.expire(jumped, &mut effects);
    assert_eq!((effects, bench.low()), (vec![], 0));
    assert_eq!(bench.ack("phone", 1), [receipt("alice", 1, 0)], "nor is a device forgotten");
}

#[test]
fn the_clock_that_expires_follows_a_jump_in_steps_and_never_goes_back() {
    let mut state = State::new(ShardId(0), 1);
    let mut cautious = Vec::new();
    for (index, wall) in (1..).zip([BIRTH, BIRTH.after(40 * DAY), BIRTH, BIRTH.after(DAY)]) {
        state.apply(index, 1, Batch { wall, commands: Vec::new() }, &mut Vec::new());
        cautious.push(state.now().cautious);
    }
    let steps = [0, 1, 1, 2].map(|steps| BIRTH.after(CLOCK_STEP_MAX * steps));
    assert_eq!(cautious, steps);
}

#[test]
fn bytes_wait_until_a_device_has_them_or_they_expire() {
    let mut bench = Bench::new(30);
    bench.connect("phone").unwrap();
    let one = bench.append("alice", "c1").1;
    let Effect::Logged(entry) = &one[0] else { panic!("an entry first, not {one:?}") };
    assert_eq!(bench.mailbox.undelivered_bytes(), entry.weight() as u64);
    bench.append("alice", "c1").0.unwrap();
    bench.append("carol", "c1").0.unwrap();
    assert_eq!(bench.mailbox.undelivered_bytes(), 2 * entry.weight() as u64);
    bench.ack("phone", 2);
    assert_eq!(bench.mailbox.undelivered_bytes(), 0);
    bench.append("alice", "c2").0.unwrap();
    bench.pass(30 * DAY);
    bench.ack("phone", 0);
    bench.expire();
    assert_eq!((bench.mailbox.undelivered(), bench.mailbox.undelivered_bytes()), (0, 0));
}

#[test]
fn heads_from_before_people_ids_and_bytes_were_kept_are_read() {
    let mut bench = Bench::new(30);
    bench.connect("phone").unwrap();
    bench.append("alice", "c1").0.unwrap();
    bench.ack("phone", 1);
    let mut stored = Stored::default();
    let changes = image::save(&mut bench.mailbox, &mut stored);
    let value = |key: &Vec<u8>| changes.puts.iter().find(|(put, _)| put == key).unwrap().1.clone();
    let mut chunks: Vec<_> = image::head_keys(&user("bob"), 1).iter().map(value).collect();
    let [people, referred, index] = image::last_bytes(&bench.mailbox, &stored);
    // Nobody blocks anybody; before that there were no large groups, before that conversations were not noted, no groups,
    // before that no ids, and before that no bytes, and no steps of them.
    for (what, count) in [
        ("people", people),
        ("posts referred to", referred),
        ("conversations", index),
        ("groups", 2),
        ("ids", 3),
        ("bytes", 2),
    ] {
        let end = chunks[0].len() - count;
        let gone = chunks[0].split_off(end);
        assert!(what == "conversations" || gone == vec![0; count], "no {what}");
        let opening = Opening::new(user("bob"), &chunks).unwrap();
        let values: Vec<_> = opening.keys().iter().map(value).collect();
        assert_eq!(opening.finish(&values).unwrap().0, bench.mailbox);
    }
}

#[test]
fn replicas_that_count_bytes_from_different_moments_agree() {
    let mut bench = Bench::new(30);
    bench.connect("phone").unwrap();
    bench.append("alice", "c1").0.unwrap();
    let mut stored = Stored::default();
    let changes = image::save(&mut bench.mailbox, &mut stored);
    let value = |key: &Vec<u8>| changes.puts.iter().find(|(put, _)| put == key).unwrap().1.clone();
    let mut chunks: Vec<_> = image::head_keys(&user("bob"), 1).iter().map(value).collect();
    let (no_ids, no_groups) = (3, 2);
    let counted = crate::codec::encode(&bench.mailbox.waiting).len() + no_ids + no_groups;
    let end = chunks[0].len()
        - counted
        - image::last_bytes(&bench.mailbox, &stored).iter().sum::<usize>();
    chunks[0].truncate(end);
    let opening = Opening::new(user("bob"), &chunks).unwrap();
    let values: Vec<_> = opening.keys().iter().map(value).collect();
    let older = opening.finish(&values).unwrap().0;
    assert_ne!(older.undelivered_bytes(), bench.mailbox.undelivered_bytes());
    assert_eq!(image::digest(&older), image::digest(&bench.mailbox));
}

#[test]
fn a_user_has_a_few_devices() {
    let mut bench = Bench::new(30);
    for at in 0..DEVICES_MAX {
        bench.connect(&format!("d{at}")).unwrap();
    }
    assert_eq!(bench.connect("one-more"), Err(Refusal::TooManyDevices));
    assert_eq!(bench.connect("d0"), Ok(()));
    let mut effects = Vec::new();
    let removed = bench.mailbox.remove_device(&device("none"), bench.now(), &mut effects);
    assert_eq!(removed, Err(Refusal::NotFound));
}

#[test]
fn delivery_goes_on_where_the_client_stopped_or_says_why_not() {
    let mut bench = Bench::new(0);
    bench.connect("phone").unwrap();
    for cid in ["c1", "c2", "c3"] {
        bench.append("alice", cid).0.unwrap();
    }
    bench.ack("phone", 2);
    let phone = device("phone");
    let at = |epoch, n| Start::Resume(Resume { epoch: Epoch(epoch), n: Number(n) });
    for (start, from, resumed) in [
        (Start::Device, 2, Resumed::NotAsked),
        (at(1, 3), 3, Resumed::Yes),
        (at(1, 2), 2, Resumed::Yes),
        (at(1, 1), 2, Resumed::Trimmed),
        (at(1, 4), 2, Resumed::UnknownEpoch),
        (at(2, 3), 2, Resumed::UnknownEpoch),
    ] {
        let told = bench.mailbox.position(&phone, start);
        let (epoch, from, head) = (Epoch(1), Number(from), Number(3));
        assert_eq!(told, Position { epoch, from, head, resumed });
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append {
        from: u8,
        cid: u8,
        size: usize,
    },
    Receive {
        delivered: u64,
    },
    /// A copy of the owner's own message, to one of two users.
    Copy {
        cid: u8,
        to: u8,
    },
    Connect(u8),
    Remove(u8),
    /// Acknowledges this many entries before the head.
    Ack(u8, u64),
    Read(u8, u64),
    Pass(Duration),
    Expire,
    Checkpoint,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3_u8, 0..40_u8, 1..6000_usize)
            .prop_map(|(from, cid, size)| Step::Append { from, cid, size }),
        1 => (0..50_u64).prop_map(|delivered| Step::Receive { delivered }),
        3 => (0..9_u8, 0..2_u8).prop_map(|(cid, to)| Step::Copy { cid, to }),
        1 => (0..3_u8).prop_map(Step::Connect),
        1 => (0..3_u8).prop_map(Step::Remove),
        4 => (0..3_u8, 0..6_u64).prop_map(|(who, back)| Step::Ack(who, back)),
        2 => (0..3_u8, 0..30_u64).prop_map(|(who, seq)| Step::Read(who, seq)),
        2 => (1..200_u64).prop_map(|hours| Step::Pass(Duration::from_secs(hours * 3600))),
        2 => Just(Step::Expire),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
    ]
}

const SENDERS: [&str; 3] = ["alice", "carol", "dave"];
const DEVICES: [&str; 3] = ["phone", "tablet", "desk"];

/// What expired stays so, even if a client that had it says afterwards that it was read.
fn deliver(undelivered: &mut BTreeSet<MessageId>, expired: &BTreeSet<MessageId>, mid: MessageId) {
    if !expired.contains(&mid) {
        undelivered.remove(&mid);
    }
}

/// What must be true of a mailbox, kept the simple way; beside a mailbox that checkpoints and one that never does.
struct World {
    bench: Bench,
    never: Mailbox,
    stored: Stored,
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    entries: Vec<Entry>,
    taken: BTreeMap<(u8, u8), (Accepted, Timestamp)>,
    /// What the owner's own ids stand for, and since when.
    own: BTreeMap<u8, (u8, Timestamp)>,
    undelivered: BTreeSet<MessageId>,
    expired: BTreeSet<MessageId>,
    cursors: BTreeMap<DeviceId, Number>,
    receipts: BTreeMap<UserId, (Seq, Seq)>,
}

impl World {
    fn new(history_days: u32) -> Self {
        let bench = Bench::new(history_days);
        Self {
            never: bench.mailbox.clone(),
            bench,
            stored: Stored::default(),
            disk: BTreeMap::new(),
            entries: Vec::new(),
            taken: BTreeMap::new(),
            own: BTreeMap::new(),
            undelivered: BTreeSet::new(),
            expired: BTreeSet::new(),
            cursors: BTreeMap::new(),
            receipts: BTreeMap::new(),
        }
    }

    /// Does the same to both mailboxes; they must answer the same.
    fn both<T: PartialEq + std::fmt::Debug>(
        &mut self,
        act: impl Fn(&mut Mailbox, Now, &mut Vec<Effect>) -> T,
    ) -> T {
        let now = self.bench.now();
        let (mut effects, mut others) = (Vec::new(), Vec::new());
        let result = act(&mut self.bench.mailbox, now, &mut effects);
        assert_eq!(result, act(&mut self.never, now, &mut others), "replicas agree");
        assert_eq!(effects, others, "replicas agree");
        effects.into_iter().for_each(|effect| self.note(effect));
        result
    }

    fn note(&mut self, effect: Effect) {
        match effect {
            Effect::Logged(entry) => {
                assert_eq!(entry.n.0, self.entries.len() as u64 + 1, "without gaps");
                assert!(self.entries.last().is_none_or(|last| last.at <= entry.at), "in time");
                self.entries.push(entry);
            }
            Effect::Enclose(Envelope { to, what }) => match what {
                Enclosed::Receipt { delivered, read, .. } => {
                    let before = self.receipts.insert(to, (delivered, read)).unwrap_or_default();
                    assert!(read <= delivered, "read is delivered");
                    assert!(before.0 <= delivered && before.1 <= read, "never back");
                    assert!(before != (delivered, read), "says something");
                }
                Enclosed::Expired { mid, .. } => {
                    assert!(self.expired.insert(mid), "told once");
                    assert!(self.undelivered.contains(&mid), "only what was not delivered");
                }
                Enclosed::Sent { mid, .. } => assert!(self.undelivered.insert(mid), "copied once"),
                Enclosed::Spread { .. } | Enclosed::Ticks { .. } | Enclosed::Left { .. } => {
                    panic!("nobody is in a group here")
                }
            },
            Effect::DeviceGone(device) => drop(self.cursors.remove(&device)),
            Effect::Visibility(_) => panic!("nobody hides here"),
            Effect::Spread(_) => panic!("nobody is in a group here"),
        }
    }

    fn append(&mut self, from: u8, cid: u8, size: usize) {
        self.bench.mids += 1;
        let mid = MessageId(self.bench.mids);
        let body = "x".repeat(size % 7 + 1000 * (usize::from(cid) % 5));
        let name = SENDERS[usize::from(from)];
        let send = message(name, &cid.to_string(), &body);
        let conflicts = self.taken.get(&(from, cid)).copied();
        let result = self.both(|m, now, out| m.append(send.clone(), mid, now, out));
        match (conflicts, result) {
            (Some((first, at)), answer) if self.bench.clock < at.after(30 * DAY) => {
                let dup = Accepted { dup: true, ..first };
                assert!(answer == Ok(dup) || answer == Err(Refusal::Conflict), "remembered");
            }
            (_, Ok(accepted)) if !accepted.dup => {
                self.taken.insert((from, cid), (accepted, accepted.at));
            }
            _ => {}
        }
    }

    fn ack(&mut self, who: u8, back: u64) {
        let name = device(DEVICES[usize::from(who)]);
        let n = Number(self.bench.mailbox.log().head().0.saturating_sub(back));
        self.both(|m, now, out| m.acknowledge(&name, n, now, out));
        if self.bench.mailbox.device(&name).is_some() {
            let delivered = self.entries.iter().filter(|entry| entry.n <= n);
            for entry in delivered {
                if let What::Message { mid, .. } = &entry.what {
                    deliver(&mut self.undelivered, &self.expired, *mid);
                }
            }
        }
    }

    fn read(&mut self, who: u8, seq: u64) {
        let name = SENDERS[usize::from(who)];
        let conv = Conversation::User(user(name));
        self.both(|m, _, out| m.read(&conv, Seq(seq), out));
        for entry in &self.entries {
            if let What::Message { mid, from, seq: place, .. } = &entry.what
                && from.as_str() == name
                && place.0 <= seq
            {
                deliver(&mut self.undelivered, &self.expired, *mid);
            }
        }
    }

    fn checkpoint(&mut self) {
        let changes = image::save(&mut self.bench.mailbox, &mut self.stored);
        for key in changes.deletes {
            assert!(self.disk.remove(&key).is_some(), "only what is there is removed");
        }
        self.disk.extend(changes.puts);
        let to = image::sealed_to(&self.bench.mailbox);
        image::cool(&mut self.bench.mailbox, to);
    }

    fn reopen(&mut self) {
        self.checkpoint();
        let owner = user("bob");
        let at = |keys: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
            keys.iter().map(|key| self.disk[key].clone()).collect()
        };
        let chunks = at(image::head_keys(&owner, self.stored.chunks()));
        let opening = Opening::new(owner, &chunks).unwrap();
        let values = at(opening.keys());
        let (mailbox, stored) = opening.finish(&values).unwrap();
        assert_eq!(mailbox, self.bench.mailbox);
        assert_eq!(stored, self.stored);
        let runs = mailbox.log().sealed.len();
        assert!(self.disk.len() >= runs + chunks.len(), "every run is on disk");
        (self.bench.mailbox, self.stored) = (mailbox, stored);
    }

    fn whole_log(&self, mailbox: &Mailbox) -> Vec<Entry> {
        let mut all: Vec<Entry> = Vec::new();
        let mut after = Number(0);
        loop {
            let page = match mailbox.log().read(after, 7, 5000) {
                Found::Entries(page) => page,
                Found::OnDisk(run) => {
                    let run = image::entries(&self.disk[&image::log_key(&user("bob"), run)]);
                    let first = after.max(mailbox.log().low());
                    run.unwrap().into_iter().filter(|entry| entry.n > first).collect()
                }
            };
            let Some(last) = page.last() else { return all };
            after = last.n;
            all.extend(page);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append { from, cid, size } => self.append(from, cid, size),
            Step::Receive { delivered } => {
                let (delivered, read) = (Seq(delivered), Seq(delivered / 2));
                let what = Enclosed::Receipt { by: user("erin"), delivered, read };
                self.both(|m, now, out| m.receive(what.clone(), now, out));
            }
            Step::Copy { cid, to } => {
                let what = copied(SENDERS[usize::from(to)], &cid.to_string());
                self.both(|m, now, out| m.receive(what.clone(), now, out));
                let at = self.entries.last().unwrap().at;
                let known = self.own.entry(cid).or_insert((to, at));
                if known.0 == to || known.1.after(30 * DAY) <= at {
                    *known = (to, at);
                }
            }
            Step::Connect(who) => {
                let name = device(DEVICES[usize::from(who)]);
                self.both(|m, now, _| m.ensure_device(&name, now)).unwrap();
            }
            Step::Remove(who) => {
                let name = device(DEVICES[usize::from(who)]);
                let _known = self.both(|m, now, out| m.remove_device(&name, now, out));
            }
            Step::Ack(who, back) => self.ack(who, back),
            Step::Read(who, seq) => self.read(who, seq),
            Step::Pass(span) => self.bench.pass(span),
            Step::Expire => {
                self.both(|m, now, out| m.expire(now, out));
                self.own.retain(|_, (_, at)| at.after(30 * DAY) > self.bench.clock);
                let due = self.bench.mailbox.due(self.bench.policy);
                assert!(due.is_none_or(|at| at > self.bench.clock), "nothing is left to do");
            }
            Step::Checkpoint => self.checkpoint(),
            Step::Reopen => self.reopen(),
        }
        self.check();
    }

    fn check(&mut self) {
        let mailbox = &self.bench.mailbox;
        mailbox.check();
        self.never.check();
        assert_eq!(image::digest(mailbox), image::digest(&self.never), "replicas agree");
        let cids = mailbox.cids();
        for (cid, (to, at)) in &self.own {
            let (now, lasts) = (self.bench.now(), at.after(30 * DAY) > self.bench.clock);
            let clash = |to: u8| cids.clash(used(SENDERS[usize::from(to)], &cid.to_string()), now);
            assert_eq!((clash(*to), clash(1 - *to)), (false, lasts), "{cid} is to {to}");
        }
        let bytes = mailbox.undelivered_bytes();
        assert_eq!(bytes, self.never.undelivered_bytes(), "replicas agree");
        let waits = self.entries.iter().filter(|entry| entry.n > mailbox.delivered);
        let exact = waits.map(|entry| entry.weight() as u64).sum::<u64>();
        assert!((exact..=exact + 16 * 1024).contains(&bytes), "{bytes} for {exact}");
        for info in mailbox.devices() {
            let before = self.cursors.insert(info.device, info.acked).unwrap_or_default();
            assert!(before <= info.acked, "cursors never go back");
        }
        let low = usize::try_from(mailbox.log().low().0).unwrap();
        assert_eq!(self.whole_log(mailbox), self.entries[low..], "the log can be read");
        assert_eq!(self.whole_log(&self.never), self.entries[low..], "the log can be read");
    }

    /// Nobody fetches any more: what was not delivered must end as expired.
    fn end(&mut self) {
        for _ in 0..3 {
            self.step(Step::Pass(35 * DAY));
            self.step(Step::Expire);
        }
        self.step(Step::Reopen);
        assert_eq!(self.undelivered, self.expired, "each undelivered message ended as expired");
        let log = self.bench.mailbox.log();
        assert_eq!(log.low(), log.head(), "nothing stays for ever");
        let (log, rows) = (image::sealed_to(&self.bench.mailbox), self.disk.len());
        assert!(rows <= usize::from(self.stored.chunks()), "{rows} keys stay, sealed to {log}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_mailbox_keeps_its_promises(
        history in prop_oneof![Just(0), Just(7), Just(30), Just(90)],
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(history);
        for step in steps {
            world.step(step);
        }
        if history <= 30 {
            world.end();
        }
    }
}

mod actor {
    use std::sync::{Arc, Mutex};

    use ractor::Actor;

    use super::super::desk::{Input, NOBODY, Output};
    use super::super::{Arguments, Mailbox, Msg, Port};
    use super::{device, user};
    use crate::ids::{Number, UserId};
    use crate::shard::state::Change;

    struct Done(Mutex<Vec<Output>>, tokio::sync::Notify);

    impl Port for Done {
        fn carry_out(&self, _: &UserId, outputs: Vec<Output>) {
            self.0.lock().unwrap().extend(outputs);
            self.1.notify_one();
        }
    }

    #[tokio::test]
    async fn the_actor_flushes_what_was_merged() {
        let done = Arc::new(Done(Mutex::default(), tokio::sync::Notify::new()));
        let port: Arc<dyn Port> = Arc::clone(&done) as Arc<dyn Port>;
        let arguments = Arguments { owner: user("bob"), tickets: 0, port };
        let (actor, handle) = Mailbox::spawn(None, Mailbox, arguments).await.unwrap();
        for n in 1..=3 {
            let input =
                Input::Acknowledge { device: device("phone"), n: Number(n), delivers: true };
            actor.cast(Msg::Input(input)).unwrap();
        }
        done.1.notified().await;
        while done.0.lock().unwrap().len() < 2 {
            done.1.notified().await;
        }
        let acked = |n| {
            let change = Change::Acknowledge { device: device("phone"), n: Number(n) };
            Output::Propose { ticket: NOBODY, change }
        };
        assert_eq!(*done.0.lock().unwrap(), [acked(1), acked(3)]);
        actor.cast(Msg::Crash).unwrap();
        handle.await.unwrap();
    }
}
