//! Runs: old entries of logs as they were read from disk lately. Whoever looks at their chats looks at them again soon, and
//! the newest messages of two hundred chats lie all over a log.
//!
//! A run never changes, so what is kept is true for as long as anybody asks for it. It goes when it was not asked for in two
//! turns, each of which ends when so much was read, and at the latest after a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::UserId;
use crate::mailbox::log::Sealed;
use crate::message::Entry;

/// The part of the memory for mailboxes in which runs of their logs are kept.
pub(super) const PART: usize = 16;
/// How long a turn lasts at the most.
const TURN: Duration = Duration::from_secs(60);
/// Bytes of an entry and of a run beside what they hold.
const BESIDE: usize = 96;

/// Entries of a run.
pub(crate) type Entries = Arc<Vec<Entry>>;

#[derive(Default)]
struct Turn {
    runs: HashMap<(UserId, Sealed), Entries>,
    bytes: usize,
}

impl Turn {
    fn put(&mut self, key: (UserId, Sealed), entries: Entries) {
        let bytes = weight(&entries);
        if self.runs.insert(key, entries).is_none() {
            self.bytes += bytes;
        }
    }
}

/// Runs that were read lately.
pub(super) struct Runs {
    now: Turn,
    before: Turn,
    /// Bytes of one turn.
    bytes_max: usize,
    ends: Duration,
}

impl Runs {
    /// Keeps about this many bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        let (now, before) = (Turn::default(), Turn::default());
        Self { now, before, bytes_max: bytes_max / 2, ends: TURN }
    }

    /// Bytes kept, about.
    pub(super) const fn weight(&self) -> usize {
        self.now.bytes + self.before.bytes
    }

    pub(super) fn find(&mut self, user: &UserId, run: Sealed) -> Option<Entries> {
        let key = (user.clone(), run);
        if let Some(entries) = self.now.runs.get(&key) {
            return Some(Arc::clone(entries));
        }
        let entries = Arc::clone(self.before.runs.get(&key)?);
        self.put(key, Arc::clone(&entries));
        Some(entries)
    }

    /// Keeps what was read, if it is the whole run: of one that was written anew meanwhile there may be less, or nothing.
    pub(super) fn keep(&mut self, user: &UserId, run: Sealed, entries: &Entries) {
        let first = entries.first().map(|entry| entry.n);
        let last = entries.last().map(Entry::last);
        if (first, last) == (Some(run.first), Some(run.last)) && weight(entries) < self.bytes_max {
            self.put((user.clone(), run), Arc::clone(entries));
        }
    }

    fn put(&mut self, key: (UserId, Sealed), entries: Entries) {
        if self.now.bytes + weight(&entries) > self.bytes_max {
            self.before = std::mem::take(&mut self.now);
        }
        self.now.put(key, entries);
    }

    /// Lets go of what nobody has asked for in a while.
    pub(super) fn tick(&mut self, now: Duration) {
        if now >= self.ends {
            self.ends = now + TURN;
            self.before = std::mem::take(&mut self.now);
        }
    }
}

fn weight(entries: &Entries) -> usize {
    BESIDE + entries.iter().map(|entry| entry.weight() + BESIDE).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Conversation, MessageId, Number, Seq, Timestamp};
    use crate::message::What;

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn run(first: u64) -> (Sealed, Entries) {
        let entry = |n| Entry {
            n: Number(n),
            at: Timestamp(n),
            what: What::Expired {
                conv: Conversation::User(user("ann")),
                mid: MessageId(n.into()),
                seq: Seq(n),
            },
        };
        let run = Sealed { first: Number(first), last: Number(first + 9) };
        (run, Arc::new((first..first + 10).map(entry).collect()))
    }

    #[test]
    fn a_run_is_kept_while_it_is_asked_for_and_not_much_longer() {
        let ((one, entries), bob) = (run(1), user("bob"));
        let mut runs = Runs::new(1 << 20);
        runs.keep(&bob, one, &entries);
        for turn in 1..=5 {
            assert!(runs.find(&bob, one).is_some());
            assert!(runs.find(&user("cat"), one).is_none());
            runs.tick(TURN * turn);
        }
        runs.tick(TURN * 6);
        assert!(runs.find(&bob, one).is_none());
        assert_eq!(runs.weight(), 0);
    }

    #[test]
    fn however_many_are_read_only_so_many_bytes_are_kept() {
        const MOST: usize = 100_000;
        let (mut runs, bob) = (Runs::new(MOST), user("bob"));
        for at in 0..200 {
            let (run, entries) = run(at * 10 + 1);
            runs.keep(&bob, run, &entries);
            assert!(runs.weight() <= MOST);
            assert_eq!(runs.find(&bob, run), Some(entries), "the newest is there");
        }
    }

    #[test]
    fn what_is_not_the_whole_run_is_not_kept() {
        let ((one, entries), bob) = (run(1), user("bob"));
        let mut runs = Runs::new(1 << 20);
        for part in [&entries[..9], &entries[1..], &[]] {
            runs.keep(&bob, one, &Arc::new(part.to_vec()));
            assert!(runs.find(&bob, one).is_none());
        }
    }
}
