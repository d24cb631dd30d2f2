//! Order: after a refusal that may pass, nothing overtakes the message that was refused.
//!
//! A client has more on the wire by the time it hears that a message was refused for now. Were those let in, the
//! repeated one would come behind them. So they are refused, too, until what was refused before them is sent again, in
//! its order. A client that never repeats it is not held up for long: some time after it should have come again, all of
//! a conversation is forgotten.
//!
//! Why a socket with too many refused messages must end: those that are not remembered cannot be told from new ones, and
//! no pause is long enough for all of them to come again in their order. After a new login a client repeats what is not
//! answered, oldest first.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::wire::{Draft, Error};

/// How long a conversation waits for a refused message beyond the time its client was told: the way there and back of a
/// bad mobile network.
const GRACE: Duration = Duration::from_secs(2);
/// What a client is told to wait for a message that should be there by now.
const BREATH: Duration = Duration::from_millis(200);
/// Refused messages remembered, of all conversations of a socket: as many frames as may come in one burst, and what
/// is in flight. They take 100 KiB.
pub(super) const REFUSED_MAX: usize = 4_352;

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
    holds: BTreeMap<u64, Hold>,
    /// Refused messages remembered.
    count: usize,
    memory: Memory,
}

/// Whether all that was refused is remembered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Memory {
    #[default]
    Whole,
    /// What comes now may be news or not.
    Overrun,
}

/// Why sends are refused, and when they should come again.
#[derive(Debug)]
struct Stop {
    error: Error,
    told: Duration,
}

/// A conversation in which something was refused.
#[derive(Debug)]
struct Hold {
    stop: Stop,
    /// When it is forgotten, unless something is under way.
    until: Duration,
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

    /// Whether more was refused than is remembered: then nothing may go on, and the socket must end.
    pub(super) fn is_overrun(&self) -> bool {
        self.memory == Memory::Overrun
    }

    /// How many messages are refused now, and remembered.
    pub(super) fn refused(&self) -> usize {
        self.count
    }

    /// Whether a send may go on now: all that was refused before it must have been sent again. One that may not is
    /// refused, and remembered as such.
    pub(super) fn may(&mut self, mark: Mark, now: Duration) -> Result<(), Error> {
        self.forget_old(now);
        let hold = self.holds.get(&mark.to);
        let (error, told) = match (&self.paused, hold) {
            (Some(stop), _) => (stop.again(stop.told, now), stop.told),
            // Being held up for those before it is no reason to wait longer for them.
            (None, Some(hold)) if !hold.lets_in(mark) => {
                (hold.stop.again(hold.until, now), hold.stop.told)
            }
            (None, _) => return Ok(()),
        };
        self.remember(mark, &error, told);
        Err(error)
    }

    /// No send of this socket goes on for a while.
    pub(super) fn pause(&mut self, error: &Error, wait: Duration, now: Duration) {
        let told = self.paused.as_ref().map_or(Duration::ZERO, |stop| stop.told).max(now + wait);
        self.paused = Some(Box::new(Stop { error: error.clone(), told }));
    }

    /// A send goes on.
    pub(super) fn under_way(&mut self, mark: Mark) {
        if let Some(refused) = self.holds.get_mut(&mark.to).and_then(|hold| hold.find(mark)) {
            refused.state = State::UnderWay;
        }
    }

    /// A send is answered; with what, if it was refused.
    pub(super) fn answered(&mut self, mark: Mark, error: Option<&Error>, now: Duration) {
        match error {
            Some(error) if error.code.retry() => self.put_off(mark, error, now),
            _ => self.settled(mark, now),
        }
    }

    fn put_off(&mut self, mark: Mark, error: &Error, now: Duration) {
        let told = now + Duration::from_millis(error.retry_after_ms.unwrap_or_default());
        // One that had to wait for those before it anyway says nothing new of them.
        if let Some(hold) = self.holds.get_mut(&mark.to).filter(|hold| hold.lets_in(mark)) {
            hold.stop = Stop { error: error.clone(), told };
        }
        self.remember(mark, error, told);
    }

    /// Remembers a send that its client was told to repeat at `told`. One that comes again keeps its place; a new one
    /// comes behind all that were sent before it.
    fn remember(&mut self, mark: Mark, error: &Error, told: Duration) {
        let Mark { to, cid, turn } = mark;
        if let Some(hold) = self.holds.get_mut(&to) {
            hold.until = hold.until.max(told + GRACE);
            if let Some(known) = hold.find(mark) {
                known.state = State::Told;
                return;
            }
        }
        if self.count >= REFUSED_MAX {
            self.memory = Memory::Overrun;
            return;
        }
        self.count += 1;
        let hold = self.holds.entry(to).or_insert_with(|| Hold {
            stop: Stop { error: error.clone(), told },
            until: told + GRACE,
            refused: Vec::new(),
        });
        let place = hold.refused.partition_point(|refused| refused.turn < turn);
        hold.refused.insert(place, Refused { turn, cid, state: State::Told });
    }

    fn settled(&mut self, mark: Mark, now: Duration) {
        let Some(hold) = self.holds.get_mut(&mark.to) else {
            return;
        };
        let before = hold.refused.len();
        hold.refused.retain(|refused| refused.cid != mark.cid);
        self.count -= before - hold.refused.len();
        hold.until = hold.until.max(now + GRACE);
        if hold.refused.is_empty() {
            self.holds.remove(&mark.to);
        }
    }

    fn forget_old(&mut self, now: Duration) {
        if self.paused.as_ref().is_some_and(|stop| stop.told <= now) {
            self.paused = None;
        }
        // Invariant: what is under way is answered, so a hold that waits for an answer ends, too.
        let old = |hold: &Hold| hold.until <= now && !hold.waits_for_an_answer();
        for (_, hold) in self.holds.extract_if(.., |_, hold| old(hold)) {
            self.count -= hold.refused.len();
        }
    }

    /// States what always holds.
    #[cfg(test)]
    fn check(&self) {
        let remembered: usize = self.holds.values().map(|hold| hold.refused.len()).sum();
        assert_eq!(remembered, self.count, "counted");
        assert!(remembered <= REFUSED_MAX, "bounded memory");
        for hold in self.holds.values() {
            assert!(!hold.refused.is_empty(), "no hold without a reason");
            assert!(hold.stop.told + GRACE <= hold.until, "who waits as told comes in time");
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

    fn waits_for_an_answer(&self) -> bool {
        self.refused.iter().any(|refused| refused.state == State::UnderWay)
    }
}

impl Stop {
    /// The same refusal, with what is left of the time told. When that is over, what comes too early should come again
    /// soon, and before the hold ends.
    fn again(&self, until: Duration, now: Duration) -> Error {
        let soon = until.saturating_sub(now).min(BREATH);
        let left = self.told.checked_sub(now).filter(|left| !left.is_zero()).unwrap_or(soon);
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
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
