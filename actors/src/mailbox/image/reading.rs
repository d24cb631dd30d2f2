//! Reading: puts a mailbox together from what a checkpoint holds, also of an older version.

use std::collections::{BTreeMap, VecDeque};

use serde::de::DeserializeOwned;

use super::{Groups, Head, Index, Kept, Referred, Stored, Tail, entries, run_key};
use crate::codec::{self, BadBytes};
use crate::ids::{Number, Seq, UserId};
use crate::mailbox::cids::{self, Cids};
use crate::mailbox::ledger::{Ledger, Row};
use crate::mailbox::log::Log;
use crate::mailbox::people::People;
use crate::mailbox::rules::Mailbox;
use crate::mailbox::talks::Talks;
use crate::message::Entry;
use crate::message::people::Shown;

/// A head, and what stands behind it.
pub(super) struct Whole {
    pub(super) head: Head,
    pub(super) tail: Tail,
    pub(super) groups: Groups,
    /// None as long as conversations were not noted.
    index: Option<Index>,
    referred: Referred,
    people: People,
}

/// Reads a head and what stands behind it, also as it was before anybody could block, before there were large groups, before
/// conversations were noted, before there were groups, before the owner's ids were kept, and before bytes were counted: what
/// waited then counts for nothing. How many entries may wait is bounded all the same.
pub(super) fn read_head(bytes: &[u8]) -> Result<Whole, BadBytes> {
    if let Ok((head, tail, groups, index, referred, people)) = codec::decode(bytes) {
        return Ok(Whole { head, tail, groups, index: Some(index), referred, people });
    }
    let people = People::default();
    if let Ok((head, tail, groups, index, referred)) = codec::decode(bytes) {
        return Ok(Whole { head, tail, groups, index: Some(index), referred, people });
    }
    let referred = Referred::default();
    if let Ok((head, tail, groups, index)) = codec::decode(bytes) {
        return Ok(Whole { head, tail, groups, index: Some(index), referred, people });
    }
    let waiting = |(head, waiting)| (head, Tail { waiting, ..Tail::default() });
    let (head, tail, groups) = codec::decode(bytes).or_else(|_| {
        let older = codec::decode(bytes)
            .or_else(|_| codec::decode(bytes).map(waiting))
            .or_else(|_| codec::decode(bytes).map(|head| (head, Tail::default())));
        older.map(|(head, tail)| (head, tail, Groups::default()))
    })?;
    Ok(Whole { head, tail, groups, index: None, referred, people })
}

/// Whether all that is counted in a head can be counted on from, without end.
fn is_sound(Whole { head, tail, groups, index, referred, .. }: &Whole) -> bool {
    const END: u64 = 1 << 60;
    let numbers = [head.low.0, head.head.0, head.first_row, tail.first_cid, referred.upto.0];
    let rows = [&head.rows, &tail.cids].into_iter().chain(index.as_ref().map(|i| &i.rows));
    let lasts = rows.clone().flat_map(|kept| kept.sealed.iter().map(|(_, last)| *last));
    let firsts = rows.flat_map(Kept::firsts);
    let log = head.sealed.iter().flat_map(|run| [run.first.0, run.last.0]);
    numbers.into_iter().chain(lasts).chain(firsts).chain(log).all(|number| number < END)
        && groups.groups.values().all(|known| known.is_sound(END))
        && groups.group.as_ref().is_none_or(|group| group.is_sound(END))
        && index.as_ref().is_none_or(|index| index.talks.is_sound(END))
}

/// Reads the rows of all runs, without those before `first`, which had gone already.
fn read_rows<T: DeserializeOwned>(
    kept: &Kept,
    first: u64,
    runs: &[Vec<u8>],
) -> Result<VecDeque<T>, BadBytes> {
    let mut rows = VecDeque::new();
    for bytes in runs {
        rows.extend(codec::decode_all::<T>(bytes)?);
    }
    let gone = first.saturating_sub(kept.firsts().next().unwrap_or(first));
    let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(rows.len());
    rows.drain(..gone);
    Ok(rows)
}

/// Whether these entries follow each other without gaps, up to `head`; none do, too.
fn ends_at(entries: &VecDeque<Entry>, head: Number) -> bool {
    let follows = |entry: &Entry, next: &Entry| entry.last().0.checked_add(1) == Some(next.n.0);
    entries.iter().is_sorted_by(|entry, next| follows(entry, next))
        && entries.back().is_none_or(|newest| newest.last() == head)
}

