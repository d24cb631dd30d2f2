//! Outbox: keeps every message until a node has said what became of it, and repeats it until then.
//!
//! Owns      the unanswered messages in the order they were written, each with the `cid` it will always have.
//! Promises  a conversation's messages are offered in order; after a new socket, a refusal that may pass or a
//!           silence, all unanswered ones are repeated, oldest first.
//! Never     gives up by itself: an unknown outcome stays unknown until it is answered.
//! Why repeat all of a conversation: if only the refused one were repeated, a later one would overtake it. And the
//! first goes alone until it is accepted, or those behind it might slip in just after it is refused again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::closing::{Backoff, Pause};
use super::said::{Fault, Letter};

/// How long a send may stay unanswered before its conversation is repeated: a node parks for 3 s.
const REPLY_WAIT: Duration = Duration::from_secs(10);

/// A message the outbox keeps.
#[derive(Debug)]
struct Pending {
    letter: Arc<Letter>,
    /// The request that carries it now; replies to earlier ones still count if they are good.
    request: Option<u64>,
    sent_at: Duration,
}

/// The unanswered messages of one conversation.
#[derive(Debug, Default)]
struct Lane {
    /// In order; the first `in_flight` have been sent on this socket.
    queue: VecDeque<u64>,
    in_flight: usize,
    /// After a refusal the first one tries the ground alone.
    trying: bool,
    backoff: Backoff,
    held: Option<Pause>,
}

/// A message to put on the socket now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Offer {
    /// The request's id.
    pub(super) id: u64,
    /// Which message.
    pub(super) number: u64,
    /// What it says.
    pub(super) letter: Arc<Letter>,
}

/// What a refusal means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// From now on its conversation waits for so long, and is then repeated.
    Held(Fault, Duration),
    /// It will be repeated, like others before it.
    Repeats,
    /// It is final: the message is out of the outbox.
    Final(Fault),
    /// It answered a request that has since been repeated.
    Stale,
}

/// See the plaque.
#[derive(Debug)]
pub(super) struct Outbox {
    window: usize,
    pending: BTreeMap<u64, Pending>,
    lanes: BTreeMap<String, Lane>,
    next: u64,
    wake: Option<Duration>,
}

impl Outbox {
    /// An empty outbox with at most `window` sends in flight per conversation.
    #[must_use]
    pub(super) fn new(window: usize) -> Self {
        let (pending, lanes) = (BTreeMap::new(), BTreeMap::new());
        Self { window: window.max(1), pending, lanes, next: 1, wake: None }
    }

    /// How many messages are unanswered.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// The unanswered message of this number.
    #[must_use]
    pub(super) fn letter(&self, number: u64) -> Option<&Arc<Letter>> {
        self.pending.get(&number).map(|pending| &pending.letter)
    }

    /// All unanswered messages in order: what an application stores to survive its own restart.
    pub(super) fn letters(&self) -> impl Iterator<Item = &Letter> {
        self.pending.values().map(|pending| pending.letter.as_ref())
    }

    /// Takes a message in at the end of its conversation.
    pub(super) fn push(&mut self, letter: Letter) -> u64 {
        let number = self.next;
        self.next += 1;
        match self.lanes.get_mut(&letter.to) {
            Some(lane) => lane.queue.push_back(number),
            None => {
                let lane = Lane { queue: [number].into(), ..Lane::default() };
                self.lanes.insert(letter.to.clone(), lane);
            }
        }
        let letter = Arc::new(letter);
        self.pending.insert(number, Pending { letter, request: None, sent_at: Duration::ZERO });
        number
    }

