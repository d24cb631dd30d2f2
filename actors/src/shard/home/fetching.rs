//! Fetching: posts to large groups, of which members' mailboxes only have the place, from a replica of the group's shard.
//!
//! Any replica that has applied a post may give it, for it never changes; the nearest is asked first, then the leader, who
//! alone can say that one is gone. What is asked for and not answered is asked for again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::history::Search;
use super::reading::paged;
use super::{For, Home, Output, Read};
use crate::ids::{Conversation, MessageId, NodeId, Number, Seq, ShardId, UserId};
use crate::mailbox::log::{Found, page};
use crate::message::{Entry, What};
use crate::packet::{Fetch, Fetched};
use crate::shard::posts::Wanted;
use crate::shard::replica::Replica;

/// Without an answer for so long, it is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Posts in one answer, and about how many bytes.
const COUNT: usize = 256;
const BYTES: usize = 96 * 1024;
/// Requests that wait for a group to be read from disk, or for a run of its log.
const SERVING_MAX: usize = 1_000;

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

struct Waiting {
    lacking: Lacking,
    entries: Vec<Entry>,
    wanted: Wanted,
    source: Source,
    /// When it was asked; none before the next tick.
    asked: Option<Duration>,
}

impl Waiting {
    /// What is asked, and of whom.
    fn ask(&self, from: ShardId, ticket: u64) -> Output {
        let (group, first, last) = self.wanted.clone();
        Output::Fetch(Fetch { from, ticket, group, first, last }, self.source)
    }
}