/// What lists of a user show of the owner of this head; the rest of the mailbox is not looked for.
pub fn card(chunks: &[Vec<u8>], user: &UserId) -> Result<Shown, BadBytes> {
    let whole = match chunks {
        [one] => read_head(one)?,
        many => read_head(&many.concat())?,
    };
    Ok(whole.people.card_for(user))
}

/// A mailbox half read: its head is known, and with it what else must be read.
pub struct Opening {
    owner: UserId,
    whole: Whole,
    chunks: u16,
}

impl Opening {
    /// Reads a head from its chunks.
    pub fn new(owner: UserId, chunks: &[Vec<u8>]) -> Result<Self, BadBytes> {
        let bytes = chunks.concat();
        let whole = read_head(&bytes)?;
        if !is_sound(&whole) {
            return Err(BadBytes::Malformed);
        }
        let chunks = u16::try_from(chunks.len()).unwrap_or(u16::MAX);
        Ok(Self { owner, whole, chunks })
    }

    /// The keys that must be read next: first runs of rows, then of ids, then of conversations, then the open run of
    /// entries.
    #[must_use]
    pub fn keys(&self) -> Vec<Vec<u8>> {
        let Whole { head, tail, index, .. } = &self.whole;
        let rows = head.rows.firsts().map(|first| run_key(&self.owner, b'd', first));
        let cids = tail.cids.firsts().map(|first| run_key(&self.owner, b'c', first));
        let talks = index.iter().flat_map(|index| index.rows.firsts());
        let talks = talks.map(|first| run_key(&self.owner, b't', first));
        let log = head.open_log.map(|n| run_key(&self.owner, b'l', n.0));
        rows.chain(cids).chain(talks).chain(log).collect()
    }

    /// Puts the mailbox together from the values of `keys()`.
    pub fn finish(self, values: &[Vec<u8>]) -> Result<(Mailbox, Stored), BadBytes> {
        let Whole { head: h, tail, mut groups, index, referred, people } = self.whole;
        let split =
            |values, count| <[_]>::split_at_checked(values, count).ok_or(BadBytes::Malformed);
        let (rows, values) = split(values, h.rows.firsts().count())?;
        let (cids, values) = split(values, tail.cids.firsts().count())?;
        let runs = index.as_ref().map_or(0, |index| index.rows.firsts().count());
        let (noted, log) = split(values, runs)?;
        let (talks, kept, joined, erased) = match index {
            None => (Talks::from(h.head), Kept::default(), BTreeMap::new(), false),
            Some(Index { talks, rows, joined, erased }) => {
                let noted = read_rows(&rows, talks.first(), noted)?;
                (Talks::restore(talks, noted), rows, joined, erased)
            }
        };
        groups
            .group
            .iter_mut()
            .for_each(|group| group.restore(&joined, referred.upto, Seq(h.head.0)));
        let rows: VecDeque<Row> = read_rows(&h.rows, h.first_row, rows)?;
        let cids: VecDeque<cids::Row> = read_rows(&tail.cids, tail.first_cid, cids)?;
        let mut warm: VecDeque<Entry> = VecDeque::new();
        for bytes in log {
            warm.extend(entries(bytes)?.into_iter().filter_map(|entry| entry.after(h.low)));
        }
        if !ends_at(&warm, h.head) {
            return Err(BadBytes::Malformed);
        }
        let (rows_kept, cids_kept) = (h.rows, tail.cids);
        let stored = Stored {
            chunks: self.chunks,
            open_log: h.open_log,
            rows: rows_kept,
            cids: cids_kept,
            talks: kept,
        };
        let log = Log::restore(h.low, h.head, h.newest_at, h.sealed, warm);
        let mailbox = Mailbox {
            owner: self.owner,
            epoch: h.epoch,
            password: h.password,
            devices: h.devices,
            peers: h.peers,
            delivered: h.delivered,
            waiting: tail.waiting,
            settled: h.settled,
            arrived: h.arrived,
            log,
            ledger: Ledger::restore(h.first_row, rows),
            cids: Cids::restore(tail.first_cid, cids),
            groups: groups.groups,
            group: groups.group,
            talks,
            erased,
            people: people.kept(),
        };
        Ok((mailbox, stored))
    }
}
