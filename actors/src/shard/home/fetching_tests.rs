//! Fetching, tested: whoever waits for posts gets them once they come, whatever was asked and answered in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::{any, prop};
use proptest::{prop_assert_eq, proptest};
use raft::eraftpb::{ConfState, HardState};

use super::giving::GIVING_MAX;
use super::*;
use crate::ids::{BootId, Cid, DeviceId, Epoch, Kind, NodeId, ReplicaId, ShardId, Timestamp};
use crate::mailbox::rules::Policy;
use crate::message::group::{Call, News};
use crate::message::history::Wanted as Sought;
use crate::message::{Content, Send};
use crate::packet::{Answer, Ask, Enclosed, Envelope, Fetch, Question, ToHome};
use crate::shard::home::{For, Quota};
use crate::shard::posts::Posts;
use crate::shard::raft_log::{Place, RaftLog};
use crate::shard::replica::{Origin, Outputs, Pace};
use crate::shard::state::{Change, Command, State};
use crate::user::rules::Input;

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn group(name: &str) -> GroupId {
    GroupId::parse(name).unwrap()
}

fn session(count: u64) -> SessionId {
    SessionId { node: NodeId(1), boot: BootId(1), count }
}

fn post(name: &str, seq: u64, bytes: usize) -> Entry {
    let content = Content {
        kind: Kind::parse("text").unwrap(),
        body: "x".repeat(bytes).into(),
        reply_to: None,
        client: None,
    };
    let what = What::Post {
        group: group(name),
        mid: MessageId(seq.into()),
        from: user("ann"),
        device: DeviceId::parse("phone").unwrap(),
        seq: Seq(seq),
        at: Timestamp(5),
        content: Arc::new(content),
    };
    Entry { n: Number(seq), at: Timestamp(5), what }
}

fn posts(name: &str, seqs: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    seqs.map(|seq| post(name, seq, 10)).collect()
}

/// The home of bob, whose log has places of posts to groups of another shard.
struct Bench {
    home: Home,
    replica: Replica,
    envelopes: u64,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        let members = ConfState::from((vec![1], Vec::new()));
        let log = RaftLog::restore(HardState::default(), members, Place::default(), Vec::new());
        let state = State::new(ShardId(0), 1);
        let replica = Replica::new(ReplicaId(1), log, state, Pace::default());
        let home = Home::new(1, Quota::default(), Policy::default()).sharing(Posts::default());
        let mut bench = Self { home, replica, envelopes: 0, now: Duration::ZERO };
        for _ in 0..100 {
            bench.replica.tick();
            bench.settle();
        }
        assert!(bench.replica.role().serves);
        bench.change(Command::Mailbox(user("bob"), Change::Open { epoch: Epoch(1) }));
        bench
    }

    fn settle(&mut self) {
        let mut out = Outputs::default();
        self.replica.release();
        loop {
            self.replica.advance(Timestamp(1), &mut out);
            let writes = std::mem::take(&mut out.writes);
            if writes.is_empty() {
                return;
            }
            writes.iter().for_each(|write| self.replica.persisted(write.ticket, &mut out));
        }
    }

    fn change(&mut self, command: Command) {
        self.replica.propose(command, Origin::Shard).unwrap();
        self.settle();
    }

    fn hear(&mut self, what: What) {
        let members = [user("bob")].into();
        let to = UserId::of_group(&group("club"));
        let envelope = Envelope { to, what: Enclosed::Spread { members, what, cid: None } };
        let (from, first) = (ShardId(9), self.envelopes + 1);
        self.envelopes += envelope.count();
        self.change(Command::Receive { from, first, envelopes: vec![envelope] });
    }

    /// Bob comes into groups, by entries 1, 2 … of his log; each has so many posts then, from `seq` 2 on.
    fn with(groups: &[(&str, u32)]) -> Self {
        let mut bench = Self::new();
        for (name, _) in groups {
            let news = Arc::new(News::Created { title: "Club".into(), users: vec![user("bob")] });
            let (group, by) = (group(name), user("ann"));
            bench.hear(What::Group { group, seq: Seq(1), at: Timestamp(1), by, news });
        }
        for (name, count) in groups {
            bench.hear(What::Referred { group: group(name), seq: Seq(2), count: *count });
        }
        bench
    }

    fn read(&mut self, at: u64, life: u32, after: u64, bytes: u32) -> Vec<Output> {
        let (session, after) = (session(at), Number(after));
        let read = Read { session, life, after, count: 256, bytes, pull: false };
        let mut out = Vec::new();
        self.home.read(&self.replica, &user("bob"), read, &mut out);
        self.home.fetches.waiters.check();
        out
    }

    fn ask(&mut self, request: u32, question: Question) -> Vec<Output> {
        let ask = Ask::Question { request, question };
        self.say(7, ask)
    }

    fn say(&mut self, at: u64, ask: Ask) -> Vec<Output> {
        let mut out = Vec::new();
        let ask = ToHome { shard: ShardId(0), user: user("bob"), session: session(at), ask };
        self.home.ask(&mut self.replica, ask, (self.now, Timestamp(1)), 1, &mut out);
        self.home.fetches.waiters.check();
        out
    }

    fn answer(&mut self, ticket: u64, name: &str, posts: Vec<Entry>, gone: u64) -> Vec<Output> {
        let (to, group, gone) = (ShardId(0), group(name), Seq(gone));
        let mut out = Vec::new();
        let fetched = Fetched { to, ticket, group, posts, gone };
        self.home.fetched(&self.replica, fetched, &mut out);
        self.home.fetches.waiters.check();
        out
    }

    /// Who waits for posts of a group.
    fn waiting(&self, name: &str) -> BTreeSet<Whom> {
        let all = Some((Seq(0), Seq(u64::MAX)));
        self.home.fetches.waiters.concerned(&group(name), all, Seq(0))
    }

    fn pass(&mut self, span: Duration) -> Vec<Output> {
        self.now += span;
        let mut out = Vec::new();
        self.home.fetch_again(&self.replica, self.now, &mut out);
        self.home.fetches.waiters.check();
        out
    }
}

