//! Push rules: what is sent when, what waits, what is given up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use actors::ids::{Conversation, DeviceId, Number, Timestamp, UserId};
use actors::shard::home::Notice;

/// Notices that wait; of more the oldest are dropped.
const WAITING_MAX: usize = 10_000;
/// Requests unanswered at once.
const FLYING_MAX: usize = 16;
/// The first wait before a notice is repeated; each further one is twice as long, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// A notice older than this is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3_600);
/// Devices that are kept as unknown to the service; others are told of once more.
const GONE_MAX: usize = 100_000;

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// A status, and after which time to ask again if the service said so.
    Status(u16, Option<Duration>),
    /// None.
    Nothing,
}

/// What becomes of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// The service has taken it.
    Done,
    /// Repeat it after this time.
    Again(Duration),
    /// A newer one of its conversation waits.
    Replaced,
    /// The service does not know the device any more.
    Forget,
    /// The service will never take it.
    Refuse(u16),
    /// It has been tried for too long.
    GiveUp,
}

impl Then {
    /// What it is called in the metrics.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Again(_) => "again",
            Self::Replaced => "replaced",
            Self::Forget => "gone",
            Self::Refuse(_) => "refused",
            Self::GiveUp => "given_up",
        }
    }
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send this one, and say what came of it under this ticket.
    Send(u64, Notice),
    /// Nothing for this time, or until something happens.
    Wait(Option<Duration>),
}

type Key = (UserId, DeviceId, Conversation);

#[derive(Debug)]
struct Waiting {
    notice: Notice,
    since: Duration,
    tries: u32,
    due: Duration,
}

/// What waits to be told, and what is being told.
#[derive(Debug, Default)]
pub(super) struct Queue {
    tickets: u64,
    /// By ticket: the oldest first.
    waiting: BTreeMap<u64, Waiting>,
    due: BTreeSet<(Duration, u64)>,
    /// Of each conversation of a device the one that waits.
    of: BTreeMap<Key, u64>,
    flying: BTreeMap<u64, Waiting>,
    /// Devices the service does not know, as they were heard last then.
    gone: BTreeMap<(UserId, DeviceId), (Timestamp, Number)>,
}

