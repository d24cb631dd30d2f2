//! Wire: Raft's messages in our own encoding, so that its protobuf never sees bytes from the network.
//!
//! (RUSTSEC-2024-0437: protobuf 2 recurses without bound on hostile input.) The bytes travel inside a packet, whose
//! frame carries version and checksum; a format of this type is never edited, only succeeded.

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};
use serde::{Deserialize, Serialize};

use crate::codec::{self, BadBytes};

#[derive(Serialize, Deserialize)]
struct WireEntry {
    kind: u8,
    term: u64,
    index: u64,
    data: Bytes,
    context: Bytes,
}

#[derive(Serialize, Deserialize)]
struct WireSnapshot {
    index: u64,
    term: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
    voters_outgoing: Vec<u64>,
    learners_next: Vec<u64>,
    auto_leave: bool,
}

#[derive(Serialize, Deserialize)]
struct WireMessage {
    kind: u8,
    to: u64,
    from: u64,
    term: u64,
    log_term: u64,
    index: u64,
    entries: Vec<WireEntry>,
    commit: u64,
    commit_term: u64,
    snapshot: Option<WireSnapshot>,
    request_snapshot: u64,
    reject: bool,
    reject_hint: u64,
    context: Bytes,
    priority: i64,
}

/// Kinds in the order of Raft's own numbers.
const KINDS: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

fn local(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgHup
            | MessageType::MsgBeat
            // Commands come as asks; the library would read the changes of members in here with its own decoder.
            | MessageType::MsgPropose
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
            // Reads are answered by the home; the library takes it for granted that one of these says what is asked.
            | MessageType::MsgReadIndex
            | MessageType::MsgReadIndexResp
    )
}

/// No term and no index gets this far, so that nothing the library adds to them overflows.
const NUMBER_END: u64 = 1 << 60;
/// Members of a shard at the most: far more than any cluster has nodes.
const MEMBERS_MAX: usize = 1_000;

/// Encodes a message.
#[must_use]
pub fn encode(message: &Message) -> Bytes {
    let snapshot = message.snapshot.as_ref().map(|snapshot| {
        let metadata = snapshot.get_metadata();
        let conf = metadata.get_conf_state();
        WireSnapshot {
            index: metadata.index,
            term: metadata.term,
            voters: conf.voters.clone(),
            learners: conf.learners.clone(),
            voters_outgoing: conf.voters_outgoing.clone(),
            learners_next: conf.learners_next.clone(),
            auto_leave: conf.auto_leave,
        }
    });
    let entry = |entry: &Entry| WireEntry {
        kind: entry.entry_type as u8,
        term: entry.term,
        index: entry.index,
        data: entry.data.clone(),
        context: entry.context.clone(),
    };
    codec::encode(&WireMessage {
        kind: message.msg_type as u8,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.entries.iter().map(entry).collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot,
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context.clone(),
        priority: message.priority,
    })
    .into()
}

/// Decodes a message; refuses kinds that only ever stay within a node, and what no replica says: the library takes a
/// message for its own and ends the process over it.
pub fn decode(bytes: &[u8]) -> Result<Message, BadBytes> {
    let wire: WireMessage = codec::decode(bytes)?;
    let kind = KINDS.get(usize::from(wire.kind)).copied().filter(|kind| !local(*kind));
    let mut message = Message::default();
    message.set_msg_type(kind.ok_or(BadBytes::Malformed)?);
    message.to = wire.to;
    message.from = wire.from;
    message.term = wire.term;
    message.log_term = wire.log_term;
    message.index = wire.index;
    for entry in wire.entries {
        message.entries.push(decode_entry(entry)?);
    }
    message.commit = wire.commit;
    message.commit_term = wire.commit_term;
    if let Some(snapshot) = wire.snapshot {
        message.set_snapshot(decode_snapshot(snapshot));
    }
    message.request_snapshot = wire.request_snapshot;
    message.reject = wire.reject;
    message.reject_hint = wire.reject_hint;
    message.context = wire.context;
    message.priority = wire.priority;
    if is_sound(&message) { Ok(message) } else { Err(BadBytes::Malformed) }
}

