//! Push: which devices sleep through messages of others, so that the operator can wake them.
//!
//! Owns      nothing that must survive: who is to be looked at when, and what was told lately.
//! Promises  a device that has not acknowledged a message in time is told of, once per conversation until it
//!           acknowledges it; never too early, and at most an eighth of that time (and a tick) too late.
//! Never     names a sender or a body.
//! Fails by  forgetting: the next leader looks once at all users to whom something came lately, and what it tells again
//!           has the same number.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Home, Output};
use crate::ids::{Conversation, DeviceId, Epoch, Number, Timestamp, UserId};
use crate::mailbox::rules::Mailbox;
use crate::message::{Entry, What};
use crate::shard::replica::Replica;

/// Of a conversation that a device was told of and has not acknowledged, newer messages are told after this.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
/// A new leader looks for messages that came at most so long ago: older ones have been told.
const LOOK_BACK: Duration = Duration::from_secs(3_600);
/// Users looked at in one tick.
const AT_ONCE: usize = 256;
/// The time between two looks of a new leader at users who may have to be read from disk, one of them each.
const SCAN_EVERY: Duration = Duration::from_millis(250);
/// Conversations of which it is kept that they were told; others may be told again too early.
const TOLD_MAX: usize = 50_000;
/// Moments are rounded up to this part of the time a device has, so that a user who gets many messages is looked at
/// a few times and not once for each.
const STEPS: u32 = 8;

/// A device sleeps through messages of one conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whose.
    pub user: UserId,
    /// Which device.
    pub device: DeviceId,
    /// Where they were written.
    pub conv: Conversation,
    /// One of them that was not told before, mostly the first.
    pub n: Number,
    /// Messages in this conversation that the user has not read on any device.
    pub unread: u64,
    /// When `n` came.
    pub since: Timestamp,
    /// The log that `n` counts.
    pub epoch: Epoch,
    /// When the device was last heard.
    pub seen: Timestamp,
    /// How far it has acknowledged.
    pub acked: Number,
}

/// Entries of a log: those after the first up to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    after: Number,
    last: Number,
}

/// All of a user, or one conversation of one device: what else lies in its span was looked at before, and what was told of
/// it may be forgotten by then.
type Scope = Option<(DeviceId, Conversation)>;

/// What was told of a conversation to a device.
#[derive(Debug, Clone, Copy)]
struct Told {
    upto: Number,
    at: Duration,
}

/// What to do about a conversation.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Tell,
    Later(Duration),
    Nothing,
}

/// Who is to be looked at when, and what was told.
#[derive(Default)]
pub(super) struct Push {
    /// How long a device has; none: nobody is told.
    after: Option<Duration>,
    /// What is to be looked at, by steps of time.
    marks: BTreeMap<(u64, UserId, Scope), Span>,
    told: BTreeMap<(UserId, DeviceId, Conversation), Told>,
    /// The user up to whom the first look has come, until it is done.
    scan: Option<Option<UserId>>,
    scan_due: Duration,
    forget_due: Duration,
}

impl Push {
    fn new(after: Option<Duration>) -> Self {
        Self { after, scan: after.map(|_| None), ..Self::default() }
    }

    fn step(&self) -> Duration {
        (self.after.unwrap_or_default() / STEPS).max(Duration::from_millis(1))
    }

    /// Has these entries looked at, not before `at`.
    fn mark(&mut self, user: UserId, (scope, span): (Scope, Span), at: Duration) {
        let step = self.step().as_millis();
        let due = u64::try_from(at.as_millis().div_ceil(step)).unwrap_or(u64::MAX);
        let known = self.marks.entry((due, user, scope)).or_insert(span);
        known.after = known.after.min(span.after);
        known.last = known.last.max(span.last);
    }

    /// An entry has come.
    pub(super) fn logged(&mut self, user: &UserId, entry: &Entry, now: Duration) {
        let Some(after) = self.after else { return };
        // A group has a mailbox, too, and no devices.
        let is_message =
            matches!(entry.what, What::Message { .. } | What::Post { .. } | What::Referred { .. });
        if is_message && user.group().is_none() {
            let span = Span { after: Number(entry.n.0 - 1), last: entry.last() };
            // A moment is in whole milliseconds, and this one must not be rounded down.
            self.mark(user.clone(), (None, span), now + after + Duration::from_millis(1));
        }
    }

