//! Fetching: posts to large groups, of which members' mailboxes only have the place, from a replica of the group's shard.
//!
//! Any replica that has applied a post may give it, for it never changes; the nearest is asked first, then the leader, who
//! alone can say that one is gone. What is asked for and not answered is asked for again. An answer is for all who wait for
//! any of what it brings, whoever it was asked for, and whenever it comes.

mod giving;
mod waiting;

use std::time::Duration;

use giving::Giving;
use waiting::{Waiters, Waiting, Whom};

use super::history::{Search, WAITING_MAX, refuse};
use super::reading::paged;
use super::{Home, Output, Read};
use crate::ids::{Conversation, GroupId, MessageId, Number, Seq, SessionId, UserId};
use crate::mailbox::log::page;
use crate::message::{Entry, Refusal, What};
use crate::packet::{Closed, Fetched, Tell};
use crate::shard::posts::{is_place, wanted};
use crate::shard::replica::Replica;

/// A list of chats waits so long for the last messages in large groups; then it is told without those that did not come.
const LIST_WITHIN: Duration = Duration::from_secs(2);
/// Other questions wait so long; then they are refused, and may be asked again.
const SEARCH_WITHIN: Duration = Duration::from_secs(5);

/// Which replica is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// One on this node, if there is any.
    Nearest,
    /// The leader.
    Leader,
}

/// What posts are fetched for.
pub(super) enum Lacking {
    /// A page for a session; the newest entry of the log.
    Page(UserId, Read, Number),
    /// A question.
    Search(Box<Search>),
}

impl Lacking {
    const fn whom(&self) -> Whom {
        match self {
            Self::Page(_, read, _) => Whom::Session(read.session, read.pull),
            Self::Search(search) => {
                let (session, request) = search.asker();
                Whom::Asker(session, request)
            }
        }
    }

    /// How long it may wait; a page as long as its session does.
    fn within(&self) -> Option<Duration> {
        match self {
            Self::Page(..) => None,
            Self::Search(search) if search.is_list() => Some(LIST_WITHIN),
            Self::Search(_) => Some(SEARCH_WITHIN),
        }
    }
}

/// Posts that are being fetched, for members here and for other homes.
#[derive(Default)]
pub(super) struct Fetches {
    waiters: Waiters,
    giving: Giving,
}

impl Fetches {
    /// An attachment of a session is over: nobody waits for its pages.
    pub(super) fn detached(&mut self, session: SessionId, life: u32) {
        for pull in [false, true] {
            let whom = Whom::Session(session, pull);
            if let Some(Waiting { lacking: Lacking::Page(_, read, _), .. }) = self.waiters.get(whom)
                && read.life <= life
            {
                drop(self.waiters.take(whom));
            }
        }
    }
}

impl Home {
    /// Puts posts where a page or an answer only has their place, now or when they have come.
    pub(super) fn complete(
        &mut self,
        replica: &Replica,
        lacking: Lacking,
        mut entries: Vec<Entry>,
        out: &mut Vec<Output>,
    ) {
        self.posts.fill(&mut entries);
        cut(&lacking, &mut entries);
        if !entries.iter().any(is_place) {
            return self.completed(replica, lacking, entries, out);
        }
        let whom = lacking.whom();
        let waiters = &self.fetches.waiters;
        let asks = matches!(whom, Whom::Asker(..));
        if asks && waiters.waits(whom) {
            // Asked again while it waits: it is answered once.
            return;
        }
        if asks && waiters.askers() >= WAITING_MAX || !waiters.has_room(entries.len()) {
            return refused(lacking, out);
        }
        self.wait(
            replica,
            whom,
            Waiting { lacking, entries, wanted: Vec::new(), since: None },
            out,
        );
    }

    /// Somebody waits for the posts that are still not there.
    fn wait(&mut self, replica: &Replica, whom: Whom, mut waiting: Waiting, out: &mut Vec<Output>) {
        waiting.wanted = wanted(&waiting.entries);
        let groups: Vec<GroupId> = waiting.wanted.iter().map(|(group, ..)| group.clone()).collect();
        self.fetches.waiters.put(whom, waiting);
        for group in groups {
            self.ask_for(replica, &group, out);
        }
    }

    fn ask_for(&mut self, replica: &Replica, group: &GroupId, out: &mut Vec<Output>) {
        let mut ask = |fetch, source| out.push(Output::Fetch(fetch, source));
        self.fetches.waiters.ask(replica.shard(), group, &mut ask);
    }

