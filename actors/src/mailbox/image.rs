//! Image: a mailbox as it lies in a checkpoint: a head, and runs of entries and rows of about 16 KiB each.
//!
//! ```text
//! m <user> 00 h <chunk u16 BE>    the head and then the bytes that wait, in chunks of at most 15 KiB
//! m <user> 00 l <first u64 BE>    log entries from `first` on, one behind the other
//! m <user> 00 d <first u64 BE>    ledger rows from row `first` on, one behind the other
//! m <user> 00 c <first u64 BE>    the owner's own ids from row `first` on, one behind the other
//! m <user> 00 t <first u64 BE>    the conversations of entry `first` and those after it, one behind the other
//! ```
//! Every run but the newest is sealed: it never changes again, and only leaves whole.

mod reading;

use std::collections::{BTreeMap, VecDeque};

pub use reading::{Opening, card};
use serde::{Deserialize, Serialize};

use super::cids;
use super::groups::Membership;
use super::ledger::Row;
use super::log::Sealed;
use super::marks::{Mark, Waiting};
use super::rules::{Device, LARGE_GROUP, Mailbox, Now, Peer, Policy};
use super::talks;
use crate::codec::{self, BadBytes};
use crate::group::Group;
use crate::ids::{
    Cid, Conversation, DeviceId, Epoch, GroupId, Kind, MessageId, Number, Seq, Timestamp, UserId,
};
use crate::message::group::Call;
use crate::message::{Content, Entry, Send, people};

const RUN_BYTES: usize = 16 * 1024;
/// Short enough to stay in sled: a head is written anew with each checkpoint.
const CHUNK_BYTES: usize = 15 * 1024;

/// One key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// What a checkpoint of one mailbox writes and removes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys to write.
    pub puts: Vec<Pair>,
    /// Keys to remove.
    pub deletes: Vec<Vec<u8>>,
}

/// What this replica's checkpoints hold of a mailbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    chunks: u16,
    open_log: Option<Number>,
    rows: Kept,
    cids: Kept,
    talks: Kept,
}

/// The runs in which rows are kept, by the absolute numbers of their first and last ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    sealed: VecDeque<(u64, u64)>,
    open: Option<u64>,
}

impl Kept {
    /// The first rows of all runs, oldest first.
    fn firsts(&self) -> impl Iterator<Item = u64> {
        self.sealed.iter().map(|(first, _)| *first).chain(self.open)
    }
}

impl Stored {
    /// In how many chunks the head is; 0 before the first checkpoint.
    #[must_use]
    pub const fn chunks(&self) -> u16 {
        self.chunks
    }
}

#[derive(Serialize, Deserialize)]
struct Head {
    epoch: Epoch,
    password: Option<Box<str>>,
    devices: Vec<Device>,
    peers: BTreeMap<UserId, Peer>,
    delivered: Number,
    settled: VecDeque<Mark>,
    arrived: VecDeque<Mark>,
    low: Number,
    head: Number,
    newest_at: Timestamp,
    sealed: VecDeque<Sealed>,
    open_log: Option<Number>,
    first_row: u64,
    rows: Kept,
}

/// What stands behind a head, in its last chunks: the bytes that wait, the absolute number of the first of the owner's
/// ids, and their runs.
#[derive(Default, Serialize, Deserialize)]
struct Tail {
    waiting: Waiting,
    first_cid: u64,
    cids: Kept,
}

/// What stands behind the tail: the groups the owner is in, and the group, if the owner is one.
#[derive(Default, Serialize, Deserialize)]
struct Groups {
    groups: BTreeMap<GroupId, Membership>,
    group: Option<Box<Group>>,
}

/// What stands behind the groups: which conversations there are, the runs of their rows, of a group where its members came
/// in, and whether the owner wanted to be forgotten.
#[derive(Default, Serialize, Deserialize)]
struct Index {
    talks: talks::Head,
    rows: Kept,
    joined: BTreeMap<UserId, Seq>,
    erased: bool,
}

