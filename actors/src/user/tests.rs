//! User rules, tested: every client gets everything once, in order, within its window.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::ids::{BootId, Conversation, Epoch, NodeId, Seq, UserId};
use crate::message::{Resume, What};

const LIMITS: Limits = Limits { window: 8, page_bytes: 2000 };

fn device(at: usize) -> DeviceId {
    DeviceId::parse(&format!("d{at}")).unwrap()
}

fn session(count: u64) -> SessionId {
    SessionId { node: NodeId(1), boot: BootId(7), count }
}

fn entry(n: u64) -> Entry {
    let by: UserId = UserId::parse("alice").unwrap();
    let conv = Conversation::User(by.clone());
    let what = What::Receipt { conv, by: Some(by), delivered: Seq(n), read: Seq(0) };
    Entry { n: Number(n), at: Timestamp(n), what }
}

fn entries(from: u64, to: u64) -> Vec<Entry> {
    (from..=to).map(entry).collect()
}

fn position(from: u64, head: u64, resumed: Resumed) -> Position {
    Position { epoch: Epoch(1), from: Number(from), head: Number(head), resumed }
}

fn attach(at: u64, life: u32, dev: usize, from: u64, head: u64) -> Input {
    Input::Attach {
        session: session(at),
        life,
        device: device(dev),
        since: Timestamp(at),
        start: Start::Device,
        position: position(from, head, Resumed::NotAsked),
        acked: Number(0),
    }
}

fn ack(at: u64, n: u64) -> Input {
    Input::Acknowledge { session: session(at), life: 1, n: Number(n) }
}

fn give(user: &mut User, input: Input) -> Vec<Output> {
    let mut out = Vec::new();
    user.handle(input, &mut out);
    user.check();
    out
}

fn attached(at: u64, life: u32, from: u64, head: u64) -> Output {
    let position = Ok(position(from, head, Resumed::NotAsked));
    Output::Tell(session(at), Tell::Attached { life, position })
}

fn caught_up(at: u64, head: u64) -> Output {
    Output::Tell(session(at), Tell::CaughtUp { life: 1, head: Number(head) })
}

fn pushed(at: u64, from: u64, to: u64, head: u64) -> Output {
    let entries = entries(from, to);
    Output::Tell(session(at), Tell::Entries { life: 1, entries, head: Number(head) })
}

fn read(at: u64, after: u64, count: u16) -> Output {
    let (session, after) = (session(at), Number(after));
    Output::Read { session, life: 1, after, count, bytes: LIMITS.page_bytes, pull: false }
}

fn page(at: u64, after: u64, entries: Vec<Entry>, head: u64) -> Input {
    let (session, after, head) = (session(at), Number(after), Number(head));
    Input::Page { session, life: 1, after, entries, head, pull: false }
}

fn cursor(dev: usize, n: u64) -> Output {
    Output::Cursor { device: device(dev), n: Number(n) }
}

fn closed_as(at: u64, life: u32, why: Closed) -> Output {
    Output::Tell(session(at), Tell::Closed { life, why })
}

#[test]
fn what_waits_comes_first_then_what_happens() {
    let mut user = User::new(LIMITS);
    let told = give(&mut user, attach(1, 1, 1, 3, 5));
    assert_eq!(told, [attached(1, 1, 3, 5), read(1, 3, 8)]);
    let logged = Input::Logged { entries: entries(6, 6) };
    assert_eq!(give(&mut user, logged), []);
    let told = give(&mut user, page(1, 3, entries(4, 5), 6));
    assert_eq!(told, [pushed(1, 4, 5, 6), caught_up(1, 5), read(1, 5, 6)]);
    assert_eq!(give(&mut user, page(1, 5, entries(6, 6), 6)), [pushed(1, 6, 6, 6)]);
    let logged = Input::Logged { entries: entries(7, 8) };
    assert_eq!(give(&mut user, logged), [pushed(1, 7, 8, 8)]);
    let again = Input::Logged { entries: entries(8, 9) };
    assert_eq!(give(&mut user, again), [pushed(1, 9, 9, 9)]);
}

