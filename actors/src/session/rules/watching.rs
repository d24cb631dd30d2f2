//! Watching: whose presence a session's client wants to hear of, and what it was told of each.
//!
//! A watch is kept here until it ends, and asked of the watched user's home again whenever that moves. What the client was
//! told is kept, too: it hears only of what is news to it, however often homes say it.
//!
//! A user who hides from everybody sees nobody but themselves: what homes say is kept and not told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Session;
use crate::ids::{Conversation, ShardId, UserId, shard_of};
use crate::message::Refusal;
use crate::packet::{Answer, Ask, Presence, Regard, ToHome};
use crate::session::{Output, RequestRef, WatchesTooMany};

/// See the plaque.
#[derive(Debug, Default)]
pub(in crate::session) struct Watching {
    users: BTreeMap<UserId, Watched>,
    /// Those asked about without an answer, and when to ask again.
    asked: BTreeMap<UserId, Duration>,
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Watched {
    shard: ShardId,
    until: Duration,
    /// What its home said last.
    told: Option<Presence>,
    /// Whether the client has had an answer about them: before that there is no news.
    answered: bool,
}

/// A client's request that waits for homes.
#[derive(Debug)]
struct Request {
    request: RequestRef,
    users: Vec<UserId>,
    /// Of whom nothing was heard since.
    open: BTreeSet<UserId>,
    since: Duration,
}

impl Watching {
    /// Whether something was asked and not answered.
    pub(in crate::session) fn asks(&self) -> bool {
        !self.asked.is_empty() || !self.requests.is_empty()
    }

    /// Whether users of a shard are watched.
    pub(in crate::session) fn has_shard(&self, shard: ShardId) -> bool {
        self.users.values().any(|watched| watched.shard == shard)
    }

    /// Those whose watch has ended.
    fn ended(&self, now: Duration) -> Vec<UserId> {
        let ended = self.users.iter().filter(|(_, watched)| watched.until <= now);
        ended.map(|(user, _)| user.clone()).collect()
    }

    /// What the client is told of those it asked about.
    fn rows(&self, users: &[UserId]) -> Vec<(UserId, Presence)> {
        let told = |user| self.users.get(user).and_then(|watched| watched.told);
        users.iter().map(|user| (user.clone(), told(user).unwrap_or_default())).collect()
    }

    /// Those of a failed request who are watched for its sake alone.
    fn unwanted(&self, request: Request) -> Vec<UserId> {
        let known = |user: &UserId| self.users.get(user).is_some_and(|watched| watched.answered);
        let wanted = |user: &UserId| self.requests.iter().any(|other| other.users.contains(user));
        request.users.into_iter().filter(|user| !known(user) && !wanted(user)).collect()
    }
}

impl Session {
    /// Watches users, or renews the watches; answered by `Answered` or `Unknown` when all their homes have said how
    /// they are. A refused request changes nothing.
    pub fn watch(
        &mut self,
        request: RequestRef,
        users: Vec<UserId>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let (asks_max, lasts, shards) = (self.limits.asks_max, self.limits.watch, self.shards);
        let watching = self.watching.get_or_insert_default();
        if watching.requests.len() >= asks_max {
            let answer = Err(Refusal::Overloaded);
            return out.push(Output::Answered { request, answer });
        }
        let open: BTreeSet<UserId> = users.iter().cloned().collect();
        let mut new = Vec::new();
        for user in &open {
            let watched = watching.users.entry(user.clone()).or_insert_with(|| {
                new.push(user.clone());
                Watched { shard: shard_of(user, shards), until: now, told: None, answered: false }
            });
            watched.until = now + lasts;
        }
        let homes: BTreeSet<ShardId> = new.iter().map(|user| shard_of(user, shards)).collect();
        out.extend(homes.into_iter().map(Output::Watch));
        let all: Vec<UserId> = open.iter().cloned().collect();
        watching.requests.push(Request { request, users, open, since: now });
        self.ask_of_presence(&all, now, out);
        self.answer_watches(out);
    }

    /// Whether these users may be watched besides those that are.
    pub fn may_watch(
        &mut self,
        users: &[UserId],
        now: Duration,
        out: &mut Vec<Output>,
    ) -> Result<(), WatchesTooMany> {
        let ended = self.watching.as_ref().map(|watching| watching.ended(now));
        self.unwatch(&ended.unwrap_or_default(), out);
        let watched = |user: &&UserId| {
            self.watching.as_ref().is_some_and(|watching| watching.users.contains_key(*user))
        };
        let before = self.watching.as_ref().map_or(0, |watching| watching.users.len());
        let new: BTreeSet<&UserId> = users.iter().filter(|user| !watched(user)).collect();
        let most = self.limits.watched_max;
        if before + new.len() > most { Err(WatchesTooMany { most }) } else { Ok(()) }
    }

