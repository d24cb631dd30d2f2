//! Packet: what nodes say to each other; links pack many of them into one frame.
//!
//! A *session* (one WebSocket, on its gateway) speaks with two kinds of *home*: that of its own user's mailbox,
//! and those of the mailboxes it writes to. The home of a mailbox is the node that leads its shard.

mod cards;
mod posts;
mod presence;
mod push;
mod questions;

pub use cards::{CardTurned, CardsWanted};
pub use posts::{Fetch, Fetched};
pub use presence::{Presence, Regard, Typing};
pub use push::Push;
pub use questions::{Answer, Question};

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{
    BootId, Cid, Conversation, DeviceId, GroupId, MessageId, NodeId, Number, Seq, SessionId,
    ShardId, Timestamp, UserId,
};
use crate::message::people::Shown;
use crate::message::{Accepted, Content, Entry, PLACES_MAX, Position, Refusal, Resume, Send, What};
use crate::mutant::{Mutant, is_planted};

/// One thing a node says to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Packet {
    /// Raft traffic of one shard, in our own encoding (`shard::wire`).
    Raft(ShardId, Bytes),
    /// A session to a home.
    Home(ToHome),
    /// A home to a session.
    Session(ToSession),
    /// The leader of one shard to the leader of another: envelopes `first`, `first + 1` ….
    Envelopes {
        /// The sending shard.
        from: ShardId,
        /// The receiving shard.
        to: ShardId,
        /// The number of the first one.
        first: u64,
        /// What they hold.
        envelopes: Vec<Envelope>,
    },
    /// The answer: all envelopes up to and including `upto` are applied.
    EnvelopesTaken {
        /// The shard that sent them.
        from: ShardId,
        /// The shard that applied them.
        to: ShardId,
        /// The newest applied.
        upto: u64,
    },
    /// A sign of life, each `link.probe`.
    Beat(Beat),
    /// A piece of a shard's checkpoint for a replica that fell behind, or how far its pieces got, in an encoding of its
    /// own (`shard::lane`).
    Snapshot(ShardId, Bytes),
    /// What a node says of births, its own and others', in an encoding of its own (`birth`).
    Birth(Bytes),
    /// Homes to many sessions of one node.
    Push(Push),
    /// Somebody is typing: for users whose homes are on this node.
    Typing(Box<Typing>),
    /// What was posted just now to a large group, for the homes of its members on this node. Each post is an entry of the
    /// group's own log.
    Posts(Vec<Entry>),
    /// A home asks a replica of a large group's shard for posts.
    Fetch(Box<Fetch>),
    /// The answer.
    Fetched(Box<Fetched>),
    /// A node wants to know what users whose homes are on this node are called.
    Cards(Box<CardsWanted>),
    /// What a user shows to another has changed.
    CardTurned(Box<CardTurned>),
}

/// A sign of life of a node, and what the others should know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Which start of the node this is.
    pub boot: BootId,
    /// The node's wall clock.
    pub wall: Timestamp,
    /// The shards it leads, with the terms it leads them in.
    pub leads: Vec<(ShardId, u64)>,
    /// Sessions connected to it.
    pub sessions: u32,
    /// The version of its software.
    pub version: Box<str>,
    /// Whether it is being drained: no leadership should go there.
    pub draining: bool,
    /// Its process.
    pub pid: u32,
    /// How the replicas of the shards it leads are, as of a second or so ago.
    pub health: Vec<ShardHealth>,
}

/// How the replicas of a shard are, as its leader sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardHealth {
    /// The shard.
    pub shard: ShardId,
    /// Its newest entry.
    pub last: u64,
    /// The nodes that keep it, and up to where their logs match the leader's.
    pub replicas: Vec<(NodeId, u64)>,
}

/// What one mailbox sends another, across shards; numbered per pair of shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The mailbox it is for.
    pub to: UserId,
    /// What it holds.
    pub what: Enclosed,
}