fn is_sound(message: &Message) -> bool {
    let numbers = [message.log_term, message.index, message.commit, message.commit_term];
    let hints = [message.request_snapshot, message.reject_hint];
    let mut before = (message.index, message.log_term);
    let follows = |entry: &Entry| {
        let (index, term) = std::mem::replace(&mut before, (entry.index, entry.term));
        entry.index == index + 1 && (term..=message.term).contains(&entry.term)
    };
    // The library takes whatever is behind the end of its log for an entry of term 0.
    let begins = message.index == 0 || message.log_term > 0;
    let begins = begins || message.get_msg_type() != MessageType::MsgAppend;
    // Term 0 is the library's mark of what a node says to itself.
    (1..NUMBER_END).contains(&message.term)
        && numbers.iter().chain(&hints).all(|number| *number < NUMBER_END)
        && begins
        && message.entries.iter().all(follows)
        && message.snapshot.as_ref().is_none_or(is_sound_image)
}

/// Whether a checkpoint is somewhere in a log, and its members are some that our changes, one at a time, lead to.
fn is_sound_image(snapshot: &Snapshot) -> bool {
    let metadata = snapshot.get_metadata();
    let conf = metadata.get_conf_state();
    let mut members = [&conf.voters[..], &conf.learners].concat();
    members.sort_unstable();
    let alone = members.is_sorted_by(|a, b| a < b) && members.first() != Some(&0);
    let single = conf.voters_outgoing.is_empty() && conf.learners_next.is_empty();
    [metadata.index, metadata.term].iter().all(|number| (1..NUMBER_END).contains(number))
        && !conf.voters.is_empty()
        && members.len() <= MEMBERS_MAX
        && alone
        && single
        && !conf.auto_leave
}

fn decode_entry(wire: WireEntry) -> Result<Entry, BadBytes> {
    let mut entry = Entry::default();
    entry.set_entry_type(match wire.kind {
        0 => EntryType::EntryNormal,
        1 => EntryType::EntryConfChange,
        2 => EntryType::EntryConfChangeV2,
        _ => return Err(BadBytes::Malformed),
    });
    entry.term = wire.term;
    entry.index = wire.index;
    entry.data = wire.data;
    entry.context = wire.context;
    Ok(entry)
}

fn decode_snapshot(wire: WireSnapshot) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = wire.index;
    metadata.term = wire.term;
    metadata.set_conf_state(ConfState {
        voters: wire.voters,
        learners: wire.learners,
        voters_outgoing: wire.voters_outgoing,
        learners_next: wire.learners_next,
        auto_leave: wire.auto_leave,
        ..ConfState::default()
    });
    snapshot
}

/// For fuzzing: reads a message and what is in it, and lets replicas hear it; answers whether it was one.
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    let Ok(message) = decode(bytes) else { return false };
    for entry in &message.entries {
        let _any = super::state::fuzz(&entry.data) || super::replica::members::fuzz(&entry.context);
    }
    super::replica::hearing::fuzz(&message);
    true
}

/// For fuzzing: messages as they are sent.
pub(crate) fn seeds() -> Vec<Bytes> {
    let batch = super::state::Batch { wall: crate::ids::Timestamp(1), commands: Vec::new() };
    let mut append = Message { to: 1, from: 2, term: 4, log_term: 3, ..Message::default() };
    append.set_msg_type(MessageType::MsgAppend);
    (append.index, append.commit) = (9, 10);
    for index in 10..12 {
        let data = codec::encode(&batch).into();
        append.entries.push(Entry { term: 4, index, data, ..Entry::default() });
    }
    let mut beat = Message { to: 1, from: 2, term: 4, commit: 9, ..Message::default() };
    beat.set_msg_type(MessageType::MsgHeartbeat);
    let mut vote = Message { to: 1, from: 3, term: 5, log_term: 3, index: 9, ..Message::default() };
    vote.set_msg_type(MessageType::MsgRequestVote);
    [append, beat, vote].iter().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    #[test]
    fn a_message_comes_back_as_it_was() {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        (message.to, message.from, message.term) = (2, 1, 7);
        (message.index, message.log_term) = (41, 6);
        let mut entry = Entry::default();
        (entry.term, entry.index, entry.data) = (7, 42, Bytes::from_static(b"hello"));
        message.entries.push(entry);
        assert_eq!(decode(&encode(&message)), Ok(message.clone()));
        message.set_msg_type(MessageType::MsgHup);
        assert_eq!(decode(&encode(&message)), Err(BadBytes::Malformed));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _refused_or_not = decode(&bytes);
        }
    }
}
