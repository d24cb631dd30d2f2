//! Oracle: what was promised to clients, compared with what replicas and clients see.

use std::collections::{BTreeMap, BTreeSet};

use actors::codec;
use actors::ids::{Cid, Conversation, DeviceId, Epoch, MessageId, Number, Seq, ShardId, UserId};
use actors::message::{Accepted, Entry, What};
use actors::shard::replica::Replica;
use actors::shard::state::{Batch, Change, Command};
use raft::eraftpb::EntryType;
use raft::{GetEntriesContext, Storage};

use crate::chance::mix;
use crate::clubs::Club;
use crate::disk::Disk;

/// A message as its sender remembers it.
#[derive(Debug, Clone)]
pub(crate) struct Sending {
    pub(crate) from: UserId,
    pub(crate) to: UserId,
    pub(crate) accepted: Option<Accepted>,
    /// When it was written.
    pub(crate) at: u64,
    /// Its sender was told that they are not in the group. An earlier try may get through when they are in it again.
    pub(crate) refused: bool,
}

/// What has been promised, and what has been seen.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// The term and a hash of every entry that some replica applied.
    applied: BTreeMap<(ShardId, u64), (u64, u64)>,
    /// The cursor of each device, and the entry it was last seen at.
    cursors: BTreeMap<UserId, BTreeMap<DeviceId, (u64, Number)>>,
    /// Ids of messages in committed entries.
    pub(crate) committed: BTreeSet<MessageId>,
    pub(crate) sendings: BTreeMap<Cid, Sending>,
    /// The log of each user, as any device saw it first.
    pub(crate) logs: BTreeMap<UserId, Vec<Entry>>,
    epochs: BTreeMap<UserId, Epoch>,
    seqs: BTreeMap<(UserId, UserId), Seq>,
    bodies: BTreeSet<String>,
    /// The newest message from a device to a user, as its sender counts them.
    written: BTreeMap<(String, UserId), u64>,
    ticks: BTreeMap<(UserId, UserId), (Seq, Seq)>,
    /// Up to which message from the second the first has acknowledged or read.
    pub(crate) had: BTreeMap<(UserId, UserId), Seq>,
    pub(crate) club: Option<Club>,
    pub(crate) trace: u64,
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |hash, chunk| {
        chunk.iter().fold(mix(hash), |hash, byte| (hash << 8) ^ u64::from(*byte) ^ (hash >> 56))
    })
}

fn sent_as<'a>(sendings: &'a BTreeMap<Cid, Sending>, cid: &Cid) -> &'a Sending {
    sendings.get(cid).unwrap_or_else(|| panic!("nobody wrote {cid}"))
}

impl Oracle {
    pub(crate) fn note(&mut self, what: u64) {
        self.trace = mix(self.trace ^ what);
    }

    /// A replica applied everything after `before`: the same as all others, and durable on a majority.
    pub(crate) fn applied(&mut self, replica: &Replica, before: u64, disks: &[Disk]) {
        let (shard, (after, _)) = (replica.shard(), replica.state().applied());
        // What was applied just before a checkpoint began to be taken over is no longer in the log.
        let before = before.max(replica.log().first() - 1);
        if after <= before {
            return;
        }
        self.cursors(replica, after);
        let context = GetEntriesContext::empty(false);
        let entries = replica.log().entries(before + 1, after + 1, None, context).unwrap();
        assert_eq!(entries.len() as u64, after - before, "what was applied is in the log");
        for entry in entries {
            let new = (entry.term, hash(&entry.data));
            let known = *self.applied.entry((shard, entry.index)).or_insert(new);
            assert_eq!(known, new, "replicas of {shard} apply the same entry {}", entry.index);
            // A disk that was lost may have held it once; then the others must have it.
            let holds = |disk: &&Disk| {
                let (index, term) = (entry.index, entry.term);
                disk.has_lost(shard, index) || disk.holds(shard, index, term)
            };
            let copies = disks.iter().filter(holds).count();
            assert!(copies > disks.len() / 2, "entry {} of {shard} is durable", entry.index);
            if !entry.data.is_empty() && entry.get_entry_type() == EntryType::EntryNormal {
                self.commit(codec::decode(&entry.data).unwrap());
            }
            self.note(mix(new.0 ^ new.1 ^ entry.index));
        }
    }

