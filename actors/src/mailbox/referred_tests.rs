//! Posts to large groups, of which mailboxes only have the place: kept, read and dropped like entries of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::ids::{DeviceId, Epoch, Kind, Timestamp};
use crate::mailbox::image::{self, Opening, Stored};
use crate::mailbox::log::{Found, page};
use crate::mailbox::rules::Policy;
use crate::message::Content;

fn club() -> GroupId {
    GroupId::parse("club").unwrap()
}

fn place(seq: u64, count: u32) -> What {
    What::Referred { group: club(), seq: Seq(seq), count }
}

fn at(ms: u64) -> Now {
    let wall = Timestamp(ms);
    Now { wall, cautious: wall, policy: Policy::default(), large: 2 }
}

fn post(from: UserId) -> Send {
    let kind = Kind::parse("text").unwrap();
    let content = Content { kind, body: "hi".into(), reply_to: None, client: None };
    let (device, cid) = (DeviceId::parse("phone").unwrap(), Cid::parse("c-1").unwrap());
    let to = Conversation::Group(club());
    Send { from, device, to, cid, content: Arc::new(content) }
}

/// A member of the club, and every single entry of their log.
struct Member {
    mailbox: Mailbox,
    stored: Stored,
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    entries: Vec<Entry>,
    seq: u64,
    ms: u64,
}

