//! Inbox: puts what arrives into the order of `n`, once each, and says what is safely stored here.
//!
//! Owns      `last` (newest applied), what is held behind a gap, and the ack not yet sent.
//! Promises  entries come out as last+1, last+2 …; an ack never names an entry that was not stored.
//! Never     remembers what it has applied: the number is enough.

use std::collections::BTreeMap;
use std::time::Duration;

use super::said::{Entry, Resume, Welcome};

/// How long a gap may stay before it is asked for: events may still be under way.
const GAP_WAIT: Duration = Duration::from_millis(500);
/// How long an ack waits for others to join it.
const ACK_WAIT: Duration = Duration::from_millis(20);
/// How many entries an ack may stand for before it is sent at once.
const ACK_EVERY: u64 = 64;
/// Entries held behind a gap; more are dropped, since they will be pulled anyway.
const HELD_MAX: usize = 1_024;
/// Entries asked for at once (PROTOCOL.md: at most 256).
pub(super) const PULL_LIMIT: u32 = 256;

/// What must now be asked of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Store the position, then acknowledge up to here.
    Ack(u64),
    /// Ask for what follows this number.
    Pull(u64),
}

/// See the plaque.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    epoch: Option<String>,
    last: u64,
    stored: u64,
    acked: u64,
    held: BTreeMap<u64, Entry>,
    head: u64,
    stuck_at: Option<u64>,
    pull_at: Option<Duration>,
    ack_at: Option<Duration>,
    /// Entries dropped because they had been applied before.
    pub(super) duplicates: u64,
}

impl Inbox {
    /// Goes on from what was stored in an earlier life.
    #[must_use]
    pub(super) fn new(resume: Option<Resume>) -> Self {
        let Some(Resume { n, epoch }) = resume else {
            return Self::default();
        };
        Self { epoch: Some(epoch), last: n, stored: n, ..Self::default() }
    }

    /// What to resume from, if anything is known.
    #[must_use]
    pub(super) fn position(&self) -> Option<Resume> {
        let epoch = self.epoch.clone()?;
        Some(Resume { n: self.stored, epoch })
    }

    /// The newest entry applied.
    #[must_use]
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Starts on a new socket. True if everything must be fetched afresh.
    pub(super) fn attach(&mut self, welcome: &Welcome, now: Duration) -> bool {
        let known = self.epoch.as_ref() == Some(&welcome.epoch);
        let skipped = known && welcome.n > self.last;
        let refused = welcome.reason.is_some();
        let fresh = self.epoch.is_some() && (!known || skipped || refused);
        if self.epoch.is_none() || fresh {
            self.last = welcome.n;
            self.stored = welcome.n;
            self.held.clear();
        }
        // Whatever was acknowledged may have died with the old socket: it is said again.
        self.acked = 0;
        self.ack_at = (self.stored > 0).then_some(now + ACK_WAIT);
        self.pull_at = None;
        self.stuck_at = None;
        self.head = welcome.head;
        self.epoch = Some(welcome.epoch.clone());
        fresh
    }

    /// The socket is gone; nothing is asked for until the next one.
    pub(super) fn detach(&mut self) {
        self.ack_at = None;
        self.pull_at = None;
    }

    /// Takes an entry in and returns those whose turn it now is.
    pub(super) fn arrive(&mut self, n: u64, entry: Entry, now: Duration) -> Vec<(u64, Entry)> {
        if n <= self.last || self.held.contains_key(&n) {
            self.duplicates += 1;
            return Vec::new();
        }
        self.head = self.head.max(n);
        if n > self.last + 1 {
            if self.held.len() < HELD_MAX {
                self.held.insert(n, entry);
            }
            self.pull_at.get_or_insert(now + GAP_WAIT);
            return Vec::new();
        }
        self.last = n;
        let mut turn = vec![(n, entry)];
        while let Some(next) = self.held.remove(&(self.last + 1)) {
            self.last += 1;
            turn.push((self.last, next));
        }
        // What is still held waits behind another gap, which gets its own time.
        self.pull_at = (!self.held.is_empty()).then_some(now + GAP_WAIT);
        turn
    }

    /// Hears how far the log goes, from a `caught_up`: everything before it has been sent.
    pub(super) fn caught_up(&mut self, n: u64, now: Duration) {
        self.head = self.head.max(n);
        if n > self.last {
            self.pull_at.get_or_insert(now + GAP_WAIT);
        }
    }

