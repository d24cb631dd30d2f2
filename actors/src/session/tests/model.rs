//! Model: a session against homes that move and links that lose, repeat and mix up what they carry.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use proptest::prelude::{ProptestConfig, any};
use proptest::proptest;

use super::{SHARDS, accepted, at, device, entry, id, message, position, user};
use crate::ids::{Cid, Number, ShardId, Timestamp, UserId, shard_of};
use crate::message::{Accepted, CidUse, Refusal, Send};
use crate::packet::{Answer, Ask, Place, Question, Start, Tell, ToHome};
use crate::session::{Limits, Output, RequestRef, Session};

/// Chance from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// One shard's home: what is committed stays, the rest is lost when it moves.
#[derive(Default)]
struct Home {
    stored: BTreeMap<UserId, Vec<Cid>>,
    streams: BTreeMap<UserId, Place>,
    attached: Option<(u32, u64, u64)>,
}

struct World {
    session: Session,
    dice: Dice,
    now: u64,
    unreliable: bool,
    homes: BTreeMap<ShardId, Home>,
    to_home: VecDeque<(u64, ToHome)>,
    to_session: VecDeque<(u64, Tell)>,
    log: u64,
    got: Vec<u64>,
    caught_up: u32,
    answers: BTreeMap<RequestRef, Result<Accepted, Refusal>>,
    asked: BTreeMap<RequestRef, &'static str>,
    /// Were on their way behind a message that was refused, so must be refused, too.
    doomed: BTreeSet<RequestRef>,
    /// Of what was accepted: as the own mailbox hears of it.
    used: Vec<CidUse>,
    /// Sent with the `cid` of another message that had been accepted.
    misused: BTreeSet<RequestRef>,
    over: bool,
}