    /// The next user to be looked at by now.
    fn take_due(&mut self, now: Duration) -> Option<(UserId, (Scope, Span))> {
        let step = self.step().as_millis();
        let first = self.marks.first_entry()?;
        if u128::from(first.key().0) * step > now.as_millis() {
            return None;
        }
        let ((_, user, scope), span) = first.remove_entry();
        Some((user, (scope, span)))
    }

    fn verdict(told: Option<&Told>, acked: Number, newest: Number, now: Duration) -> Verdict {
        match told {
            Some(told) if acked < told.upto && newest <= told.upto => Verdict::Nothing,
            Some(told) if acked < told.upto && now < told.at + AGAIN_AFTER => {
                Verdict::Later(told.at + AGAIN_AFTER)
            }
            _ => Verdict::Tell,
        }
    }

    /// Looks at what has come for a user, of whose devices `acked` knows more than the mailbox.
    fn look(
        &mut self,
        (user, mailbox): (&UserId, &Mailbox),
        acked: impl Fn(&DeviceId) -> Number,
        (scope, span): (Scope, Span),
        now: Duration,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        for device in mailbox.devices() {
            let acked = device.acked.max(acked(&device.device));
            for (conv, (first, newest)) in mailbox.theirs(span.after.max(acked), span.last) {
                let within =
                    |(of, only): &(DeviceId, Conversation)| *of == device.device && only == conv;
                if !scope.as_ref().is_none_or(within) {
                    continue;
                }
                let key = (user.clone(), device.device.clone(), conv.clone());
                let told = self.told.get(&key);
                let upto = told.map_or(Number(0), |told| told.upto);
                match Self::verdict(told, acked, newest, now) {
                    Verdict::Nothing => continue,
                    Verdict::Later(at) => {
                        let span = Span { after: upto.max(span.after), last: newest };
                        let scope = Some((key.1, key.2));
                        self.mark(user.clone(), (scope, span), at);
                        continue;
                    }
                    Verdict::Tell => {}
                }
                let n = if first > upto { first } else { newest };
                if self.told.len() < TOLD_MAX || told.is_some() {
                    self.told.insert(key, Told { upto: newest, at: now });
                }
                notices.push(Notice {
                    user: user.clone(),
                    device: device.device.clone(),
                    conv: conv.clone(),
                    n,
                    unread: mailbox.unread(conv),
                    since: mailbox.came(n),
                    epoch: mailbox.epoch(),
                    seen: device.last_seen,
                    acked,
                });
            }
        }
        notices
    }

    /// What came lately for a user, seen by a new leader, and how old the newest of it is.
    fn lately(mailbox: &Mailbox, wall: Timestamp) -> Option<(Span, Duration)> {
        let age = wall.since(mailbox.log().newest_at());
        let back = u64::try_from(LOOK_BACK.as_millis()).unwrap_or(u64::MAX);
        let floor = mailbox.came_before(Timestamp(wall.0.saturating_sub(back)));
        let last = mailbox.log().head();
        (age <= LOOK_BACK && floor < last).then_some((Span { after: floor, last }, age))
    }

    /// Newer messages are told from then on whatever was told before.
    fn forget(&mut self, now: Duration) {
        if now >= self.forget_due {
            self.forget_due = now + AGAIN_AFTER / 10;
            self.told.retain(|_, told| now < told.at + AGAIN_AFTER);
        }
    }
}

impl Home {
    /// The same home, which tells of devices that have not acknowledged a message for so long.
    #[must_use]
    pub fn telling(mut self, push_after: Option<Duration>) -> Self {
        self.push = Push::new(push_after);
        self
    }

    /// Tells of the devices that have had their time.
    pub(super) fn wake(&mut self, replica: &Replica, now: Duration, out: &mut Vec<Output>) {
        if self.push.after.is_none() {
            return;
        }
        self.push.forget(now);
        self.scan(replica, now, out);
        for _ in 0..AT_ONCE {
            let Some((user, what)) = self.push.take_due(now) else { return };
            let state = replica.state();
            if let Some(mailbox) = state.mailbox(&user) {
                let acked = |device: &DeviceId| {
                    let known = self.acked.get(&(user.clone(), device.clone()));
                    known.copied().unwrap_or_default()
                };
                let notices = self.push.look((&user, mailbox), acked, what, now);
                out.extend(notices.into_iter().map(|notice| Output::Wake(Box::new(notice))));
            } else if let Some(chunks) = state.cold(&user) {
                out.push(Output::Load(user.clone(), chunks));
                let again = now + self.push.step();
                self.push.mark(user, what, again);
            }
        }
    }