    /// Hears how far the log goes, from a `pong`. Standing behind it twice with everything
    /// acknowledged means that something was lost.
    pub(super) fn heard_head(&mut self, head: u64, now: Duration) {
        self.head = self.head.max(head);
        let idle = self.acked == self.last && self.held.is_empty();
        if head <= self.last || !idle {
            self.stuck_at = None;
        } else if self.stuck_at == Some(self.last) {
            self.pull_at.get_or_insert(now);
        } else {
            self.stuck_at = Some(self.last);
        }
    }

    /// The application has everything up to `n`; an ack will follow.
    pub(super) fn store(&mut self, n: u64, now: Duration) {
        let n = n.min(self.last);
        if n <= self.stored {
            return;
        }
        self.stored = n;
        let at = if n - self.acked.min(n) >= ACK_EVERY { now } else { now + ACK_WAIT };
        let at = self.ack_at.map_or(at, |earlier| earlier.min(at));
        self.ack_at = Some(at);
    }

    /// An ack rides on a ping: the number, if there is one to send.
    pub(super) fn ride(&mut self) -> Option<u64> {
        self.ack_at = None;
        if self.stored <= self.acked {
            return None;
        }
        self.acked = self.stored;
        Some(self.stored)
    }

    /// Something that had no id was refused until then: it may have been an ack, so that is sent again.
    pub(super) fn put_off(&mut self, until: Duration) {
        if self.stored > 0 {
            self.acked = 0;
            self.ack_at = Some(until.max(self.ack_at.unwrap_or_default()));
        }
    }

