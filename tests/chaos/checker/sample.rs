//! Sample: a small history in which all is well, and how to change it.

use std::collections::BTreeMap;

use crate::history::{Event, Line, What};

pub(super) const EXPIRY_MS: u64 = 60_000;

pub(super) fn text(text: &str) -> String {
    text.to_owned()
}

pub(super) fn message(mid: &str, from: &str, seq: u64, body: &str) -> Event {
    Event::Message { mid: text(mid), conv: None, from: text(from), seq, body: text(body) }
}

pub(super) fn sent(mid: &str, conv: &str, seq: u64, cid: &str) -> Event {
    Event::Sent { mid: text(mid), conv: text(conv), seq, cid: text(cid) }
}

pub(super) fn receipt(delivered: u64, read: u64) -> Event {
    ticks("u:bob", delivered, read)
}

pub(super) fn ticks(conv: &str, delivered: u64, read: u64) -> Event {
    Event::Receipt { conv: text(conv), delivered, read }
}

pub(super) fn expired(mid: &str, seq: u64) -> Event {
    Event::Expired { conv: text("u:bob"), mid: text(mid), seq }
}

pub(super) fn run() -> What {
    let users = [("alice", vec!["phone", "tablet"]), ("bob", vec!["laptop"])];
    let users = users.map(|(user, devices)| (text(user), devices.into_iter().map(text).collect()));
    let users = BTreeMap::from(users);
    What::Run { seed: 1, command: text("run it"), nodes: 3, users, expiry_ms: EXPIRY_MS }
}

pub(super) fn invoke(user: &str, device: &str, cid: &str, to: &str) -> What {
    let (user, device, body) = (text(user), text(device), format!("{cid} hello"));
    What::Invoke { user, device, cid: text(cid), to: text(to), body }
}

pub(super) fn ok(user: &str, cid: &str, mid: &str, seq: u64) -> What {
    let (user, cid, mid, via) = (text(user), text(cid), text(mid), text("n1"));
    What::Ok { user, cid, mid, seq, dup: false, tries: 1, via }
}

pub(super) fn refused(user: &str, cid: &str) -> What {
    What::Refused { user: text(user), cid: text(cid), code: text("blocked") }
}

pub(super) fn attached(user: &str, device: &str, n: u64, resumed: bool) -> What {
    let (user, device, via, epoch) = (text(user), text(device), text("n1"), text("e1"));
    What::Attached { user, device, via, epoch, n, resumed }
}

pub(super) fn event(user: &str, device: &str, n: u64, event: Event) -> What {
    What::Event { user: text(user), device: text(device), n, event }
}

pub(super) fn acked(user: &str, device: &str, n: u64) -> What {
    What::Acked { user: text(user), device: text(device), n }
}

pub(super) fn devices(user: &str) -> &'static [&'static str] {
    if user == "alice" { &["phone", "tablet"] } else { &["laptop"] }
}

/// A history that is being changed; each line comes a millisecond after the one before.
pub(super) struct History(pub(super) Vec<Line>);

impl History {
    pub(super) fn add(&mut self, what: What) {
        let at = self.0.last().map_or(0, |line| line.at + 1_000);
        self.0.push(Line { at, what });
    }

    /// An event on all devices of a user.
    pub(super) fn tell(&mut self, user: &str, n: u64, said: &Event) {
        for device in devices(user) {
            self.add(event(user, device, n, said.clone()));
        }
    }

    pub(super) fn wait(&mut self, ms: u64) {
        self.0.last_mut().unwrap().at += ms * 1_000;
    }

    /// The lines of which this is true; there must be some.
    pub(super) fn each(&mut self, is: impl Fn(&What) -> bool, change: impl Fn(&mut What)) {
        let found: Vec<_> = self.0.iter_mut().filter(|line| is(&line.what)).collect();
        assert!(!found.is_empty(), "nothing to change");
        for line in found {
            change(&mut line.what);
        }
    }

    pub(super) fn drop(&mut self, is: impl Fn(&What) -> bool) {
        let before = self.0.len();
        self.0.retain(|line| !is(&line.what));
        assert!(self.0.len() < before, "nothing to drop");
    }

    pub(super) fn replace(&mut self, user: &str, n: u64, said: &Event) {
        self.each(
            |what| is_event(what, user, None, n),
            |what| {
                let What::Event { event, .. } = what else { unreachable!() };
                *event = said.clone();
            },
        );
    }