#[test]
fn sessions_hear_whether_there_are_others() {
    let mut user = User::new(LIMITS);
    let told = |out: Vec<Output>| {
        let company = |output| match output {
            Output::Tell(to, Tell::Company { life: 1, others }) => Some((to.count, others)),
            _ => None,
        };
        out.into_iter().filter_map(company).collect::<Vec<_>>()
    };
    assert_eq!(told(give(&mut user, attach(1, 1, 1, 0, 0))), []);
    assert_eq!(told(give(&mut user, attach(2, 1, 2, 0, 0))), [(1, true), (2, true)]);
    assert_eq!(told(give(&mut user, attach(3, 1, 3, 0, 0))), [(3, true)]);
    let mut leave = |at| give(&mut user, Input::Detach { session: session(at), life: 1 });
    assert_eq!(told(leave(1)), []);
    assert_eq!(told(leave(3)), [(2, false)]);
    assert_eq!(told(leave(2)), []);
}

#[test]
fn what_is_not_at_hand_is_read_at_once_however_little_room_there_is() {
    let mut user = User::new(LIMITS);
    give(&mut user, attach(1, 1, 1, 0, 0));
    let logged = Input::Logged { entries: entries(1, 7) };
    assert_eq!(give(&mut user, logged), [pushed(1, 1, 7, 7)]);
    // Room for one, which is less than a quarter of the window.
    assert_eq!(give(&mut user, Input::Grown { head: Number(9) }), [read(1, 7, 1)]);
    assert_eq!(give(&mut user, page(1, 7, entries(8, 8), 9)), [pushed(1, 8, 8, 9)]);
    assert_eq!(
        give(&mut user, Input::Grown { head: Number(10) }),
        [],
        "it knows that there is more"
    );
    // The first of what came is at hand, and the rest is not.
    assert_eq!(give(&mut user, ack(1, 8)), [cursor(1, 8), read(1, 8, 8)]);
    assert_eq!(give(&mut user, page(1, 8, entries(9, 10), 10)), [pushed(1, 9, 10, 10)]);
    let told = give(&mut user, Input::Logged { entries: entries(11, 15) });
    assert_eq!(told, [pushed(1, 11, 15, 15)]);
    assert_eq!(give(&mut user, Input::Grown { head: Number(17) }), [read(1, 15, 1)]);
}

#[test]
fn nothing_waiting_means_caught_up_at_once() {
    let mut user = User::new(LIMITS);
    let told = give(&mut user, attach(1, 1, 1, 300, 300));
    assert_eq!(told, [attached(1, 1, 300, 300), caught_up(1, 300)]);
    let logged = Input::Logged { entries: entries(301, 301) };
    assert_eq!(give(&mut user, logged), [pushed(1, 301, 301, 301)]);
}

#[test]
fn a_full_window_waits_for_acknowledgements() {
    let mut user = User::new(LIMITS);
    give(&mut user, attach(1, 1, 1, 0, 0));
    let logged = Input::Logged { entries: entries(1, 10) };
    assert_eq!(give(&mut user, logged), [pushed(1, 1, 8, 10)]);
    // It was told that there is more.
    assert_eq!(give(&mut user, Input::Logged { entries: entries(11, 11) }), []);
    assert_eq!(give(&mut user, ack(1, 1)), [cursor(1, 1)]);
    assert_eq!(give(&mut user, ack(1, 99)), [cursor(1, 8), read(1, 8, 8)]);
    assert_eq!(give(&mut user, page(1, 8, entries(9, 11), 11)), [pushed(1, 9, 11, 11)]);
    assert_eq!(give(&mut user, ack(1, 3)), []);
}

#[test]
fn a_short_page_is_followed_by_the_rest_of_the_window() {
    let mut user = User::new(LIMITS);
    assert_eq!(give(&mut user, attach(1, 1, 1, 0, 12))[1], read(1, 0, 8));
    let told = give(&mut user, page(1, 0, entries(1, 7), 12));
    assert_eq!(told, [pushed(1, 1, 7, 12), read(1, 7, 1)]);
    assert_eq!(give(&mut user, page(1, 7, entries(8, 8), 12)), [pushed(1, 8, 8, 12)]);
    // So much room is for the next acknowledgement, too.
    assert_eq!(give(&mut user, ack(1, 1)), [cursor(1, 1)]);
    assert_eq!(give(&mut user, ack(1, 2)), [cursor(1, 2), read(1, 8, 2)]);
}

