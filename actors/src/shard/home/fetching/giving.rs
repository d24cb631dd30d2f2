//! Giving: posts of a group for other homes, from any replica of the group's shard.

use std::collections::BTreeMap;

use super::super::{For, Home, Output};
use crate::ids::{NodeId, Number, Seq, UserId};
use crate::mailbox::log::{Found, page};
use crate::message::Entry;
use crate::packet::{Fetch, Fetched};
use crate::shard::replica::Replica;

/// Posts in one answer, and about how many bytes.
const COUNT: usize = 256;
const BYTES: usize = 96 * 1024;
/// Requests that wait for a group to be read from disk, or for a run of its log.
pub(super) const GIVING_MAX: usize = 1_000;

/// Requests that wait for the disk.
#[derive(Default)]
pub(super) struct Giving {
    tickets: u64,
    /// For a run of a log.
    reading: BTreeMap<u64, (NodeId, Fetch)>,
    /// For a group.
    loading: BTreeMap<UserId, Vec<(NodeId, Fetch)>>,
}

impl Home {
    /// The home of a member, on this or another node, asks for posts to a group of this shard. Any replica answers.
    pub fn fetch(&mut self, replica: &Replica, node: NodeId, fetch: Fetch, out: &mut Vec<Output>) {
        let owner = UserId::of_group(&fetch.group);
        let giving = &mut self.fetches.giving;
        if let Some(chunks) = replica.state().cold(&owner) {
            let waiting = giving.loading.entry(owner.clone()).or_default();
            let request = (node, fetch);
            // Repeated while it waits, it is answered once.
            if waiting.len() < GIVING_MAX && !waiting.contains(&request) {
                waiting.push(request);
                out.push(Output::Load(owner, chunks));
            }
            return;
        }
        let after = Number(fetch.first.0.saturating_sub(1));
        match replica.state().mailbox(&owner).map(|group| group.log().read(after, COUNT, BYTES)) {
            Some(Found::OnDisk(run)) if giving.reading.len() < GIVING_MAX => {
                let request = (node, fetch);
                if !giving.reading.values().any(|waiting| *waiting == request) {
                    giving.tickets += 1;
                    let ticket = giving.tickets;
                    giving.reading.insert(ticket, request);
                    out.push(Output::LoadRun(owner, run, For::Posts(ticket)));
                }
            }
            Some(Found::OnDisk(_)) => {}
            Some(Found::Entries(entries)) => give(replica, node, fetch, &entries, out),
            None => give(replica, node, fetch, &[], out),
        }
    }

    /// A group is in memory now: who waited for it gets an answer.
    pub fn fetch_warmed(&mut self, replica: &Replica, group: &UserId, out: &mut Vec<Output>) {
        for (node, fetch) in self.fetches.giving.loading.remove(group).unwrap_or_default() {
            self.fetch(replica, node, fetch, out);
        }
    }

    /// A run of a group's log was read for somebody.
    pub(in super::super) fn read_posts(
        &mut self,
        replica: &Replica,
        ticket: u64,
        entries: &[Entry],
        out: &mut Vec<Output>,
    ) {
        if let Some((node, fetch)) = self.fetches.giving.reading.remove(&ticket) {
            let after = Number(fetch.first.0.saturating_sub(1));
            let posts = page(entries.iter(), after, COUNT, BYTES);
            give(replica, node, fetch, &posts, out);
        }
    }

    /// The disk cannot read a run: whoever waited for it hears nothing, and asks elsewhere.
    pub fn run_lost(&mut self, wanted: For) {
        match wanted {
            For::Posts(ticket) => drop(self.fetches.giving.reading.remove(&ticket)),
            For::Search(ticket) => self.search_lost(ticket),
            // With its state the replica loses its lead, and sessions attach again.
            For::Page(_) => {}
        }
    }

    /// The disk cannot read a group: whoever waited for it hears nothing, and asks elsewhere.
    pub fn fetch_lost(&mut self, group: &UserId) {
        self.fetches.giving.loading.remove(group);
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