const WINDOW: u64 = 8;

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            session: Session::new(
                id(),
                SHARDS,
                Arc::new(Limits { cids_max: 2, ..Limits::default() }),
            ),
            dice: Dice(seed | 1),
            now: 0,
            unreliable: true,
            homes: (0..SHARDS).map(|shard| (ShardId(shard), Home::default())).collect(),
            to_home: VecDeque::new(),
            to_session: VecDeque::new(),
            log: 5,
            got: Vec::new(),
            caught_up: 0,
            answers: BTreeMap::new(),
            asked: BTreeMap::new(),
            doomed: BTreeSet::new(),
            used: Vec::new(),
            misused: BTreeSet::new(),
            over: false,
        };
        let now = at(world.now);
        world.act(|session, out| {
            session.authenticate(user("alice"), device("phone"), None, Timestamp(1), now, out);
        });
        world
    }

    fn act(&mut self, act: impl FnOnce(&mut Session, &mut Vec<Output>)) {
        let mut out = Vec::new();
        act(&mut self.session, &mut out);
        self.carry(out);
    }

    fn carry(&mut self, out: Vec<Output>) {
        let mut failed = BTreeSet::new();
        for output in out {
            match output {
                Output::Home(home) => {
                    if self.unreliable && self.dice.below(40) == 0 {
                        failed.insert(home.shard);
                    } else {
                        self.send_home(home);
                    }
                }
                Output::Entries { entries, .. } => {
                    self.got.extend(entries.iter().map(|entry| entry.n.0));
                }
                Output::CaughtUp { .. } => self.caught_up += 1,
                Output::Sent { request, result } => {
                    self.answered(request, result);
                }
                Output::Unavailable => self.over = true,
                _ => {}
            }
        }
        self.session.check();
        for shard in failed {
            let mut out = Vec::new();
            self.session.home_failed(shard, at(self.now), &mut out);
            self.carry(out);
        }
    }

    fn answered(&mut self, request: RequestRef, result: Result<Accepted, Refusal>) {
        assert!(self.answers.insert(request, result).is_none(), "answered twice");
        assert!(result.is_err() || !self.misused.contains(&request), "a cid stands for two");
        if result == Err(Refusal::Conflict) {
            // Never was, so nothing behind it overtakes.
            assert!(self.misused.contains(&request), "this cid was free");
            return;
        }
        let overtakes = result.is_ok() && self.doomed.contains(&request);
        assert!(!overtakes, "accepted behind a message that was refused");
        if result.is_err() {
            let to = self.asked[&request];
            let behind = self.asked.range(request..).filter(|(_, other)| **other == to);
            let waiting = behind.filter(|(behind, _)| !self.answers.contains_key(behind));
            self.doomed.extend(waiting.map(|(behind, _)| *behind));
        }
    }

    /// How often a packet arrives, and when.
    fn arrivals(&mut self) -> Vec<u64> {
        if !self.unreliable {
            return vec![self.now + 1];
        }
        let copies = match self.dice.below(20) {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        (0..copies).map(|_| self.now + 1 + self.dice.below(30)).collect()
    }

    fn send_home(&mut self, packet: ToHome) {
        for due in self.arrivals() {
            self.to_home.push_back((due, packet.clone()));
        }
    }

    fn tell(&mut self, tell: Tell) {
        for due in self.arrivals() {
            self.to_session.push_back((due, tell.clone()));
        }
    }

    fn at_home(&mut self, packet: ToHome) {
        let Some(home) = self.homes.get_mut(&packet.shard) else {
            return;
        };
        match packet.ask {
            Ask::Attach { life, start, acked, .. } => {
                let from = match start {
                    Start::Continue(resume) => resume.n.0,
                    _ => 0,
                };
                if home.attached.is_some_and(|(newest, ..)| newest >= life) {
                    return;
                }
                home.attached = Some((life, from, acked.0.max(from)));
                let head = self.log;
                self.tell(Tell::Attached { life, position: Ok(position(from, head)) });
                self.push(packet.shard);
                self.tell(Tell::CaughtUp { life, head: Number(head) });
            }
            Ask::Acknowledge { life, n } => {
                if let Some((_, _, acked)) = home.attached.as_mut().filter(|(l, ..)| *l == life) {
                    *acked = n.0.max(*acked);
                    self.push(packet.shard);
                }
            }
            Ask::Question { request, question: Question::Cids { uses, all } } => {
                let clash = |cid: &CidUse| self.used.iter().any(|used| used.clashes(*cid));
                let taken = uses.iter().map(clash).collect();
                let few = all && self.dice.below(4) > 0;
                let all = few.then(|| self.used.iter().map(|used| used.short()).collect());
                let answer = Ok(Answer::Cids { taken, all });
                self.tell(Tell::Answer { request, answer });
            }
            Ask::Send { place, send } => {
                let to = packet.user.clone();
                if let Some(tell) = home.admit(&to, place, &send, self.dice.below(30)) {
                    if let Tell::Sent { result: Ok(_), .. } = tell {
                        self.used.push(send.cid_use());
                    }
                    self.tell(tell);
                }
            }
            _ => {}
        }
    }

    fn push(&mut self, shard: ShardId) {
        let Some((life, pushed, acked)) = self.homes[&shard].attached else {
            return;
        };
        let upto = self.log.min(acked + WINDOW);
        if upto <= pushed {
            return;
        }
        self.homes.get_mut(&shard).unwrap().attached = Some((life, upto, acked));
        let entries = (pushed + 1..=upto).map(entry).collect();
        self.tell(Tell::Entries { life, entries, head: Number(self.log) });
    }

    fn move_home(&mut self, shard: ShardId) {
        let home = self.homes.get_mut(&shard).unwrap();
        home.streams.clear();
        home.attached = None;
        if !self.unreliable || self.dice.below(3) > 0 {
            let now = at(self.now);
            self.act(|session, out| session.home_moved(shard, now, out));
        } else {
            self.tell(Tell::NotHome { shard });
        }
    }

    /// The `cid` of some message that was accepted.
    fn some_cid(&mut self) -> Option<String> {
        let accepted = |(_, result): &(&RequestRef, &Result<_, _>)| result.is_ok();
        let accepted: Vec<u32> = self.answers.iter().filter(accepted).map(|(r, _)| r.0).collect();
        let some = self.dice.below(accepted.len().max(1) as u64);
        accepted.get(usize::try_from(some).unwrap()).map(|step| format!("c{step}"))
    }

    fn step(&mut self) {
        self.now += 1;
        let now = at(self.now);
        let mut index = 0;
        while index < self.to_home.len() {
            if self.to_home[index].0 <= self.now {
                let (_, packet) = self.to_home.remove(index).unwrap();
                self.at_home(packet);
            } else {
                index += 1;
            }
        }
        while let Some(index) = self.to_session.iter().position(|(due, _)| *due <= self.now) {
            let (_, tell) = self.to_session.remove(index).unwrap();
            self.act(|session, out| session.tell(tell, now, out));
        }
        if self.now.is_multiple_of(250) && self.session.needs_tick() {
            self.act(|session, out| session.tick(now, out));
        }
        if self.now.is_multiple_of(20)
            && let Some(newest) = self.got.last().copied()
        {
            self.act(|session, out| session.ack(Number(newest), out).unwrap());
        }
    }
}

