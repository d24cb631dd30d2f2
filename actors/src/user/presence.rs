//! Presence: who watches the users of one shard, and what they were told of them.
//!
//! A user who is watched by nobody costs nothing here. All of it is memory of the leader: after a failover the watching
//! sessions ask again, as the watched ones attach again.
//!
//! Why nobody is said to be gone at once: a socket that breaks is followed by another a moment later, an actor that fails
//! loses attachments that come back, and a new leader knows no session at first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::{SessionId, UserId};

/// How long a watch lasts that is not renewed; a little more than what clients are promised.
pub const LEASE: Duration = Duration::from_secs(10 * 60 + 15);
/// Whose last session goes is said to be gone after this.
pub const LINGER: Duration = Duration::from_millis(1_500);
/// Sessions have attached to a new leader after this, if they can.
pub const SETTLE: Duration = Duration::from_secs(4);
/// Sessions that may watch one user.
pub const WATCHERS_MAX: usize = 10_000;
/// How often watches that were not renewed are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(30);

/// What watchers are to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Who came or went.
    pub user: UserId,
    /// Whether they are there.
    pub online: bool,
    /// The sessions that watch, and whose they are.
    pub to: Vec<(SessionId, UserId)>,
}

/// So many watch a user that no more may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many sessions watch this user")]
pub struct TooManyWatchers;

/// How a user stands now.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    /// Whether a session of theirs is attached.
    pub attached: bool,
    /// Whether they were there until a moment ago, for all that is known: counts while the leader is new.
    pub lately: bool,
    /// When this is.
    pub now: Duration,
}

#[derive(Debug)]
struct Lease {
    session: SessionId,
    by: UserId,
    until: Duration,
}

/// A watched user.
#[derive(Debug)]
struct Watched {
    /// What the watchers were told last.
    online: bool,
    /// When they are told that the user is gone, unless they attach before.
    goes: Option<Duration>,
    leases: Vec<Lease>,
}

/// Who watches whom.
#[derive(Debug, Default)]
pub struct Watchers {
    /// When sessions have had time to attach.
    settled: Duration,
    users: BTreeMap<UserId, Watched>,
    /// Those who are about to be gone, by when.
    going: BTreeSet<(Duration, UserId)>,
    expire_due: Duration,
}

impl Watchers {
    /// Of a leader that is new at this moment.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        let settled = now + SETTLE;
        Self { settled, expire_due: now + EXPIRE_EVERY, ..Self::default() }
    }

    /// Whether a user is there, for all that is known.
    #[must_use]
    pub fn is_online(&self, user: &UserId, sight: Sight) -> bool {
        let told = self.users.get(user).map(|watched| watched.online);
        // What some were told, others hear, too.
        sight.attached || told.unwrap_or(sight.lately && sight.now < self.settled)
    }

    /// A session watches a user, or renews its watch; answers whether the user is there.
    pub fn watch(
        &mut self,
        user: &UserId,
        (session, by): (SessionId, UserId),
        sight: Sight,
        out: &mut Vec<Change>,
    ) -> Result<bool, TooManyWatchers> {
        self.look(user, sight.attached, sight.now, out);
        let online = self.is_online(user, sight);
        let new = || Watched { online, goes: None, leases: Vec::new() };
        let watched = self.users.entry(user.clone()).or_insert_with(new);
        let until = sight.now + LEASE;
        let known = watched.leases.iter().position(|lease| lease.session == session);
        match known {
            Some(place) => watched.leases[place].until = until,
            None if watched.leases.len() >= WATCHERS_MAX => return Err(TooManyWatchers),
            None => {
                watched.leases.reserve_exact(1);
                watched.leases.push(Lease { session, by, until });
            }
        }
        // Said to be there by guess: that ends when the guess was wrong.
        self.look(user, sight.attached, sight.now, out);
        Ok(online)
    }

    /// A session no longer watches a user.
    pub fn unwatch(&mut self, user: &UserId, session: SessionId) {
        if let Some(watched) = self.users.get_mut(user) {
            watched.leases.retain(|lease| lease.session != session);
            self.forget_unwatched(user);
        }
    }

    /// Whether a watched user is there, as the watchers were told, and the sessions that watch.
    #[must_use]
    pub fn watching(&self, user: &UserId, now: Duration) -> Option<Change> {
        self.users.get(user).map(|watched| watched.change(user, now))
    }

    /// A user's sessions came or went: `attached` if there is one now.
    pub fn look(&mut self, user: &UserId, attached: bool, now: Duration, out: &mut Vec<Change>) {
        let Some(watched) = self.users.get_mut(user) else { return };
        if attached {
            if let Some(at) = watched.goes.take() {
                self.going.remove(&(at, user.clone()));
            }
            if !watched.online {
                watched.online = true;
                out.push(watched.change(user, now));
            }
        } else if watched.online && watched.goes.is_none() {
            let at = self.settled.max(now + LINGER);
            watched.goes = Some(at);
            self.going.insert((at, user.clone()));
        }
    }

    /// Time passes.
    pub fn tick(&mut self, now: Duration, out: &mut Vec<Change>) {
        while self.going.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, user)) = self.going.pop_first() else { break };
            if let Some(watched) = self.users.get_mut(&user) {
                (watched.goes, watched.online) = (None, false);
                out.push(watched.change(&user, now));
            }
        }
        if now >= self.expire_due {
            self.expire_due = now + EXPIRE_EVERY;
            self.expire(now);
        }
    }

    fn expire(&mut self, now: Duration) {
        for watched in self.users.values_mut() {
            watched.leases.retain(|lease| lease.until > now);
        }
        let empty = self.users.iter().filter(|(_, watched)| watched.leases.is_empty());
        let empty: Vec<UserId> = empty.map(|(user, _)| user.clone()).collect();
        empty.iter().for_each(|user| self.forget_unwatched(user));
    }

    fn forget_unwatched(&mut self, user: &UserId) {
        if self.users.get(user).is_some_and(|watched| watched.leases.is_empty())
            && let Some(watched) = self.users.remove(user)
            && let Some(at) = watched.goes
        {
            self.going.remove(&(at, user.clone()));
        }
    }

    /// Panics when something that always holds does not.
    pub fn check(&self) {
        let going = |(user, w): (&UserId, &Watched)| w.goes.map(|at| (at, user.clone()));
        let goes: BTreeSet<_> = self.users.iter().filter_map(going).collect();
        assert_eq!(goes, self.going, "who goes is waited for once");
        for watched in self.users.values() {
            assert!(!watched.leases.is_empty(), "nobody is remembered without a watcher");
            assert!(watched.leases.len() <= WATCHERS_MAX, "bounded");
            assert!(watched.online || watched.goes.is_none(), "who is gone does not go");
        }
    }
}