    fn completed(
        &mut self,
        replica: &Replica,
        lacking: Lacking,
        entries: Vec<Entry>,
        out: &mut Vec<Output>,
    ) {
        match lacking {
            Lacking::Page(user, read, head) => out.push(paged(&user, read, entries, head)),
            Lacking::Search(search) => self.found(replica, *search, entries, out),
        }
    }

    /// A replica of a group's shard answers.
    pub fn fetched(&mut self, replica: &Replica, fetched: Fetched, out: &mut Vec<Output>) {
        self.posts.put(&fetched.posts);
        let Fetched { ticket, group, posts, gone, .. } = fetched;
        if !replica.role().serves {
            return;
        }
        for whom in self.fetches.waiters.concerned(&group, span(&posts), gone) {
            let Some(mut waiting) = self.fetches.waiters.take(whom) else { continue };
            // First what is in hand: of a run that was read just before, some may count as gone by now.
            self.posts.fill(&mut waiting.entries);
            give_up(&mut waiting.entries, &group, gone);
            cut(&waiting.lacking, &mut waiting.entries);
            if waiting.entries.iter().any(is_place) {
                waiting.wanted = wanted(&waiting.entries);
                self.fetches.waiters.put(whom, waiting);
            } else {
                self.completed(replica, waiting.lacking, waiting.entries, out);
            }
        }
        self.ask_for(replica, &group, out);
        let mut ask = |fetch, source| out.push(Output::Fetch(fetch, source));
        self.fetches.waiters.of_no_help(replica.shard(), (&group, ticket), &mut ask);
    }

    /// An attachment is over, whoever ended it.
    pub fn ended(&mut self, session: SessionId, life: u32) {
        self.fetches.detached(session, life);
    }

    /// Asks again for what was not answered; who has waited for too long is told what there is.
    pub(super) fn fetch_again(&mut self, replica: &Replica, now: Duration, out: &mut Vec<Output>) {
        let mut ask = |fetch, source| out.push(Output::Fetch(fetch, source));
        self.fetches.waiters.again(replica.shard(), now, &mut ask);
        for whom in self.fetches.waiters.overdue(now, Lacking::within) {
            let Some(Waiting { lacking, mut entries, .. }) = self.fetches.waiters.take(whom) else {
                continue;
            };
            match lacking {
                Lacking::Search(search) if !search.is_list() => {
                    refuse(search.asker(), Refusal::Unavailable, out);
                }
                lacking => {
                    entries.retain(|entry| !is_place(entry));
                    self.completed(replica, lacking, entries, out);
                }
            }
        }
    }
}

/// The first and the last of these posts.
fn span(posts: &[Entry]) -> Option<(Seq, Seq)> {
    let seqs = posts.iter().filter_map(|entry| match entry.what {
        What::Post { seq, .. } => Some(seq),
        _ => None,
    });
    let first = seqs.clone().min()?;
    Some((first, seqs.max()?))
}

/// Of a page leaves out the rest that cannot fit, for a place weighs no more than its post.
fn cut(lacking: &Lacking, entries: &mut Vec<Entry>) {
    if let Lacking::Page(_, read, _) = lacking {
        let (count, bytes) = (usize::from(read.count), read.bytes as usize);
        *entries = page(entries.iter(), read.after, count, bytes);
    }
}

/// Of a group's posts those up to `gone` are so for good.
fn give_up(entries: &mut [Entry], group: &GroupId, gone: Seq) {
    for entry in entries {
        if let What::Referred { group: of, seq, .. } = &entry.what
            && of == group
            && *seq <= gone
        {
            // The group's log outlives what refers to it; should it not, nobody must wait for ever.
            tracing::error!(%group, seq = seq.0, "a post that somebody still waits for is gone");
            let (conv, seq) = (Conversation::Group(of.clone()), *seq);
            entry.what = What::Expired { conv, mid: MessageId(0), seq };
        }
    }
}

/// Too many wait: a session attaches again after a moment, a question may be asked again.
fn refused(lacking: Lacking, out: &mut Vec<Output>) {
    match lacking {
        Lacking::Page(_, Read { session, life, .. }, _) => {
            out.push(Output::Tell(session, Tell::Closed { life, why: Closed::Lost }));
        }
        Lacking::Search(search) => refuse(search.asker(), Refusal::Overloaded, out),
    }
}

#[cfg(test)]
#[path = "fetching_tests.rs"]
mod tests;