    /// Watches these users no longer.
    pub fn unwatch(&mut self, users: &[UserId], out: &mut Vec<Output>) {
        let mut homes = BTreeSet::new();
        for user in users {
            let Some(watching) = &mut self.watching else { return };
            watching.asked.remove(user);
            let Some(gone) = watching.users.remove(user) else { continue };
            homes.insert(gone.shard);
            self.regard(user, gone.shard, Regard::Unwatch, out);
        }
        for shard in homes {
            let watched = self.watching.as_ref().is_some_and(|w| w.has_shard(shard));
            let needed = self.streams.as_ref().is_some_and(|streams| streams.watches(shard));
            if !watched && !needed && shard != self.home {
                out.push(Output::Unwatch(shard));
            }
        }
        // A request that waits only for them is answered with what is known.
        for user in users {
            let requests = self.watching.iter_mut().flat_map(|w| &mut w.requests);
            for request in requests {
                request.open.remove(user);
            }
        }
        self.answer_watches(out);
        if self.watching.as_ref().is_some_and(|w| w.users.is_empty() && !w.asks()) {
            self.watching = None;
        }
    }

    /// Tells the other side that the user is typing, or has stopped. Nobody answers.
    pub fn typing(&self, to: &Conversation, on: bool, out: &mut Vec<Output>) {
        let Some((from, _)) = &self.who else { return };
        match to {
            // The own home knows whom the user blocks.
            Conversation::User(to) => {
                let typing = Regard::TypingTo { to: to.clone(), on };
                self.regard(from, self.home, typing, out);
            }
            Conversation::Group(_) => {
                let (owner, typing) = (to.owner(), Regard::Typing { from: from.clone(), on });
                self.regard(&owner, shard_of(&owner, self.shards), typing, out);
            }
        }
    }

    /// The socket is gone.
    pub(super) fn watch_nobody(&mut self, out: &mut Vec<Output>) {
        let Some(watching) = &mut self.watching else { return };
        watching.requests.clear();
        let users: Vec<UserId> = watching.users.keys().cloned().collect();
        self.unwatch(&users, out);
    }

    /// What a home says of a user.
    pub(super) fn told_presence(
        &mut self,
        user: UserId,
        told: Result<Presence, Refusal>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let blind = self.is_blind_to(&user);
        let watched = self.watching.as_mut().and_then(|watching| watching.users.get_mut(&user));
        let Some(watched) = watched.filter(|watched| watched.until > now) else {
            return self.unwatch_unknown(&user, told.is_ok(), out);
        };
        match told {
            Ok(presence) => {
                let before = watched.told.replace(presence);
                let news = before.is_some_and(|before| is_news(before, presence));
                if news && watched.answered && !blind {
                    out.push(Output::Presence(user.clone(), presence));
                }
            }
            Err(refusal) => return self.refuse_watches(&user, refusal, out),
        }
        let Some(watching) = &mut self.watching else { return };
        watching.asked.remove(&user);
        for request in &mut watching.requests {
            request.open.remove(&user);
        }
        self.answer_watches(out);
    }

    /// A home tells of a user who is not watched, or no longer.
    fn unwatch_unknown(&mut self, user: &UserId, watches: bool, out: &mut Vec<Output>) {
        if self.watching.as_ref().is_some_and(|watching| watching.users.contains_key(user)) {
            self.unwatch(std::slice::from_ref(user), out);
        } else if watches {
            self.regard(user, shard_of(user, self.shards), Regard::Unwatch, out);
        }
    }

    /// A home refuses to tell of a user: so are all requests that wait for it.
    fn refuse_watches(&mut self, user: &UserId, refusal: Refusal, out: &mut Vec<Output>) {
        let Some(watching) = &mut self.watching else { return };
        watching.asked.remove(user);
        let failed: Vec<Request> =
            watching.requests.extract_if(.., |request| request.open.contains(user)).collect();
        for failed in failed {
            let request = failed.request;
            self.drop_request(failed, out);
            out.push(match refusal {
                Refusal::NotFound => Output::Unknown { request, user: user.clone() },
                refusal => Output::Answered { request, answer: Err(refusal) },
            });
        }
        self.unwatch(std::slice::from_ref(user), out);
    }

    fn drop_request(&mut self, request: Request, out: &mut Vec<Output>) {
        let unwanted = self.watching.as_ref().map(|watching| watching.unwanted(request));
        self.unwatch(&unwanted.unwrap_or_default(), out);
    }

    /// Whether the user is not shown another.
    fn is_blind_to(&self, user: &UserId) -> bool {
        self.hides && self.user() != Some(user)
    }

