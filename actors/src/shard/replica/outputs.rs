//! Outputs: what a replica wants its host to do, and what it must not go on without.

use raft::eraftpb::{ConfState, Entry, HardState, Message, Snapshot};

use super::Origin;
use crate::ids::UserId;
use crate::shard::raft_log::Place;
use crate::shard::state::{Happened, Outcome};

/// What the journal must hold before `persisted(ticket)`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Write {
    /// Comes back in `persisted`.
    pub ticket: u64,
    /// Term, vote and commit, when they must be kept.
    pub hard_state: Option<HardState>,
    /// Entries; they replace any with the same or a higher index.
    pub entries: Vec<Entry>,
    /// The log now starts here: a checkpoint was taken over.
    pub reset: Option<Place>,
    /// Who takes part from now on.
    pub conf_state: Option<ConfState>,
}

/// What the host must do.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Messages to other replicas.
    pub messages: Vec<Message>,
    /// Writes, in this order.
    pub writes: Vec<Write>,
    /// Outcomes of commands proposed here.
    pub outcomes: Vec<(Origin, Outcome)>,
    /// What applied commands did, in order; on every replica.
    pub happened: Vec<Happened>,
    /// Commands proposed here whose outcome will never be known here: leadership is gone.
    pub lost: Vec<Origin>,
    /// Mailboxes to read from disk before applying can go on.
    pub missing: Vec<(UserId, u16)>,
    /// A checkpoint that must be taken over: install its image, then call `installed`.
    pub install: Option<Snapshot>,
    /// Role, term or known leader changed.
    pub role_changed: bool,
}

impl Outputs {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.writes.is_empty()
            && self.outcomes.is_empty()
            && self.happened.is_empty()
            && self.lost.is_empty()
            && self.missing.is_empty()
            && self.install.is_none()
            && !self.role_changed
    }
}

impl Write {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self { ticket: self.ticket, ..Self::default() }
    }
}
