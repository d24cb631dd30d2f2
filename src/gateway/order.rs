//! Order: after a refusal that may pass, nothing overtakes the message that was refused.
//!
//! A client has more on the wire by the time it hears that a message was refused for now. Were those let in, the
//! repeated one would come behind them. So they are refused, too, until what was refused before them is sent again, in
//! its order. A client that never repeats it is not held up for long: some time after the last refusal that was news,
//! all of a conversation is forgotten.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::wire::{Draft, Error};

/// How long a conversation waits for a refused message, at least: the way there and back of a bad mobile network.
const GRACE: Duration = Duration::from_secs(2);
/// Refused messages remembered, of all conversations of a socket.
const REFUSED_MAX: usize = 256;

/// A send by its conversation and its `cid`, and when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    to: u64,
    cid: u64,
    turn: u64,
}

/// How one socket's conversations stand after refusals; empty as long as there are none.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Sends so far.
    turns: u64,
    /// Why no send at all goes on now.
    paused: Option<Box<Stop>>,
    holds: Vec<Hold>,
}

/// Why sends are refused, and until when.
#[derive(Debug)]
struct Stop {
    error: Error,
    until: Duration,
}

/// A conversation in which something was refused.
#[derive(Debug)]
struct Hold {
    to: u64,
    stop: Stop,
    /// In the order of their first sending.
    refused: Vec<Refused>,
}

#[derive(Debug)]
struct Refused {
    turn: u64,
    cid: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not sent again yet.
    Told,
    /// Sent again, and not answered.
    UnderWay,
}

impl Order {
    /// Names a send that has just come in.
    pub(super) fn mark(&mut self, draft: &Draft) -> Mark {
        self.turns += 1;
        Mark { to: hash(&draft.to), cid: hash(&draft.cid), turn: self.turns }
    }

    /// Whether a send may go on now: all that was refused before it must have been sent again. One that may not is
    /// refused, and remembered as such.
    pub(super) fn may(&mut self, mark: Mark, now: Duration) -> Result<(), Error> {
        self.forget_old(now);
        let room = self.has_room();
        let hold = self.holds.iter_mut().find(|hold| hold.to == mark.to);
        let (error, until) = match (&self.paused, &hold) {
            (Some(stop), _) => (stop.again(now), stop.until),
            (None, Some(hold)) if !hold.lets_in(mark) => (hold.stop.again(now), hold.stop.until),
            (None, _) => return Ok(()),
        };
        match hold {
            Some(hold) => hold.remember(mark, room),
            None if room => self.hold(mark, &error, until.max(now + GRACE)),
            None => {}
        }
        Err(error)
    }

    /// No send of this socket goes on for a while.
    pub(super) fn pause(&mut self, error: &Error, wait: Duration, now: Duration) {
        let until = self.paused.as_ref().map_or(Duration::ZERO, |stop| stop.until).max(now + wait);
        self.paused = Some(Box::new(Stop { error: error.clone(), until }));
    }

    /// A send goes on.
    pub(super) fn under_way(&mut self, mark: Mark) {
        let hold = self.holds.iter_mut().find(|hold| hold.to == mark.to);
        if let Some(refused) = hold.and_then(|hold| hold.find(mark)) {
            refused.state = State::UnderWay;
        }
    }

    /// A send is answered; with what, if it was refused.
    pub(super) fn answered(&mut self, mark: Mark, error: Option<&Error>, now: Duration) {
        match error {
            Some(error) if error.code.retry() => self.refused(mark, error, now),
            _ => self.settled(mark, now),
        }
    }

    fn refused(&mut self, mark: Mark, error: &Error, now: Duration) {
        let wait = Duration::from_millis(error.retry_after_ms.unwrap_or_default()).max(GRACE);
        let room = self.has_room();
        match self.holds.iter_mut().find(|hold| hold.to == mark.to) {
            Some(hold) => {
                // One that only had to wait for those before it is no reason to wait longer for them.
                if hold.lets_in(mark) {
                    hold.stop = Stop { error: error.clone(), until: now + wait };
                }
                hold.remember(mark, room);
            }
            None if room => self.hold(mark, error, now + wait),
            // Too much to remember apart: all wait together.
            None => self.pause(error, wait, now),
        }
    }