impl Home {
    fn admit(&mut self, to: &UserId, place: Place, send: &Send, chance: u64) -> Option<Tell> {
        let newest = self.streams.get(to).copied().unwrap_or(Place { life: 0, count: 0 });
        let in_turn = (place.life > newest.life && place.count == 1)
            || (place.life == newest.life && place.count == newest.count + 1);
        if place.life < newest.life || (place.life == newest.life && place.count <= newest.count) {
            return None;
        }
        if !in_turn {
            return Some(Tell::Broken { to: to.clone(), life: place.life });
        }
        // A refusal ends the life: what follows is refused, too.
        if chance < 2 {
            self.streams.insert(to.clone(), Place { life: place.life, count: u32::MAX - 1 });
            let refusals = [Refusal::Overloaded, Refusal::MailboxFull];
            let result = Err(refusals[usize::from(chance == 1)]);
            return Some(Tell::Sent { to: to.clone(), place, result });
        }
        self.streams.insert(to.clone(), place);
        let stored = self.stored.entry(to.clone()).or_default();
        let known = stored.iter().position(|cid| *cid == send.cid);
        let seq = known.unwrap_or_else(|| {
            stored.push(send.cid.clone());
            stored.len() - 1
        });
        let mut accepted = accepted(seq as u64 + 1);
        accepted.dup = known.is_some();
        Some(Tell::Sent { to: to.clone(), place, result: Ok(accepted) })
    }
}

fn survives(seed: u64) {
    let mut world = World::new(seed);
    let names = ["bob", "carol", "dave"];
    for step in 0..2_000_u32 {
        world.step();
        if world.over {
            return;
        }
        let now = at(world.now);
        match world.dice.below(60) {
            0..=9 => {
                let to = names[usize::try_from(world.dice.below(3)).unwrap()];
                world.asked.insert(RequestRef(step), to);
                let mut send = message(to, &format!("c{step}"), "hi");
                if let Some(cid) = world.some_cid().filter(|_| world.dice.below(8) == 0) {
                    send = message(to, &cid, "something else");
                    world.misused.insert(RequestRef(step));
                }
                world.act(|session, out| session.send(RequestRef(step), send, now, out));
            }
            10 => {
                let shard = ShardId(u16::try_from(world.dice.below(4)).unwrap());
                world.move_home(shard);
            }
            11..=14 => {
                world.log += 1;
                world.push(shard_of(&user("alice"), SHARDS));
            }
            _ => {}
        }
    }
    world.unreliable = false;
    for shard in 0..SHARDS {
        world.move_home(ShardId(shard));
    }
    for _ in 0..5_000 {
        world.step();
    }
    assert!(!world.over, "gave up while its home was there");
    assert_eq!(world.caught_up, 1);
    assert_eq!(world.got, (1..=world.log).collect::<Vec<_>>());
    assert_eq!(world.answers.len(), world.asked.len(), "each request is answered");
    assert!(world.session.streams_are_empty() && !world.session.needs_tick());
    for name in names {
        let accepted = world.answers.iter().filter(|(request, _)| world.asked[request] == name);
        let order: Vec<_> = accepted.filter_map(|(_, result)| result.ok()).map(|a| a.seq).collect();
        assert!(order.is_sorted(), "a later message overtook: {order:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn order_and_answers_survive_whatever_links_and_homes_do(seed in any::<u64>()) {
        survives(seed);
    }
}