impl Watched {
    fn change(&self, user: &UserId, now: Duration) -> Change {
        let due = self.leases.iter().filter(|lease| lease.until > now);
        let to = due.map(|lease| (lease.session, lease.by.clone())).collect();
        Change { user: user.clone(), online: self.online, to }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::ids::{BootId, NodeId};

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn session(count: u64) -> SessionId {
        SessionId { node: NodeId(1), boot: BootId(1), count }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn sight(attached: bool, now: Duration) -> Sight {
        Sight { attached, lately: false, now }
    }

    /// Who is told that bob came or went.
    fn told(online: bool, to: &[u64]) -> Change {
        let to = to.iter().map(|count| (session(*count), user("ann"))).collect();
        Change { user: user("bob"), online, to }
    }

    struct Bench {
        watchers: Watchers,
        out: Vec<Change>,
    }

    impl Bench {
        /// A leader that has led for long.
        fn old() -> Self {
            Self { watchers: Watchers::new(Duration::ZERO), out: Vec::new() }
        }

        fn watch(&mut self, count: u64, attached: bool, ms: u64) -> bool {
            let by = (session(count), user("ann"));
            let sight = sight(attached, at(ms));
            let online = self.watchers.watch(&user("bob"), by, sight, &mut self.out);
            self.watchers.check();
            online.unwrap()
        }

        fn look(&mut self, attached: bool, ms: u64) -> Vec<Change> {
            self.watchers.look(&user("bob"), attached, at(ms), &mut self.out);
            self.tick(ms)
        }

        fn tick(&mut self, ms: u64) -> Vec<Change> {
            self.watchers.tick(at(ms), &mut self.out);
            self.watchers.check();
            std::mem::take(&mut self.out)
        }
    }

    #[test]
    fn watchers_hear_who_comes_at_once_and_who_goes_a_moment_later() {
        let mut bench = Bench::old();
        assert!(!bench.watch(1, false, 5_000));
        assert!(!bench.watch(2, false, 5_000));
        assert_eq!(bench.look(true, 5_100), [told(true, &[1, 2])]);
        assert_eq!(bench.look(true, 5_200), [], "a second session is no news");
        assert_eq!(bench.look(false, 6_000), []);
        assert_eq!(bench.tick(7_499), []);
        assert!(bench.watch(3, false, 7_499), "what some were told, others hear");
        assert_eq!(bench.tick(7_500), [told(false, &[1, 2, 3])]);
        assert_eq!(bench.tick(60_000), []);
    }

    #[test]
    fn who_comes_back_in_time_was_never_gone() {
        let mut bench = Bench::old();
        assert!(bench.watch(1, true, 5_000));
        assert_eq!(bench.look(false, 6_000), []);
        assert_eq!(bench.look(true, 7_400), []);
        assert_eq!(bench.tick(60_000), []);
        assert_eq!(bench.look(false, 61_000), []);
        assert_eq!(bench.tick(62_500), [told(false, &[1])], "the next time counts anew");
    }

    #[test]
    fn a_new_leader_waits_for_those_who_were_there_lately() {
        for (lately, comes) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut watchers = Watchers::new(at(1_000));
            let sight = Sight { attached: false, lately, now: at(1_200) };
            assert_eq!(watchers.is_online(&user("bob"), sight), lately);
            let (by, mut out) = ((session(1), user("ann")), Vec::new());
            let online = watchers.watch(&user("bob"), by, sight, &mut out).unwrap();
            assert_eq!((online, out), (lately, Vec::new()));
            let mut bench = Bench { watchers, out: Vec::new() };
            if comes {
                let news = if lately { vec![] } else { vec![told(true, &[1])] };
                assert_eq!(bench.look(true, 3_000), news);
            }
            assert_eq!(bench.tick(4_999), []);
            let gone = if lately && !comes { vec![told(false, &[1])] } else { vec![] };
            assert_eq!(bench.tick(5_000), gone);
        }
        let watchers = Watchers::new(at(1_000));
        let late = Sight { attached: false, lately: true, now: at(5_000) };
        assert!(!watchers.is_online(&user("bob"), late), "by then they would have come");
    }

    #[test]
    fn a_watch_ends_when_it_is_not_wanted_or_not_renewed() {
        let mut bench = Bench::old();
        for count in 1..=3 {
            bench.watch(count, false, 5_000);
        }
        bench.watchers.unwatch(&user("bob"), session(1));
        let half = u64::try_from(LEASE.as_millis()).unwrap() / 2;
        bench.watch(2, false, 5_000 + half);
        assert_eq!(bench.look(true, 5_000 + 2 * half), [told(true, &[2])], "at the very moment");
        bench.tick(6_000 + 3 * half);
        assert!(bench.watchers.users.is_empty(), "nothing is left");
    }

    #[test]
    fn a_user_has_so_many_watchers_and_no_more() {
        let mut bench = Bench::old();
        for count in 1..=WATCHERS_MAX as u64 {
            bench
                .watchers
                .watch(
                    &user("bob"),
                    (session(count), user("ann")),
                    sight(false, at(5_000)),
                    &mut bench.out,
                )
                .unwrap();
        }
        let mut again = |count| {
            let by = (session(count), user("ann"));
            bench.watchers.watch(&user("bob"), by, sight(false, at(5_001)), &mut bench.out)
        };
        assert_eq!(again(0), Err(TooManyWatchers));
        assert_eq!(again(7), Ok(false), "who watches may renew");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Attached(bool),
        Watch(u64),
        Unwatch(u64),
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            any::<bool>().prop_map(Step::Attached),
            (0..3_u64).prop_map(Step::Watch),
            (0..3_u64).prop_map(Step::Unwatch),
            (0..3_000_u64).prop_map(Step::Pass),
            Just(Step::Pass(400_000)),
        ];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        #[test]
        fn all_watchers_know_the_same_and_in_the_end_the_truth(steps in steps()) {
            let mut watchers = Watchers::new(Duration::ZERO);
            let (mut now, mut attached, mut out) = (Duration::ZERO, false, Vec::new());
            let mut known: BTreeMap<u64, bool> = BTreeMap::new();
            let bob = user("bob");
            for step in steps.into_iter().chain([Step::Pass(0), Step::Pass(4_100)]) {
                match step {
                    Step::Attached(now_attached) => {
                        attached = now_attached;
                        watchers.look(&bob, attached, now, &mut out);
                    }
                    Step::Watch(count) => {
                        let by = (session(count), user("ann"));
                        let online = watchers.watch(&bob, by, sight(attached, now), &mut out);
                        known.insert(count, online.unwrap());
                    }
                    Step::Unwatch(count) => {
                        watchers.unwatch(&bob, session(count));
                        known.remove(&count);
                    }
                    Step::Pass(ms) => now += at(ms),
                }
                watchers.tick(now, &mut out);
                watchers.check();
                for Change { online, to, .. } in out.drain(..) {
                    for (session, _) in to {
                        let before = known.insert(session.count, online);
                        prop_assert_eq!(before, Some(!online), "told what is news");
                    }
                }
                let lasting: BTreeSet<u64> = watchers.users.get(&bob).into_iter()
                    .flat_map(|w| &w.leases).filter(|l| l.until > now)
                    .map(|l| l.session.count).collect();
                known.retain(|count, _| lasting.contains(count));
                prop_assert!(!attached || known.values().all(|online| *online), "there at once");
            }
            prop_assert!(known.values().all(|online| *online == attached));
        }
    }
}