#[test]
fn without_room_a_session_hears_that_there_is_more() {
    let mut user = User::new(LIMITS);
    give(&mut user, attach(1, 1, 1, 0, 0));
    give(&mut user, Input::Logged { entries: entries(1, 8) });
    let told = Tell::Entries { life: 1, entries: Vec::new(), head: Number(9) };
    let told = [Output::Tell(session(1), told)];
    assert_eq!(give(&mut user, Input::Logged { entries: entries(9, 9) }), told);
    assert_eq!(give(&mut user, Input::Logged { entries: entries(10, 10) }), [], "said once");
}

#[test]
fn the_newest_socket_of_a_device_stays() {
    let mut user = User::new(LIMITS);
    give(&mut user, attach(5, 1, 1, 0, 0));
    let older = give(&mut user, attach(4, 1, 1, 0, 0));
    assert_eq!(older, [closed_as(4, 1, Closed::Replaced)]);
    let newer = give(&mut user, attach(6, 1, 1, 0, 0));
    let told = [closed_as(5, 1, Closed::Replaced), attached(6, 1, 0, 0), caught_up(6, 0)];
    assert_eq!(newer, told);
    give(&mut user, attach(7, 1, 2, 0, 0));
    assert_eq!(user.sessions.len(), 2);
}

#[test]
fn of_two_gateways_whose_clocks_differ_a_little_the_one_that_comes_last_is_newer() {
    let at = |node: u16, since: u64, start: Start| Input::Attach {
        session: SessionId { node: NodeId(node), boot: BootId(node.into()), count: 1 },
        life: 1,
        device: device(1),
        since: Timestamp(since),
        start,
        position: position(0, 0, Resumed::NotAsked),
        acked: Number(0),
    };
    let on = |user: &User| user.sessions.first().map(|s| s.session.node);
    let mut user = User::new(LIMITS);
    give(&mut user, at(2, 10_500, Start::Device));
    give(&mut user, at(1, 10_000, Start::Device));
    assert_eq!(on(&user), Some(NodeId(1)), "who comes now is newer");
    let resume = Resume { n: Number(0), epoch: Epoch(1) };
    give(&mut user, at(3, 9_900, Start::Continue(resume)));
    assert_eq!(on(&user), Some(NodeId(1)), "who only goes on is not");
    give(&mut user, at(4, 5_000, Start::Device));
    assert_eq!(on(&user), Some(NodeId(1)), "what was long on its way is not");
    give(&mut user, at(2, 86_400_000, Start::Device));
    assert_eq!(on(&user), Some(NodeId(2)));
    give(&mut user, at(1, 20_000, Start::Resume(resume)));
    assert_eq!(on(&user), Some(NodeId(1)), "a clock that is a day ahead keeps nobody out");
    give(&mut user, at(2, 86_400_000, Start::Continue(resume)));
    assert_eq!(on(&user), Some(NodeId(2)), "of two that go on, clocks decide");
}

#[test]
fn a_session_that_attaches_again_replaces_itself() {
    let mut user = User::new(LIMITS);
    give(&mut user, attach(1, 2, 1, 0, 0));
    assert_eq!(give(&mut user, attach(1, 1, 1, 0, 0)), []);
    assert_eq!(give(&mut user, attach(1, 2, 1, 0, 0)), []);
    let again = give(&mut user, attach(1, 3, 1, 0, 0));
    assert_eq!(again.first(), Some(&attached(1, 3, 0, 0)));
    assert_eq!(give(&mut user, Input::Detach { session: session(1), life: 2 }), []);
    let gone = give(&mut user, Input::Detach { session: session(1), life: 3 });
    assert_eq!(gone, [Output::Empty { handled: 6 }]);
}

#[test]
fn a_removed_device_is_closed() {
    let mut user = User::new(LIMITS);
    give(&mut user, attach(1, 1, 1, 0, 0));
    let gone = give(&mut user, Input::DeviceGone(device(1)));
    assert_eq!(gone, [closed_as(1, 1, Closed::DeviceRemoved), Output::Empty { handled: 2 }]);
}

