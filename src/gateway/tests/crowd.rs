//! Crowd: many sockets of a node that has places for few of their messages.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use actors::clock;
use actors::ids::{BootId, NodeId, SessionId};
use actors::message::Refusal;
use actors::packet::{Ask, Tell};
use actors::router::Inbound;
use actors::session::Session;
use proptest::prelude::ProptestConfig;
use proptest::{prop_assert, prop_assert_eq, proptest};
use serde_json::json;

use super::super::pressure::{Pressure, Share};
use super::super::rules::{Act, Connection};
use super::super::wire::{Body, Code, Error, Format, Outgoing, decode};
use super::super::{Limits, Now, Tokens};
use super::model::{Doorkeeper, answers};

fn at(ms: u64) -> Now {
    Now { running: Duration::from_millis(ms), wall: clock::wall() }
}

/// What a message's sender heard of it.
type Heard = Result<(), Error>;

/// Connections that share the places of a node, and a home that answers when it is told to.
struct World {
    limits: Limits,
    pressure: Arc<Pressure>,
    sockets: Vec<Connection>,
    /// What the home has heard and not answered: from which socket, and what it will say.
    home: VecDeque<(usize, Tell)>,
    refusal: Option<Refusal>,
}

impl World {
    /// So many sockets that are open, and places for so many messages.
    fn new(sockets: usize, places: usize) -> Self {
        let limits = Limits { frames_per_second: 0, sends_max: places, ..Limits::default() };
        let pressure: Arc<Pressure> = Arc::default();
        let open = |_| {
            let id = SessionId { node: NodeId(1), boot: BootId(1), count: 1 };
            let session = Session::new(id, 4, Arc::clone(&limits.session));
            Connection::new(session, Share::of(&pressure), &limits, at(0))
        };
        let connections = (0..sockets).map(open).collect();
        let (home, refusal) = (VecDeque::new(), None);
        let mut world = Self { sockets: connections, limits, pressure, home, refusal };
        for socket in 0..sockets {
            let auth = json!({"id": "a", "op": "auth", "d": {"token": "good", "device": "phone"}});
            world.say(socket, &auth, 0);
        }
        world
    }

    /// A client writes a frame; what is said of its messages at once.
    fn say(&mut self, socket: usize, frame: &serde_json::Value, ms: u64) -> Vec<(u64, Heard)> {
        let frame = decode(Format::Json, frame.to_string().as_bytes()).unwrap();
        let admit = |token: &str| Ok(Doorkeeper.verify(token)?);
        let mut acts = Vec::new();
        self.sockets[socket].frame(frame, &self.limits, at(ms), admit, &mut acts);
        self.perform(socket, acts, ms)
    }

    fn send(&mut self, socket: usize, number: u64, ms: u64) -> Vec<(u64, Heard)> {
        let to = format!("u:u{socket}");
        let d = json!({"to": to, "cid": format!("c{number}"), "kind": "text", "body": ""});
        self.say(socket, &json!({"id": number.to_string(), "op": "send", "d": d}), ms)
    }

    /// Sends many; how many go on.
    fn send_all(&mut self, socket: usize, numbers: RangeInclusive<u64>, ms: u64) -> usize {
        let before = self.home.len();
        numbers.for_each(|number| drop(self.send(socket, number, ms)));
        self.home.len() - before
    }

    /// The home answers the oldest; to which socket, and what its client hears.
    fn answer(&mut self, ms: u64) -> Option<(usize, Vec<(u64, Heard)>)> {
        let (socket, mut tell) = self.home.pop_front()?;
        if let (Some(refusal), Tell::Sent { result, .. }) = (self.refusal, &mut tell) {
            *result = Err(refusal);
        }
        let mut acts = Vec::new();
        self.sockets[socket].inbound(Inbound::Tell(tell), at(ms), &mut acts);
        Some((socket, self.perform(socket, acts, ms)))
    }

    fn perform(&mut self, socket: usize, acts: Vec<Act>, ms: u64) -> Vec<(u64, Heard)> {
        let (mut heard, mut queue) = (Vec::new(), VecDeque::from(acts));
        while let Some(act) = queue.pop_front() {
            match act {
                Act::Tell(Outgoing::Ok { re, body: Body::Sent(_) }) => {
                    heard.push((re.parse().unwrap(), Ok(())));
                }
                Act::Tell(Outgoing::Err { re, error }) => {
                    heard.push((re.unwrap().parse().unwrap(), Err(error)));
                }
                Act::Home(home) => {
                    let is_send = matches!(home.ask, Ask::Send { .. });
                    let tells = answers(home, None).into_iter();
                    if is_send {
                        self.home.extend(tells.map(|tell| (socket, tell)));
                        continue;
                    }
                    let mut more = Vec::new();
                    for tell in tells {
                        self.sockets[socket].inbound(Inbound::Tell(tell), at(ms), &mut more);
                    }
                    queue.extend(more);
                }
                Act::Close(why) => panic!("nothing ends a socket: {why:?}"),
                _ => {}
            }
        }
        heard
    }

    /// When a socket that finds no place should come again.
    fn wait(&mut self, socket: usize, ms: u64) -> u64 {
        const NEW: u64 = 1_000_000;
        let heard = self.send(socket, NEW, ms);
        let [(NEW, Err(error))] = &heard[..] else { panic!("there is a place: {heard:?}") };
        assert_eq!(error.code, Code::RateLimited);
        error.retry_after_ms.unwrap()
    }
}