/// What was asked for: ticket, group, first, last, and of whom.
fn asked(out: &[Output]) -> Vec<(u64, String, u64, u64, Source)> {
    let asked = out.iter().filter_map(|output| match output {
        Output::Fetch(Fetch { ticket, group, first, last, .. }, source) => {
            Some((*ticket, group.to_string(), first.0, last.0, *source))
        }
        _ => None,
    });
    asked.collect()
}

fn ticket(out: &[Output]) -> u64 {
    asked(out)[0].0
}

/// The pages sessions were given: each session, and what is in its page.
fn pages(out: &[Output]) -> Vec<(u64, Vec<What>)> {
    let pages = out.iter().filter_map(|output| match output {
        Output::Connected(_, Input::Page { session, entries, .. }) => {
            Some((session.count, entries.iter().map(|entry| entry.what.clone()).collect()))
        }
        _ => None,
    });
    pages.collect()
}

fn whats(entries: &[Entry]) -> Vec<What> {
    entries.iter().map(|entry| entry.what.clone()).collect()
}

fn answers(out: &[Output]) -> Vec<(u32, Result<Answer, Refusal>)> {
    let answers = out.iter().filter_map(|output| match output {
        Output::Tell(_, Tell::Answer { request, answer }) => Some((*request, answer.clone())),
        _ => None,
    });
    answers.collect()
}

#[test]
fn an_answer_about_one_group_says_nothing_of_another() {
    let mut bench = Bench::with(&[("club", 2), ("team", 2)]);
    let first = bench.read(1, 1, 2, 100_000);
    let all = [("club", 2, 3), ("team", 2, 3)];
    let near = |(at, (name, first, last)): (usize, (&str, u64, u64))| {
        (at as u64 + 1, name.to_string(), first, last, Source::Nearest)
    };
    assert_eq!(asked(&first), all.into_iter().enumerate().map(near).collect::<Vec<_>>());
    let club = ticket(&first);
    // A leader that is about to let go of its log, and has just read it.
    let out = bench.answer(club, "club", posts("club", 2..=3), 900);
    assert_eq!((pages(&out), asked(&out)), (vec![], vec![]), "the rest is on its way");
    // The same once more, late, and one about what nobody asked for.
    let out = bench.answer(club, "club", posts("club", 2..=3), 900);
    assert!(out.is_empty(), "{out:?}");
    let out = bench.answer(club, "crew", Vec::new(), 900);
    assert!(out.is_empty(), "{out:?}");
    let out = bench.answer(club, "team", posts("team", 2..=3), 0);
    let page = [whats(&posts("club", 2..=3)), whats(&posts("team", 2..=3))].concat();
    assert_eq!(pages(&out), [(1, page)], "whole, whatever it was asked with");
    assert!(bench.answer(club + 1, "team", posts("team", 2..=3), 0).is_empty(), "once");
}

