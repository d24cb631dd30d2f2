//! Reading: pages of a user's log, from memory or from disk, for their `User` actor.

use super::{For, Home, Output, Read};
use crate::ids::{Number, UserId};
use crate::mailbox::log::{Found, page};
use crate::message::Entry;
use crate::packet::Tell;
use crate::shard::replica::Replica;
use crate::user::rules as user;

impl Home {
    /// A page of a user's log, for their `User` actor.
    pub fn read(&self, replica: &Replica, user: &UserId, read: Read, out: &mut Vec<Output>) {
        let Some(mailbox) = replica.state().mailbox(user) else {
            // Cooled while connected: the attachment is lost, and attaching again warms it.
            let why = crate::packet::Closed::Lost;
            let tell = Tell::Closed { life: read.life, why };
            out.push(Output::Tell(read.session, tell));
            return;
        };
        let head = mailbox.log().head();
        match mailbox.log().read(read.after, usize::from(read.count), read.bytes as usize) {
            Found::Entries(entries) => out.push(paged(user, read, entries, head)),
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
        };
        let head = replica.state().mailbox(user).map_or(Number(0), |m| m.log().head());
        let low = replica.state().mailbox(user).map_or(Number(0), |m| m.log().low());
        let wanted = entries.iter().filter(|entry| entry.n > read.after.max(low));
        let entries = page(wanted, usize::from(read.count), read.bytes as usize);
        out.push(paged(user, read, entries, head));
    }
}

fn paged(user: &UserId, read: Read, entries: Vec<Entry>, head: Number) -> Output {
    let Read { session, life, after, pull, .. } = read;
    let input = user::Input::Page { session, life, after, entries, head, pull };
    Output::Connected(user.clone(), input)
}