    /// A new leader looks once at everybody: what waited to be told is known to nobody any more.
    fn scan(&mut self, replica: &Replica, now: Duration, out: &mut Vec<Output>) {
        let (Some(from), Some(after)) = (self.push.scan.take(), self.push.after) else { return };
        if now < self.push.scan_due {
            self.push.scan = Some(from);
            return;
        }
        self.push.scan_due = now + SCAN_EVERY;
        let (state, mut last) = (replica.state(), from.clone());
        for user in state.users_after(from.as_ref()).take(AT_ONCE) {
            if let Some(chunks) = state.cold(user).filter(|_| user.group().is_none()) {
                out.push(Output::Load(user.clone(), chunks));
                self.push.scan = Some(last);
                return;
            }
            let mailbox = state.mailbox(user).filter(|_| user.group().is_none());
            let lately = mailbox.and_then(|mailbox| Push::lately(mailbox, state.now().wall));
            if let Some((span, age)) = lately {
                self.push.mark(user.clone(), (None, span), now + after.saturating_sub(age));
            }
            last = Some(user.clone());
        }
        self.push.scan = (last != from).then_some(last);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Cid, Kind, MessageId};
    use crate::mailbox::rules::{Effect, Now, Policy};
    use crate::message::{Content, Send};

    const AFTER: Duration = Duration::from_secs(20);
    const TICK: Duration = Duration::from_millis(500);
    const BIRTH: Timestamp = Timestamp(1_000_000_000);

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn device(name: &str) -> DeviceId {
        DeviceId::parse(name).unwrap()
    }

    fn conv(name: &str) -> Conversation {
        Conversation::User(user(name))
    }

    /// Bob's mailbox, those who sleep through it, and what was told when.
    struct Bench {
        mailbox: Mailbox,
        push: Push,
        now: Duration,
        messages: Vec<(Conversation, Number, Duration)>,
        told: Vec<(Notice, Duration)>,
    }

    impl Bench {
        fn new(devices: &[&str]) -> Self {
            let mut mailbox = Mailbox::new(user("bob"), Epoch(1));
            let push = Push::new(Some(AFTER));
            let now = Now {
                wall: BIRTH,
                cautious: BIRTH,
                policy: Policy::default(),
                large: crate::mailbox::rules::LARGE_GROUP,
            };
            for name in devices {
                mailbox.ensure_device(&device(name), now).unwrap();
            }
            Self { mailbox, push, now: Duration::ZERO, messages: Vec::new(), told: Vec::new() }
        }

        fn wall(&self) -> Now {
            let wall = BIRTH.after(self.now);
            Now {
                wall,
                cautious: wall,
                policy: Policy::default(),
                large: crate::mailbox::rules::LARGE_GROUP,
            }
        }

        fn message(&mut self, from: &str) {
            let (cid, kind) = (format!("c{}", self.messages.len()), Kind::parse("text").unwrap());
            let content = Content { kind, body: "hi".into(), reply_to: None, client: None };
            let send = Send {
                from: user(from),
                device: device("phone"),
                to: conv("bob"),
                cid: Cid::parse(&cid).unwrap(),
                content: Arc::new(content),
            };
            let (mut effects, now) = (Vec::new(), self.wall());
            let mid = MessageId(self.messages.len() as u128);
            self.mailbox.append(send, mid, now, &mut effects).unwrap();
            for effect in effects {
                let Effect::Logged(entry) = effect else { continue };
                self.messages.push((conv(from), entry.n, self.now));
                self.push.logged(&user("bob"), &entry, self.now);
            }
        }

        fn acknowledge(&mut self, name: &str, n: u64) {
            let now = self.wall();
            self.mailbox.acknowledge(&device(name), Number(n), now, &mut Vec::new());
        }