#[test]
fn who_waits_for_the_same_is_given_it_by_one_answer() {
    let mut bench = Bench::with(&[("club", 4)]);
    let ticket = ticket(&bench.read(1, 1, 1, 100_000));
    assert!(bench.read(2, 1, 1, 100_000).is_empty(), "it is asked for already");
    assert!(bench.read(3, 1, 3, 100_000).is_empty(), "and so is a part of it");
    let out = bench.answer(ticket, "club", posts("club", 2..=3), 0);
    assert_eq!(asked(&out).len(), 1, "{out:?}");
    let out = bench.answer(asked(&out)[0].0, "club", posts("club", 4..=5), 0);
    let (all, rest) = (whats(&posts("club", 2..=5)), whats(&posts("club", 4..=5)));
    assert_eq!(pages(&out), [(1, all.clone()), (2, all), (3, rest)]);
    assert!(bench.pass(AGES).is_empty(), "nothing is left to ask for");
}

const AGES: Duration = Duration::from_secs(100);
const HALF: Duration = Duration::from_millis(500);

#[test]
fn who_does_not_answer_or_help_is_not_the_only_one_asked() {
    let mut bench = Bench::with(&[("club", 1)]);
    let first = ticket(&bench.read(1, 1, 1, 100_000));
    let sources = |out: Vec<Output>| asked(&out).into_iter().map(|ask| ask.4).collect::<Vec<_>>();
    assert_eq!(sources(bench.pass(HALF)), [], "the clock begins with a tick");
    for source in [Source::Leader, Source::Nearest, Source::Leader, Source::Nearest] {
        assert_eq!(sources(bench.pass(HALF)), [source]);
    }
    let out = bench.answer(first, "club", Vec::new(), 0);
    assert_eq!(sources(out), [Source::Leader], "at once");
    assert!(bench.answer(first, "club", Vec::new(), 0).is_empty(), "once");
    let out = bench.answer(first, "club", Vec::new(), 2);
    let (conv, mid, seq) = (Conversation::Group(group("club")), MessageId(0), Seq(2));
    assert_eq!(pages(&out), [(1, vec![What::Expired { conv, mid, seq }])], "gone for good");
}

#[test]
fn a_page_takes_what_fits_and_asks_for_no_more() {
    let mut bench = Bench::with(&[("club", 200)]);
    // No post weighs less than its place.
    let out = bench.read(1, 1, 1, 1_700);
    let last = asked(&out)[0].3;
    assert_eq!((asked(&out)[0].2, last), (2, 11), "{out:?}");
    let large: Vec<Entry> = (2..=4).map(|seq| post("club", seq, 700)).collect();
    let out = bench.answer(ticket(&out), "club", large.clone(), 0);
    assert_eq!(pages(&out), [(1, whats(&large[..1]))], "a second does not fit");
    assert_eq!(asked(&out), []);
    let out = bench.read(1, 1, 2, 3_000);
    let out = bench.answer(ticket(&out), "club", vec![post("club", 5, 3_000)], 0);
    assert_eq!(pages(&out), [(1, whats(&large[1..]))], "{out:?}");
}

#[test]
fn a_session_waits_for_one_page_and_only_while_it_is_there() {
    let mut bench = Bench::with(&[("club", 9), ("team", 1)]);
    for life in 1..1_000 {
        bench.read(1, life, 1 + u64::from(life % 9), 100_000);
    }
    assert_eq!(bench.waiting("club").len(), 1);
    assert!(bench.say(1, Ask::Detach { life: 3 }).len() <= 1, "an earlier one is over");
    assert_eq!(bench.waiting("club").len(), 1);
    bench.say(1, Ask::Detach { life: 999 });
    assert_eq!(bench.waiting("club").len(), 0);
    assert_eq!(asked(&bench.pass(AGES)), []);
}

