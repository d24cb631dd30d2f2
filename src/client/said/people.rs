//! People: what a user says of themselves, and to whom they show when they were there (PROTOCOL.md, People).

use serde::{Deserialize, Serialize};

/// Who may see whether a user is there, and when they last were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LastSeen {
    /// Whoever asks.
    Everyone,
    /// To whom the user has ever written, one to one.
    Contacts,
    /// Nobody, and the user sees nobody; so is read what a later version may add.
    #[serde(other)]
    Nobody,
}

/// What a user says of themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// What to call them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A word about them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// An opaque reference to a picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar: Option<String>,
}