#[test]
fn entries_that_are_gone_end_the_attachment() {
    let mut user = User::new(LIMITS);
    give(&mut user, attach(1, 1, 1, 3, 5));
    let told = give(&mut user, page(1, 3, entries(5, 5), 5));
    assert_eq!(told, [closed_as(1, 1, Closed::Lost), Output::Empty { handled: 2 }]);
}

#[test]
fn an_attachment_that_goes_on_keeps_its_window() {
    let mut user = User::new(LIMITS);
    let start = Start::Continue(Resume { n: Number(10), epoch: Epoch(1) });
    let input = Input::Attach {
        session: session(1),
        life: 1,
        device: device(1),
        since: Timestamp(1),
        start,
        position: position(10, 20, Resumed::Yes),
        acked: Number(3),
    };
    let told = give(&mut user, input);
    assert_eq!(told[1..], [cursor(1, 3), read(1, 10, 1)]);
    assert_eq!(give(&mut user, page(1, 10, entries(11, 11), 20)), [pushed(1, 11, 11, 20)]);
    assert_eq!(give(&mut user, ack(1, 10)), [cursor(1, 10), read(1, 11, 7)]);
}

#[test]
fn pulled_entries_are_repeated() {
    let mut user = User::new(LIMITS);
    give(&mut user, attach(1, 1, 1, 5, 5));
    let pull = Input::Pull { session: session(1), life: 1, after: Number(2), limit: 2 };
    let (session, after, bytes) = (session(1), Number(2), LIMITS.page_bytes);
    let ask = Output::Read { session, life: 1, after, count: 2, bytes, pull: true };
    assert_eq!(give(&mut user, pull.clone()), [ask]);
    assert_eq!(give(&mut user, pull), []);
    let head = Number(5);
    let answer = Input::Page { session, life: 1, after, entries: entries(3, 4), head, pull: true };
    let told = Tell::Pulled { life: 1, entries: entries(3, 4) };
    assert_eq!(give(&mut user, answer.clone()), [Output::Tell(session, told)]);
    assert_eq!(give(&mut user, answer), []);
}

#[test]
fn an_idle_user_is_small() {
    let per_session = size_of::<Attachment>();
    assert!(size_of::<User>() + per_session < 400, "{} + {per_session}", size_of::<User>());
    let mut user = User::new(LIMITS);
    give(&mut user, attach(1, 1, 1, 0, 0));
    assert_eq!(user.sessions.capacity(), 1);
}

/// A client that keeps to the five lines of the protocol, and its gateway.
struct Client {
    id: u64,
    device: usize,
    life: u32,
    last: u64,
    acked: u64,
    attached: bool,
    caught_up: u32,
    inbox: VecDeque<Tell>,
}

