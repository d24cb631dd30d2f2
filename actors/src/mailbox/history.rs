//! History: which entries answer a question about chats and their messages; they are then fetched from memory or disk.
//!
//! Pure: the numbers are chosen from what is in memory (`talks`), the entries looked at when they are there.

use std::collections::BTreeMap;

use super::log::Found;
use super::rules::Mailbox;
use super::talks::Part;
use crate::ids::{Conversation, Number, Seq, Timestamp};
use crate::message::history::{Talk, Wanted};

/// How far an entry's time may be from that in its message's id: two shards write them down.
const CLOCKS_APART: std::time::Duration = std::time::Duration::from_secs(600);

impl Mailbox {
    /// The next candidates, up to `most` in the order of the search, behind those up to `searched`. A group's own log is
    /// all of one conversation.
    #[must_use]
    pub fn candidates(
        &self,
        wanted: &Wanted,
        searched: Option<Number>,
        most: usize,
    ) -> Vec<Number> {
        let low = self.log.low();
        let mut after = wanted.after.unwrap_or_default().max(low).max(wanted.floor);
        let mut before = wanted.before.unwrap_or(Number(u64::MAX)).min(self.log.head().next());
        if let Some(since) = wanted.since {
            after = after.max(self.talks.before(since));
        }
        if let Some(mid) = wanted.mid {
            let at = Timestamp(u64::try_from(mid.0 >> 80).unwrap_or(u64::MAX));
            let apart = u64::try_from(CLOCKS_APART.as_millis()).unwrap_or(u64::MAX);
            after = after.max(self.talks.before(Timestamp(at.0.saturating_sub(apart))));
            before = before.min(self.talks.after(at.after(CLOCKS_APART)));
        }
        let (forward, offset) = (wanted.forward(), wanted.offset as usize);
        let skip = if searched.is_none() && !forward { offset } else { 0 };
        match searched {
            Some(n) if forward => after = after.max(n),
            Some(n) => before = before.min(n),
            None => {}
        }
        if self.group.is_some() {
            let (from, to) = (after.0 + 1, before.0.max(after.0 + 1));
            return match forward {
                true => (from..to).take(most).map(Number).collect(),
                false => (from..to).rev().skip(skip).take(most).map(Number).collect(),
            };
        }
        let mirror = self.mirror();
        let messages = self.talks.back(wanted.conv.as_ref(), after, before, Some(&mirror));
        let messages = messages.filter(|(_, part)| *part != Part::Change).map(|(n, _)| n);
        match forward {
            true => messages.rev().take(most).collect(),
            false => messages.skip(skip).take(most).collect(),
        }
    }

    /// How many candidates are worth fetching at once for an answer that lacks so many messages.
    #[must_use]
    pub const fn worth(wanted: &Wanted, lacking: usize) -> usize {
        const SEARCH: usize = 256;
        if wanted.looks_into() && lacking < SEARCH { SEARCH } else { lacking }
    }

    /// The owner's conversations whose newest entry is before a number, newest first, and the numbers of their last
    /// messages.
    #[must_use]
    pub fn talks(&self, before: Option<Number>, most: usize) -> Vec<(Talk, Option<Number>)> {
        let before = before.unwrap_or(Number(u64::MAX));
        let list = self.talks.list(before, most, Some(&self.mirror()));
        let unread = self.unread_in(list.iter().map(|found| found.conv));
        let talk = |(found, unread): (&super::talks::Found<'_>, u64)| {
            let (conv, newest) = (found.conv.clone(), found.newest);
            let none = Talk {
                conv,
                newest,
                last: None,
                unread,
                received: Seq(0),
                read: Seq(0),
                sent_delivered: Seq(0),
                sent_read: Seq(0),
                title: None,
            };
            (self.marks_of(none), found.last)
        };
        list.iter().zip(unread).map(talk).collect()
    }

    /// The conversations with messages of others after one number, up to another: the first and the newest of each.
    #[must_use]
    pub fn theirs(&self, after: Number, last: Number) -> BTreeMap<&Conversation, (Number, Number)> {
        self.talks.theirs(after, last, Some(&self.mirror()))
    }

    /// The owner's conversation with themselves.
    fn mirror(&self) -> Conversation {
        Conversation::User(self.owner.clone())
    }

    /// An entry that came before this moment, and all before it did.
    #[must_use]
    pub fn came_before(&self, moment: Timestamp) -> Number {
        self.talks.before(moment)
    }

    /// When an entry came; of one that lies on disk, when the newest did.
    #[must_use]
    pub fn came(&self, n: Number) -> Timestamp {
        let found = match self.log.read(Number(n.0.saturating_sub(1)), 1, 0) {
            Found::Entries(entries) => entries.first().filter(|entry| entry.n == n).map(|e| e.at),
            Found::OnDisk(_) => None,
        };
        found.unwrap_or(self.log.newest_at())
    }

    /// Messages of others in a conversation that the owner has not read, and still could.
    #[must_use]
    pub fn unread(&self, conv: &Conversation) -> u64 {
        self.unread_in(std::iter::once(conv)).first().copied().unwrap_or(0)
    }

    /// The same of several conversations. The watermarks say how far the owner is behind; of that the log may have lost the
    /// oldest, which were never fetched in time, or fetched and not read for as long as messages are kept.
    fn unread_in<'a>(&self, convs: impl Iterator<Item = &'a Conversation>) -> Vec<u64> {
        let behind: Vec<(&Conversation, u64)> =
            convs.map(|conv| (conv, self.behind(conv))).collect();
        let kept = self.talks.theirs_among(&behind);
        // Conversations were not noted as long as others know this log.
        let all_noted = self.talks.first() <= self.log.low().next().0;
        let unread = |((conv, behind), kept): (&(&Conversation, u64), u64)| match conv {
            Conversation::User(_) if !all_noted => *behind,
            _ => kept,
        };
        behind.iter().zip(kept).map(unread).collect()
    }

    /// How many entries of others the owner has not read: of a group all that came since, those of the owner and changes too.
    fn behind(&self, conv: &Conversation) -> u64 {
        let (received, read) = match conv {
            // Who wrote it knows it.
            Conversation::User(user) if *user == self.owner => return 0,
            Conversation::User(user) => {
                let peer = self.peer(user);
                (peer.received, peer.read)
            }
            Conversation::Group(group) => {
                let Some(known) = self.groups.get(group) else { return 0 };
                (known.marks().received, known.marks().had.read)
            }
        };
        received.0.saturating_sub(read.0)
    }

    /// What follows from the watermarks of a conversation.
    fn marks_of(&self, talk: Talk) -> Talk {
        match &talk.conv {
            Conversation::User(user) => {
                let peer = self.peers.get(user).copied().unwrap_or_default();
                Talk {
                    received: peer.received,
                    read: peer.read,
                    sent_delivered: peer.sent_delivered,
                    sent_read: peer.sent_read,
                    ..talk
                }
            }
            Conversation::Group(group) => {
                let Some(known) = self.groups.get(group) else { return talk };
                let marks = known.marks();
                Talk {
                    received: marks.received,
                    read: marks.had.read,
                    sent_delivered: marks.sent.delivered,
                    sent_read: marks.sent.read,
                    title: Some(known.title.clone()),
                    ..talk
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