/// What stands last: of a group, the newest post to which members' mailboxes only refer.
#[derive(Default, Serialize, Deserialize)]
struct Referred {
    upto: Seq,
}

/// The prefix of all mailboxes' keys.
pub const PREFIX: u8 = b'm';

fn key(user: &UserId, part: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(user.as_str().len() + 11);
    key.push(PREFIX);
    key.extend(user.as_str().as_bytes());
    key.extend([0, part]);
    key
}

fn chunk_key(user: &UserId, chunk: u16) -> Vec<u8> {
    let mut key = key(user, b'h');
    key.extend(chunk.to_be_bytes());
    key
}

fn run_key(user: &UserId, part: u8, first: u64) -> Vec<u8> {
    let mut key = key(user, part);
    key.extend(first.to_be_bytes());
    key
}

/// The key of a run of log entries.
#[must_use]
pub fn log_key(user: &UserId, run: Sealed) -> Vec<u8> {
    run_key(user, b'l', run.first.0)
}

/// Reads which mailbox's head a key belongs to; `None` for any other key.
#[must_use]
pub fn head_of(key: &[u8]) -> Option<UserId> {
    let rest = key.strip_prefix(&[PREFIX])?;
    let end = rest.iter().position(|b| *b == 0)?;
    if rest.get(end + 1) != Some(&b'h') {
        return None;
    }
    std::str::from_utf8(&rest[..end]).ok().and_then(|name| UserId::parse_owner(name).ok())
}

/// The keys of a head that has this many chunks.
#[must_use]
pub fn head_keys(user: &UserId, chunks: u16) -> Vec<Vec<u8>> {
    (0..chunks).map(|chunk| chunk_key(user, chunk)).collect()
}

/// Reads a run of entries.
pub fn entries(bytes: &[u8]) -> Result<Vec<Entry>, BadBytes> {
    codec::decode_all(bytes)
}

/// What a checkpoint must write of this mailbox. From now on `stored` and the log count the runs as written.
pub fn save(mailbox: &mut Mailbox, stored: &mut Stored) -> Changes {
    let mut changes = Changes::default();
    save_log(mailbox, stored, &mut changes);
    let (owner, ledger, cids) = (&mailbox.owner, &mailbox.ledger, &mailbox.cids);
    let (first, from) = (ledger.first(), |start| ledger.from(start));
    save_rows(owner, b'd', &mut stored.rows, first, from, &mut changes);
    let (first, from) = (cids.first(), |start| cids.from(start));
    save_rows(owner, b'c', &mut stored.cids, first, from, &mut changes);
    let talks = &mailbox.talks;
    let (first, from) = (talks.first(), |start| talks.rows_from(start));
    save_rows(owner, b't', &mut stored.talks, first, from, &mut changes);
    save_head(mailbox, stored, &mut changes);
    changes
}

fn save_log(mailbox: &mut Mailbox, stored: &mut Stored, changes: &mut Changes) {
    let low = mailbox.log.low();
    let owner = mailbox.owner.clone();
    while mailbox.log.sealed.front().is_some_and(|run| run.last <= low) {
        let run = mailbox.log.sealed.pop_front().expect("there is a front");
        changes.deletes.push(log_key(&owner, run));
    }
    let before = stored.open_log.take();
    let mut runs = Runs::default();
    for entry in mailbox.log.unsealed() {
        runs.add(entry.n.0, entry.last().0, entry);
    }
    let (sealed, open) = runs.finish();
    for (first, last, bytes) in sealed {
        let run = Sealed { first: Number(first), last: Number(last) };
        changes.puts.push((log_key(&owner, run), bytes));
        mailbox.log.sealed.push_back(run);
    }
    if let Some((first, _, bytes)) = open {
        changes.puts.push((run_key(&owner, b'l', first), bytes));
        stored.open_log = Some(Number(first));
    }
    drop_unless_put(before.map(|n| run_key(&owner, b'l', n.0)), changes);
}

