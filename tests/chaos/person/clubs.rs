//! Clubs: the groups that a device knows of, those it is to make, and whom it puts out of its own and takes in again.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Phase;
use crate::chance::Chance;
use crate::history::Event;

/// Between two calls of one who leads groups, about.
const LEADER_PAUSE_MS: u64 = 4_000;
/// Before somebody who leads none leaves a group, about.
const LEAVES_AFTER_MS: u64 = 60_000;
/// Before an admin takes in again whoever is out, at least.
const STAYS_OUT: Duration = Duration::from_millis(500);

/// A group that somebody is to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Founding {
    pub(crate) title: String,
    /// All others in it.
    pub(crate) members: Vec<String>,
}

/// What a device knows of a group.
struct Club {
    /// How many were in it at first.
    size: usize,
    /// Whether its user is.
    is_in: bool,
}

/// A group that this device has made.
struct Led {
    members: Vec<String>,
    /// Who is out, and since when.
    out: BTreeMap<String, Instant>,
}

/// A call that is not answered yet.
struct Call {
    op: &'static str,
    d: Value,
    /// Whom it makes a group of.
    members: Vec<String>,
    /// How often it was sent.
    tries: u32,
    /// When it is to be sent; absent when it is on its way.
    due: Option<Instant>,
    sent_at: Instant,
}

/// The groups of a device. Makes one call at a time, and repeats it until it is answered.
pub(super) struct Clubs {
    user: String,
    known: BTreeMap<String, Club>,
    to_make: VecDeque<Founding>,
    led: BTreeMap<String, Led>,
    call: Option<Call>,
    count: u64,
    next_at: Instant,
    /// Whether this device ever leaves a group.
    leaves: bool,
}

impl Clubs {
    pub(super) fn new(user: &str, to_make: &[Founding], leaves: bool, chance: &mut Chance) -> Self {
        let wait = if to_make.is_empty() { LEAVES_AFTER_MS } else { LEADER_PAUSE_MS };
        Self {
            user: user.to_owned(),
            known: BTreeMap::new(),
            to_make: to_make.iter().cloned().collect(),
            led: BTreeMap::new(),
            call: None,
            count: 0,
            next_at: Instant::now() + Duration::from_millis(chance.between(1, 2 * wait)),
            leaves: leaves && to_make.is_empty(),
        }
    }

    /// The groups that the user is in, and how many were in each at first.
    pub(super) fn all(&self) -> Vec<(&str, usize)> {
        let mine = self.known.iter().filter(|(_, club)| club.is_in);
        mine.map(|(conv, club)| (conv.as_str(), club.size)).collect()
    }

    /// Whether nothing is to be made and nothing is unanswered.
    pub(super) fn is_idle(&self) -> bool {
        self.to_make.is_empty() && self.call.is_none()
    }

    /// Whether a call has been on its way for so long.
    pub(super) fn waits_longer_than(&self, patience: Duration) -> bool {
        let on_its_way = self.call.as_ref().filter(|call| call.due.is_none());
        on_its_way.is_some_and(|call| call.sent_at.elapsed() > patience)
    }

    /// A new socket: what was on its way is repeated.
    pub(super) fn reconnected(&mut self) {
        if let Some(call) = &mut self.call {
            call.due = Some(Instant::now());
        }
    }

    /// The request that is to be sent now, if there is one.
    pub(super) fn request(&mut self, phase: Phase, chance: &mut Chance) -> Option<Value> {
        let now = Instant::now();
        if self.call.is_none() {
            self.call = match phase {
                Phase::Form => self.make(now),
                Phase::Talk if now >= self.next_at => self.change(now, chance),
                _ => None,
            };
        }
        let call = self.call.as_mut()?;
        if call.due.is_none_or(|due| due > now) {
            return None;
        }
        call.tries += 1;
        (call.due, call.sent_at) = (None, now);
        let id = format!("g{}.{}", self.count, call.tries);
        Some(json!({"id": id, "op": call.op, "d": call.d}))
    }

