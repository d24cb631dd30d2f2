//! Command: what a shard's log holds, and what comes of applying it.

use serde::{Deserialize, Serialize};

use crate::group::Roster;
use crate::ids::{
    Conversation, DeviceId, Epoch, MessageId, Number, Seq, ShardId, Timestamp, UserId,
};
use crate::mailbox::rules::{Effect, Policy};
use crate::message::group::Call;
use crate::message::people;
use crate::message::{Accepted, Entry, Refusal, Send};
use crate::packet::{Enclosed, Envelope};

/// One entry of the shard's Raft log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The leader's wall clock.
    pub wall: Timestamp,
    /// What to do, in this order.
    pub commands: Vec<Command>,
}

/// Something all replicas do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Something about one mailbox.
    Mailbox(UserId, Change),
    /// Envelopes `first`, `first + 1` … from another shard.
    Receive {
        /// The shard that sent them.
        from: ShardId,
        /// The number of the first one.
        first: u64,
        /// What they hold.
        envelopes: Vec<Envelope>,
    },
    /// Another shard has applied all envelopes up to and including `upto`.
    Taken {
        /// The shard that applied them.
        by: ShardId,
        /// The newest applied.
        upto: u64,
    },
    /// From now on things are kept this long.
    Policy(Policy),
}

impl Command {
    /// Whether somebody waits for what becomes of it, so that it is worth an entry of its own. The others lose nothing
    /// by waiting a moment.
    #[must_use]
    pub const fn is_awaited(&self) -> bool {
        match self {
            Self::Mailbox(_, change) => {
                !matches!(change, Change::Acknowledge { .. } | Change::Read { .. } | Change::Expire)
            }
            Self::Receive { .. } | Self::Taken { .. } | Self::Policy(_) => false,
        }
    }

    /// Whether people wait for what comes of it, though nobody for its outcome: it may wait, but not for long.
    #[must_use]
    pub fn is_pressing(&self) -> bool {
        let spreads = |envelope: &Envelope| matches!(envelope.what, Enclosed::Spread { .. });
        matches!(self, Self::Receive { envelopes, .. } if envelopes.iter().any(spreads))
    }

    /// Bytes it takes, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        const FIXED: usize = 128;
        match self {
            Self::Mailbox(_, Change::Append { send, .. }) => FIXED + send.content.weight(),
            Self::Mailbox(_, Change::People(call)) => FIXED + call.weight(),
            Self::Receive { envelopes, .. } => {
                envelopes.iter().map(super::outbox::weight).sum::<usize>() + FIXED
            }
            _ => FIXED,
        }
    }
}

/// A change of one mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Store a message.
    Append {
        /// The id it gets unless it was stored before.
        mid: MessageId,
        /// The message.
        send: Box<Send>,
    },
    /// Make the account, with this password hash.
    Register {
        /// The epoch the mailbox gets.
        epoch: Epoch,
        /// PHC string.
        password: Box<str>,
    },
    /// A device connects: make it (and the mailbox) known.
    Connect {
        /// The device.
        device: DeviceId,
        /// The epoch the mailbox gets if it is new.
        epoch: Epoch,
    },
    /// A device has everything up to `n`, and was heard just now.
    Acknowledge {
        /// The device.
        device: DeviceId,
        /// The newest entry it has.
        n: Number,
    },
    /// A conversation was read.
    Read {
        /// The conversation.
        conv: Conversation,
        /// Up to and including.
        seq: Seq,
    },
    /// Forget a device.
    RemoveDevice(DeviceId),
    /// Let time pass.
    Expire,
    /// Of a group: what a user asks of it.
    Group {
        /// Who.
        by: UserId,
        /// What.
        call: Box<Call>,
        /// The epoch of its mailbox, should it be made.
        epoch: Epoch,
    },
    /// Make the mailbox of a user whom another issuer let in, unless there is one.
    Open {
        /// The epoch the mailbox gets if it is new.
        epoch: Epoch,
    },
    /// Put one password hash in the place of another, which must be the one that is there.
    Password {
        /// The PHC string that was verified.
        old: Box<str>,
        /// The PHC string from now on.
        new: Box<str>,
    },
    /// Forget the owner.
    Erase,
    /// What the owner wants for themselves.
    People(people::Call),
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A message was stored, now or before.
    Accepted(Accepted),
    /// It is done.
    Done,
    /// It was refused.
    Refused(Refusal),
}

/// What a command did besides changing the state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are of the large one")]
pub enum Happened {
    /// Something about one mailbox.
    Mailbox(UserId, Effect),
    /// Envelopes of another shard are applied up to here: tell its leader.
    Received(ShardId, u64),
    /// There are envelopes for this shard.
    Enclosed(ShardId),
    /// A post to a large group, whose members' mailboxes only refer to it: their homes will need it.
    Posted(Roster, Box<Entry>),
}