impl Client {
    fn take(&mut self, tell: Tell) {
        match tell {
            Tell::Attached { life, .. } if life == self.life => self.attached = true,
            Tell::Entries { life, entries, .. } if life == self.life => {
                assert!(self.attached, "told first that it is attached");
                for entry in entries {
                    assert_eq!(entry.n.0, self.last + 1, "every entry once, in order");
                    self.last = entry.n.0;
                }
                assert!(self.last - self.acked <= u64::from(LIMITS.window), "within the window");
            }
            Tell::CaughtUp { life, .. } if life == self.life => self.caught_up += 1,
            Tell::Closed { life, .. } if life == self.life => self.attached = false,
            _ => {}
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Log(u64),
    /// The user actor handles the next inputs in its queue.
    Run(usize),
    /// The lane answers the oldest read.
    Page,
    /// A client receives what it was told.
    Receive(usize),
    Ack(usize, u64),
    Attach(usize),
    Detach(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..3_usize;
    prop_oneof![
        4 => (1..20_u64).prop_map(Step::Log),
        6 => (1..6_usize).prop_map(Step::Run),
        4 => Just(Step::Page),
        4 => who.clone().prop_map(Step::Receive),
        4 => (who.clone(), 0..10_u64).prop_map(|(who, back)| Step::Ack(who, back)),
        1 => who.clone().prop_map(Step::Attach),
        1 => who.prop_map(Step::Detach),
    ]
}

struct World {
    user: User,
    head: u64,
    queue: VecDeque<Input>,
    reads: VecDeque<(SessionId, u32, Number, u16)>,
    clients: Vec<Client>,
}

impl World {
    fn new() -> Self {
        let client = |at: usize| Client {
            id: at as u64,
            device: at,
            life: 0,
            last: 0,
            acked: 0,
            attached: false,
            caught_up: 0,
            inbox: VecDeque::new(),
        };
        Self {
            user: User::new(LIMITS),
            head: 0,
            queue: VecDeque::new(),
            reads: VecDeque::new(),
            clients: (0..3).map(client).collect(),
        }
    }

    fn run(&mut self) -> bool {
        let Some(input) = self.queue.pop_front() else { return false };
        for output in give(&mut self.user, input) {
            match output {
                Output::Tell(to, tell) => {
                    self.clients[usize::try_from(to.count).unwrap()].inbox.push_back(tell);
                }
                Output::Read { session, life, after, count, .. } => {
                    assert!(count <= LIMITS.window);
                    self.reads.push_back((session, life, after, count));
                }
                Output::Cursor { device: of, n } => {
                    let client = self.clients.iter().find(|c| device(c.device) == of).unwrap();
                    assert!(n.0 <= client.acked.max(client.last), "only what the client has");
                }
                Output::Empty { .. } => {}
            }
        }
        true
    }

    fn page(&mut self) -> bool {
        let Some((session, life, after, count)) = self.reads.pop_front() else { return false };
        let to = self.head.min(after.0 + u64::from(count)).min(after.0 + 5);
        let (entries, head) = (entries(after.0 + 1, to), Number(self.head));
        self.queue.push_back(Input::Page { session, life, after, entries, head, pull: false });
        true
    }

    fn receive(&mut self, who: usize) -> bool {
        let client = &mut self.clients[who];
        let tell = client.inbox.pop_front();
        tell.map(|tell| client.take(tell)).is_some()
    }

    fn ack(&mut self, who: usize, back: u64) {
        let client = &mut self.clients[who];
        client.acked = client.acked.max(client.last.saturating_sub(back));
        let (session, life) = (session(client.id), client.life);
        self.queue.push_back(Input::Acknowledge { session, life, n: Number(client.acked) });
    }

    fn attach(&mut self, who: usize) {
        let client = &mut self.clients[who];
        client.life += 1;
        client.attached = false;
        client.caught_up = 0;
        let n = Number(client.last);
        self.queue.push_back(Input::Attach {
            session: session(client.id),
            life: client.life,
            device: device(client.device),
            since: Timestamp(1),
            start: Start::Continue(Resume { n, epoch: Epoch(1) }),
            position: position(client.last, self.head, Resumed::Yes),
            acked: Number(client.acked),
        });
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Log(count) => {
                let from = self.head + 1;
                self.head += count;
                self.queue.push_back(Input::Logged { entries: entries(from, self.head) });
            }
            Step::Run(count) => (0..count).for_each(|_| _ = self.run()),
            Step::Page => _ = self.page(),
            Step::Receive(who) => _ = self.receive(who),
            Step::Ack(who, back) => self.ack(who, back),
            Step::Attach(who) => self.attach(who),
            Step::Detach(who) => {
                let client = &mut self.clients[who];
                let (session, life) = (session(client.id), client.life);
                // Nobody listens until the next attachment.
                (client.life, client.attached) = (life + 1, false);
                self.queue.push_back(Input::Detach { session, life });
            }
        }
    }

    fn settle(&mut self) {
        while self.run() || self.page() || (0..3).any(|who| self.receive(who)) {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_client_gets_every_entry_once_in_order(
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new();
        (0..3).for_each(|who| world.attach(who));
        for step in steps {
            world.step(step);
        }
        (0..3).for_each(|who| world.attach(who));
        world.settle();
        while world.clients.iter().any(|client| client.last < world.head) {
            let before: Vec<u64> = world.clients.iter().map(|client| client.last).collect();
            (0..3).for_each(|who| world.ack(who, 0));
            world.settle();
            let after: Vec<u64> = world.clients.iter().map(|client| client.last).collect();
            prop_assert!(before != after, "delivery goes on: {before:?} of {}", world.head);
        }
        for client in &world.clients {
            prop_assert_eq!(client.caught_up, 1);
        }
        prop_assert!(world.user.sessions.capacity() <= 8);
    }
}