/// What an envelope holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Enclosed {
    /// The sender's own copy of a message that was accepted.
    Sent {
        /// The server's id.
        mid: MessageId,
        /// To whom.
        conv: Conversation,
        /// Its place.
        seq: Seq,
        /// When it was accepted.
        at: Timestamp,
        /// The sender's id for it.
        cid: Cid,
        /// The device that sent it.
        device: DeviceId,
        /// What was written.
        content: Arc<Content>,
    },
    /// How far messages have got at `by`.
    Receipt {
        /// Who has them.
        by: UserId,
        /// Delivered up to and including.
        delivered: Seq,
        /// Read up to and including.
        read: Seq,
    },
    /// A message to `to` was never fetched and is gone.
    Expired {
        /// Who never fetched it.
        by: UserId,
        /// The message.
        mid: MessageId,
        /// Its place.
        seq: Seq,
    },
    /// A group's next entry, for those of its members that are in one shard; `to` is the group it comes from. With
    /// `What::Referred` it stands for as many envelopes as posts, each with a number of its own.
    Spread {
        /// The members, in order.
        members: Arc<[UserId]>,
        /// A post or a change, or the place of posts.
        what: What,
        /// The sender's id for a post, if the sender is one of these members.
        cid: Option<Cid>,
    },
    /// How far a member's messages in a group have got at all others.
    Ticks {
        /// The group.
        group: GroupId,
        /// Delivered up to and including.
        delivered: Seq,
        /// Read up to and including.
        read: Seq,
    },
    /// To a group: a member wanted to be forgotten, and is to be one no longer.
    Left {
        /// Who.
        by: UserId,
    },
}

impl Envelope {
    /// As how many envelopes it counts: at least one.
    #[must_use]
    pub fn count(&self) -> u64 {
        match &self.what {
            Enclosed::Spread { what: What::Referred { count, .. }, .. }
                if !is_planted(Mutant::CountsPostsOnce) =>
            {
                u64::from(*count).max(1)
            }
            _ => 1,
        }
    }

    /// It without the first `known` envelopes for which it stands; none if that is all of it.
    #[must_use]
    pub fn without(mut self, known: u64) -> Option<Self> {
        if known >= self.count() {
            return None;
        }
        if let Enclosed::Spread { what: What::Referred { seq, count, .. }, .. } = &mut self.what {
            seq.0 = seq.0.saturating_add(known);
            *count -= u32::try_from(known).unwrap_or(0);
        }
        Some(self)
    }

    /// Joins what follows it, if both are about posts to one group for the same members, one behind the other; else gives
    /// it back.
    fn join(&mut self, next: Self) -> Option<Self> {
        if let (
            Enclosed::Spread { members, what: What::Referred { group, seq, count }, cid: None },
            Enclosed::Spread {
                members: others,
                what: What::Referred { group: other, seq: follows, count: more },
                cid: None,
            },
        ) = (&mut self.what, &next.what)
            && (Arc::ptr_eq(members, others) || *members == *others)
            && *group == *other
            && seq.0.checked_add(u64::from(*count)) == Some(follows.0)
            && let Some(all) = count.checked_add(*more).filter(|all| *all <= PLACES_MAX)
        {
            *count = all;
            return None;
        }
        Some(next)
    }

    /// The same envelopes, with posts that follow each other in one: far fewer when much is posted.
    #[must_use]
    pub fn joined(envelopes: Vec<Self>) -> Vec<Self> {
        let mut joined: Vec<Self> = Vec::new();
        for envelope in envelopes {
            let rest = match joined.last_mut() {
                Some(last) => last.join(envelope),
                None => Some(envelope),
            };
            joined.extend(rest);
        }
        joined
    }

    /// Whose mailboxes it changes.
    pub fn owners(&self) -> impl Iterator<Item = &UserId> {
        let (one, many): (_, &[UserId]) = match &self.what {
            Enclosed::Spread { members, .. } => (None, members),
            _ => (Some(&self.to), &[]),
        };
        one.into_iter().chain(many)
    }
}

/// A session to the home of a mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToHome {
    /// The mailbox's shard.
    pub shard: ShardId,
    /// The mailbox's owner.
    pub user: UserId,
    /// Who asks, and where the answer goes.
    pub session: SessionId,
    /// What is asked.
    pub ask: Ask,
}

