//! Tests of watching: what a client hears of those it watches, whatever their homes do.

use std::sync::Arc;

use proptest::prelude::{Strategy, any, prop, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::ids::{BootId, DeviceId, NodeId, SessionId, Timestamp};
use crate::session::Limits;

const SHARDS: u16 = 4;

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn there(online: bool, seen: u64) -> Presence {
    Presence { online, last_seen: Some(Timestamp(seen)) }
}

struct Bench {
    session: Session,
    out: Vec<Output>,
}

impl Bench {
    fn new(watched_max: usize) -> Self {
        let id = SessionId { node: NodeId(1), boot: BootId(1), count: 1 };
        let limits = Limits { watched_max, ..Limits::default() };
        let mut session = Session::new(id, SHARDS, Arc::new(limits));
        let (mut out, device) = (Vec::new(), DeviceId::parse("phone").unwrap());
        session.authenticate(user("ann"), device, None, Timestamp(1), at(0), &mut out);
        Self { session, out: Vec::new() }
    }

    fn took(&mut self) -> Vec<Output> {
        self.session.check();
        std::mem::take(&mut self.out)
    }

    fn watch(&mut self, request: u32, users: &[&str], ms: u64) -> Vec<Output> {
        let users = users.iter().map(|name| user(name)).collect();
        self.session.watch(RequestRef(request), users, at(ms), &mut self.out);
        self.took()
    }

    fn told(&mut self, name: &str, presence: Presence, ms: u64) -> Vec<Output> {
        self.session.told_presence(user(name), Ok(presence), at(ms), &mut self.out);
        self.took()
    }

    /// What is asked or said of presence when the shard of this user has another home.
    fn moved(&mut self, name: &str, ms: u64) -> Vec<Output> {
        self.session.home_moved(shard_of(&user(name), SHARDS), at(ms), &mut self.out);
        let mut out = self.took();
        out.retain(is_of_presence);
        out
    }

    fn tick(&mut self, ms: u64) -> Vec<Output> {
        self.session.tick(at(ms), &mut self.out);
        let mut out = self.took();
        out.retain(is_of_presence);
        out
    }
}

fn is_of_presence(output: &Output) -> bool {
    match output {
        Output::Home(home) => matches!(home.ask, Ask::Regard(_)),
        Output::Unavailable => false,
        _ => true,
    }
}

fn regard(name: &str, regard: Regard) -> Output {
    let session = SessionId { node: NodeId(1), boot: BootId(1), count: 1 };
    let (user, ask) = (user(name), Ask::Regard(regard));
    Output::Home(ToHome { shard: shard_of(&user, SHARDS), user, session, ask })
}

fn asks(name: &str, knows: Option<bool>) -> Output {
    regard(name, Regard::Watch { by: user("ann"), knows })
}

fn rows(request: u32, rows: &[(&str, Presence)]) -> Output {
    let rows = rows.iter().map(|(name, presence)| (user(name), *presence)).collect();
    Output::Answered { request: RequestRef(request), answer: Ok(Answer::Presence(rows)) }
}

#[test]
fn an_answer_has_a_row_for_each_in_the_order_asked() {
    let mut bench = Bench::new(10);
    let asked = bench.watch(1, &["cat", "bob", "cat"], 10);
    assert_eq!(
        asked.iter().filter(|o| is_of_presence(o) && matches!(o, Output::Home(_))).count(),
        2
    );
    assert!(asked.contains(&asks("bob", None)) && asked.contains(&asks("cat", None)));
    let shard = shard_of(&user("bob"), SHARDS);
    assert!(asked.contains(&Output::Watch(shard)), "to hear when the home moves");
    assert_eq!(bench.told("bob", there(true, 5), 20), []);
    let (bob, cat) = (there(true, 5), there(false, 3));
    let answered = rows(1, &[("cat", cat), ("bob", bob), ("cat", cat)]);
    assert_eq!(bench.told("cat", cat, 30), [answered]);
    assert!(!bench.session.watching.as_ref().unwrap().asks());
    assert_eq!(bench.watch(2, &[], 40), [rows(2, &[])]);
}

#[test]
fn a_client_hears_only_what_is_news_to_it() {
    let mut bench = Bench::new(10);
    bench.watch(1, &["bob"], 0);
    bench.told("bob", there(true, 5), 10);
    assert_eq!(bench.told("bob", there(true, 9), 20), [], "still there");
    let gone = Output::Presence(user("bob"), there(false, 9));
    assert_eq!(bench.told("bob", there(false, 9), 30), [gone]);
    assert_eq!(bench.told("bob", there(false, 9), 40), []);
    let later = Output::Presence(user("bob"), there(false, 11));
    assert_eq!(bench.told("bob", there(false, 11), 50), [later]);
}

#[test]
fn who_hides_sees_nobody_but_themselves() {
    let mut bench = Bench::new(10);
    bench.session.hide(true, at(0), &mut bench.out);
    bench.watch(1, &["bob", "ann"], 0);
    bench.told("ann", there(true, 5), 10);
    let answered = rows(1, &[("bob", Presence::default()), ("ann", there(true, 5))]);
    assert_eq!(bench.told("bob", there(true, 5), 10), [answered]);
    assert_eq!(bench.told("bob", there(false, 6), 20), [], "nothing is told");
    assert_eq!(bench.told("bob", there(true, 7), 30), []);
    // What homes said meanwhile counts at once, and goes at once.
    for (hides, shown) in [(false, there(true, 7)), (true, Presence::default())] {
        bench.session.hide(hides, at(40), &mut bench.out);
        assert_eq!(bench.took(), [Output::Presence(user("bob"), shown)]);
        bench.session.hide(hides, at(50), &mut bench.out);
        assert_eq!(bench.took(), [], "said twice");
    }
}

#[test]
fn typing_to_somebody_goes_by_the_own_home_which_knows_whom_the_user_blocks() {
    let mut bench = Bench::new(10);
    bench.session.typing(&Conversation::User(user("bob")), true, &mut bench.out);
    let typing = Regard::TypingTo { to: user("bob"), on: true };
    assert_eq!(bench.took(), [regard("ann", typing)]);
}

#[test]
fn a_new_home_is_asked_with_what_the_client_knows() {
    let mut bench = Bench::new(10);
    bench.watch(1, &["bob"], 0);
    bench.told("bob", there(true, 5), 10);
    assert_eq!(bench.moved("bob", 100), [asks("bob", Some(true))]);
    // Unanswered, it is asked again; once answered, no more.
    assert_eq!(bench.tick(1_599), []);
    assert_eq!(bench.tick(1_600), [asks("bob", Some(true))]);
    assert_eq!(bench.told("bob", there(true, 5), 1_700), []);
    assert_eq!(bench.tick(9_000), []);
    // A home that says it is none is asked again soon.
    bench.watch(2, &["bob"], 10_000);
    bench.session.tell(
        crate::packet::Tell::NotHome { shard: shard_of(&user("bob"), SHARDS) },
        at(10_010),
        &mut bench.out,
    );
    bench.took();
    assert_eq!(bench.tick(10_110), [asks("bob", Some(true))]);
}

#[test]
fn a_refused_request_changes_nothing() {
    let mut bench = Bench::new(10);
    bench.watch(1, &["bob"], 0);
    bench.told("bob", there(true, 5), 10);
    bench.watch(2, &["bob", "cat", "nobody"], 20);
    let refused = (user("nobody"), Err(Refusal::NotFound));
    bench.session.told_presence(refused.0, refused.1, at(30), &mut bench.out);
    let out = bench.took();
    assert!(out.contains(&Output::Unknown { request: RequestRef(2), user: user("nobody") }));
    assert!(out.contains(&regard("cat", Regard::Unwatch)));
    assert!(!out.contains(&regard("bob", Regard::Unwatch)), "watched before");
    let gone = Output::Presence(user("bob"), there(false, 9));
    assert_eq!(bench.told("bob", there(false, 9), 40), [gone]);
    // What comes of the others all the same is sent off.
    assert_eq!(bench.told("cat", there(true, 1), 50), [regard("cat", Regard::Unwatch)]);
}

#[test]
fn a_request_without_an_answer_is_given_up() {
    let mut bench = Bench::new(10);
    bench.watch(1, &["bob"], 0);
    assert_eq!(bench.tick(1_500), [asks("bob", None)]);
    let answer = Err(Refusal::Unavailable);
    let given_up = Output::Answered { request: RequestRef(1), answer };
    let out = bench.tick(3_000);
    assert!(out.contains(&given_up) && out.contains(&regard("bob", Regard::Unwatch)), "{out:?}");
    assert!(bench.session.watching.is_none(), "nothing is left");
}

#[test]
fn a_watch_ends_after_its_time_and_is_renewed_by_watching_again() {
    let mut bench = Bench::new(2);
    bench.watch(1, &["bob", "cat"], 0);
    bench.told("bob", there(true, 5), 10);
    bench.told("cat", there(true, 5), 10);
    assert_eq!(bench.watch(2, &["bob"], 300_000), [asks("bob", Some(true))], "renewed");
    bench.told("bob", there(true, 5), 300_010);
    let out = bench.told("cat", there(false, 6), 600_000);
    assert!(out.contains(&regard("cat", Regard::Unwatch)), "{out:?}");
    assert_eq!(bench.told("bob", there(false, 6), 600_001).len(), 1, "told");
    let more = |bench: &mut Bench, ms| {
        let users = [user("dan"), user("eve")];
        bench.session.may_watch(&users, at(ms), &mut bench.out).is_ok()
    };
    assert!(!more(&mut bench, 600_002), "two at most");
    assert!(more(&mut bench, 900_000), "the watch of bob has ended");
    assert!(bench.took().contains(&regard("bob", Regard::Unwatch)));
}

#[test]
fn who_is_no_longer_watched_is_sent_off_and_the_shard_is_let_go() {
    let mut bench = Bench::new(10);
    bench.watch(1, &["bob", "cat"], 0);
    bench.told("bob", there(true, 5), 10);
    bench.session.unwatch(&[user("cat")], &mut bench.out);
    let out = bench.took();
    assert!(out.contains(&rows(1, &[("bob", there(true, 5)), ("cat", Presence::default())])));
    bench.session.unwatch(&[user("bob")], &mut bench.out);
    let shard = shard_of(&user("bob"), SHARDS);
    let home = bench.session.home;
    let out = bench.took();
    assert!(out.contains(&regard("bob", Regard::Unwatch)));
    assert_eq!(out.contains(&Output::Unwatch(shard)), shard != home);
    bench.watch(2, &["bob"], 20);
    bench.session.close(&mut bench.out);
    assert!(bench.took().contains(&regard("bob", Regard::Unwatch)), "nor after the end");
}

#[test]
fn who_is_watched_anew_before_the_first_answer_is_told_of_by_the_second() {
    let mut bench = Bench::new(3);
    bench.watch(1, &["bob", "cat"], 0);
    bench.session.unwatch(&[user("cat")], &mut bench.out);
    bench.watch(2, &["cat"], 10);
    let first = bench.told("bob", there(true, 5), 20);
    assert_eq!(first, [rows(1, &[("bob", there(true, 5)), ("cat", Presence::default())])]);
    let out = bench.told("cat", there(true, 6), 30);
    assert_eq!(out, [rows(2, &[("cat", there(true, 6))])]);
    let news = Output::Presence(user("cat"), there(false, 40));
    assert_eq!(bench.told("cat", there(false, 40), 40), [news]);
}

#[derive(Debug, Clone)]
enum Step {
    Watch(Vec<usize>),
    Unwatch(usize),
    Truth(usize, bool),
    Moved(usize),
    Pass(u64),
    Hide(bool),
}

const NAMES: [&str; 3] = ["bob", "cat", "dan"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        prop::collection::vec(0..3_usize, 1..4).prop_map(Step::Watch),
        (0..3_usize).prop_map(Step::Unwatch),
        (0..3_usize, any::<bool>()).prop_map(|(who, online)| Step::Truth(who, online)),
        (0..3_usize).prop_map(Step::Moved),
        (1..2_000_u64).prop_map(Step::Pass),
        any::<bool>().prop_map(Step::Hide),
    ];
    prop::collection::vec(step, 1..60)
}