    /// What is due now.
    pub(super) fn due(&mut self, now: Duration) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        if self.ack_at.is_some_and(|at| at <= now) {
            wanted.extend(self.ride().map(Wanted::Ack));
        }
        if self.pull_at.is_some_and(|at| at <= now) {
            // Asked again if the answer, too, is lost.
            self.pull_at = (self.last < self.head).then_some(now + 2 * GAP_WAIT);
            wanted.push(Wanted::Pull(self.last));
        }
        wanted
    }

    /// When `due` next has something to say.
    #[must_use]
    pub(super) fn wake(&self) -> Option<Duration> {
        [self.ack_at, self.pull_at].into_iter().flatten().min()
    }

    /// States what always holds.
    pub(super) fn check(&self) {
        // Invariant: acknowledged ≤ stored ≤ applied, and what is held is behind a gap.
        debug_assert!(self.acked <= self.stored && self.stored <= self.last);
        debug_assert!(self.held.keys().next().is_none_or(|first| *first > self.last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::said::Expired;
    use proptest::prelude::*;

    fn entry(n: u64) -> Entry {
        Entry::Expired(Expired { conv: "u:a".into(), mid: format!("m{n}"), seq: n })
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn welcome(epoch: &str, n: u64) -> Welcome {
        Welcome { epoch: epoch.into(), n, head: n, resumed: true, reason: None }
    }

    fn numbers(turn: &[(u64, Entry)]) -> Vec<u64> {
        turn.iter().map(|(n, _)| *n).collect()
    }

    #[test]
    fn a_gap_is_held_and_pulled_after_half_a_second() {
        let mut inbox = Inbox::default();
        inbox.attach(&welcome("e", 0), ms(0));
        assert_eq!(numbers(&inbox.arrive(1, entry(1), ms(0))), [1]);
        assert!(inbox.arrive(3, entry(3), ms(10)).is_empty());
        assert_eq!(inbox.due(ms(509)), []);
        assert_eq!(inbox.due(ms(510)), [Wanted::Pull(1)]);
        assert_eq!(numbers(&inbox.arrive(2, entry(2), ms(600))), [2, 3]);
        assert_eq!(inbox.wake(), None);
        assert!(inbox.arrive(2, entry(2), ms(601)).is_empty());
        assert_eq!(inbox.duplicates, 1);
    }

    #[test]
    fn an_ack_that_may_have_been_refused_is_sent_again() {
        let mut inbox = Inbox::default();
        inbox.attach(&welcome("e", 0), ms(0));
        inbox.put_off(ms(1));
        assert_eq!(inbox.wake(), None, "nothing was acknowledged");
        inbox.arrive(1, entry(1), ms(0));
        inbox.store(1, ms(0));
        assert_eq!(inbox.due(ACK_WAIT), [Wanted::Ack(1)]);
        inbox.put_off(ms(700));
        assert_eq!(inbox.due(ms(699)), []);
        assert_eq!(inbox.due(ms(700)), [Wanted::Ack(1)]);
        assert_eq!(inbox.wake(), None);
    }

    #[test]
    fn a_filled_gap_is_not_pulled() {
        let mut inbox = Inbox::default();
        inbox.attach(&welcome("e", 0), ms(0));
        inbox.arrive(2, entry(2), ms(0));
        inbox.arrive(1, entry(1), ms(400));
        assert_eq!(inbox.due(ms(5_000)), []);
    }

    #[test]
    fn acks_are_merged_for_a_moment_and_never_precede_storing() {
        let mut inbox = Inbox::default();
        inbox.attach(&welcome("e", 0), ms(0));
        for n in 1..=10 {
            inbox.arrive(n, entry(n), ms(n));
        }
        assert_eq!(inbox.due(ms(100)), []);
        for n in 1..=5 {
            inbox.store(n, ms(100 + n));
        }
        assert_eq!(inbox.due(ms(120)), []);
        assert_eq!(inbox.due(ms(121)), [Wanted::Ack(5)]);
        assert_eq!(inbox.due(ms(1_000)), []);
        inbox.store(999, ms(1_000));
        assert_eq!(inbox.ride(), Some(10));
    }

    #[test]
    fn sixty_four_entries_are_acknowledged_at_once() {
        let mut inbox = Inbox::default();
        inbox.attach(&welcome("e", 0), ms(0));
        for n in 1..=64 {
            inbox.arrive(n, entry(n), ms(0));
            inbox.store(n, ms(0));
        }
        assert_eq!(inbox.due(ms(0)), [Wanted::Ack(64)]);
    }

    #[test]
    fn a_new_epoch_or_a_trimmed_log_starts_afresh() {
        let mut inbox = Inbox::new(Some(Resume { n: 40, epoch: "old".into() }));
        assert!(!inbox.attach(&welcome("old", 40), ms(0)));
        assert!(!inbox.attach(&welcome("old", 30), ms(0)));
        assert_eq!(inbox.last(), 40);
        assert!(inbox.attach(&welcome("new", 7), ms(0)));
        assert_eq!(inbox.last(), 7);
        let trimmed = Welcome { reason: Some("trimmed".into()), ..welcome("new", 90) };
        assert!(inbox.attach(&trimmed, ms(0)));
        assert_eq!(inbox.position(), Some(Resume { n: 90, epoch: "new".into() }));
        inbox.check();
    }

    #[test]
    fn a_lost_tail_is_noticed_from_two_pongs() {
        let mut inbox = Inbox::default();
        inbox.attach(&welcome("e", 0), ms(0));
        inbox.heard_head(3, ms(0));
        assert_eq!(inbox.due(ms(1)), []);
        inbox.heard_head(3, ms(5_000));
        assert_eq!(inbox.due(ms(5_000)), [Wanted::Pull(0)]);
    }

    proptest! {
        #[test]
        fn loss_repetition_and_disorder_never_change_what_is_applied(
            arrivals in proptest::collection::vec(1..60_u64, 0..400),
        ) {
            let mut inbox = Inbox::default();
            inbox.attach(&welcome("e", 0), ms(0));
            let mut applied = Vec::new();
            let mut now = 0;
            for n in arrivals {
                now += 7;
                applied.extend(numbers(&inbox.arrive(n, entry(n), ms(now))));
                inbox.store(n, ms(now));
                inbox.due(ms(now));
                inbox.check();
            }
            // The model server answers pulls until nothing is missing.
            inbox.caught_up(59, ms(now));
            while let Some(at) = inbox.wake() {
                for wanted in inbox.due(at) {
                    let Wanted::Pull(after) = wanted else { continue };
                    for n in after + 1..60 {
                        applied.extend(numbers(&inbox.arrive(n, entry(n), at)));
                    }
                }
                inbox.check();
            }
            prop_assert_eq!(applied, (1..60).collect::<Vec<_>>());
        }
    }
}