/// Writes rows that are in no sealed run yet, and removes the runs that end before `first`, the oldest that is kept.
fn save_rows<'a, T: Serialize + 'a, R: Iterator<Item = &'a T>>(
    owner: &UserId,
    part: u8,
    kept: &mut Kept,
    first: u64,
    from: impl FnOnce(u64) -> R,
    changes: &mut Changes,
) {
    while let Some((gone, _)) = kept.sealed.pop_front_if(|(_, last)| *last < first) {
        changes.deletes.push(run_key(owner, part, gone));
    }
    let before = kept.open.take();
    let start = kept.sealed.back().map_or(0, |(_, last)| last + 1).max(first);
    let mut runs = Runs::default();
    for (at, row) in (start..).zip(from(start)) {
        runs.add(at, at, row);
    }
    let (sealed, open) = runs.finish();
    for (first, last, bytes) in sealed {
        changes.puts.push((run_key(owner, part, first), bytes));
        kept.sealed.push_back((first, last));
    }
    if let Some((first, _, bytes)) = open {
        changes.puts.push((run_key(owner, part, first), bytes));
        kept.open = Some(first);
    }
    drop_unless_put(before.map(|first| run_key(owner, part, first)), changes);
}

/// A run that was open is either written again under its key or gone.
fn drop_unless_put(before: Option<Vec<u8>>, changes: &mut Changes) {
    if let Some(key) = before
        && !changes.puts.iter().any(|(put, _)| *put == key)
    {
        changes.deletes.push(key);
    }
}

fn save_head(mailbox: &Mailbox, stored: &mut Stored, changes: &mut Changes) {
    let mut bytes = codec::encode(&head(mailbox, stored));
    let (waiting, cids) = (mailbox.waiting.clone(), stored.cids.clone());
    codec::append(&mut bytes, &Tail { waiting, first_cid: mailbox.cids.first(), cids });
    codec::append(&mut bytes, &groups(mailbox));
    codec::append(&mut bytes, &index(mailbox, stored.talks.clone()));
    codec::append(&mut bytes, &referred(mailbox));
    // What stands last: whom the owner blocks, what they have set and say of themselves.
    codec::append(&mut bytes, mailbox.people());
    let chunks = bytes.chunks(CHUNK_BYTES);
    let count = u16::try_from(chunks.len()).unwrap_or(u16::MAX);
    for (at, chunk) in (0..count).zip(chunks) {
        changes.puts.push((chunk_key(&mailbox.owner, at), chunk.to_vec()));
    }
    for at in count..stored.chunks {
        changes.deletes.push(chunk_key(&mailbox.owner, at));
    }
    stored.chunks = count;
}

fn groups(mailbox: &Mailbox) -> Groups {
    Groups { groups: mailbox.groups.clone(), group: mailbox.group.clone() }
}

fn index(mailbox: &Mailbox, rows: Kept) -> Index {
    let joined = mailbox.group.as_ref().map_or_else(BTreeMap::new, |group| group.joined().clone());
    Index { talks: mailbox.talks.head().clone(), rows, joined, erased: mailbox.erased }
}

fn referred(mailbox: &Mailbox) -> Referred {
    Referred { upto: mailbox.group.as_ref().map_or(Seq(0), |group| group.referred()) }
}

/// Bytes of what stands last in a head, and before that.
#[cfg(test)]
pub(super) fn last_bytes(mailbox: &Mailbox, stored: &Stored) -> [usize; 3] {
    let index = codec::encode(&index(mailbox, stored.talks.clone()));
    let people = codec::encode(mailbox.people());
    [people.len(), codec::encode(&referred(mailbox)).len(), index.len()]
}