impl Member {
    fn new() -> Self {
        let bob = UserId::parse("bob").unwrap();
        let mut mailbox = Mailbox::new(bob.clone(), Epoch(1));
        let by = UserId::parse("ann").unwrap();
        let news = News::Created { title: "Club".into(), users: vec![by.clone(), bob] };
        let what =
            What::Group { group: club(), seq: Seq(1), at: Timestamp(1), by, news: Arc::new(news) };
        let mut effects = Vec::new();
        mailbox.hear(&what, None, at(1), &mut effects);
        let mut member = Self {
            mailbox,
            stored: Stored::default(),
            disk: BTreeMap::new(),
            entries: Vec::new(),
            seq: 1,
            ms: 1,
        };
        member.take(effects);
        member
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Logged(entry) = effect {
                self.entries.extend(entry.each());
            }
        }
        self.mailbox.check();
    }

    fn hear(&mut self, count: u32) {
        let mut effects = Vec::new();
        self.ms += 1;
        self.mailbox.hear(&place(self.seq + 1, count), None, at(self.ms), &mut effects);
        self.seq += u64::from(count);
        self.take(effects);
    }

    fn expired(&mut self) {
        let mut effects = Vec::new();
        let (by, mid) = (UserId::parse("cat").unwrap(), MessageId(9));
        let enclosed = Enclosed::Expired { by, mid, seq: Seq(1) };
        self.ms += 1;
        self.mailbox.receive(enclosed, at(self.ms), &mut effects);
        self.take(effects);
    }

    fn checkpoint(&mut self, cools: bool) {
        let changes = image::save(&mut self.mailbox, &mut self.stored);
        self.disk.extend(changes.puts);
        changes.deletes.iter().for_each(|key| drop(self.disk.remove(key)));
        if cools {
            let to = image::sealed_to(&self.mailbox);
            image::cool(&mut self.mailbox, to);
        }
        let owner = self.mailbox.owner.clone();
        let chunks = self.disk.iter().filter(|(key, _)| image::head_of(key).is_some());
        let chunks: Vec<Vec<u8>> = chunks.map(|(_, value)| value.clone()).collect();
        let opening = Opening::new(owner, &chunks).unwrap();
        let values: Vec<Vec<u8>> =
            opening.keys().iter().map(|key| self.disk[key].clone()).collect();
        let (restored, stored) = opening.finish(&values).unwrap();
        restored.check();
        assert_eq!(image::digest(&restored), image::digest(&self.mailbox), "all of it is kept");
        (self.mailbox, self.stored) = (restored, stored);
    }

    /// A page of the log, wherever it lies.
    fn read(&self, after: u64, count: usize) -> Vec<Entry> {
        match self.mailbox.log().read(Number(after), count, usize::MAX) {
            Found::Entries(entries) => entries,
            Found::OnDisk(run) => {
                let key = image::log_key(&self.mailbox.owner, run);
                let run = image::entries(&self.disk[&key]).unwrap();
                let after = Number(after).max(self.mailbox.log().low());
                page(run.iter(), after, count, usize::MAX)
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Hear(u32),
    Other,
    Drop(u64),
    Checkpoint(bool),
    Read(u64, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..400_u32).prop_map(Step::Hear),
        2 => Just(Step::Other),
        1 => (0..300_u64).prop_map(Step::Drop),
        2 => any::<bool>().prop_map(Step::Checkpoint),
        4 => (0..2_000_u64, 1..300_usize).prop_map(|(after, count)| Step::Read(after, count)),
    ]
}

proptest! {
    /// However posts came together, lie on disk and are dropped: a page holds single entries, one after the other.
    #[test]
    fn a_log_of_places_reads_like_single_entries(steps in prop::collection::vec(step(), 1..60)) {
        let mut member = Member::new();
        for step in steps {
            match step {
                Step::Hear(count) => member.hear(count),
                Step::Other => member.expired(),
                Step::Drop(more) => {
                    let to = Number(member.mailbox.log.low().0 + more);
                    let to = to.min(member.mailbox.log.head());
                    member.mailbox.expire_to(to, &mut Vec::new());
                    member.mailbox.check();
                }
                Step::Checkpoint(cools) => member.checkpoint(cools),
                Step::Read(after, count) => {
                    let low = member.mailbox.log.low().0;
                    let page = member.read(after, count);
                    let from = usize::try_from(after.max(low)).unwrap();
                    let rest = member.entries.get(from..).unwrap_or_default();
                    prop_assert!(page.len() <= count);
                    prop_assert_eq!(page.is_empty(), rest.is_empty());
                    prop_assert_eq!(&page[..], &rest[..page.len()]);
                }
            }
        }
    }

    /// Of what waits only the ends are kept; what is had of it is the same as if each were.
    #[test]
    fn what_waits_is_counted_as_if_each_post_were_kept(
        steps in prop::collection::vec((1..5_u64, 0..3_u64, 1..9_u32, any::<u8>()), 1..60),
    ) {
        let (mut known, mut model) = (Membership::default(), VecDeque::new());
        let (mut n, mut seq) = (1, 1);
        for (others, own, count, take) in steps {
            known.wait(Number(n), Seq(seq), count);
            model.extend((0..u64::from(count)).map(|more| (n + more, seq + more)));
            n += u64::from(count);
            seq += u64::from(count);
            if take % 4 == 0 {
                let to = n.saturating_sub(u64::from(take / 4));
                let mut had = None;
                while let Some((_, seq)) = model.pop_front_if(|(at, _)| *at <= to) {
                    had = Some(seq);
                }
                let told = known.take_to(Number(to)).map(|seq| seq.0);
                // Between two posts of others in step there are only the owner's own, which they have, too.
                let own = model.front().map(|(_, next)| next - 1);
                prop_assert!(told == had || told.is_some() && told <= own && told >= had, "{told:?}, not {had:?}");
            }
            // What else comes; of it the owner's own posts, which count in the group, too.
            n += others / 4 + own / 2;
            seq += own / 2;
        }
        prop_assert!(known.waiting.len() <= 2 * model.len() + 2);
        prop_assert!(known.waits() >= model.len() as u64);
    }
}

#[test]
fn posts_in_a_row_cost_a_member_who_is_away_no_memory_each() {
    let mut member = Member::new();
    for _ in 0..1_000 {
        member.hear(100);
    }
    let known = &member.mailbox.groups[&club()];
    assert_eq!((known.waiting.len(), known.waits()), (2, 100_000));
    member.expired();
    assert!(
        member.mailbox.holds(2) && !member.mailbox.holds(3),
        "what others wrote to them counts"
    );
    assert!(member.mailbox.undelivered_bytes() < 4 << 20, "a place is nearly nothing");
    assert_eq!(member.mailbox.log.head(), Number(100_002));
    assert!(member.mailbox.log.weight() < 100_000 * 8, "a few bytes each");
    let mut effects = Vec::new();
    member.mailbox.ensure_device(&DeviceId::parse("phone").unwrap(), at(9_000)).unwrap();
    member.mailbox.acknowledge(
        &DeviceId::parse("phone").unwrap(),
        Number(50_000),
        at(9_000),
        &mut effects,
    );
    let had = Watermarks { delivered: Seq(50_000), read: Seq(1) };
    assert!(effects.contains(&receipt(&club(), &member.mailbox.owner, had)), "{effects:?}");
}

#[test]
fn a_large_groups_log_outlives_what_refers_to_it_and_a_small_ones_goes_as_history() {
    for (large, kept, gone) in [(2, 91, 94), (3, 30, 31)] {
        let owner = UserId::of_group(&club());
        let (ann, bob) = (UserId::parse("ann").unwrap(), UserId::parse("bob").unwrap());
        let mut group = Mailbox::new(owner, Epoch(1));
        let now = |days: u32| Now { large, ..at(1 + u64::from(days) * 86_400_000) };
        let call = Call::Create { title: "Club".into(), members: vec![bob] };
        group.call(&ann, &call, 4, now(0), &mut Vec::new()).unwrap();
        let mut effects = Vec::new();
        group.append(post(ann), MessageId(1), now(0), &mut effects).unwrap();
        let refers = effects.iter().any(|e| matches!(e, Effect::Spread(s) if s.refers));
        assert_eq!(refers, large == 2);
        for days in 1..=100 {
            group.expire(now(days), &mut Vec::new());
            group.check();
            let is_due = group.due(Policy::default()).is_some_and(|due| due <= now(days).cautious);
            assert!(!is_due, "nothing is left to do on day {days}");
            let is_kept = group.log.low() < group.log.head();
            assert!(is_kept || days > kept, "on day {days}");
            assert!(!is_kept || days < gone, "on day {days}");
        }
    }
}

#[test]
fn without_history_every_post_lies_in_the_mailboxes_alone() {
    let policy = Policy { history: Duration::ZERO, ..Policy::default() };
    let now = Now { policy, ..at(1) };
    let mut group = Mailbox::new(UserId::of_group(&club()), Epoch(1));
    let (ann, bob) = (UserId::parse("ann").unwrap(), UserId::parse("bob").unwrap());
    let call = Call::Create { title: "Club".into(), members: vec![bob] };
    let mut effects = Vec::new();
    group.call(&ann, &call, 4, now, &mut effects).unwrap();
    group.append(post(ann), MessageId(1), now, &mut effects).unwrap();
    assert_eq!(effects.len(), 2);
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::Spread(s) if s.refers)));
    assert_eq!(group.log.low(), group.log.head());
}