    fn call(&mut self, op: &'static str, d: Value, now: Instant) -> Call {
        self.count += 1;
        Call { op, d, members: Vec::new(), tries: 0, due: Some(now), sent_at: now }
    }

    fn make(&mut self, now: Instant) -> Option<Call> {
        let Founding { title, members } = self.to_make.pop_front()?;
        let d = json!({"title": title, "members": members, "cid": title});
        Some(Call { members, ..self.call("group.create", d, now) })
    }

    /// Takes somebody in again, puts somebody out, or leaves.
    fn change(&mut self, now: Instant, chance: &mut Chance) -> Option<Call> {
        let pause = if self.led.is_empty() { LEAVES_AFTER_MS } else { LEADER_PAUSE_MS };
        self.next_at = now + Duration::from_millis(chance.between(1, 2 * pause));
        if self.led.is_empty() {
            let mine = self.all();
            if !self.leaves || mine.is_empty() {
                return None;
            }
            let group = name(mine[chance.below(mine.len())].0);
            return Some(self.call("group.leave", json!({"group": group}), now));
        }
        let (conv, led) = self.led.iter().nth(chance.below(self.led.len()))?;
        let ready = led.out.iter().filter(|(_, since)| since.elapsed() > STAYS_OUT);
        let ready: Vec<&String> = ready.map(|(user, _)| user).collect();
        let (op, users) = if ready.is_empty() {
            let count = 1 + chance.below(2);
            let whom = (0..count).map(|_| &led.members[chance.below(led.members.len())]);
            ("group.remove", whom.collect())
        } else {
            ("group.add", ready)
        };
        let d = json!({"group": name(conv), "users": users});
        Some(self.call(op, d, now))
    }

    /// The answer to a request of this device's; whether it was one of these.
    pub(super) fn answered(&mut self, id: &str, frame: &Value) -> bool {
        let Some(number) = id.strip_prefix('g') else { return false };
        let number = number.split('.').next().and_then(|number| number.parse().ok());
        if number != Some(self.count) {
            return true;
        }
        let Some(call) = &mut self.call else { return true };
        let err = &frame["err"];
        if err["retry"] == true {
            let after = err["retry_after_ms"].as_u64().unwrap_or(300).clamp(20, 5_000);
            call.due = Some(Instant::now() + Duration::from_millis(after));
            return true;
        }
        // Who leaves and does not hear of it may be out, and not allowed to leave.
        let may_fail = call.op == "group.leave" && err["code"] == "forbidden";
        assert!(may_fail || frame.get("ok").is_some(), "{} {}: {frame}", call.op, call.d);
        if call.op == "group.create" {
            let conv = format!("g:{}", frame["ok"]["group"].as_str().expect("its name"));
            let members = std::mem::take(&mut call.members);
            self.led.insert(conv, Led { members, out: BTreeMap::new() });
        }
        self.call = None;
        true
    }

    /// A change that was not heard of before.
    pub(super) fn heard(&mut self, event: &Event) {
        let Event::Group { conv, by, change, users, .. } = event else { return };
        let gone = if change == "left" { std::slice::from_ref(by) } else { users };
        match change.as_str() {
            "created" | "added" => {
                if users.contains(&self.user) {
                    let new = Club { size: users.len(), is_in: true };
                    self.known.entry(conv.clone()).or_insert(new).is_in = true;
                }
                let led = self.led.get_mut(conv);
                led.into_iter().for_each(|led| led.out.retain(|user, _| !users.contains(user)));
            }
            "removed" | "left" => {
                if let Some(club) = self.known.get_mut(conv).filter(|_| gone.contains(&self.user)) {
                    club.is_in = false;
                }
                let out = gone.iter().map(|user| (user.clone(), Instant::now()));
                let led = self.led.get_mut(conv);
                led.into_iter().for_each(|led| led.out.extend(out.clone()));
            }
            _ => {}
        }
    }
}

/// The name of a group, of its conversation's.
fn name(conv: &str) -> &str {
    conv.strip_prefix("g:").unwrap_or(conv)
}