impl Queue {
    /// Takes a notice; answers why something will not be told, if so, in the words of the metrics.
    pub(super) fn take(&mut self, notice: Notice, now: Duration) -> Option<&'static str> {
        let device = (notice.user.clone(), notice.device.clone());
        if let Some((seen, acked)) = self.gone.get(&device) {
            if notice.seen <= *seen && notice.acked <= *acked {
                return Some("gone");
            }
            self.gone.remove(&device);
        }
        if let Some(known) = self.of.get(&key(&notice)).and_then(|at| self.waiting.get_mut(at)) {
            // It keeps its place: that the service does not answer is as true of the newer one.
            (known.notice, known.since) = (notice, now);
            return Some("replaced");
        }
        self.tickets += 1;
        self.put(self.tickets, Waiting { notice, since: now, tries: 0, due: now });
        let oldest =
            *self.waiting.first_key_value().filter(|_| self.waiting.len() > WAITING_MAX)?.0;
        self.drop(oldest);
        Some("dropped")
    }

    /// What to do now.
    pub(super) fn next(&mut self, now: Duration) -> Next {
        if self.flying.len() >= FLYING_MAX {
            return Next::Wait(None);
        }
        let Some((due, ticket)) = self.due.first().copied() else { return Next::Wait(None) };
        if due > now {
            return Next::Wait(Some(due - now));
        }
        let Some(mut waiting) = self.drop(ticket) else { return Next::Wait(None) };
        waiting.tries += 1;
        let notice = waiting.notice.clone();
        self.flying.insert(ticket, waiting);
        Next::Send(ticket, notice)
    }

    /// A request was answered, or never will be. `chance` spreads what is repeated.
    pub(super) fn answered(
        &mut self,
        ticket: u64,
        answer: Answer,
        now: Duration,
        chance: u32,
    ) -> Option<(Notice, Then)> {
        let mut sent = self.flying.remove(&ticket)?;
        let notice = sent.notice.clone();
        let age = now.saturating_sub(sent.since);
        let mut then = decide(answer, (sent.tries, age), chance);
        match then {
            Then::Again(_) if self.of.contains_key(&key(&notice)) => then = Then::Replaced,
            Then::Again(_) if self.is_gone(&notice) => then = Then::Forget,
            Then::Again(wait) => {
                sent.due = now + wait;
                self.put(ticket, sent);
            }
            Then::Forget => self.forget(&notice),
            Then::Done | Then::Replaced | Then::Refuse(_) | Then::GiveUp => {}
        }
        Some((notice, then))
    }

    /// Notices that wait.
    pub(super) fn waiting(&self) -> u32 {
        u32::try_from(self.waiting.len()).unwrap_or(u32::MAX)
    }

    fn put(&mut self, ticket: u64, waiting: Waiting) {
        self.due.insert((waiting.due, ticket));
        self.of.insert(key(&waiting.notice), ticket);
        self.waiting.insert(ticket, waiting);
    }

    fn drop(&mut self, ticket: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&ticket)?;
        self.due.remove(&(waiting.due, ticket));
        self.of.remove(&key(&waiting.notice));
        Some(waiting)
    }

    /// The service does not know this device: it is not told of until it is heard again.
    fn forget(&mut self, notice: &Notice) {
        let device = (notice.user.clone(), notice.device.clone());
        let same = |one: &Notice| one.user == device.0 && one.device == device.1;
        let waiting = self.waiting.iter().filter(|(_, one)| {
            let heard = one.notice.seen > notice.seen || one.notice.acked > notice.acked;
            same(&one.notice) && !heard
        });
        let tickets: Vec<u64> = waiting.map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            self.drop(ticket);
        }
        if self.gone.len() >= GONE_MAX {
            self.gone.pop_first();
        }
        self.gone.insert(device, (notice.seen, notice.acked));
    }

    fn is_gone(&self, notice: &Notice) -> bool {
        let gone = self.gone.get(&(notice.user.clone(), notice.device.clone()));
        gone.is_some_and(|(seen, acked)| notice.seen <= *seen && notice.acked <= *acked)
    }

    /// Panics when something that always holds does not.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert!(self.waiting.len() <= WAITING_MAX && self.flying.len() <= FLYING_MAX, "limits");
        assert_eq!(self.waiting.len(), self.due.len(), "each has its time");
        assert_eq!(self.waiting.len(), self.of.len(), "one of each conversation");
        for (ticket, waiting) in &self.waiting {
            assert!(self.due.contains(&(waiting.due, *ticket)), "its own time");
            assert_eq!(self.of.get(&key(&waiting.notice)), Some(ticket), "its own place");
        }
    }
}

fn key(notice: &Notice) -> Key {
    (notice.user.clone(), notice.device.clone(), notice.conv.clone())
}

/// What becomes of a notice that was sent so often and is so old.
fn decide(answer: Answer, (tries, age): (u32, Duration), chance: u32) -> Then {
    let asked = match answer {
        Answer::Status(200..=299, _) => return Then::Done,
        Answer::Status(410, _) => return Then::Forget,
        Answer::Status(408 | 429 | 500..=599, retry_after) => retry_after.unwrap_or_default(),
        Answer::Status(status, _) => return Then::Refuse(status),
        Answer::Nothing => Duration::ZERO,
    };
    let wait = asked.max(backoff(tries, chance));
    if age.saturating_add(wait) > GIVE_UP_AFTER { Then::GiveUp } else { Then::Again(wait) }
}

/// Twice as long each time, and between half of that and all of it.
fn backoff(tries: u32, chance: u32) -> Duration {
    let doubled = 1u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX);
    let half = FIRST_WAIT.saturating_mul(doubled).min(LONGEST_WAIT) / 2;
    half + half.mul_f64(f64::from(chance) / f64::from(u32::MAX))
}