const HOUR: u64 = 3_600_000;

/// A group and one of its members, who live as long as is kept of either.
struct Pair {
    group: Mailbox,
    member: Mailbox,
    /// Posted, and not come yet: when, and which.
    under_way: VecDeque<(u64, Seq)>,
    /// Devices that are heard each day.
    awake: BTreeSet<DeviceId>,
    hours: u64,
}

impl Pair {
    fn new() -> Self {
        let (ann, bob) = (UserId::parse("ann").unwrap(), UserId::parse("bob").unwrap());
        let mut group = Mailbox::new(UserId::of_group(&club()), Epoch(1));
        let call = Call::Create { title: "Club".into(), members: vec![bob] };
        group.call(&ann, &call, 4, at(HOUR), &mut Vec::new()).unwrap();
        let member = Member::new().mailbox;
        Self { group, member, under_way: VecDeque::new(), awake: BTreeSet::new(), hours: 2 }
    }

    fn now(&self) -> Now {
        at(self.hours * HOUR)
    }

    fn post(&mut self) {
        let ann = UserId::parse("ann").unwrap();
        let (cid, now) = (Cid::parse(&format!("c-{}", self.hours)).unwrap(), self.now());
        let send = Send { cid, ..post(ann) };
        let accepted = self.group.append(send, MessageId(1), now, &mut Vec::new()).unwrap();
        if !accepted.dup {
            self.under_way.push_back((self.hours, accepted.seq));
        }
    }

    /// Hours pass; posts come up to twelve of them late.
    fn pass(&mut self, hours: u64) {
        for _ in 0..hours {
            self.hours += 1;
            let now = self.now();
            while let Some((_, seq)) =
                self.under_way.pop_front_if(|(at, _)| *at + 12 < now.wall.0 / HOUR)
            {
                self.member.hear(&place(seq.0, 1), None, now, &mut Vec::new());
            }
            for device in self.awake.iter().filter(|_| self.hours.is_multiple_of(24)) {
                self.member.ensure_device(device, now).unwrap();
            }
            for mailbox in [&mut self.member, &mut self.group] {
                mailbox.expire(now, &mut Vec::new());
                mailbox.check();
                let due = mailbox.due(Policy::default());
                assert!(due.is_none_or(|due| due > now.cautious), "nothing is left to do");
            }
            self.check();
        }
    }

