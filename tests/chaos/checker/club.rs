//! Club: a small history of one group in which all is well: people come and go, and some posts have no answer.

use super::sample::{
    History, acked, attached, invoke, is_event, ok, refused, run, sent, text, ticks,
};
use crate::history::{Event, Line, What};

pub(super) const CLUB: &str = "g:club";

pub(super) fn post(mid: &str, from: &str, seq: u64, body: &str) -> Event {
    let (mid, from, body) = (text(mid), text(from), text(body));
    Event::Message { mid, conv: Some(text(CLUB)), from, seq, body }
}

pub(super) fn own(mid: &str, seq: u64, cid: &str) -> Event {
    sent(mid, CLUB, seq, cid)
}

pub(super) fn change(seq: u64, by: &str, change: &str, users: &[&str]) -> Event {
    let users = users.iter().map(|user| text(user)).collect();
    let says = format!("at {seq}");
    Event::Group { conv: text(CLUB), seq, by: text(by), change: text(change), users, says }
}

pub(super) fn read(user: &str, seq: u64) -> What {
    What::Read { user: text(user), device: text("laptop"), conv: text(CLUB), seq }
}

pub(super) fn marks(delivered: u64, read: u64) -> Event {
    ticks(CLUB, delivered, read)
}

impl History {
    /// The same event for several users.
    fn all(&mut self, whom: &[(&str, u64)], said: &Event) {
        whom.iter().for_each(|(user, n)| self.tell(user, *n, said));
    }

    /// Leaves a number of a user out, and those after it follow without a gap.
    pub(super) fn omit(&mut self, user: &str, n: u64) {
        self.drop(|what| is_event(what, user, None, n));
        self.renumber(user, |later| later - u64::from(later > n));
    }

    /// Puts an event in before a number of a user, on all devices.
    pub(super) fn insert(&mut self, user: &str, n: u64, said: &Event) {
        self.renumber(user, |later| later + u64::from(later >= n));
        let place = self.0.iter().position(|line| is_event(&line.what, user, None, n + 1));
        let (place, rest) = (place.unwrap(), self.0.split_off(place.unwrap()));
        let at = self.0[place - 1].at;
        self.tell(user, n, said);
        self.0[place..].iter_mut().for_each(|line: &mut Line| line.at = at);
        self.0.extend(rest);
    }

    fn renumber(&mut self, whose: &str, number: impl Fn(u64) -> u64) {
        for line in &mut self.0 {
            if let What::Event { user, n, .. } | What::Acked { user, n, .. } = &mut line.what
                && user == whose
            {
                *n = number(*n);
            }
        }
    }
}

/// 4, 5, 12 and 13 have no answer. Carol is out from 6 to 8, bob from 10 on.
pub(super) fn club() -> History {
    let mut h = History(Vec::new());
    let What::Run { seed, command, nodes, mut users, expiry_ms } = run() else { unreachable!() };
    users.insert(text("carol"), vec![text("laptop")]);
    h.add(What::Run { seed, command, nodes, users, expiry_ms });
    for (user, device) in
        [("alice", "phone"), ("alice", "tablet"), ("bob", "laptop"), ("carol", "laptop")]
    {
        h.add(attached(user, device, 0, true));
    }
    let three = ["alice", "bob", "carol"];
    h.all(&three.map(|user| (user, 1)), &change(1, "alice", "created", &three));
    for (user, device, cid) in
        [("alice", "phone", "p-1"), ("bob", "laptop", "b-1"), ("carol", "laptop", "c-1")]
    {
        h.add(invoke(user, device, cid, CLUB));
    }
    h.add(invoke("alice", "phone", "p-2", CLUB));
    h.add(ok("alice", "p-1", "m2", 2));
    h.add(ok("bob", "b-1", "m3", 3));
    h.tell("alice", 2, &own("m2", 2, "p-1"));
    h.all(&[("bob", 2), ("carol", 2)], &post("m2", "alice", 2, "p-1 hello"));
    h.tell("bob", 3, &own("m3", 3, "b-1"));
    h.all(&[("alice", 3), ("carol", 3)], &post("m3", "bob", 3, "b-1 hello"));
    h.tell("carol", 4, &own("m4", 4, "c-1"));
    h.all(&[("alice", 4), ("bob", 4)], &post("m4", "carol", 4, "c-1 hello"));
    h.tell("alice", 5, &own("m5", 5, "p-2"));
    h.all(&[("bob", 5), ("carol", 5)], &post("m5", "alice", 5, "p-2 hello"));
    h.add(acked("bob", "laptop", 5));
    h.add(acked("carol", "laptop", 5));
    h.tell("alice", 6, &marks(5, 0));
    h.add(read("bob", 5));
    h.add(read("carol", 5));
    h.tell("alice", 7, &marks(5, 5));
    h.all(&[("alice", 8), ("bob", 6), ("carol", 6)], &change(6, "alice", "removed", &["carol"]));
    second_half(h)
}

fn second_half(mut h: History) -> History {
    h.add(invoke("carol", "laptop", "c-2", CLUB));
    h.add(refused("carol", "c-2"));
    h.add(invoke("alice", "phone", "p-3", CLUB));
    h.add(ok("alice", "p-3", "m7", 7));
    h.tell("alice", 9, &own("m7", 7, "p-3"));
    h.tell("bob", 7, &post("m7", "alice", 7, "p-3 hello"));
    h.add(acked("bob", "laptop", 7));
    h.tell("alice", 10, &marks(7, 5));
    h.all(&[("alice", 11), ("bob", 8), ("carol", 7)], &change(8, "alice", "added", &["carol"]));
    h.add(invoke("bob", "laptop", "b-2", CLUB));
    h.add(ok("bob", "b-2", "m9", 9));
    h.tell("bob", 9, &own("m9", 9, "b-2"));
    h.all(&[("alice", 12), ("carol", 8)], &post("m9", "bob", 9, "b-2 hello"));
    h.all(&[("alice", 13), ("bob", 10), ("carol", 9)], &change(10, "bob", "left", &[]));
    h.add(invoke("alice", "phone", "p-4", CLUB));
    h.add(ok("alice", "p-4", "m11", 11));
    h.tell("alice", 14, &own("m11", 11, "p-4"));
    h.tell("carol", 10, &post("m11", "alice", 11, "p-4 hello"));
    h.add(invoke("alice", "phone", "p-5", CLUB));
    h.add(invoke("carol", "laptop", "c-3", CLUB));
    h.tell("alice", 15, &own("m12", 12, "p-5"));
    h.tell("carol", 11, &post("m12", "alice", 12, "p-5 hello"));
    h.tell("alice", 16, &post("m13", "carol", 13, "c-3 hello"));
    h.tell("carol", 12, &own("m13", 13, "c-3"));
    h.add(invoke("alice", "phone", "p-6", CLUB));
    h.add(ok("alice", "p-6", "m14", 14));
    h.tell("alice", 17, &own("m14", 14, "p-6"));
    h.tell("carol", 13, &post("m14", "alice", 14, "p-6 hello"));
    h
}