fn head(mailbox: &Mailbox, stored: &Stored) -> Head {
    Head {
        epoch: mailbox.epoch,
        password: mailbox.password.clone(),
        devices: mailbox.devices.clone(),
        peers: mailbox.peers.clone(),
        delivered: mailbox.delivered,
        settled: mailbox.settled.clone(),
        arrived: mailbox.arrived.clone(),
        low: mailbox.log.low(),
        head: mailbox.log.head(),
        newest_at: mailbox.log.newest_at(),
        sealed: mailbox.log.sealed.clone(),
        open_log: stored.open_log,
        first_row: mailbox.ledger.first(),
        rows: stored.rows.clone(),
    }
}

/// A hash of what replicas must agree on (XXH3, 64 bit). Not of the bytes that wait, nor of conversations: a replica whose
/// checkpoint is from before they were counted counts from another moment than the others, and no outcome of a command
/// rests on them.
#[must_use]
pub fn digest(mailbox: &Mailbox) -> u64 {
    let mut head = head(mailbox, &Stored::default());
    head.sealed.clear();
    let mut bytes = codec::encode(&head);
    codec::append(&mut bytes, &groups(mailbox));
    codec::append(&mut bytes, &referred(mailbox));
    codec::append(&mut bytes, mailbox.people());
    mailbox.ledger.from(0).for_each(|row| codec::append(&mut bytes, row));
    mailbox.cids.from(0).for_each(|row| codec::append(&mut bytes, row));
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

/// Collects values into runs of about `RUN_BYTES`.
#[derive(Default)]
struct Runs {
    sealed: Vec<(u64, u64, Vec<u8>)>,
    open: Option<(u64, u64, Vec<u8>)>,
}

impl Runs {
    fn add<T: Serialize>(&mut self, first: u64, last: u64, value: &T) {
        let (_, newest, bytes) = self.open.get_or_insert_with(|| (first, last, Vec::new()));
        codec::append(bytes, value);
        *newest = last;
        if bytes.len() >= RUN_BYTES {
            self.sealed.extend(self.open.take());
        }
    }

    #[expect(clippy::type_complexity, reason = "sealed runs, and the open one")]
    fn finish(self) -> (Vec<(u64, u64, Vec<u8>)>, Option<(u64, u64, Vec<u8>)>) {
        (self.sealed, self.open)
    }
}

/// Lets go of what is in memory and on disk both, once a checkpoint with it is durable.
pub fn cool(mailbox: &mut Mailbox, sealed_to: Number) {
    mailbox.log.cool(sealed_to);
}

/// Up to where the log is in sealed runs.
#[must_use]
pub fn sealed_to(mailbox: &Mailbox) -> Number {
    mailbox.log.sealed.back().map_or(Number(0), |run| run.last)
}

/// For fuzzing: reads a key or a value of a checkpoint; answers whether it was any.
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    let Ok(owner) = UserId::parse("bob") else { return false };
    let run = entries(bytes).is_ok()
        || codec::decode_all::<Row>(bytes).is_ok()
        || codec::decode_all::<cids::Row>(bytes).is_ok()
        || codec::decode_all::<u32>(bytes).is_ok();
    let Ok(opening) = Opening::new(owner, &[bytes.to_vec()]) else {
        return run || head_of(bytes).is_some();
    };
    let values = vec![Vec::new(); opening.keys().len()];
    if let Ok((mut mailbox, mut stored)) = opening.finish(&values) {
        let _weight = mailbox.weight_of_memory() + mailbox.log().weight();
        let _changes = save(&mut mailbox, &mut stored);
    }
    true
}