    fn cursors(&mut self, replica: &Replica, index: u64) {
        let state = replica.state();
        for (user, mailbox) in state.users().filter_map(|user| Some((user, state.mailbox(user)?))) {
            for info in mailbox.devices() {
                let known = self.cursors.entry(user.clone()).or_default();
                let known = known.entry(info.device).or_default();
                if index >= known.0 {
                    assert!(known.1 <= info.acked, "the cursor of {user} went back");
                    *known = (index, info.acked);
                }
            }
        }
    }

    fn commit(&mut self, batch: Batch) {
        for command in batch.commands {
            match command {
                Command::Mailbox(_, Change::Append { mid, .. }) => {
                    self.committed.insert(mid);
                }
                Command::Mailbox(_, Change::Group { call, .. }) => {
                    self.club.iter_mut().for_each(|club| club.committed(&call));
                }
                _ => {}
            }
        }
    }

    /// A client got its check mark from a node that has been cut off from the majority since then.
    pub(crate) fn confirmed_by_minority(&self, cid: &Cid, since: u64) {
        let written = self.sendings[cid].at;
        assert!(written < since, "a minority confirmed {cid}, written after it was cut off");
    }

    /// A client got its check mark.
    pub(crate) fn accepted(&mut self, cid: &Cid, accepted: Accepted) {
        assert!(self.committed.contains(&accepted.mid), "{cid} is confirmed, so it is committed");
        let sending = self.sendings.get_mut(cid).expect("it was sent");
        let first = sending.accepted.get_or_insert(accepted);
        let same = (first.mid, first.seq, first.at) == (accepted.mid, accepted.seq, accepted.at);
        assert!(same, "{cid} has one mid: {first:?}, {accepted:?}");
    }

    pub(crate) fn epoch(&mut self, user: &UserId, epoch: Epoch) {
        let known = self.epochs.entry(user.clone()).or_insert(epoch);
        assert_eq!(*known, epoch, "the log of {user} was never lost");
    }

    /// A device of a user was given an entry.
    pub(crate) fn saw(&mut self, user: &UserId, entry: &Entry) {
        let log = self.logs.entry(user.clone()).or_default();
        let at = usize::try_from(entry.n.0 - 1).unwrap();
        if let Some(known) = log.get(at) {
            assert_eq!(known, entry, "all devices of {user} see one log");
            return;
        }
        assert_eq!(at, log.len(), "the log of {user} has no gaps");
        assert!(log.last().is_none_or(|last| last.at <= entry.at), "in time");
        log.push(entry.clone());
        if let What::Message { mid, .. } | What::Post { mid, .. } | What::Sent { mid, .. } =
            &entry.what
        {
            assert!(self.committed.contains(mid), "{mid} is shown, so it is committed");
        }
        match &entry.what {
            What::Message { from, seq, content, .. } => {
                self.message(user, from, *seq, &content.body)
            }
            What::Sent { mid, seq, cid, .. } => {
                let sending = sent_as(&self.sendings, cid);
                assert_eq!(sending.from, *user);
                let accepted = sending.accepted.map(|accepted| (accepted.mid, accepted.seq));
                assert!(accepted.is_none_or(|known| known == (*mid, *seq)), "{cid} has one mid");
                if sending.to.group().is_some() {
                    self.club().saw(user, &entry.what);
                }
            }
            What::Receipt { by: Some(by), delivered, read, .. } => {
                self.receipt((user.clone(), by.clone()), *delivered, *read);
            }
            What::Expired { .. } => panic!("nothing is old enough to expire"),
            What::Referred { .. } => panic!("{user} is told what was posted, not where"),
            What::Post { from, content, .. } => {
                self.post(user, from, &content.body);
                self.club().saw(user, &entry.what);
            }
            What::Receipt { by: None, .. } | What::Group { .. } => {
                self.club().saw(user, &entry.what);
            }
        }
    }