#[test]
fn who_never_comes_again_makes_others_wait_for_a_while_only() {
    let mut world = World::new(3, 7);
    assert_eq!(world.send_all(1, 1..=7, 0), 7);
    assert_eq!(world.send_all(0, 1..=4_000, 0), 0);
    assert_eq!(world.wait(2, 100), 200 + 4_000 * 1_000 / 2_048);
    let due = world.sockets[0].due(&world.limits, at(100)).as_millis();
    assert_eq!(due, 2_200, "the time told, and the way there and back");
    let mut acts = Vec::new();
    world.sockets[0].sweep(&world.limits, at(2_200), &mut acts);
    assert_eq!(acts, []);
    assert_eq!(world.wait(1, 2_200), 200);
    let due = world.sockets[0].due(&world.limits, at(2_200)).as_millis();
    assert_eq!(due, 15_000, "nothing is left to look at but whether the client is there");
}

#[test]
fn what_is_refused_for_other_reasons_makes_nobody_wait_longer() {
    let mut world = World::new(3, 16);
    (world.limits.frames_per_second, world.limits.frames_burst) = (1, 5);
    assert_eq!(world.send_all(0, 1..=1_000, 0), 5, "the others are held by the socket's own pace");
    world.limits.frames_per_second = 0;
    assert_eq!(world.send_all(1, 1..=5, 0), 5);
    world.refusal = Some(Refusal::MailboxFull);
    while world.answer(1).is_some() {}
    assert_eq!(world.send_all(1, 6..=1_000, 2), 0, "nothing new before what was refused");
    assert_eq!(world.send_all(2, 1..=14, 2), 14, "two are kept for who has none on the way");
    assert_eq!(world.wait(2, 2), 200);
}

#[test]
fn what_a_home_refuses_for_good_is_work_done() {
    for refusal in [None, Some(Refusal::Blocked), Some(Refusal::MailboxFull)] {
        let mut world = World::new(1, 16_384);
        world.refusal = refusal;
        for sent in 1..=12_000 {
            world.send(0, 1, sent / 4);
            world.answer(sent / 4);
        }
        let places = world.pressure.places(16_384);
        assert!((3_990..=4_000).contains(&places), "{refusal:?}: {places}");
    }
}

/// Clients that have some messages each to send, and repeat what is refused when they were told to.
struct Senders {
    /// Which message of which socket is sent when.
    agenda: BTreeMap<(u64, usize, u64), u32>,
    /// How often each was sent that is on its way.
    on_way: BTreeMap<(usize, u64), u32>,
    accepted: BTreeMap<usize, Vec<u64>>,
    tries_most: u32,
}

impl Senders {
    fn new(sockets: usize, each: u64) -> Self {
        let all = (0..sockets).flat_map(|socket| (1..=each).map(move |n| ((0, socket, n), 0)));
        let (on_way, accepted) = (BTreeMap::new(), BTreeMap::new());
        Self { agenda: all.collect(), on_way, accepted, tries_most: 0 }
    }

    /// All that is to be sent by now.
    fn send(&mut self, world: &mut World, ms: u64) {
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= ms) {
            let ((_, socket, number), tries) = entry.remove_entry();
            self.on_way.insert((socket, number), tries + 1);
            let heard = world.send(socket, number, ms);
            self.hear(socket, heard, ms);
        }
    }

    fn hear(&mut self, socket: usize, heard: Vec<(u64, Heard)>, ms: u64) {
        for (number, heard) in heard {
            let tries = self.on_way.remove(&(socket, number)).expect("it was sent");
            self.tries_most = self.tries_most.max(tries);
            match heard {
                Ok(()) => self.accepted.entry(socket).or_default().push(number),
                Err(error) => {
                    assert_eq!(error.code, Code::RateLimited, "{error:?}");
                    let wait = error.retry_after_ms.expect("a time to wait");
                    assert!((1..=10_000).contains(&wait), "{wait}");
                    self.agenda.insert((ms + wait, socket, number), tries);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn who_waits_as_told_gets_in_after_some_tries(
        sockets in 1_usize..200,
        each in 1_u64..64,
        pace in 1_000_u64..12_000,
        places in 100_usize..8_000,
    ) {
        let (mut world, mut senders) = (World::new(sockets, places), Senders::new(sockets, each));
        let (mut ms, mut budget) = (0, 0);
        while !senders.agenda.is_empty() || !senders.on_way.is_empty() {
            senders.send(&mut world, ms);
            prop_assert!(world.pressure.figures().in_flight <= places);
            budget += pace;
            for _ in 0..budget / 1_000 {
                let Some((socket, heard)) = world.answer(ms) else { break };
                senders.hear(socket, heard, ms);
            }
            (budget, ms) = (budget % 1_000, ms + 1);
        }
        prop_assert!(senders.tries_most <= 8, "{} tries", senders.tries_most);
        prop_assert!(senders.accepted.values().all(|accepted| accepted.is_sorted()));
        let accepted: usize = senders.accepted.values().map(Vec::len).sum();
        prop_assert_eq!(accepted, sockets * usize::try_from(each).unwrap());
        let figures = world.pressure.figures();
        prop_assert_eq!((figures.in_flight, figures.without_place), (0, 0));
    }
}