/// For fuzzing: keys and values as they are written.
pub(crate) fn seeds() -> Vec<Pair> {
    let (Ok(bob), Ok(device)) = (UserId::parse("bob"), DeviceId::parse("phone")) else {
        return Vec::new();
    };
    let mut mailbox = Mailbox::new(bob.clone(), Epoch(7));
    let now = |n| Now {
        wall: Timestamp(n),
        cautious: Timestamp(n),
        policy: Policy::default(),
        large: LARGE_GROUP,
    };
    for n in 1..=9 {
        let now = now(n);
        let (Ok(cid), Ok(kind)) = (Cid::parse(&format!("c-{n}")), Kind::parse("text")) else {
            continue;
        };
        let content = Content { kind, body: "hello".into(), reply_to: None, client: None };
        let send = Send {
            from: bob.clone(),
            device: device.clone(),
            to: Conversation::User(bob.clone()),
            cid,
            content: content.into(),
        };
        let _accepted = mailbox.append(send, MessageId(n.into()), now, &mut Vec::new());
    }
    if let Ok(ann) = UserId::parse("ann") {
        let _blocked = mailbox.wants(people::Call::Block(ann), &mut Vec::new());
    }
    let mut puts = save(&mut mailbox, &mut Stored::default()).puts;
    if let Ok(club) = GroupId::parse("club") {
        let mut group = Mailbox::new(UserId::of_group(&club), Epoch(8));
        let call = Call::Create { title: "Club".into(), members: vec![bob.clone()] };
        let _made = group.call(&bob, &call, 4, now(1), &mut Vec::new());
        puts.extend(save(&mut group, &mut Stored::default()).puts);
    }
    puts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::reading::{Whole, read_head};
    use super::*;

    /// A head as it is written.
    fn head() -> (Head, Tail, Groups) {
        let (_, bytes) = seeds().into_iter().find(|(key, _)| head_of(key).is_some()).unwrap();
        let Whole { head, tail, groups, .. } = read_head(&bytes).unwrap();
        (head, tail, groups)
    }

    #[test]
    fn a_head_whose_numbers_cannot_be_is_refused() {
        let last = u64::MAX;
        let changes: [fn(&mut Head, &mut Tail, u64); 8] = [
            |head, _, last| head.low = Number(last),
            |head, _, last| head.head = Number(last),
            |head, _, last| head.first_row = last,
            |_, tail, last| tail.first_cid = last,
            |head, _, last| head.rows.sealed = [(1, last)].into(),
            |_, tail, last| tail.cids.sealed = [(last, 1)].into(),
            |_, tail, last| tail.cids.open = Some(last),
            |head, _, last| head.sealed = [Sealed { first: Number(1), last: Number(last) }].into(),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let (mut head, mut tail, groups) = head();
            change(&mut head, &mut tail, last);
            let bytes = codec::encode(&(head, tail, groups));
            let _any = fuzz(&bytes);
            let opening = Opening::new(UserId::parse("bob").unwrap(), &[bytes]);
            assert!(opening.is_err(), "change {at}");
        }
    }

    #[test]
    fn a_run_of_entries_with_a_gap_is_refused() {
        let owner = UserId::parse("bob").unwrap();
        let disk: BTreeMap<Vec<u8>, Vec<u8>> = seeds().into_iter().collect();
        let read = |without: &[usize]| {
            let opening = Opening::new(owner.clone(), &[disk[&chunk_key(&owner, 0)].clone()]);
            let opening = opening.unwrap();
            let mut values: Vec<_> = opening.keys().iter().map(|key| disk[key].clone()).collect();
            let run = values.last_mut().unwrap();
            let all = entries(run).unwrap().into_iter().enumerate();
            run.clear();
            let kept = all.filter(|(at, _)| !without.contains(at));
            kept.for_each(|(_, entry)| codec::append(run, &entry));
            opening.finish(&values).is_ok()
        };
        assert!(read(&[]));
        assert!(read(&[0]), "older ones are in another run");
        assert!(!read(&[3]) && !read(&[8]), "one of them, and the newest");
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_mailbox_panic(
            seed in prop::sample::select(seeds()),
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let (_, mut bytes) = seed;
            hits.iter().for_each(|(at, value)| *at.get_mut(&mut bytes) ^= value);
            let _any = fuzz(&bytes);
            let _cut = fuzz(&bytes[..cut.index(bytes.len())]);
        }
    }
}
