//! Reading: pages of a user's log, from memory or from disk, for their `User` actor.

use super::fetching::Lacking;
use super::{For, Home, Output, Read};
use crate::ids::{Number, UserId};
use crate::mailbox::log::{Found, page};
use crate::message::Entry;
use crate::packet::Tell;
use crate::shard::replica::Replica;
use crate::user::rules as user;

impl Home {
    /// A page of a user's log, for their `User` actor.
    pub fn read(&mut self, replica: &Replica, user: &UserId, read: Read, out: &mut Vec<Output>) {
        let Some(mailbox) = replica.state().mailbox(user) else {
            // Cooled while connected: the attachment is lost, and attaching again warms it.
            let why = crate::packet::Closed::Lost;
            let tell = Tell::Closed { life: read.life, why };
            out.push(Output::Tell(read.session, tell));
            return;
        };
        let head = mailbox.log().head();
        match mailbox.log().read(read.after, usize::from(read.count), read.bytes as usize) {
            Found::Entries(entries) => {
                self.complete(replica, Lacking::Page(user.clone(), read, head), entries, out);
            }
            Found::OnDisk(run) => out.push(Output::LoadRun(user.clone(), run, For::Page(read))),
        }
    }

    /// A run of a user's log was read from disk.
    pub fn run_loaded(
        &mut self,
        replica: &Replica,
        user: &UserId,
        entries: &[Entry],
        wanted: For,
        out: &mut Vec<Output>,
    ) {
        let read = match wanted {
            For::Page(read) => read,
            For::Search(ticket) => return self.searched(replica, ticket, entries, out),
            For::Posts(ticket) => return self.read_posts(replica, ticket, entries, out),
        };
        let head = replica.state().mailbox(user).map_or(Number(0), |m| m.log().head());
        let low = replica.state().mailbox(user).map_or(Number(0), |m| m.log().low());
        let (after, count) = (read.after.max(low), usize::from(read.count));
        let entries = page(entries.iter(), after, count, read.bytes as usize);
        self.complete(replica, Lacking::Page(user.clone(), read, head), entries, out);
    }
}

pub(super) fn paged(user: &UserId, read: Read, entries: Vec<Entry>, head: Number) -> Output {
    let Read { session, life, after, pull, .. } = read;
    let input = user::Input::Page { session, life, after, entries, head, pull };
    Output::Connected(user.clone(), input)
}