/// Posts that are being fetched, for members here and for other homes.
#[derive(Default)]
pub(super) struct Fetches {
    tickets: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Other homes' requests that wait for a run of a log.
    reading: BTreeMap<u64, (NodeId, Fetch)>,
    /// Other homes' requests that wait for a group.
    loading: BTreeMap<UserId, Vec<(NodeId, Fetch)>>,
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
        let Some(wanted) = self.posts.fill(&mut entries) else {
            return self.completed(replica, lacking, entries, out);
        };
        self.fetches.tickets += 1;
        let (ticket, source) = (self.fetches.tickets, Source::Nearest);
        let waiting = Waiting { lacking, entries, wanted, source, asked: None };
        self.ask_for(replica, ticket, waiting, out);
    }

    fn ask_for(&mut self, replica: &Replica, ticket: u64, waiting: Waiting, out: &mut Vec<Output>) {
        out.push(waiting.ask(replica.shard(), ticket));
        self.fetches.waiting.insert(ticket, waiting);
    }

    fn completed(
        &mut self,
        replica: &Replica,
        lacking: Lacking,
        entries: Vec<Entry>,
        out: &mut Vec<Output>,
    ) {
        match lacking {
            Lacking::Page(user, read, head) => {
                // Whole, they may be more than fits.
                let (count, bytes) = (usize::from(read.count), read.bytes as usize);
                let entries = page(entries.iter(), read.after, count, bytes);
                out.push(paged(&user, read, entries, head));
            }
            Lacking::Search(search) => self.found(replica, *search, entries, out),
        }
    }

    /// A replica of a group's shard answers.
    pub fn fetched(&mut self, replica: &Replica, fetched: Fetched, out: &mut Vec<Output>) {
        self.posts.put(&fetched.posts);
        let Some(mut waiting) = self.fetches.waiting.remove(&fetched.ticket) else { return };
        let (group, before) = (fetched.group, waiting.wanted.clone());
        // First what is in hand: of a run that was read just before, some may count as gone by now.
        let _lacking = self.posts.fill(&mut waiting.entries);
        for entry in &mut waiting.entries {
            if let What::Referred { group: of, seq, .. } = &entry.what
                && *of == group
                && *seq <= fetched.gone
            {
                // The group's log outlives what refers to it; should it not, nobody must wait for ever.
                tracing::error!(%group, seq = seq.0, "a post that somebody still waits for is gone");
                let (conv, seq) = (Conversation::Group(of.clone()), *seq);
                entry.what = What::Expired { conv, mid: MessageId(0), seq };
            }
        }
        let Some(wanted) = self.posts.fill(&mut waiting.entries) else {
            return self.completed(replica, waiting.lacking, waiting.entries, out);
        };
        let helped = wanted != before;
        waiting.wanted = wanted;
        if helped || waiting.source == Source::Nearest {
            waiting.source = if helped { Source::Nearest } else { Source::Leader };
            waiting.asked = None;
            return self.ask_for(replica, fetched.ticket, waiting, out);
        }
        self.fetches.waiting.insert(fetched.ticket, waiting);
    }

    /// Asks again for what was not answered.
    pub(super) fn fetch_again(&mut self, replica: &Replica, now: Duration, out: &mut Vec<Output>) {
        for (ticket, waiting) in &mut self.fetches.waiting {
            let asked = *waiting.asked.get_or_insert(now);
            if now >= asked + AGAIN_AFTER {
                (waiting.asked, waiting.source) = (Some(now), Source::Leader);
                out.push(waiting.ask(replica.shard(), *ticket));
            }
        }
    }

    /// The home of a member, on this or another node, asks for posts to a group of this shard. Any replica answers.
    pub fn fetch(&mut self, replica: &Replica, node: NodeId, fetch: Fetch, out: &mut Vec<Output>) {
        let owner = UserId::of_group(&fetch.group);
        if let Some(chunks) = replica.state().cold(&owner) {
            let waiting = self.fetches.loading.entry(owner.clone()).or_default();
            if waiting.len() < SERVING_MAX {
                waiting.push((node, fetch));
                out.push(Output::Load(owner, chunks));
            }
            return;
        }
        let after = Number(fetch.first.0.saturating_sub(1));
        match replica.state().mailbox(&owner).map(|group| group.log().read(after, COUNT, BYTES)) {
            Some(Found::OnDisk(run)) if self.fetches.reading.len() < SERVING_MAX => {
                self.fetches.tickets += 1;
                let ticket = self.fetches.tickets;
                self.fetches.reading.insert(ticket, (node, fetch));
                out.push(Output::LoadRun(owner, run, For::Posts(ticket)));
            }
            Some(Found::OnDisk(_)) => {}
            Some(Found::Entries(entries)) => give(replica, node, fetch, &entries, out),
            None => give(replica, node, fetch, &[], out),
        }
    }

    /// A group is in memory now: who waited for it gets an answer.
    pub fn fetch_warmed(&mut self, replica: &Replica, group: &UserId, out: &mut Vec<Output>) {
        for (node, fetch) in self.fetches.loading.remove(group).unwrap_or_default() {
            self.fetch(replica, node, fetch, out);
        }
    }

    /// A run of a group's log was read for somebody.
    pub(super) fn read_posts(
        &mut self,
        replica: &Replica,
        ticket: u64,
        entries: &[Entry],
        out: &mut Vec<Output>,
    ) {
        if let Some((node, fetch)) = self.fetches.reading.remove(&ticket) {
            let after = Number(fetch.first.0.saturating_sub(1));
            let posts = page(entries.iter(), after, COUNT, BYTES);
            give(replica, node, fetch, &posts, out);
        }
    }
}

/// Gives what there is of what is asked for.
fn give(replica: &Replica, node: NodeId, fetch: Fetch, entries: &[Entry], out: &mut Vec<Output>) {
    let Fetch { from: to, ticket, group, last, .. } = fetch;
    let posts = entries.iter().filter(|entry| entry.n.0 <= last.0).cloned().collect();
    let known = replica.state().mailbox(&UserId::of_group(&group));
    let gone = match replica.role().serves {
        true => known.map_or(last, |known| Seq(known.log().low().0)),
        false => Seq(0),
    };
    out.push(Output::Fetched(node, Fetched { to, ticket, group, posts, gone }));
}
