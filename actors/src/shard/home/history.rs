//! History: answers about chats and their messages, of which some must be fetched from disk first.
//!
//! Which entries are wanted is decided at one moment, and the answer says how far the log went then. Entries never change,
//! so it does not matter that some are read a little later.

use std::collections::BTreeMap;

use super::fetching::Lacking;
use super::{For, Home, Output};
use crate::ids::{Number, SessionId, UserId};
use crate::mailbox::log::{Found, Sealed};
use crate::mailbox::rules::Mailbox;
use crate::message::history::{LIMIT_MAX, Talk, Wanted};
use crate::message::{Entry, Refusal};
use crate::packet::{Answer, Question, Tell};
use crate::shard::replica::Replica;

/// Questions that wait for the disk, and that wait for posts to large groups.
pub(super) const WAITING_MAX: usize = 256;
/// How often more is looked for when what was found is not what was wanted.
const ROUNDS_MAX: u32 = 32;
/// Bytes of messages in one answer, about.
const BYTES_MAX: usize = 1024 * 1024;

/// What is asked for.
enum Asked {
    Talks { talks: Vec<(Talk, Option<Number>)>, more: Option<Number> },
    Messages { wanted: Box<Wanted>, rounds: u32, searched: Option<Number>, found: Vec<Entry> },
}

/// A question under way.
pub(super) struct Search {
    asker: (SessionId, u32),
    user: UserId,
    head: Number,
    asked: Asked,
    /// What is fetched now, in the order of the search.
    wanted: Vec<Number>,
    fetched: BTreeMap<Number, Entry>,
    /// Runs that are being read.
    reading: usize,
}

/// Questions that wait for the disk, by the ticket of their reads.
#[derive(Default)]
pub(super) struct Searches {
    waiting: BTreeMap<u64, Search>,
    tickets: u64,
}

impl Home {
    /// A question about chats or messages.
    pub(super) fn search(
        &mut self,
        replica: &Replica,
        user: UserId,
        asker: (SessionId, u32),
        question: Question,
        out: &mut Vec<Output>,
    ) {
        let Some(mailbox) = replica.state().mailbox(&user) else {
            return refuse(asker, Refusal::NotFound, out);
        };
        let asked = match question {
            Question::Talks { before, limit } => {
                let limit = usize::from(limit.clamp(1, LIMIT_MAX));
                let mut talks = mailbox.talks(before, limit + 1);
                let more = talks.len() > limit;
                talks.truncate(limit);
                let more = talks.last().filter(|_| more).map(|(talk, _)| talk.newest);
                Asked::Talks { talks, more }
            }
            Question::History(wanted) => messages(*wanted, mailbox),
            Question::GroupLog { by, mut wanted } => {
                let joined = mailbox.group().ok_or(Refusal::NotFound);
                let joined = joined
                    .and_then(|group| group.joined().get(&by).copied().ok_or(Refusal::NotAMember));
                match joined {
                    Ok(joined) => wanted.floor = Number(joined.0),
                    Err(refusal) => return refuse(asker, refusal, out),
                }
                messages(*wanted, mailbox)
            }
            _ => return,
        };
        let (head, wanted, fetched) = (mailbox.log().head(), Vec::new(), BTreeMap::new());
        let search = Search { asker, user, head, asked, wanted, fetched, reading: 0 };
        self.go_on(replica, search, out);
    }

    /// A run of a log was read for a question.
    pub(super) fn searched(
        &mut self,
        replica: &Replica,
        ticket: u64,
        entries: &[Entry],
        out: &mut Vec<Output>,
    ) {
        let Some(mut search) = self.searches.waiting.remove(&ticket) else { return };
        let low = replica.state().mailbox(&search.user).map_or(Number(0), |m| m.log().low());
        let wanted = search.wanted.iter().filter(|n| **n > low);
        search.fetched.extend(wanted.filter_map(|n| Some((*n, single(entries, *n)?))));
        search.reading -= 1;
        if search.reading > 0 {
            self.searches.waiting.insert(ticket, search);
        } else {
            self.complete_search(replica, search, out);
        }
    }

    /// The disk cannot read a run of a log.
    pub(super) fn search_lost(&mut self, ticket: u64) {
        self.searches.waiting.remove(&ticket);
    }