        fn tick(&mut self) {
            self.push.forget(self.now);
            while let Some((user, what)) = self.push.take_due(self.now) {
                let who = (&user, &self.mailbox);
                let notices = self.push.look(who, |_| Number(0), what, self.now);
                self.told.extend(notices.into_iter().map(|notice| (notice, self.now)));
            }
        }

        fn pass(&mut self, span: Duration) {
            let until = self.now + span;
            while self.now < until {
                self.now += TICK;
                self.tick();
            }
        }

        /// Device, conversation and number of what was told.
        fn told(&mut self) -> Vec<(String, String, u64)> {
            let told = std::mem::take(&mut self.told);
            told.iter()
                .map(|(one, _)| (one.device.to_string(), one.conv.to_string(), one.n.0))
                .collect()
        }

        #[track_caller]
        fn check(&mut self, expected: &[(&str, &str, u64)]) {
            let told = self.told();
            let told: Vec<(&str, &str, u64)> =
                told.iter().map(|(d, c, n)| (d.as_str(), c.as_str(), *n)).collect();
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn a_device_is_told_of_when_its_time_is_over_and_once_for_each_conversation() {
        let mut bench = Bench::new(&["laptop", "phone"]);
        bench.pass(TICK * 3);
        for from in ["ann", "ann", "cat", "ann"] {
            bench.message(from);
        }
        bench.acknowledge("laptop", 2);
        bench.pass(AFTER);
        bench.check(&[]);
        bench.pass(AFTER / STEPS);
        let seen: Vec<(u64, Timestamp)> =
            bench.told.iter().map(|(one, _)| (one.unread, one.since)).collect();
        let came = BIRTH.after(TICK * 3);
        assert_eq!(seen, [(3, came), (1, came), (3, came), (1, came)]);
        let all = [("laptop", "u:ann", 4), ("laptop", "u:cat", 3)];
        bench.check(&[all[0], all[1], ("phone", "u:ann", 1), ("phone", "u:cat", 3)]);
        bench.message("ann");
        bench.pass(AFTER * 2);
        bench.check(&[]);
        bench.acknowledge("phone", 4);
        bench.message("ann");
        bench.pass(AFTER * 2);
        bench.check(&[("phone", "u:ann", 6)]);
    }

    #[test]
    fn newer_messages_are_told_after_ten_minutes_and_old_ones_never_again() {
        let mut bench = Bench::new(&["phone"]);
        bench.message("ann");
        bench.pass(AFTER * 2);
        bench.check(&[("phone", "u:ann", 1)]);
        bench.message("ann");
        bench.pass(AGAIN_AFTER - AFTER * 2);
        bench.check(&[]);
        bench.pass(AFTER * 2);
        bench.check(&[("phone", "u:ann", 2)]);
        bench.pass(AGAIN_AFTER * 3);
        bench.check(&[]);
        bench.message("ann");
        bench.pass(AFTER * 2);
        bench.check(&[("phone", "u:ann", 3)]);
    }

    #[test]
    fn what_waits_for_ten_minutes_takes_nothing_else_with_it() {
        let mut bench = Bench::new(&["phone"]);
        let rounds: [(&[&str], u64); 4] = [
            (&["dan"], 300),
            (&["cat", "dan"], 3),
            (&["ann", "cat"], 300),
            (&["dan", "cat", "cat"], 1_800),
        ];
        for (from, secs) in rounds {
            from.iter().for_each(|from| bench.message(from));
            bench.pass(Duration::from_secs(secs));
        }
        // Dan's sixth waits until ann's fourth is forgotten, which was told long before.
        let told = [("u:dan", 1), ("u:cat", 2), ("u:ann", 4), ("u:dan", 3), ("u:cat", 5)];
        let told = told.into_iter().chain([("u:dan", 6)]);
        let told: Vec<_> = told.map(|(conv, n)| ("phone", conv, n)).collect();
        bench.check(&told);
    }

    #[test]
    fn what_an_acknowledgement_on_its_way_covers_is_not_told() {
        let mut bench = Bench::new(&["phone"]);
        bench.message("ann");
        bench.now += AFTER * 2;
        let (bob, what) = bench.push.take_due(bench.now).unwrap();
        let told = bench.push.look((&bob, &bench.mailbox), |_| Number(1), what, bench.now);
        assert_eq!(told, []);
    }

    #[test]
    fn a_new_leader_tells_by_the_same_numbers_and_nothing_that_is_old() {
        let mut bench = Bench::new(&["phone"]);
        for from in ["ann", "cat", "ann"] {
            bench.message(from);
        }
        bench.pass(AFTER * 2);
        bench.check(&[("phone", "u:ann", 1), ("phone", "u:cat", 2)]);
        let lately = |bench: &Bench| Push::lately(&bench.mailbox, bench.wall().wall);
        let (span, age) = lately(&bench).unwrap();
        assert_eq!(age, AFTER * 2);
        bench.push = Push::new(Some(AFTER));
        bench.push.mark(user("bob"), (None, span), bench.now);
        bench.pass(AFTER);
        bench.check(&[("phone", "u:ann", 1), ("phone", "u:cat", 2)]);
        bench.now += LOOK_BACK + TICK;
        assert_eq!(lately(&bench), None);
        assert_eq!(lately(&Bench::new(&[])), None, "nothing ever came");
    }

    #[test]
    fn without_a_service_nothing_is_kept() {
        let mut bench = Bench::new(&["phone"]);
        bench.push = Push::default();
        bench.message("ann");
        assert!(bench.push.marks.is_empty());
    }

    /// What was told: which number, up to which, and when.
    type Known = (Number, Number, Duration);

    #[derive(Debug, Clone)]
    enum Step {
        Message(u8),
        Acknowledge(bool, u64),
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..3u8).prop_map(Step::Message),
            2 => (any::<bool>(), 0..40u64).prop_map(|(laptop, n)| Step::Acknowledge(laptop, n)),
            3 => (0..60u64).prop_map(Step::Pass),
            1 => (300..700u64).prop_map(Step::Pass),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// However messages and acknowledgements come: nobody is told too early, or of what they have, or again before
        /// they acknowledged it or ten minutes have passed; and in the end nothing unacknowledged was left untold.
        #[test]
        fn who_sleeps_is_told_in_time_and_once(steps in steps()) {
            let mut bench = Bench::new(&["laptop", "phone"]);
            let mut told: BTreeMap<(DeviceId, Conversation), Vec<Known>> = BTreeMap::new();
            let end = [Step::Pass((AGAIN_AFTER + AFTER * 3).as_secs())];
            for step in steps.into_iter().chain(end) {
                let ticks = match step {
                    Step::Message(from) => {
                        bench.message(["ann", "cat", "dan"][usize::from(from)]);
                        0
                    }
                    Step::Acknowledge(laptop, n) => {
                        bench.acknowledge(if laptop { "laptop" } else { "phone" }, n);
                        0
                    }
                    Step::Pass(secs) => u32::try_from(secs * 2).unwrap(),
                };
                bench.pass(TICK * ticks);
                for (one, at) in std::mem::take(&mut bench.told) {
                    let mut of = bench.messages.iter().filter(|(conv, ..)| *conv == one.conv);
                    let newest = of.clone().map(|(_, n, _)| *n).max().unwrap();
                    let (_, _, came) = of.find(|(_, n, _)| *n == one.n).expect("of this conversation");
                    prop_assert!(*came + AFTER <= at, "too early");
                    prop_assert!(one.n > bench.mailbox.device(&one.device).unwrap().acked);
                    let before = told.entry((one.device.clone(), one.conv.clone())).or_default();
                    if let Some((n, _, then)) = before.last() {
                        prop_assert!(one.n > *n, "again");
                        prop_assert!(one.acked >= *n || at >= *then + AGAIN_AFTER, "too often");
                    }
                    before.push((one.n, newest, at));
                }
            }
            for name in ["laptop", "phone"] {
                let acked = bench.mailbox.device(&device(name)).unwrap().acked;
                for (conv, n, came) in bench.messages.iter().filter(|(_, n, _)| *n > acked) {
                    let told = told.get(&(device(name), conv.clone()));
                    let mut told = told.into_iter().flatten();
                    let told = told.any(|(_, newest, at)| newest >= n && *at >= *came + AFTER);
                    prop_assert!(told, "{} was not told of {}", name, n);
                }
            }
        }
    }
}