    fn message(&mut self, user: &UserId, from: &UserId, seq: Seq, body: &str) {
        let newest = self.seqs.entry((user.clone(), from.clone())).or_default();
        assert_eq!(newest.next(), seq, "messages from {from} to {user} have no gaps");
        *newest = seq;
        let sending = sent_as(&self.sendings, &Cid::parse(body).unwrap());
        assert_eq!((&sending.from, &sending.to), (from, user), "{body} came to whom it was for");
        assert!(self.bodies.insert(body.to_owned()), "{body} is stored once");
        let (device, number) = body.rsplit_once('-').expect("as clients name them");
        let number = number.parse().expect("as clients name them");
        let before = self.written.insert((device.to_owned(), user.clone()), number);
        assert!(before.is_none_or(|before| before < number), "{body} was overtaken");
    }

    fn club(&mut self) -> &mut Club {
        self.club.as_mut().expect("there is a group")
    }

    fn post(&mut self, user: &UserId, from: &UserId, body: &str) {
        let sending = sent_as(&self.sendings, &Cid::parse(body).unwrap());
        assert_eq!(sending.from, *from);
        assert!(sending.to.group().is_some(), "{body} was for the group");
        assert!(self.bodies.insert(format!("{user} {body}")), "{body} is stored once");
        if !sending.refused {
            let (device, number) = body.rsplit_once('-').expect("as clients name them");
            let number = number.parse().expect("as clients name them");
            let key = (format!("{user} {device}"), sending.to.clone());
            let before = self.written.insert(key, number);
            assert!(before.is_none_or(|before| before < number), "{body} was overtaken");
        }
    }

    fn receipt(&mut self, (user, by): (UserId, UserId), delivered: Seq, read: Seq) {
        let had = self.had.get(&(by.clone(), user.clone())).copied().unwrap_or_default();
        assert!(
            read <= delivered && delivered <= had,
            "{by} has what {user} is told: {delivered} of {had}"
        );
        let ticks = self.ticks.entry((user, by)).or_default();
        assert!(ticks.0 <= delivered && ticks.1 <= read, "ticks never go back");
        assert!(*ticks != (delivered, read), "a receipt says something new");
        *ticks = (delivered, read);
    }

    /// A device of a user has everything up to entry `n`.
    pub(crate) fn acknowledged(&mut self, user: &UserId, entry: &Entry) {
        match &entry.what {
            What::Message { from, seq, .. } => {
                let had = self.had.entry((user.clone(), from.clone())).or_default();
                *had = (*had).max(*seq);
            }
            // Who has their own post, or a change, has all before it.
            What::Post { seq, .. }
            | What::Group { seq, .. }
            | What::Sent { conv: Conversation::Group(_), seq, .. } => {
                self.club().acknowledged(user, *seq);
            }
            _ => {}
        }
    }

    /// All is drained: what was sent arrived once, and its sender knows.
    pub(crate) fn at_the_end(&self) {
        for (cid, sending) in &self.sendings {
            let Some(accepted) = sending.accepted else {
                assert!(sending.refused, "{cid} was never confirmed");
                continue;
            };
            if sending.to.group().is_some() {
                let club = self.club.as_ref().expect("there is a group");
                assert!(
                    club.holds(accepted.seq, accepted.mid, &sending.from),
                    "{cid} is in its place"
                );
                continue;
            }
            let arrived = |entry: &&Entry| {
                matches!(&entry.what, What::Message { mid, from, seq, .. }
                    if (mid, from, seq) == (&accepted.mid, &sending.from, &accepted.seq))
            };
            let copied = |entry: &&Entry| {
                matches!(&entry.what, What::Sent { mid, cid: known, seq, .. }
                    if (mid, known, seq) == (&accepted.mid, cid, &accepted.seq))
            };
            let count = self.logs[&sending.to].iter().filter(arrived).count();
            assert_eq!(count, 1, "{cid} arrived once");
            let count = self.logs[&sending.from].iter().filter(copied).count();
            assert_eq!(count, 1, "{cid} was copied to its sender once");
        }
        self.club.iter().for_each(Club::at_the_end);
        for ((to, from), newest) in &self.seqs {
            let told = self.ticks.get(&(from.clone(), to.clone())).map(|ticks| ticks.0);
            assert_eq!(told, Some(*newest), "{from} knows what {to} has");
        }
    }
}