/// What a session asks of a home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Own mailbox: from now on push what is in the log. Answered by `Attached`. A session that attaches
    /// replaces any other session of the same device.
    Attach {
        /// Counts this session's attachments from 1; every push repeats it, and pushes of older ones are dropped.
        life: u32,
        /// The device on this socket.
        device: DeviceId,
        /// Where to go on from.
        start: Start,
        /// The newest entry the client has acknowledged on this socket.
        acked: Number,
        /// When this socket authenticated first, so that of two the newest wins: (gateway clock, session count).
        since: Timestamp,
    },
    /// Own mailbox: the socket is gone.
    Detach {
        /// The attachment that ends.
        life: u32,
    },
    /// Own mailbox: the device has everything up to `n`.
    Acknowledge {
        /// The attachment it comes through.
        life: u32,
        /// The newest entry the device has.
        n: Number,
    },
    /// Own mailbox: the user has read `conv` up to and including `seq`.
    Read {
        /// The conversation.
        conv: Conversation,
        /// The newest message read.
        seq: Seq,
    },
    /// Own mailbox: repeat entries after `after`, at most `limit`. Answered by `Pulled`.
    Pull {
        /// The attachment it comes through.
        life: u32,
        /// Entries after this one.
        after: Number,
        /// At most this many.
        limit: u16,
    },
    /// Own mailbox: the client is alive (at most one each 30 s and session); keeps last seen true.
    Alive,
    /// The recipient's mailbox: store this. Answered by `Sent` or `Broken`.
    Send {
        /// Its place in the session's stream to this mailbox.
        place: Place,
        /// The message.
        send: Box<Send>,
    },
    /// Own mailbox: answered by `Answer`.
    Question {
        /// Comes back with the answer.
        request: u32,
        /// What is asked.
        question: Question,
    },
    /// About the owner's presence, or for it.
    Regard(Regard),
}

/// Where an attached session goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// The client did not say: from what its device acknowledged last.
    Device,
    /// The client has stored everything up to here; counts as an acknowledgement.
    Resume(Resume),
    /// The session itself goes on (after a failover): the client has been sent everything up to here.
    Continue(Resume),
}

/// A send's place in the stream from one session to one mailbox.
///
/// The home admits a stream only in order: `count` 1 opens it, then each next number. Anything else is answered by
/// `Broken`, and the session opens a new life of the stream and repeats its unanswered sends in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Life of the stream; a higher one replaces a lower one. 0: a single send outside any stream (HTTP).
    pub life: u32,
    /// 1, 2, 3 … within a life.
    pub count: u32,
}

/// The home of a mailbox to a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToSession {
    /// Whom it is for.
    pub session: SessionId,
    /// What is told.
    pub tell: Tell,
}

/// What a home tells a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tell {
    /// The attachment stands, or is refused for good.
    Attached {
        /// Which attachment.
        life: u32,
        /// Where delivery goes on from.
        position: Result<Position, Refusal>,
    },
    /// The next entries, in order and without gaps.
    Entries {
        /// Which attachment.
        life: u32,
        /// The entries.
        entries: Vec<Entry>,
        /// The newest entry of the log.
        head: Number,
    },
    /// What was waiting when the session attached has been pushed.
    CaughtUp {
        /// Which attachment.
        life: u32,
        /// The newest entry of the log.
        head: Number,
    },
    /// Entries asked for again by `Pull`.
    Pulled {
        /// Which attachment.
        life: u32,
        /// The entries still kept of those asked for.
        entries: Vec<Entry>,
    },
    /// What became of a send.
    Sent {
        /// Whose mailbox.
        to: UserId,
        /// Which send.
        place: Place,
        /// Accepted, or refused.
        result: Result<Accepted, Refusal>,
    },
    /// The stream to this mailbox is not known here, or a send was missing before this one: open a new life of it.
    Broken {
        /// Whose mailbox.
        to: UserId,
        /// Which life is broken.
        life: u32,
    },
    /// This node does not lead the shard: ask again when its leader is known.
    NotHome {
        /// The shard.
        shard: ShardId,
    },
    /// The attachment is over.
    Closed {
        /// Which attachment.
        life: u32,
        /// Why.
        why: Closed,
    },
    /// The answer to a question.
    Answer {
        /// Which question.
        request: u32,
        /// The answer.
        answer: Result<Answer, Refusal>,
    },
    /// Whether the user has other sessions: if so, each asks the home before it uses a `cid`.
    Company {
        /// Which attachment.
        life: u32,
        /// Whether there are others.
        others: bool,
    },
    /// The user uses a `cid` over HTTP.
    Used {
        /// The `cid`, in its short form.
        cid: u32,
    },
    /// Whether a watched user is there, or why that is not told.
    Presence(UserId, Result<Presence, Refusal>),
    /// Somebody is typing, or has stopped.
    Typing {
        /// The conversation, as the session's user names it.
        conv: Conversation,
        /// Who.
        from: UserId,
        /// Whether they still are.
        on: bool,
    },
    /// Whether the user shows themselves to nobody: then they are shown nobody. Until the first word of it they do not.
    Hides(bool),
    /// What some of the users are called of whom it was asked.
    Cards(Vec<(UserId, Shown)>),
}

/// Why an attachment ended for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Closed {
    /// A newer socket of the same device.
    Replaced,
    /// The device was removed.
    DeviceRemoved,
    /// The home lost track (a crash of an actor): attach again.
    Lost,
}