/// A home that loses every `lossy`-th thing said to it, and tells the rest; the client's side of a session.
struct Play {
    bench: Bench,
    now: u64,
    truth: [bool; 3],
    leased: BTreeSet<UserId>,
    client: BTreeMap<UserId, Presence>,
    open: BTreeMap<RequestRef, Vec<UserId>>,
    said: usize,
    lossy: usize,
}

impl Play {
    fn place(user: &UserId) -> usize {
        NAMES.iter().position(|name| *name == user.as_str()).unwrap()
    }

    /// Carries out what the session wants until nothing is left.
    fn settle(&mut self) {
        let mut todo = self.bench.took();
        while !todo.is_empty() {
            for output in std::mem::take(&mut todo) {
                self.carry_out(output);
            }
            todo = self.bench.took();
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Home(ToHome { user, ask: Ask::Regard(regard), .. }) => {
                self.said += 1;
                if self.said.is_multiple_of(self.lossy) {
                    return;
                }
                if regard == Regard::Unwatch {
                    self.leased.remove(&user);
                } else {
                    self.leased.insert(user.clone());
                    let told = Ok(there(self.truth[Self::place(&user)], 1));
                    let now = at(self.now);
                    self.bench.session.told_presence(user, told, now, &mut self.bench.out);
                }
            }
            Output::Presence(user, presence) => {
                let before = self.client.insert(user, presence).expect("a watched user");
                assert!(is_news(before, presence), "only what is news");
                assert!(!self.bench.session.hides || presence == Presence::default());
            }
            Output::Answered { request, answer } => {
                let users = self.open.remove(&request).expect("answered once");
                let Ok(Answer::Presence(rows)) = answer else {
                    assert_eq!(answer, Err(Refusal::Unavailable));
                    return;
                };
                let of: Vec<UserId> = rows.iter().map(|(user, _)| user.clone()).collect();
                assert_eq!(of, users, "in the order asked");
                self.client.extend(rows);
            }
            _ => {}
        }
    }