    fn hold(&mut self, mark: Mark, error: &Error, until: Duration) {
        let Mark { to, cid, turn } = mark;
        let stop = Stop { error: error.clone(), until };
        let refused = vec![Refused { turn, cid, state: State::Told }];
        self.holds.push(Hold { to, stop, refused });
    }

    fn has_room(&self) -> bool {
        self.holds.iter().map(|hold| hold.refused.len()).sum::<usize>() < REFUSED_MAX
    }

    fn settled(&mut self, mark: Mark, now: Duration) {
        let Some(place) = self.holds.iter().position(|hold| hold.to == mark.to) else {
            return;
        };
        let hold = &mut self.holds[place];
        hold.refused.retain(|refused| refused.cid != mark.cid);
        hold.stop.until = hold.stop.until.max(now + GRACE);
        if hold.refused.is_empty() {
            self.holds.swap_remove(place);
            self.shrink();
        }
    }

    fn forget_old(&mut self, now: Duration) {
        if self.paused.as_ref().is_some_and(|stop| stop.until <= now) {
            self.paused = None;
        }
        if !self.holds.is_empty() {
            // Invariant: what is under way is answered, so a hold that waits for an answer ends, too.
            self.holds.retain(|hold| hold.stop.until > now || hold.waits_for_an_answer());
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        if self.holds.is_empty() {
            self.holds = Vec::new();
        }
    }

    /// States what always holds.
    #[cfg(test)]
    fn check(&self) {
        let remembered: usize = self.holds.iter().map(|hold| hold.refused.len()).sum();
        assert!(remembered <= REFUSED_MAX, "bounded memory");
        for hold in &self.holds {
            assert!(!hold.refused.is_empty(), "no hold without a reason");
            assert!(hold.refused.is_sorted_by_key(|refused| refused.turn), "first come, first");
        }
    }
}

impl Hold {
    /// Whether all that was refused before a send is under way again.
    fn lets_in(&self, mark: Mark) -> bool {
        let mut before = self.refused.iter().take_while(|refused| refused.cid != mark.cid);
        before.all(|refused| refused.state == State::UnderWay)
    }

    fn find(&mut self, mark: Mark) -> Option<&mut Refused> {
        self.refused.iter_mut().find(|refused| refused.cid == mark.cid)
    }

    /// One that comes again keeps its place; a new one comes behind all that were sent before it.
    fn remember(&mut self, mark: Mark, room: bool) {
        let Mark { cid, turn, .. } = mark;
        if let Some(known) = self.find(mark) {
            known.state = State::Told;
        } else if room {
            let place = self.refused.partition_point(|refused| refused.turn < turn);
            self.refused.insert(place, Refused { turn, cid, state: State::Told });
        }
    }

    fn waits_for_an_answer(&self) -> bool {
        self.refused.iter().any(|refused| refused.state == State::UnderWay)
    }
}

impl Stop {
    /// The same refusal, with what is left of its time.
    fn again(&self, now: Duration) -> Error {
        let left = self.until.saturating_sub(now).as_millis();
        let left = u64::try_from(left).unwrap_or(u64::MAX).max(1);
        Error { retry_after_ms: Some(left), ..self.error.clone() }
    }
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
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
        assert!(!send(&mut order, mark("bob", 2), at(7_999)));
        assert!(send(&mut order, mark("bob", 2), at(8_000)));
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
        for cid in 10..1_000 {
            let name = format!("user-{}", cid % 400);
            order.answered(mark(&name, cid), Some(&busy(None)), at(0));
            order.check();
        }
        assert!(!send(&mut order, mark("bob", 1), at(1_999)), "all wait together");
        assert!(send(&mut order, mark("bob", 1), at(2_000)));
        assert!(order.holds.is_empty() && order.holds.capacity() == 0);
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
                5..=8 => self.arrive(),
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
        }
    }
}