#[test]
fn a_session_that_is_ended_waits_for_nothing_any_more() {
    let mut bench = Bench::with(&[("club", 9)]);
    bench.read(1, 5, 1, 100_000);
    bench.home.ended(session(1), 4);
    assert_eq!(bench.waiting("club").len(), 1, "it has attached again since");
    bench.home.ended(session(1), 5);
    assert_eq!((bench.waiting("club").len(), asked(&bench.pass(AGES))), (0, vec![]));
}

#[test]
fn an_answer_is_looked_at_by_those_it_can_serve() {
    let mut bench = Bench::with(&[("club", 10_300)]);
    for at in 1..=1_000 {
        bench.read(at, 1, at * 10, 100_000);
    }
    assert_eq!(bench.waiting("club").len(), 1_000);
    let waiters = &bench.home.fetches.waiters;
    for first in [2, 5_000, 10_000] {
        let came = Some((Seq(first), Seq(first + 255)));
        let concerned = waiters.concerned(&group("club"), came, Seq(0)).len();
        assert!((25..=52).contains(&concerned), "{concerned} from {first} on");
    }
    for at in 1..=1_000 {
        let first = at * 10 + 1;
        bench.answer(1, "club", posts("club", first..=first + 255), 0);
    }
    assert_eq!(bench.waiting("club").len(), 0);
}

#[test]
fn only_so_much_waits_and_who_comes_then_is_sent_away() {
    let mut bench = Bench::with(&[("club", 256)]);
    let lost = |out: &[Output]| {
        let closed = |output: &Output| match output {
            Output::Tell(_, tell) => matches!(tell, Tell::Closed { life: 1, why: Closed::Lost }),
            _ => false,
        };
        out.iter().any(closed)
    };
    let waits = (1..2_000).take_while(|at| !lost(&bench.read(*at, 1, 1, 100_000))).count();
    assert_eq!(waits, 1_024);
    let out = bench.ask(5, Question::Talks { before: None, limit: 9 });
    assert_eq!(answers(&out), [(5, Err(Refusal::Overloaded))]);
    bench.say(1, Ask::Detach { life: 1 });
    assert!(!lost(&bench.read(5_000, 1, 1, 100_000)), "there is room again");
}

#[test]
fn only_so_many_questions_wait_and_each_of_them_once() {
    let mut bench = Bench::with(&[("club", 2)]);
    let sought = || Question::History(Box::new(Sought { limit: 9, ..Sought::default() }));
    let out = bench.ask(1, sought());
    for _ in 0..1_000 {
        assert!(bench.ask(1, sought()).is_empty(), "asked again while it waits");
    }
    let waits = (2..500).take_while(|at| answers(&bench.ask(*at, sought())).is_empty()).count();
    assert_eq!(1 + waits, WAITING_MAX);
    bench.pass(HALF);
    let refused = answers(&bench.pass(SEARCH_WITHIN));
    assert_eq!(refused.len(), WAITING_MAX);
    assert!(refused.iter().all(|(_, answer)| *answer == Err(Refusal::Unavailable)));
    assert_eq!(answers(&bench.ask(1, sought())), [], "there is room again");
    let found = answers(&bench.answer(ticket(&out), "club", posts("club", 2..=3), 0));
    let [(1, Ok(Answer::History { entries, .. }))] = &found[..] else { panic!("{found:?}") };
    assert_eq!(whats(entries), whats(&posts("club", 2..=3)));
}

#[test]
fn a_list_of_chats_is_told_without_what_does_not_come() {
    let mut bench = Bench::with(&[("club", 1), ("team", 1), ("crew", 1)]);
    let question = || Question::Talks { before: None, limit: 9 };
    let out = bench.ask(1, question());
    let groups: Vec<String> = asked(&out).into_iter().map(|ask| ask.1).collect();
    assert_eq!(groups, ["club", "team", "crew"], "all at once");
    bench.pass(HALF);
    assert!(bench.answer(asked(&out)[1].0, "team", posts("team", 2..=2), 0).is_empty());
    assert!(bench.ask(1, question()).is_empty(), "asking again makes it no later");
    let out = bench.pass(LIST_WITHIN);
    let [(1, Ok(Answer::Talks { talks, .. }))] = &answers(&out)[..] else { panic!("{out:?}") };
    let told = |talk: &crate::message::history::Talk| {
        (talk.conv.to_string(), talk.last.as_ref().map(|last| last.what.clone()))
    };
    let told: Vec<_> = talks.iter().map(told).collect();
    let team = Some(post("team", 2, 10).what);
    let all = [("g:crew", None), ("g:team", team), ("g:club", None)];
    assert_eq!(told, all.map(|(conv, last)| (conv.to_string(), last)));
    assert!(bench.pass(AGES).is_empty());
}