    /// Whether the user hides from everybody has changed: what is seen of others goes, or comes back.
    pub(super) fn hide(&mut self, hides: bool, now: Duration, out: &mut Vec<Output>) {
        if std::mem::replace(&mut self.hides, hides) == hides {
            return;
        }
        let me = self.who.as_ref().map(|(me, _)| me);
        for (user, watched) in self.watching.iter().flat_map(|watching| &watching.users) {
            let told = watched.told.filter(|told| is_news(Presence::default(), *told));
            let Some(told) = told.filter(|_| watched.answered && watched.until > now) else {
                continue;
            };
            if Some(user) != me {
                let shown = if hides { Presence::default() } else { told };
                out.push(Output::Presence(user.clone(), shown));
            }
        }
    }

    fn answer_watches(&mut self, out: &mut Vec<Output>) {
        let (hides, me) = (self.hides, self.user().cloned());
        let Some(watching) = &mut self.watching else { return };
        let done = watching.requests.extract_if(.., |request| request.open.is_empty());
        for done in done.collect::<Vec<Request>>() {
            let mut rows = watching.rows(&done.users);
            for (_, row) in rows.iter_mut().filter(|(user, _)| hides && Some(user) != me.as_ref()) {
                *row = Presence::default();
            }
            let answer = Ok(Answer::Presence(rows));
            out.push(Output::Answered { request: done.request, answer });
            for user in &done.users {
                // Of whom nothing was heard yet, since they were watched anew meanwhile, the newer request tells.
                if let Some(watched) = watching.users.get_mut(user) {
                    watched.answered |= watched.told.is_some();
                }
            }
        }
    }

    /// The home of a shard is another: it knows nothing of the watches.
    pub(super) fn watch_again(&mut self, shard: ShardId, now: Duration, out: &mut Vec<Output>) {
        let Some(watching) = &self.watching else { return };
        let here = watching.users.iter().filter(|(_, w)| w.shard == shard && w.until > now);
        let users: Vec<UserId> = here.map(|(user, _)| user.clone()).collect();
        self.ask_of_presence(&users, now, out);
    }

    fn ask_of_presence(&mut self, users: &[UserId], now: Duration, out: &mut Vec<Output>) {
        let Some((by, _)) = self.who.clone() else { return };
        let again = now + self.limits.answer;
        for user in users {
            let Some(watching) = &mut self.watching else { return };
            let Some(watched) = watching.users.get(user) else { continue };
            watching.asked.insert(user.clone(), again);
            let knows = watched.told.map(|told| told.online);
            let shard = watched.shard;
            self.regard(user, shard, Regard::Watch { by: by.clone(), knows }, out);
        }
    }

    /// The home of a shard is lost: what it has not answered is asked again at `at`.
    pub(super) fn ask_of_presence_at(&mut self, shard: ShardId, at: Duration) {
        let Some(watching) = &mut self.watching else { return };
        for (user, again) in &mut watching.asked {
            if watching.users.get(user).is_some_and(|watched| watched.shard == shard) {
                *again = at.min(*again);
            }
        }
    }

    pub(super) fn tick_watching(&mut self, now: Duration, out: &mut Vec<Output>) {
        let parked = self.limits.parked;
        let Some(watching) = &mut self.watching else { return };
        let late = |request: &mut Request| now.saturating_sub(request.since) >= parked;
        for late in watching.requests.extract_if(.., late).collect::<Vec<Request>>() {
            let request = late.request;
            self.drop_request(late, out);
            out.push(Output::Answered { request, answer: Err(Refusal::Unavailable) });
        }
        let Some(watching) = &self.watching else { return };
        let ended = watching.ended(now);
        let due = watching.asked.iter().filter(|(user, at)| **at <= now && !ended.contains(user));
        let due: Vec<UserId> = due.map(|(user, _)| user.clone()).collect();
        self.unwatch(&ended, out);
        self.ask_of_presence(&due, now, out);
    }

    fn regard(&self, user: &UserId, shard: ShardId, regard: Regard, out: &mut Vec<Output>) {
        let (user, session, ask) = (user.clone(), self.id, Ask::Regard(regard));
        out.push(Output::Home(ToHome { shard, user, session, ask }));
    }

    /// States what always holds.
    pub(super) fn check_watching(&self) {
        let Some(watching) = &self.watching else { return };
        // Invariant: what is asked about is watched, and what a request waits for is asked about.
        assert!(watching.asked.keys().all(|user| watching.users.contains_key(user)));
        for request in &watching.requests {
            assert!(request.open.iter().all(|user| watching.asked.contains_key(user)));
        }
        assert!(watching.users.len() <= self.limits.watched_max);
    }
}

/// Whether a client that was told the one wants to hear of the other: while somebody is there, when they last were is
/// not.
fn is_news(before: Presence, now: Presence) -> bool {
    before.online != now.online || (!now.online && before.last_seen != now.last_seen)
}

#[cfg(test)]
#[path = "watching_tests.rs"]
mod tests;