    fn step(&mut self, number: u32, step: Step) {
        let now = at(self.now);
        match step {
            Step::Watch(who) => {
                let users: Vec<UserId> = who.iter().map(|place| user(NAMES[*place])).collect();
                self.open.insert(RequestRef(number), users.clone());
                self.bench.session.watch(RequestRef(number), users, now, &mut self.bench.out);
            }
            Step::Unwatch(who) => {
                self.client.remove(&user(NAMES[who]));
                self.bench.session.unwatch(&[user(NAMES[who])], &mut self.bench.out);
            }
            Step::Truth(who, online) => {
                self.truth[who] = online;
                let user = user(NAMES[who]);
                if self.leased.contains(&user) {
                    let told = Ok(there(online, 1));
                    self.bench.session.told_presence(user, told, now, &mut self.bench.out);
                }
            }
            Step::Moved(who) => {
                let shard = shard_of(&user(NAMES[who]), SHARDS);
                self.leased.retain(|user| shard_of(user, SHARDS) != shard);
                self.bench.session.watch_again(shard, now, &mut self.bench.out);
            }
            Step::Hide(hides) => self.bench.session.hide(hides, now, &mut self.bench.out),
            Step::Pass(ms) => {
                self.now += ms;
                self.bench.session.tick_watching(at(self.now), &mut self.bench.out);
            }
        }
        self.settle();
    }
}

proptest! {
    #[test]
    fn every_request_is_answered_once_and_in_the_end_the_client_knows_the_truth(
        steps in steps(),
        lossy in 2..6_usize,
    ) {
        let mut play = Play {
            bench: Bench::new(3),
            now: 0,
            truth: [false; 3],
            leased: BTreeSet::new(),
            client: BTreeMap::new(),
            open: BTreeMap::new(),
            said: 0,
            lossy,
        };
        let calm = (0..8).map(|_| Step::Pass(1_500));
        for (number, step) in (1..).zip(steps.into_iter().chain(calm)) {
            play.step(number, step);
        }
        prop_assert!(play.open.is_empty(), "all are answered");
        let watching = play.bench.session.watching.as_ref();
        let users: Vec<UserId> = watching.iter().flat_map(|w| w.users.keys()).cloned().collect();
        for user in users {
            prop_assert!(play.leased.contains(&user));
            let truth = match play.bench.session.hides {
                true => Presence::default(),
                false => there(play.truth[Play::place(&user)], 1),
            };
            prop_assert_eq!(play.client.get(&user), Some(&truth));
        }
    }
}