#[test]
fn a_run_that_cannot_be_read_keeps_nobody_from_being_given_another() {
    let mut bench = Bench::new();
    let (club, ann) = (group("club"), user("ann"));
    let owner = UserId::of_group(&club);
    let call = Box::new(Call::Create { title: "Club".into(), members: Vec::new() });
    let made = Change::Group { by: ann.clone(), call, epoch: Epoch(1) };
    bench.change(Command::Mailbox(owner.clone(), made));
    for at in 0..20 {
        let What::Post { content, device, .. } = post("club", 1, 2_000).what else { panic!() };
        let (cid, to) =
            (Cid::parse(&format!("c-{at}")).unwrap(), Conversation::Group(club.clone()));
        let send = Box::new(Send { from: ann.clone(), device, to, cid, content });
        let change = Change::Append { mid: MessageId(at), send };
        bench.change(Command::Mailbox(owner.clone(), change));
    }
    let (_, _, saved) = bench.replica.state_mut().checkpoint();
    bench.replica.state_mut().checkpointed(&saved);
    let fetch = Fetch { from: ShardId(0), ticket: 1, group: club, first: Seq(2), last: Seq(3) };
    for at in 0..=GIVING_MAX {
        let mut out = Vec::new();
        bench.home.fetch(&bench.replica, NodeId(1), fetch.clone(), &mut out);
        let Some(Output::LoadRun(.., wanted @ For::Posts(_))) = out.pop() else {
            panic!("the run is not read for request {at}");
        };
        for _ in 0..3 {
            bench.home.fetch(&bench.replica, NodeId(1), fetch.clone(), &mut out);
        }
        assert!(out.is_empty(), "repeated while it waits, it is read once");
        bench.home.run_lost(wanted);
    }
}

/// Waits for these posts of a group.
fn waiting_for(ranges: &[(u64, u64)]) -> Waiting {
    let (session, after) = (session(1), Number(0));
    let read = Read { session, life: 1, after, count: 9, bytes: 9, pull: false };
    let wanted = |(first, last): &(u64, u64)| (group("club"), Seq(*first), Seq(*last));
    Waiting {
        lacking: Lacking::Page(user("bob"), read, after),
        entries: Vec::new(),
        wanted: ranges.iter().map(wanted).collect(),
        since: None,
    }
}

proptest! {
    #[test]
    fn whoever_an_answer_concerns_is_found(
        steps in prop::collection::vec(
            (0_u64..12, 1_u64..200, 0_u64..40, 0_u64..60, any::<bool>()),
            1..60,
        ),
        came in (1_u64..260, 0_u64..60),
        gone in 0_u64..120,
    ) {
        let mut waiters = Waiters::default();
        let mut model: BTreeMap<Whom, Vec<(u64, u64)>> = BTreeMap::new();
        for (who, first, length, gap, stays) in steps {
            let whom = Whom::Session(session(who), false);
            let second = first + length + 1 + gap;
            let ranges = vec![(first, first + length), (second, second + length / 2)];
            if stays {
                waiters.put(whom, waiting_for(&ranges));
                model.insert(whom, ranges);
            } else {
                waiters.take(whom);
                model.remove(&whom);
            }
            waiters.ask(ShardId(0), &group("club"), &mut |_, _| ());
            waiters.check();
        }
        let (first, last) = (came.0, came.0 + came.1);
        let concerns = |ranges: &Vec<(u64, u64)>| {
            ranges.iter().any(|(from, to)| from <= &gone || from <= &last && to >= &first)
        };
        let all = model.iter().filter(|(_, ranges)| concerns(ranges)).map(|(whom, _)| *whom);
        let came = Some((Seq(first), Seq(last)));
        let found = waiters.concerned(&group("club"), came, Seq(gone));
        prop_assert_eq!(found, all.collect::<BTreeSet<_>>());
    }
}
