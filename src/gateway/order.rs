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
    /// Before this no hold is old.
    first_end: Option<Duration>,
    /// Refused messages remembered.
    count: usize,
    /// Of these, the ones that found no place in the node and have not come again.
    without_place: usize,
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

/// What a send is refused for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// All sockets of the node together have too many on their way.
    NoPlace,
    /// Something of this socket, or of one home.
    Own,
}

/// Why sends are refused, and when they should come again.
#[derive(Debug, Clone)]
struct Stop {
    error: Error,
    cause: Cause,
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
    Told(Cause),
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

    /// How many messages found no place in the node, or are behind such in their conversation, and are to come again.
    pub(super) fn without_place(&self) -> usize {
        self.without_place
    }

    /// When `forget_old` should be called, if nothing else happens before.
    pub(super) fn due(&self) -> Option<Duration> {
        self.first_end
    }

    /// Whether a send may go on now: all that was refused before it must have been sent again. One that may not is
    /// refused, and remembered as such.
    pub(super) fn may(&mut self, mark: Mark, now: Duration) -> Result<(), Error> {
        self.forget_old(now);
        let hold = self.holds.get(&mark.to);
        let (stop, until) = match (&self.paused, hold) {
            (Some(stop), _) => (Stop::clone(stop), stop.told),
            // Being held up for those before it is no reason to wait longer for them.
            (None, Some(hold)) if !hold.lets_in(mark) => (hold.stop.clone(), hold.until),
            (None, _) => return Ok(()),
        };
        self.remember(mark, &stop);
        Err(stop.again(until, now))
    }

    /// No send of this socket goes on for a while.
    pub(super) fn pause(&mut self, error: &Error, wait: Duration, now: Duration) {
        let told = self.paused.as_ref().map_or(Duration::ZERO, |stop| stop.told).max(now + wait);
        self.paused = Some(Box::new(Stop { error: error.clone(), cause: Cause::Own, told }));
    }

    /// A send goes on.
    pub(super) fn under_way(&mut self, mark: Mark) {
        if let Some(refused) = self.holds.get_mut(&mark.to).and_then(|hold| hold.find(mark)) {
            self.without_place -= refused.without_place();
            refused.state = State::UnderWay;
        }
    }

    /// A send is answered; with what, if it was refused.
    pub(super) fn answered(&mut self, mark: Mark, error: Option<&Error>, now: Duration) {
        match error {
            Some(error) if error.code.retry() => self.put_off(mark, error, Cause::Own, now),
            _ => self.settled(mark, now),
        }
    }

    /// A send is refused that may come again.
    pub(super) fn put_off(&mut self, mark: Mark, error: &Error, cause: Cause, now: Duration) {
        let told = now + Duration::from_millis(error.retry_after_ms.unwrap_or_default());
        let stop = Stop { error: error.clone(), cause, told };
        // One that had to wait for those before it anyway says nothing new of them.
        if let Some(hold) = self.holds.get_mut(&mark.to).filter(|hold| hold.lets_in(mark)) {
            hold.stop = stop.clone();
        }
        self.remember(mark, &stop);
    }

    /// Remembers a send that its client was told to repeat. One that comes again keeps its place; a new one comes behind
    /// all that were sent before it.
    fn remember(&mut self, mark: Mark, stop: &Stop) {
        let Mark { to, cid, turn } = mark;
        let end = stop.told + GRACE;
        if let Some(hold) = self.holds.get_mut(&to) {
            hold.until = hold.until.max(end);
            if let Some(known) = hold.find(mark) {
                self.without_place -= known.without_place();
                known.state = State::Told(stop.cause);
                self.without_place += known.without_place();
                let until = hold.until;
                return self.look_at(until);
            }
        }
        if self.count >= REFUSED_MAX {
            self.memory = Memory::Overrun;
            return;
        }
        let refused = Refused { turn, cid, state: State::Told(stop.cause) };
        self.count += 1;
        self.without_place += refused.without_place();
        let hold = self.holds.entry(to).or_insert_with(|| Hold {
            stop: stop.clone(),
            until: end,
            refused: Vec::new(),
        });
        let place = hold.refused.partition_point(|refused| refused.turn < turn);
        hold.refused.insert(place, refused);
        let until = hold.until;
        self.look_at(until);
    }

    fn settled(&mut self, mark: Mark, now: Duration) {
        let Some(hold) = self.holds.get_mut(&mark.to) else {
            return;
        };
        for refused in hold.refused.extract_if(.., |refused| refused.cid == mark.cid) {
            self.count -= 1;
            self.without_place -= refused.without_place();
        }
        hold.until = hold.until.max(now + GRACE);
        let until = hold.until;
        if hold.refused.is_empty() {
            self.holds.remove(&mark.to);
        }
        self.look_at(until);
    }

    /// Forgets conversations whose messages should long have come again.
    pub(super) fn forget_old(&mut self, now: Duration) {
        if self.paused.as_ref().is_some_and(|stop| stop.told <= now) {
            self.paused = None;
        }
        if self.first_end.is_none_or(|end| now < end) {
            return;
        }
        // Invariant: what is under way is answered, so a hold that waits for an answer ends, too.
        let old = |hold: &Hold| hold.until <= now && !hold.waits_for_an_answer();
        for (_, hold) in self.holds.extract_if(.., |_, hold| old(hold)) {
            self.count -= hold.refused.len();
            self.without_place -= hold.refused.iter().map(Refused::without_place).sum::<usize>();
        }
        // Its answer says when a hold is looked at that waits for one.
        let ends = self.holds.values().filter(|hold| !hold.waits_for_an_answer());
        self.first_end = ends.map(|hold| hold.until).min();
    }

    /// A hold ends at this moment, if not later.
    fn look_at(&mut self, end: Duration) {
        let first = self.first_end.map_or(end, |first| first.min(end));
        self.first_end = (!self.holds.is_empty()).then_some(first);
    }

    /// States what always holds.
    #[cfg(test)]
    fn check(&self) {
        let remembered: usize = self.holds.values().map(|hold| hold.refused.len()).sum();
        assert_eq!(remembered, self.count, "counted");
        assert!(remembered <= REFUSED_MAX, "bounded memory");
        let all = self.holds.values().flat_map(|hold| &hold.refused);
        assert_eq!(all.map(Refused::without_place).sum::<usize>(), self.without_place, "counted");
        for hold in self.holds.values() {
            assert!(!hold.refused.is_empty(), "no hold without a reason");
            assert!(hold.stop.told + GRACE <= hold.until, "who waits as told comes in time");
            assert!(hold.refused.is_sorted_by_key(|refused| refused.turn), "first come, first");
            let in_time = self.first_end.is_some_and(|end| end <= hold.until);
            assert!(in_time || hold.waits_for_an_answer(), "what is old is found");
        }
    }
}

impl Refused {
    fn without_place(&self) -> usize {
        usize::from(self.state == State::Told(Cause::NoPlace))
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
mod tests;
