//! Hearing: what a replica makes of a message from another; `wire` has refused what no replica says.

use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType};

use super::{Outputs, Pace, Place, RaftLog, Replica};
use crate::ids::{ReplicaId, ShardId, Timestamp};
use crate::shard::state::State;

impl Replica {
    /// A message from another replica.
    pub fn step(&mut self, message: Message) {
        if self.installing || message.to != self.raft.raft.id {
            return;
        }
        // Whoever applies nothing could serve nobody: the one who would hand the leadership over goes on.
        if self.lacks_state && message.get_msg_type() == MessageType::MsgTimeoutNow {
            return;
        }
        if let Err(error) = self.raft.step(message) {
            tracing::debug!(shard = %self.shard(), %error, "raft message refused");
        }
    }
}

/// For fuzzing: lets a follower and a leader hear a message, whatever is in it but what stops a replica by design: an entry
/// that is committed and cannot be read, and a commit index behind the end of a log, which a leader has only from a
/// replica that had more and lost it.
pub(crate) fn fuzz(message: &Message) {
    let mut message = message.clone();
    message.to = 1;
    message.from = 2 + message.from % 2;
    if message.get_msg_type() == MessageType::MsgHeartbeat {
        message.commit = message.commit.min(LAST);
    }
    for entry in &mut message.entries {
        entry.set_entry_type(EntryType::EntryNormal);
        entry.data.clear();
    }
    let (mut follower, mut leader) = (example(), example());
    follower.step(message.clone());
    settle(&mut follower);
    elect(&mut leader);
    leader.step(message);
    settle(&mut leader);
}

/// The newest entry of the example.
const LAST: u64 = 9;

/// One of three replicas, with a log from entry 6 on, of which 7 are committed.
fn example() -> Replica {
    let hard_state = HardState { term: 3, vote: 2, commit: 7, ..HardState::default() };
    let members = ConfState::from((vec![1, 2, 3], Vec::new()));
    let entries = (6..=LAST).map(|index| Entry { index, term: 3, ..Entry::default() }).collect();
    let log = RaftLog::restore(hard_state, members, Place { index: 5, term: 2 }, entries);
    let mut state = State::new(ShardId(0), 1);
    state.skip(5, 2);
    Replica::new(ReplicaId(1), log, state, Pace::default())
}

fn elect(replica: &mut Replica) {
    for _ in 0..2 * Pace::default().election_ticks {
        replica.tick();
    }
    settle(replica);
    for kind in [MessageType::MsgRequestPreVoteResponse, MessageType::MsgRequestVoteResponse] {
        let mut vote = Message { to: 1, from: 2, term: 4, ..Message::default() };
        vote.set_msg_type(kind);
        replica.step(vote);
        settle(replica);
    }
    let mut taken = Message { to: 1, from: 2, term: 4, index: LAST + 1, ..Message::default() };
    taken.set_msg_type(MessageType::MsgAppendResponse);
    replica.step(taken);
    settle(replica);
}

/// Carries out what a replica wants, as its host would.
fn settle(replica: &mut Replica) {
    for _ in 0..4 {
        let mut out = Outputs::default();
        replica.advance(Timestamp(0), &mut out);
        for write in std::mem::take(&mut out.writes) {
            replica.persisted(write.ticket, &mut out);
        }
        replica.tick();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::shard::wire;

    /// What another replica says, if it can be said on the wire.
    fn heard(message: &Message) {
        if let Ok(message) = wire::decode(&wire::encode(message)) {
            fuzz(&message);
        }
    }

    fn said(kind: MessageType, index: u64, log_term: u64, commit: u64) -> Message {
        let mut message =
            Message { to: 1, from: 2, term: 4, index, log_term, commit, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    fn with_entries(mut message: Message, entries: &[(u64, u64)]) -> Message {
        let entry =
            |(index, term): &(u64, u64)| Entry { index: *index, term: *term, ..Entry::default() };
        message.entries = entries.iter().map(entry).collect::<Vec<_>>().into();
        message
    }

    fn with_image(mut message: Message, index: u64, voters: &[u64]) -> Message {
        let metadata = message.mut_snapshot().mut_metadata();
        (metadata.index, metadata.term) = (index, 4);
        metadata.set_conf_state(ConfState::from((voters.to_vec(), vec![])));
        message
    }

    #[test]
    fn the_example_leads_when_it_is_elected() {
        let mut leader = example();
        elect(&mut leader);
        assert!(leader.role().serves);
    }

    #[test]
    fn entries_with_a_gap_before_or_between_them_are_refused() {
        heard(&with_entries(said(MessageType::MsgAppend, LAST, 3, LAST), &[(12, 4)]));
        heard(&with_entries(said(MessageType::MsgAppend, LAST, 3, LAST), &[(10, 4), (12, 4)]));
        heard(&with_entries(said(MessageType::MsgAppend, LAST, 3, LAST), &[(1, 4)]));
    }

    #[test]
    fn entries_that_follow_none_are_refused() {
        heard(&with_entries(said(MessageType::MsgAppend, LAST + 1, 0, LAST), &[(LAST + 2, 4)]));
    }

    #[test]
    fn numbers_at_the_end_of_all_numbers_are_refused() {
        heard(&Message { term: u64::MAX, ..said(MessageType::MsgTimeoutNow, 0, 0, 0) });
        let answer = said(MessageType::MsgAppendResponse, 9, 0, 9);
        heard(&Message { reject: true, reject_hint: u64::MAX, ..answer });
    }

    #[test]
    fn questions_that_nobody_asks_are_refused() {
        heard(&said(MessageType::MsgReadIndex, 0, 0, 0));
    }

    #[test]
    fn a_checkpoint_with_impossible_members_is_refused() {
        heard(&with_image(said(MessageType::MsgSnapshot, 0, 0, 0), 12, &[1, 1, 2]));
        let mut message = with_image(said(MessageType::MsgSnapshot, 0, 0, 0), 12, &[1, 2]);
        message.mut_snapshot().mut_metadata().mut_conf_state().learners = vec![1];
        heard(&message);
    }

    const KINDS: &[MessageType] = &[
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgSnapshot,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgTransferLeader,
        MessageType::MsgTimeoutNow,
        MessageType::MsgReadIndex,
        MessageType::MsgReadIndexResp,
        MessageType::MsgRequestPreVote,
        MessageType::MsgRequestPreVoteResponse,
    ];

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![6 => 0_u64..14, 1 => Just(u64::MAX), 1 => any::<u64>()]
    }

    fn message() -> impl Strategy<Value = Message> {
        let entries = prop::collection::vec((number(), number()), 0..4);
        let follow = (any::<bool>(), 0_u64..5);
        let heads = (prop::sample::select(KINDS), number(), number(), number(), number());
        let hints = (any::<bool>(), number(), number(), prop::collection::vec(0_u64..5, 0..4));
        (heads, hints, entries, follow).prop_map(|(head, hint, mut entries, (follows, by))| {
            let (kind, term, index, log_term, commit) = head;
            let (reject, reject_hint, request_snapshot, voters) = hint;
            if follows {
                let after = (1..).map(|n| (index.saturating_add(n), term));
                entries = after.take(usize::try_from(by).unwrap()).collect();
            }
            let said = Message {
                term,
                reject,
                reject_hint,
                request_snapshot,
                context: Bytes::from_static(b"?"),
                ..said(kind, index, log_term, commit)
            };
            let said = with_entries(said, &entries);
            if voters.is_empty() { said } else { with_image(said, index, &voters) }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn no_message_of_another_replica_ends_this_one(message in message()) {
            heard(&message);
        }
    }
}