    /// The two messages change places in the order of sending.
    pub(super) fn swap_invokes(&mut self, one: &str, other: &str) {
        let at = |cid: &str| self.0.iter().position(|line| is_invoke(&line.what, cid)).unwrap();
        let (one, other) = (at(one), at(other));
        let what = self.0[one].what.clone();
        self.0[one].what = std::mem::replace(&mut self.0[other].what, what);
    }
}

pub(super) fn is_event(what: &What, whose: &str, on: Option<&str>, number: u64) -> bool {
    matches!(what, What::Event { user, device, n, .. }
        if user == whose && on.is_none_or(|on| on == device) && *n == number)
}

pub(super) fn is_invoke(what: &What, which: &str) -> bool {
    matches!(what, What::Invoke { cid, .. } if cid == which)
}

pub(super) fn is_ok(what: &What, which: &str) -> bool {
    matches!(what, What::Ok { cid, .. } if cid == which)
}

/// Of alice's messages to bob, 3 is unknown and delivered, 4 expires; one more is refused and one just unknown.
pub(super) fn good() -> History {
    let mut h = History(Vec::new());
    h.add(run());
    h.add(attached("alice", "phone", 0, true));
    h.add(attached("alice", "tablet", 0, true));
    h.add(attached("bob", "laptop", 0, true));
    h.add(invoke("alice", "phone", "p-1", "u:bob"));
    h.add(invoke("alice", "phone", "p-2", "u:bob"));
    h.add(ok("alice", "p-1", "m1", 1));
    h.tell("alice", 1, &sent("m1", "u:bob", 1, "p-1"));
    h.tell("bob", 1, &message("m1", "alice", 1, "p-1 hello"));
    h.tell("bob", 2, &message("m2", "alice", 2, "p-2 hello"));
    h.tell("alice", 2, &sent("m2", "u:bob", 2, "p-2"));
    h.add(ok("alice", "p-2", "m2", 2));
    h.each(
        |what| is_ok(what, "p-2"),
        |what| {
            let What::Ok { dup, tries, .. } = what else { unreachable!() };
            (*dup, *tries) = (true, 3);
        },
    );
    h.add(acked("bob", "laptop", 2));
    h.tell("alice", 3, &receipt(2, 0));
    h.add(invoke("bob", "laptop", "b-1", "u:alice"));
    h.add(ok("bob", "b-1", "w1", 1));
    h.tell("bob", 3, &sent("w1", "u:alice", 1, "b-1"));
    h.tell("alice", 4, &message("w1", "bob", 1, "b-1 hello"));
    h.add(acked("alice", "phone", 4));
    h.add(invoke("alice", "tablet", "t-1", "u:bob"));
    h.tell("alice", 5, &sent("m3", "u:bob", 3, "t-1"));
    h.tell("bob", 4, &message("m3", "alice", 3, "t-1 hello"));
    h.add(acked("bob", "laptop", 4));
    h.tell("alice", 6, &receipt(3, 2));
    h.add(What::Closed { user: text("alice"), device: text("phone"), code: None });
    h.add(What::Fault { id: 1, kind: text("kill"), detail: text("n1"), nodes: vec![text("n1")] });
    h.add(attached("alice", "phone", 4, true));
    h.add(event("alice", "phone", 5, sent("m3", "u:bob", 3, "t-1")));
    h.add(event("alice", "phone", 6, receipt(3, 2)));
    h.add(invoke("alice", "phone", "p-3", "u:bob"));
    h.add(refused("alice", "p-3"));
    h.add(invoke("alice", "tablet", "t-2", "u:bob"));
    h.add(invoke("alice", "phone", "p-4", "u:bob"));
    h.add(ok("alice", "p-4", "m4", 4));
    h.tell("alice", 7, &sent("m4", "u:bob", 4, "p-4"));
    h.wait(EXPIRY_MS);
    h.tell("alice", 8, &expired("m4", 4));
    h.add(invoke("alice", "phone", "p-5", "u:bob"));
    h.add(ok("alice", "p-5", "m5", 5));
    h.tell("alice", 9, &sent("m5", "u:bob", 5, "p-5"));
    h.tell("bob", 5, &message("m5", "alice", 5, "p-5 hello"));
    h.add(invoke("bob", "laptop", "b-2", "u:alice"));
    h.add(ok("bob", "b-2", "w2", 2));
    h.tell("alice", 10, &message("w2", "bob", 2, "b-2 hello"));
    h.tell("bob", 6, &sent("w2", "u:alice", 2, "b-2"));
    h
}