    /// All that was to be fetched is there, but for posts to large groups.
    fn complete_search(&mut self, replica: &Replica, mut search: Search, out: &mut Vec<Output>) {
        let fetched = std::mem::take(&mut search.fetched).into_values().collect();
        self.complete(replica, Lacking::Search(Box::new(search)), fetched, out);
    }

    /// Those are there, too.
    pub(super) fn found(
        &mut self,
        replica: &Replica,
        mut search: Search,
        entries: Vec<Entry>,
        out: &mut Vec<Output>,
    ) {
        search.fetched = entries.into_iter().map(|entry| (entry.n, entry)).collect();
        match search.take_in() {
            true => search.answer(out),
            false => self.go_on(replica, search, out),
        }
    }

    /// Fetches what is wanted next.
    fn go_on(&mut self, replica: &Replica, mut search: Search, out: &mut Vec<Output>) {
        let Some(mailbox) = replica.state().mailbox(&search.user) else {
            return refuse(search.asker, Refusal::Unavailable, out);
        };
        search.choose(mailbox);
        let runs = search.fetch(mailbox);
        if runs.is_empty() {
            return self.complete_search(replica, search, out);
        }
        if self.searches.waiting.len() >= WAITING_MAX {
            return refuse(search.asker, Refusal::Overloaded, out);
        }
        self.searches.tickets += 1;
        let ticket = self.searches.tickets;
        search.reading = runs.len();
        for run in runs {
            out.push(Output::LoadRun(search.user.clone(), run, For::Search(ticket)));
        }
        self.searches.waiting.insert(ticket, search);
    }
}

impl Search {
    pub(super) const fn asker(&self) -> (SessionId, u32) {
        self.asker
    }

    /// Whether chats are to be listed: what is known of them is worth telling without their last messages.
    pub(super) const fn is_list(&self) -> bool {
        matches!(self.asked, Asked::Talks { .. })
    }

    /// Chooses what to fetch next.
    fn choose(&mut self, mailbox: &Mailbox) {
        self.fetched.clear();
        self.wanted = match &self.asked {
            Asked::Talks { talks, .. } => talks.iter().filter_map(|(_, last)| *last).collect(),
            Asked::Messages { wanted, searched, found, .. } => {
                let lacking = usize::from(wanted.limit) + 1 - found.len();
                let most = Mailbox::worth(wanted, lacking);
                mailbox.candidates(wanted, *searched, most)
            }
        };
    }

    /// Takes what is in memory; answers which runs on disk hold the rest.
    fn fetch(&mut self, mailbox: &Mailbox) -> Vec<Sealed> {
        let mut runs: Vec<Sealed> = Vec::new();
        for n in &self.wanted {
            if runs.iter().rev().any(|run| run.first <= *n && *n <= run.last) {
                continue;
            }
            match mailbox.log().read(Number(n.0 - 1), 1, 0) {
                Found::Entries(entries) => {
                    let entry = entries.into_iter().find(|entry| entry.n == *n);
                    self.fetched.extend(entry.map(|entry| (entry.n, entry)));
                }
                Found::OnDisk(run) => runs.push(run),
            }
        }
        runs
    }

    /// Takes in what was fetched; answers whether that was all.
    fn take_in(&mut self) -> bool {
        let Asked::Messages { wanted, rounds, searched, found } = &mut self.asked else {
            return true;
        };
        *rounds += 1;
        for n in &self.wanted {
            *searched = Some(*n);
            let Some(entry) = self.fetched.remove(n) else { continue };
            if !wanted.forward() && wanted.since.is_some_and(|since| entry.at < since) {
                // All others are older still.
                self.wanted.clear();
                return true;
            }
            if wanted.takes(&entry, &self.user) {
                found.push(entry);
            }
            if found.len() > usize::from(wanted.limit) {
                return true;
            }
        }
        let found_it = wanted.mid.is_some() && !found.is_empty();
        self.wanted.is_empty() || found_it || *rounds >= ROUNDS_MAX
    }

