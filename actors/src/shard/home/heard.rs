//! Heard: which ids users here use in messages of which the mailboxes do not know yet.
//!
//! The sender's own copy of a message counts from the moment it comes, not only when a majority here has it. Before that
//! there is the word of whoever is going to send it and has asked: HTTP does so, and each session that is not the user's
//! only one. Until it is known what became of the message, the id is neither free nor taken. All this is memory of the
//! leader: a new one calls nothing free until the copies under way have been sent to it again.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::ids::{Conversation, SessionId, ShardId, UserId};
use crate::message::{CidUse, What};
use crate::packet::{Enclosed, Envelope};

/// Ids of copies that came in one parcel.
struct Parcel {
    /// The number of its last envelope.
    last: u64,
    ids: Vec<(UserId, CidUse)>,
}

/// A word counts for this long, and at most twice as long: far longer than a copy needs to come.
const WORD_COUNTS: Duration = Duration::from_millis(500);

/// A new leader has the copies that are under way after so long, as a rule: they are sent again once it is known.
const COPIES_COME: Duration = Duration::from_millis(300);

/// Who is about to use an id, and for what.
type Words = BTreeMap<(UserId, u64), (SessionId, CidUse)>;

/// What is known of ids before the mailboxes know.
#[derive(Default)]
pub(super) struct Heard {
    /// What came from each shard and is not applied; bounded by what shards have under way.
    copies: BTreeMap<ShardId, VecDeque<Parcel>>,
    words: Words,
    /// Those that are about to be forgotten.
    old_words: Words,
    forget_due: Duration,
    /// When the leader is no longer new; none before the first tick.
    complete_at: Option<Duration>,
    complete: bool,
}

impl Heard {
    /// Envelopes came, `first` and those after it.
    pub(super) fn arrived(&mut self, from: ShardId, first: u64, envelopes: &[Envelope]) {
        let copy = |Envelope { to, what }: &Envelope| match what {
            Enclosed::Sent { conv, cid, content, .. } => {
                Some((to.clone(), CidUse::new(cid, conv, content)))
            }
            Enclosed::Spread {
                what: What::Post { group, from, content, .. },
                cid: Some(cid),
                ..
            } => {
                let conv = Conversation::Group(group.clone());
                Some((from.clone(), CidUse::new(cid, &conv, content)))
            }
            _ => None,
        };
        let ids = envelopes.iter().filter_map(copy).collect();
        let parcels = self.copies.entry(from).or_default();
        parcels.retain(|parcel| parcel.last < first);
        let count: u64 = envelopes.iter().map(Envelope::count).sum();
        parcels.push_back(Parcel { last: first + count - 1, ids });
    }

    /// Envelopes up to `upto` are applied: the mailboxes know of them.
    pub(super) fn applied(&mut self, from: ShardId, upto: u64) {
        if let Some(parcels) = self.copies.get_mut(&from) {
            while parcels.pop_front_if(|parcel| parcel.last <= upto).is_some() {}
        }
    }

    /// A session, or HTTP, is about to use an id, unless another said so first.
    pub(super) fn word(&mut self, user: UserId, session: SessionId, cid: CidUse) {
        self.words.entry((user, cid.cid)).or_insert((session, cid));
    }

    /// Whether it is not known yet if the id is in use: another session is about to use it for another message, or the
    /// leader is new.
    pub(super) fn is_open(&self, user: &UserId, session: SessionId, cid: CidUse) -> bool {
        let key = (user.clone(), cid.cid);
        let mut words = [&self.words, &self.old_words].into_iter().filter_map(|all| all.get(&key));
        !self.complete || words.any(|(by, word)| *by != session && word.clashes(cid))
    }

    /// Time passes.
    pub(super) fn tick(&mut self, now: Duration) {
        self.complete = now >= *self.complete_at.get_or_insert(now + COPIES_COME);
        if now >= self.forget_due {
            self.forget_due = now + WORD_COUNTS;
            self.old_words = std::mem::take(&mut self.words);
        }
    }

    /// What a user's ids are used for.
    pub(super) fn of(&self, user: &UserId) -> impl Iterator<Item = CidUse> {
        let ids = self.copies.values().flatten().flat_map(|parcel| &parcel.ids);
        ids.filter(move |(of, _)| of == user).map(|(_, used)| *used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BootId, Cid, DeviceId, Kind, MessageId, NodeId, Seq, Timestamp};
    use crate::message::Content;

    const FROM: ShardId = ShardId(3);

    fn session(count: u64) -> SessionId {
        SessionId { node: NodeId(1), boot: BootId(1), count }
    }

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    /// A copy for `alice` of a message with the id `cid`.
    fn copy(cid: &str, to: &str) -> (Envelope, CidUse) {
        let (cid, conv) = (Cid::parse(cid).unwrap(), Conversation::User(user(to)));
        let kind = Kind::parse("text").unwrap();
        let content = Content { kind, body: "".into(), reply_to: None, client: None };
        let used = CidUse::new(&cid, &conv, &content);
        let what = Enclosed::Sent {
            mid: MessageId(1),
            conv,
            seq: Seq(1),
            at: Timestamp(1),
            cid,
            device: DeviceId::parse("phone").unwrap(),
            content: std::sync::Arc::new(content),
        };
        (Envelope { to: user("alice"), what }, used)
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_copy_counts_from_its_coming_until_it_is_applied() {
        let mut heard = Heard::default();
        let (envelope, used) = copy("c", "bob");
        heard.arrived(FROM, 7, std::slice::from_ref(&envelope));
        heard.arrived(FROM, 7, &[envelope, copy("d", "bob").0]);
        assert_eq!(heard.of(&user("alice")).count(), 2, "what comes again counts once");
        assert_eq!(heard.of(&user("bob")).count(), 0);
        heard.applied(FROM, 7);
        assert!(heard.of(&user("alice")).any(|id| id == used), "they came together");
        heard.applied(FROM, 8);
        assert_eq!(heard.of(&user("alice")).count(), 0);
    }

    #[test]
    fn a_word_leaves_an_id_open_for_others_and_other_messages_for_a_while() {
        let (alice, [one, other]) = (user("alice"), [copy("c", "bob").1, copy("c", "carol").1]);
        let mut heard = Heard::default();
        assert!(heard.is_open(&alice, session(1), one), "a new leader calls nothing free");
        heard.tick(at(1_000));
        heard.tick(at(1_299));
        assert!(heard.is_open(&alice, session(1), one));
        heard.tick(at(1_500));
        assert!(!heard.is_open(&alice, session(1), one));
        heard.word(alice.clone(), session(1), one);
        heard.tick(at(1_501));
        assert!(heard.is_open(&alice, session(2), other));
        assert!(!heard.is_open(&alice, session(2), one), "the same message again");
        assert!(!heard.is_open(&alice, session(1), other), "whoever said so knows better");
        assert!(!heard.is_open(&user("bob"), session(2), other));
        heard.tick(at(2_000));
        assert!(heard.is_open(&alice, session(2), other));
        heard.tick(at(2_500));
        assert!(!heard.is_open(&alice, session(2), other), "forgotten");
    }
}
