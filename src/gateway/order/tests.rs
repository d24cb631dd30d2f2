//! Order: who waits is not overtaken, and nobody waits for ever.

use std::collections::VecDeque;

use proptest::prelude::{any, prop};
use proptest::{prop_assert_eq, proptest};

use super::super::wire::Code;
use super::*;

fn mark(to: &str, cid: u64) -> Mark {
    Mark { to: hash(&to), cid, turn: cid }
}

fn busy(retry_after_ms: Option<u64>) -> Error {
    Error { retry_after_ms, ..Error::new(Code::Unavailable, "later") }
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a client does with a message: sends it, is told at once whether it goes on.
fn send(order: &mut Order, mark: Mark, now: Duration) -> bool {
    match order.may(mark, now) {
        Ok(()) => order.under_way(mark),
        Err(error) => {
            assert!(error.code.retry() && error.retry_after_ms > Some(0));
            order.check();
            return false;
        }
    }
    order.check();
    true
}

#[test]
fn nothing_goes_before_the_oldest_refused_is_sent_again() {
    let mut order = Order::default();
    assert!(send(&mut order, mark("bob", 1), at(0)));
    order.answered(mark("bob", 1), Some(&busy(Some(3_000))), at(0));
    for cid in 2..=3 {
        assert!(!send(&mut order, mark("bob", cid), at(10)));
    }
    let error = order.may(mark("bob", 2), at(10)).unwrap_err();
    assert_eq!((error.code, error.retry_after_ms), (Code::Unavailable, Some(2_990)));
    assert!(send(&mut order, mark("carol", 9), at(10)), "others go on");
    assert!(!send(&mut order, mark("bob", 3), at(20)));
    assert!(!send(&mut order, mark("bob", 4), at(20)), "new ones wait, too");
    assert!(send(&mut order, mark("bob", 1), at(30)));
    assert!(!send(&mut order, mark("bob", 3), at(30)), "2 comes first");
    assert!(send(&mut order, mark("bob", 2), at(30)));
    assert!(send(&mut order, mark("bob", 3), at(30)));
    // Refused once more: it still comes before those it was before.
    order.answered(mark("bob", 1), Some(&busy(None)), at(40));
    assert!(!send(&mut order, mark("bob", 4), at(40)));
    order.answered(mark("bob", 2), Some(&busy(None)), at(40));
    order.answered(mark("bob", 3), Some(&busy(None)), at(40));
    for cid in 1..=4 {
        assert!(send(&mut order, mark("bob", cid), at(50)), "{cid}");
        order.answered(mark("bob", cid), None, at(60));
    }
    assert!(send(&mut order, mark("bob", 5), at(60)));
    assert!(order.holds.is_empty());
}

#[test]
fn a_message_that_is_never_repeated_holds_the_others_for_a_while_only() {
    let mut order = Order::default();
    order.answered(mark("bob", 1), Some(&busy(None)), at(0));
    // That others are refused because of it does not make the wait longer.
    assert!(!send(&mut order, mark("bob", 2), at(1_999)));
    assert!(send(&mut order, mark("bob", 3), at(2_000)));
    order.answered(mark("bob", 1), Some(&busy(Some(5_000))), at(3_000));
    assert!(!send(&mut order, mark("bob", 2), at(9_999)));
    assert!(send(&mut order, mark("bob", 2), at(10_000)));
}

#[test]
fn who_waits_as_told_is_not_overtaken() {
    let mut order = Order::default();
    order.answered(mark("bob", 1), Some(&busy(Some(5_000))), at(0));
    // Both are on the way back at the moment that was told; what is written then arrives before them.
    let error = order.may(mark("bob", 2), at(4_000)).unwrap_err();
    assert_eq!(error.retry_after_ms, Some(1_000));
    let error = order.may(mark("bob", 3), at(5_100)).unwrap_err();
    assert_eq!(error.retry_after_ms, Some(200), "soon");
    for cid in 1..=3 {
        assert!(send(&mut order, mark("bob", cid), at(6_900)), "{cid}");
    }
    let mut order = Order::default();
    order.pause(&busy(None), at(5_000), at(0));
    assert!(!send(&mut order, mark("bob", 1), at(0)));
    assert!(!send(&mut order, mark("bob", 2), at(6_900)), "a pause is no different");
    assert!(send(&mut order, mark("bob", 1), at(6_900)));
}

#[test]
fn what_is_not_repeated_is_forgotten_also_when_nothing_else_is_sent() {
    let mut order = Order::default();
    assert_eq!(order.due(), None);
    for (cid, wait) in [(1, 3_000), (2, 1_000)] {
        let to = format!("user-{cid}");
        order.put_off(mark(&to, cid), &busy(Some(wait)), Cause::NoPlace, at(0));
        assert!(!send(&mut order, mark(&to, cid + 10), at(10)), "behind one without a place");
    }
    order.answered(mark("dave", 3), Some(&busy(Some(1_500))), at(0));
    assert_eq!((order.without_place(), order.due()), (4, Some(at(3_000))));
    assert!(send(&mut order, mark("user-1", 1), at(2_900)));
    assert_eq!(order.without_place(), 3, "this one has a place now");
    for (now, without_place, due) in [(3_000, 1, Some(3_500)), (3_500, 1, None), (9_000, 1, None)] {
        order.forget_old(at(now));
        order.check();
        let left = (order.without_place(), order.due());
        assert_eq!(left, (without_place, due.map(at)), "at {now}");
    }
    order.answered(mark("user-1", 1), None, at(9_000));
    order.forget_old(at(11_000));
    assert_eq!((order.without_place(), order.due()), (0, None));
}

#[test]
fn a_pause_is_for_all_conversations_and_ends() {
    let mut order = Order::default();
    order.pause(&busy(None), at(20), at(0));
    assert!(!send(&mut order, mark("bob", 1), at(5)));
    assert!(!send(&mut order, mark("carol", 2), at(19)));
    assert!(send(&mut order, mark("dave", 3), at(20)));
    assert!(!send(&mut order, mark("carol", 4), at(20)), "2 comes first");
    assert!(send(&mut order, mark("carol", 2), at(20)));
}

#[test]
fn memory_is_bounded() {
    let mut order = Order::default();
    for cid in 1..=REFUSED_MAX as u64 {
        assert!(!order.is_overrun());
        let name = format!("user-{}", cid % 400);
        order.answered(mark(&name, cid), Some(&busy(None)), at(0));
    }
    order.check();
    // One that is remembered may come again and again, and time makes room.
    order.answered(mark("user-7", 7), Some(&busy(None)), at(0));
    assert!(!order.is_overrun());
    assert!(send(&mut order, mark("bob", 1), at(2_000)));
    assert!(order.holds.is_empty() && order.count == 0);
}

#[test]
fn what_is_not_remembered_ends_the_socket_before_anything_overtakes_it() {
    let mut order = Order::default();
    order.answered(mark("bob", 1), Some(&busy(None)), at(0));
    for cid in 2..=REFUSED_MAX as u64 + 1 {
        assert!(!order.is_overrun());
        assert!(order.may(mark("bob", cid), at(10)).is_err());
    }
    assert!(order.is_overrun());
    let mut order = Order::default();
    order.pause(&busy(None), at(10), at(0));
    for cid in 1..=REFUSED_MAX as u64 + 1 {
        assert!(!order.is_overrun());
        assert!(order.may(mark(&format!("user-{cid}"), cid), at(1)).is_err());
    }
    assert!(order.is_overrun());
}

/// A client that repeats what is refused as soon as it hears so, and a home that refuses when the dice say so:
/// with one message all that is behind it on its way, as sessions do.
#[derive(Default)]
struct World {
    order: Order,
    now: Duration,
    next: u64,
    wire: VecDeque<u64>,
    under_way: VecDeque<u64>,
    refusals: VecDeque<u64>,
    accepted: Vec<u64>,
}

impl World {
    fn step(&mut self, die: u8) {
        // All of it takes less than the grace.
        self.now += at(u64::from(die % 2));
        match die % 16 {
            0..=4 => {
                self.next += 1;
                self.wire.push_back(self.next);
            }
            5..=7 => self.arrive(),
            8 => self.find_no_place(),
            9 | 10 => self.accept(),
            11 => self.refuse(),
            12 => self.order.pause(&busy(None), at(3), self.now),
            _ => self.wire.extend(self.refusals.pop_front()),
        }
        self.order.check();
    }

    fn arrive(&mut self) {
        let Some(cid) = self.wire.pop_front() else { return };
        match send(&mut self.order, mark("bob", cid), self.now) {
            true => self.under_way.push_back(cid),
            false => self.refusals.push_back(cid),
        }
    }

    fn find_no_place(&mut self) {
        let Some(cid) = self.wire.pop_front() else { return };
        if self.order.may(mark("bob", cid), self.now).is_ok() {
            self.order.put_off(mark("bob", cid), &busy(Some(1)), Cause::NoPlace, self.now);
        }
        self.refusals.push_back(cid);
    }

    fn accept(&mut self) {
        let Some(cid) = self.under_way.pop_front() else { return };
        self.order.answered(mark("bob", cid), None, self.now);
        self.accepted.push(cid);
    }

    fn refuse(&mut self) {
        for cid in std::mem::take(&mut self.under_way) {
            self.order.answered(mark("bob", cid), Some(&busy(None)), self.now);
            self.refusals.push_back(cid);
        }
    }
}

proptest! {
    #[test]
    fn the_order_of_first_sending_is_the_order_of_acceptance(
        dice in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut world = World::default();
        for die in dice {
            world.step(die);
        }
        while world.accepted.len() < usize::try_from(world.next).unwrap() {
            world.now += at(1);
            world.wire.extend(std::mem::take(&mut world.refusals));
            for _ in 0..world.wire.len() {
                world.arrive();
            }
            world.accept();
            world.order.check();
        }
        prop_assert_eq!(world.accepted, (1..=world.next).collect::<Vec<_>>());
        prop_assert_eq!((world.order.without_place(), world.order.due()), (0, None));
    }
}