    /// Whatever the member's log refers to is in the group's.
    fn check(&self) {
        let low = self.member.log.low();
        let kept = self.member.log.warm.iter().filter_map(|entry| entry.clone().after(low));
        for entry in kept {
            if let What::Referred { seq, .. } = entry.what {
                let (gone, hours) = (self.group.log.low().0, self.hours);
                assert!(seq.0 > gone, "after {hours} hours {seq:?} is gone with {gone}");
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Turn {
    Post,
    Pass(u64),
    /// A device is heard now, and each day from now on.
    Connect(u8),
    Sleep(u8),
    Acknowledge(u8, u64),
    Remove(u8),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        3 => Just(Turn::Post),
        2 => (1..48_u64).prop_map(Turn::Pass),
        4 => (500..725_u64).prop_map(Turn::Pass),
        3 => (0..3_u8).prop_map(Turn::Connect),
        3 => (0..3_u8, 0..12_u64).prop_map(|(device, behind)| Turn::Acknowledge(device, behind)),
        1 => (0..3_u8).prop_map(Turn::Sleep),
        1 => (0..3_u8).prop_map(Turn::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whenever devices come, stay away or never fetch anything: what a mailbox refers to is there.
    #[test]
    fn whatever_refers_to_a_post_goes_before_it(turns in prop::collection::vec(turn(), 1..40)) {
        let mut pair = Pair::new();
        for turn in turns {
            let (device, now) = (|at: u8| DeviceId::parse(&format!("d{at}")).unwrap(), pair.now());
            match turn {
                Turn::Post => pair.post(),
                Turn::Pass(hours) => pair.pass(hours),
                Turn::Connect(at) => {
                    pair.awake.insert(device(at));
                    pair.member.ensure_device(&device(at), now).unwrap();
                }
                Turn::Sleep(at) => drop(pair.awake.remove(&device(at))),
                Turn::Acknowledge(at, behind) => {
                    let n = Number(pair.member.log.head().0.saturating_sub(behind));
                    pair.member.acknowledge(&device(at), n, now, &mut Vec::new());
                }
                Turn::Remove(at) => {
                    pair.awake.remove(&device(at));
                    let _unknown = pair.member.remove_device(&device(at), now, &mut Vec::new());
                }
            }
            pair.member.check();
            pair.check();
        }
    }
}

#[test]
fn a_device_that_fetches_nothing_holds_history_back_for_a_month_and_no_longer() {
    let mut pair = Pair::new();
    let device = |name| DeviceId::parse(name).unwrap();
    pair.member.ensure_device(&device("phone"), pair.now()).unwrap();
    pair.post();
    pair.pass(24);
    let head = pair.member.log.head();
    pair.pass(28 * 24);
    pair.member.acknowledge(&device("phone"), head, pair.now(), &mut Vec::new());
    pair.pass(29 * 24);
    for day in 0..=40 {
        // It comes again and again, and acknowledges nothing.
        for name in ["phone", "tablet"] {
            pair.member.ensure_device(&device(name), pair.now()).unwrap();
        }
        let is_kept = pair.member.log.low() < head;
        assert!(is_kept || day > 30, "on day {day}");
        assert!(!is_kept || day < 34, "on day {day}");
        pair.pass(24);
    }
    let acked = pair.member.device(&device("tablet")).map(|tablet| tablet.acked);
    assert_eq!(acked, Some(head), "what is gone it lacks no more");
}

#[test]
fn numbers_that_cannot_be_are_refused_or_end_somewhere() {
    let end = 1_000;
    let membership = |waiting: &[(u64, u64)]| {
        let waiting = waiting.iter().map(|(n, seq)| (Number(*n), Seq(*seq))).collect();
        Membership { waiting, ..Membership::default() }
    };
    assert!(membership(&[(1, 5), (4, 8), (5, 20)]).is_sound(end));
    for broken in [[(4, 8), (1, 9)], [(1, 8), (4, 5)], [(1, 5), (end, 9)], [(1, 5), (4, end)]] {
        assert!(!membership(&broken).is_sound(end), "{broken:?}");
    }
    // More places than there can be, at the end of all numbers.
    let mut member = Member::new();
    let last = Seq(u64::MAX - 1);
    let what = What::Referred { group: club(), seq: last, count: u32::MAX };
    member.mailbox.hear(&what, None, at(2), &mut Vec::new());
    member.mailbox.check();
    assert_eq!(member.mailbox.log.head(), Number(1 + u64::from(PLACES_MAX)));
    assert!(member.mailbox.posts_undelivered() > 0);
    let entry = Entry { n: Number(1), at: Timestamp(1), what };
    assert_eq!(entry.each().take(5).count(), 5);
}