    fn answer(mut self, out: &mut Vec<Output>) {
        let head = self.head;
        let answer = match self.asked {
            Asked::Talks { talks, more } => {
                let talk = |(talk, last): (Talk, Option<Number>)| {
                    let last = last.and_then(|n| self.fetched.remove(&n));
                    Talk { last, ..talk }
                };
                Answer::Talks { talks: talks.into_iter().map(talk).collect(), head, more }
            }
            Asked::Messages { wanted, rounds, searched, mut found } => {
                let limit = usize::from(wanted.limit);
                let mut bytes = 0;
                let fits = |entry: &Entry| {
                    bytes += entry.weight();
                    bytes <= BYTES_MAX
                };
                let count = found.iter().map(fits).take_while(|fits| *fits).count();
                let most = limit.min(count.max(1));
                let more = found.len() > most;
                let broken_off = rounds >= ROUNDS_MAX && !self.wanted.is_empty();
                found.truncate(most);
                if !wanted.forward() {
                    found.reverse();
                }
                match searched.filter(|_| broken_off && !more) {
                    Some(upto) => Answer::Searched { entries: found, head, upto },
                    None => Answer::History { entries: found, head, more },
                }
            }
        };
        let (session, request) = self.asker;
        out.push(Output::Tell(session, Tell::Answer { request, answer: Ok(answer) }));
    }
}

/// Entry `n` of a run, by itself.
fn single(run: &[Entry], n: Number) -> Option<Entry> {
    let entry = run.get(run.partition_point(|entry| entry.last() < n))?;
    let from = Number(n.0.checked_sub(1)?);
    entry.clone().after(from)?.each().next().filter(|entry| entry.n == n)
}

fn messages(wanted: Wanted, mailbox: &Mailbox) -> Asked {
    let mut wanted = Box::new(wanted.as_of(mailbox.log().head()));
    wanted.limit = wanted.limit.clamp(1, LIMIT_MAX);
    Asked::Messages { wanted, rounds: 0, searched: None, found: Vec::new() }
}

pub(super) fn refuse(
    (session, request): (SessionId, u32),
    refusal: Refusal,
    out: &mut Vec<Output>,
) {
    out.push(Output::Tell(session, Tell::Answer { request, answer: Err(refusal) }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BootId, GroupId, NodeId, Seq, Timestamp};
    use crate::message::What;

    fn told(rounds: u32, wanted: &[u64]) -> Answer {
        let session = SessionId { node: NodeId(1), boot: BootId(1), count: 1 };
        let from = Some(UserId::parse("ann").unwrap());
        let asked = Asked::Messages {
            wanted: Box::new(Wanted { from, limit: 10, ..Wanted::default() }),
            rounds,
            searched: Some(Number(7)),
            found: Vec::new(),
        };
        let search = Search {
            asker: (session, 1),
            user: UserId::parse("bob").unwrap(),
            head: Number(9_000),
            asked,
            wanted: wanted.iter().copied().map(Number).collect(),
            fetched: BTreeMap::new(),
            reading: 0,
        };
        let mut out = Vec::new();
        search.answer(&mut out);
        match out.pop() {
            Some(Output::Tell(_, Tell::Answer { answer: Ok(answer), .. })) => answer,
            _ => panic!("one answer"),
        }
    }

    #[test]
    fn a_search_that_breaks_off_says_where_to_go_on() {
        let (entries, head) = (Vec::new(), Number(9_000));
        let broken = Answer::Searched { entries: entries.clone(), head, upto: Number(7) };
        assert_eq!(told(ROUNDS_MAX, &[8, 7]), broken);
        let whole = Answer::History { entries, head, more: false };
        assert_eq!(told(ROUNDS_MAX, &[]), whole, "there was nothing more to look at");
        assert_eq!(told(1, &[8, 7]), whole);
    }

    fn posts(n: u64, seq: u64, count: u32) -> Entry {
        let group = GroupId::parse("01J00000000000000000000000").unwrap();
        let what = What::Referred { group, seq: Seq(seq), count };
        Entry { n: Number(n), at: Timestamp(7), what }
    }

    #[test]
    fn an_entry_that_stands_for_many_gives_each_of_them_by_itself() {
        let run = [posts(3, 10, 1), posts(4, 11, 3), posts(7, 20, 1)];
        assert_eq!(single(&run, Number(3)), Some(posts(3, 10, 1)));
        assert_eq!(single(&run, Number(5)), Some(posts(5, 12, 1)));
        assert_eq!(single(&run, Number(7)), Some(posts(7, 20, 1)));
        for outside in [0, 2, 8] {
            assert_eq!(single(&run, Number(outside)), None, "{outside}");
        }
    }
}
