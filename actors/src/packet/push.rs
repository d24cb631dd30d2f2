//! Push: the same entries for many sessions of one node, carried once.

use serde::{Deserialize, Serialize};

use super::{Packet, Tell, ToSession};
use crate::ids::{Number, SessionId};
use crate::message::Entry;

/// Sessions one push is for, at the most.
const SESSIONS_MAX: usize = 256;

/// Entries that many sessions are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// As the first session has them.
    entries: Vec<Entry>,
    to: Vec<To>,
}

/// One of the sessions, and what is different for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct To {
    session: SessionId,
    life: u32,
    /// The number of the first entry in its log.
    first: Number,
    head: Number,
}

impl Push {
    /// Adds what a session is to be told to the newest packet for its node if that carries the same; else gives it back.
    pub fn join(last: &mut Packet, new: ToSession) -> Option<ToSession> {
        let ToSession { session, tell: Tell::Entries { life, entries, head } } = &new else {
            return Some(new);
        };
        let Some(first) = entries.first() else { return Some(new) };
        let to = To { session: *session, life: *life, first: first.n, head: *head };
        match last {
            Packet::Push(push) if push.to.len() < SESSIONS_MAX && same(&push.entries, entries) => {
                push.to.push(to);
            }
            Packet::Session(ToSession {
                session,
                tell: Tell::Entries { life, entries: one, head },
            }) if same(one, entries) => {
                let first = one.first().map_or(first.n, |entry| entry.n);
                let before = To { session: *session, life: *life, first, head: *head };
                let entries = std::mem::take(one);
                *last = Packet::Push(Push { entries, to: vec![before, to] });
            }
            _ => return Some(new),
        }
        None
    }

    /// What each of the sessions is told.
    pub fn each(self) -> impl Iterator<Item = ToSession> {
        let Self { entries, to } = self;
        to.into_iter().map(move |To { session, life, first, head }| {
            let numbered = (first.0..).map(Number).zip(&entries);
            let entries = numbered.map(|(n, entry)| Entry { n, ..entry.clone() }).collect();
            ToSession { session, tell: Tell::Entries { life, entries, head } }
        })
    }
}

/// Whether these are the same entries of groups in two logs.
fn same(ours: &[Entry], theirs: &[Entry]) -> bool {
    let alike = |(a, b): (&Entry, &Entry)| a.at == b.at && a.what.is_shared_with(&b.what);
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(alike)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::{BootId, DeviceId, GroupId, Kind, MessageId, NodeId, Seq, Timestamp, UserId};
    use crate::message::{Content, What};

    fn post(seq: u64) -> What {
        let kind = Kind::parse("text").unwrap();
        let content = Content { kind, body: "hi".into(), reply_to: None, client: None };
        What::Post {
            group: GroupId::parse("club").unwrap(),
            mid: MessageId(seq.into()),
            from: UserId::parse("ann").unwrap(),
            device: DeviceId::parse("phone").unwrap(),
            seq: Seq(seq),
            at: Timestamp(5),
            content: Arc::new(content),
        }
    }

    fn told(count: u64, first: u64, posts: &[What]) -> ToSession {
        let session = SessionId { node: NodeId(1), boot: BootId(1), count };
        let numbered = (first..).map(Number).zip(posts);
        let entry = |(n, what): (Number, &What)| Entry { n, at: Timestamp(7), what: what.clone() };
        let entries = numbered.map(entry).collect();
        let tell = Tell::Entries { life: 3, entries, head: Number(first + 10) };
        ToSession { session, tell }
    }

    #[test]
    fn the_same_entries_are_carried_once_and_come_out_as_they_went_in() {
        let posts = [post(1), post(2)];
        let all: Vec<ToSession> = (1..=5).map(|count| told(count, 10 * count, &posts)).collect();
        let mut packet = Packet::Session(all[0].clone());
        for one in &all[1..] {
            assert_eq!(Push::join(&mut packet, one.clone()), None);
        }
        let Packet::Push(push) = packet.clone() else { panic!("one for all") };
        assert_eq!(push.each().collect::<Vec<_>>(), all);
        // Other posts, fewer of them, and what is none.
        for other in [told(6, 60, &[post(1), post(2)]), told(6, 60, &posts[..1]), told(6, 60, &[])]
        {
            assert_eq!(Push::join(&mut packet, other.clone()), Some(other));
        }
        let more = SESSIONS_MAX as u64 - 5;
        for count in 0..more {
            assert_eq!(Push::join(&mut packet, told(count, 1, &posts)), None);
        }
        assert!(Push::join(&mut packet, told(9, 1, &posts)).is_some(), "it has an end");
    }
}