    /// Offers what a conversation may send now; `ids` gives each request its id.
    pub(super) fn offer(
        &mut self,
        to: &str,
        now: Duration,
        ids: &mut impl FnMut() -> u64,
        out: &mut Vec<Offer>,
    ) {
        let Some(lane) = self.lanes.get_mut(to) else {
            return;
        };
        if lane.held.is_some() {
            return;
        }
        let window = if lane.trying { 1 } else { self.window };
        while lane.in_flight < window {
            let Some(number) = lane.queue.get(lane.in_flight).copied() else {
                return;
            };
            // Invariant: a lane names only messages that are pending.
            let Some(pending) = self.pending.get_mut(&number) else {
                return;
            };
            lane.in_flight += 1;
            let id = ids();
            pending.request = Some(id);
            pending.sent_at = now;
            self.wake.get_or_insert(now + REPLY_WAIT);
            out.push(Offer { id, number, letter: Arc::clone(&pending.letter) });
        }
    }

    /// Offers everything that may be sent now, oldest first over all conversations.
    pub(super) fn offer_all(
        &mut self,
        now: Duration,
        ids: &mut impl FnMut() -> u64,
        out: &mut Vec<Offer>,
    ) {
        let names: Vec<String> = self.lanes.keys().cloned().collect();
        let start = out.len();
        for name in names {
            // The ids are given below, once the order is known.
            self.offer(&name, now, &mut || 0, out);
        }
        out[start..].sort_by_key(|offer| offer.number);
        for offer in &mut out[start..] {
            offer.id = ids();
            if let Some(pending) = self.pending.get_mut(&offer.number) {
                pending.request = Some(offer.id);
            }
        }
    }

    /// A node accepted the message, perhaps on an earlier request. False if that was known.
    pub(super) fn accepted(&mut self, number: u64) -> bool {
        let Some(pending) = self.pending.get(&number) else {
            return false;
        };
        if let Some(lane) = self.lanes.get_mut(&pending.letter.to)
            && lane.queue.front() == Some(&number)
        {
            lane.backoff.reset();
            lane.trying = false;
        }
        self.remove(number);
        true
    }

    /// A node refused request `id` of the message; `chance` is a fresh random number in 0 … 1.
    pub(super) fn refused(
        &mut self,
        number: u64,
        id: u64,
        fault: Fault,
        now: Duration,
        chance: f64,
    ) -> Verdict {
        let Some(pending) = self.pending.get(&number) else {
            return Verdict::Stale;
        };
        if pending.request != Some(id) {
            return Verdict::Stale;
        }
        if !fault.retry {
            self.remove(number);
            return Verdict::Final(fault);
        }
        let Some(lane) = self.lanes.get_mut(&pending.letter.to) else {
            return Verdict::Stale;
        };
        if lane.held.is_some() {
            return Verdict::Repeats;
        }
        let asked = Duration::from_millis(fault.retry_after_ms.unwrap_or(0));
        let pause = Pause::new(lane.backoff.next(chance), asked, now);
        lane.held = Some(pause);
        lane.trying = true;
        self.wake_by(pause.until);
        Verdict::Held(fault, pause.until - now)
    }

    /// Somebody has something to say in this conversation: it is not held for long.
    pub(super) fn hurry(&mut self, to: &str) {
        let Some(pause) = self.lanes.get_mut(to).and_then(|lane| lane.held.as_mut()) else {
            return;
        };
        pause.hurry();
        let until = pause.until;
        self.wake_by(until);
    }

