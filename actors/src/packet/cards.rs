//! Cards: how a node learns what many people are called: with one packet to each node where their homes are.

use serde::{Deserialize, Serialize};

use crate::ids::{SessionId, UserId};

/// A node wants the cards of users whose homes are where this arrives. Answered by `Tell::Cards`, in parts; of whom nothing
/// is told their homes are elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardsWanted {
    /// Where the answer goes.
    pub session: SessionId,
    /// Who will see them.
    pub by: UserId,
    /// Whose.
    pub users: Vec<UserId>,
}

/// Somebody has blocked another, or does so no more: what was shown to the other is to be asked for again. May be lost: it
/// is too old soon anyway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardTurned {
    /// Whose card.
    pub of: UserId,
    /// As seen by whom.
    pub by: UserId,
}