    fn wake_by(&mut self, at: Duration) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// The socket is gone: nothing is in flight, and no conversation is held.
    pub(super) fn detach(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.in_flight = 0;
            lane.held = None;
            lane.trying = false;
        }
        for pending in self.pending.values_mut() {
            pending.request = None;
        }
        self.wake = None;
    }

    /// Repeats conversations whose wait is over, or that were met with silence.
    pub(super) fn due(
        &mut self,
        now: Duration,
        ids: &mut impl FnMut() -> u64,
        out: &mut Vec<Offer>,
    ) {
        if self.wake.is_none_or(|at| at > now) {
            return;
        }
        self.wake = None;
        let mut again = Vec::new();
        for (name, lane) in &mut self.lanes {
            if lane.in_flight == 0 && lane.held.is_none() {
                continue;
            }
            let oldest = lane.queue.front().and_then(|number| self.pending.get(number));
            let silent = oldest.map_or(now, |pending| pending.sent_at) + REPLY_WAIT;
            let at = lane.held.map_or(silent, |pause| pause.until);
            if at <= now {
                lane.held = None;
                lane.in_flight = 0;
                again.push(name.clone());
            } else {
                self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
            }
        }
        for name in again {
            self.offer(&name, now, ids, out);
        }
    }

    /// When `due` next has something to say, at the earliest.
    #[must_use]
    pub(super) fn wake(&self) -> Option<Duration> {
        self.wake
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Letter>> {
        let letter = self.pending.remove(&number)?.letter;
        let lane = self.lanes.get_mut(&letter.to)?;
        // Nearly always the front: nodes answer in order.
        let at = lane.queue.iter().position(|queued| *queued == number)?;
        lane.queue.remove(at);
        if at < lane.in_flight {
            lane.in_flight -= 1;
        }
        if lane.queue.is_empty() {
            self.lanes.remove(&letter.to);
        }
        Some(letter)
    }

    /// States what always holds.
    pub(super) fn check(&self) {
        let mut queued = 0;
        for lane in self.lanes.values() {
            // Invariant: a lane is in order, and no more is in flight than its window.
            debug_assert!(lane.queue.iter().is_sorted());
            debug_assert!(lane.in_flight <= lane.queue.len().min(self.window));
            queued += lane.queue.len();
        }
        // Invariant: every unanswered message is in exactly one lane.
        debug_assert_eq!(queued, self.pending.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ids(u64);

    impl Ids {
        fn next(&mut self) -> impl FnMut() -> u64 + '_ {
            || {
                self.0 += 1;
                self.0
            }
        }
    }

    fn letter(to: &str, cid: &str) -> Letter {
        Letter::text(to, cid.into(), "hi")
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn cids(offers: &[Offer]) -> Vec<&str> {
        offers.iter().map(|offer| offer.letter.cid.as_str()).collect()
    }

    fn busy() -> Fault {
        Fault::here("unavailable", "no majority", true)
    }

    #[test]
    fn a_window_bounds_what_is_in_flight_per_conversation() {
        let (mut outbox, mut ids, mut out) = (Outbox::new(2), Ids(0), Vec::new());
        for cid in ["a1", "a2", "a3"] {
            outbox.push(letter("u:a", cid));
        }
        outbox.push(letter("u:b", "b1"));
        outbox.offer("u:a", ms(0), &mut ids.next(), &mut out);
        outbox.offer("u:b", ms(0), &mut ids.next(), &mut out);
        assert_eq!(cids(&out), ["a1", "a2", "b1"]);
        out.clear();
        assert!(outbox.accepted(1));
        assert!(!outbox.accepted(1));
        outbox.offer("u:a", ms(0), &mut ids.next(), &mut out);
        assert_eq!(cids(&out), ["a3"]);
        outbox.check();
    }

    #[test]
    fn a_refusal_that_may_pass_holds_the_later_ones_and_repeats_all_in_order() {
        let (mut outbox, mut ids, mut out) = (Outbox::new(8), Ids(0), Vec::new());
        for cid in ["1", "2", "3"] {
            outbox.push(letter("u:a", cid));
        }
        outbox.offer("u:a", ms(0), &mut ids.next(), &mut out);
        assert_eq!(outbox.refused(1, 1, busy(), ms(10), 1.0), Verdict::Held(busy(), ms(500)));
        assert_eq!(outbox.refused(3, 3, busy(), ms(11), 1.0), Verdict::Repeats);
        outbox.accepted(2);
        outbox.push(letter("u:a", "4"));
        out.clear();
        outbox.offer("u:a", ms(20), &mut ids.next(), &mut out);
        outbox.due(ms(509), &mut ids.next(), &mut out);
        assert!(out.is_empty());
        outbox.due(ms(510), &mut ids.next(), &mut out);
        assert_eq!(cids(&out), ["1"]);
        outbox.accepted(1);
        outbox.offer("u:a", ms(515), &mut ids.next(), &mut out);
        assert_eq!(cids(&out), ["1", "3", "4"]);
        // The answer to the request before is no news.
        assert_eq!(outbox.refused(3, 3, busy(), ms(520), 1.0), Verdict::Stale);
        outbox.check();
    }

    #[test]
    fn a_final_refusal_frees_the_place() {
        let (mut outbox, mut ids, mut out) = (Outbox::new(1), Ids(0), Vec::new());
        outbox.push(letter("u:a", "1"));
        outbox.push(letter("u:a", "2"));
        outbox.offer("u:a", ms(0), &mut ids.next(), &mut out);
        let fault = Fault::here("blocked", "", false);
        assert_eq!(outbox.refused(1, 1, fault.clone(), ms(0), 0.0), Verdict::Final(fault));
        out.clear();
        outbox.offer("u:a", ms(0), &mut ids.next(), &mut out);
        assert_eq!(cids(&out), ["2"]);
    }

    #[test]
    fn a_new_socket_repeats_everything_oldest_first_over_all_conversations() {
        let (mut outbox, mut ids, mut out) = (Outbox::new(8), Ids(0), Vec::new());
        for (to, cid) in [("u:z", "1"), ("u:a", "2"), ("u:z", "3"), ("u:m", "4")] {
            outbox.push(letter(to, cid));
            outbox.offer(to, ms(0), &mut ids.next(), &mut out);
        }
        outbox.refused(1, 1, busy(), ms(0), 1.0);
        outbox.detach();
        outbox.push(letter("u:a", "5"));
        out.clear();
        outbox.offer_all(ms(50), &mut ids.next(), &mut out);
        assert_eq!(cids(&out), ["1", "2", "3", "4", "5"]);
        assert!(out.iter().map(|offer| offer.id).is_sorted());
        outbox.check();
    }

    #[test]
    fn a_new_message_ends_a_long_hold_soon_after_the_refusal() {
        let (mut outbox, mut ids, mut out) = (Outbox::new(8), Ids(0), Vec::new());
        outbox.push(letter("u:a", "1"));
        for refusal in 1..=8 {
            let now = ms(100_000 * refusal);
            outbox.offer("u:a", now, &mut ids.next(), &mut out);
            outbox.refused(1, refusal, busy(), now, 1.0);
            outbox.due(now + ms(30_000), &mut Ids(refusal).next(), &mut out);
        }
        outbox.refused(1, 9, busy(), ms(900_000), 1.0);
        out.clear();
        outbox.due(ms(900_100), &mut ids.next(), &mut out);
        assert_eq!(outbox.wake(), Some(ms(930_000)));
        outbox.hurry("u:a");
        outbox.push(letter("u:a", "2"));
        assert_eq!(outbox.wake(), Some(ms(903_875)));
        outbox.due(ms(903_875), &mut ids.next(), &mut out);
        assert_eq!(cids(&out), ["1"]);
        outbox.check();
    }

    #[test]
    fn silence_is_not_a_failure_but_is_repeated() {
        let (mut outbox, mut ids, mut out) = (Outbox::new(8), Ids(0), Vec::new());
        outbox.push(letter("u:a", "1"));
        outbox.offer("u:a", ms(0), &mut ids.next(), &mut out);
        out.clear();
        assert_eq!(outbox.wake(), Some(ms(10_000)));
        outbox.due(ms(10_000), &mut ids.next(), &mut out);
        assert_eq!(cids(&out), ["1"]);
        assert!(outbox.accepted(1));
        assert_eq!(outbox.len(), 0);
    }
}
