//! Options: who connects, to which nodes, and how.

use std::sync::Arc;

use super::dial::Credential;
use super::frames::Format;
use super::rules::Acks;
use super::said::Resume;

/// A frame or a change of the connection, as seen by an observer.
#[derive(Debug, Clone, Copy)]
pub enum Seen<'a> {
    /// A socket to this address is open.
    Opened(&'a str),
    /// These bytes were written.
    Out(&'a [u8]),
    /// These bytes were read.
    In(&'a [u8]),
    /// The socket has ended.
    Ended,
}

/// Sees everything that passes, in order.
pub type Observer = Arc<dyn Fn(Seen<'_>) + Send + Sync>;
/// Remembers a position before it is acknowledged.
pub type Keeper = Arc<dyn Fn(&Resume) + Send + Sync>;

/// How to connect.
#[derive(Clone)]
pub struct Options {
    /// The nodes, `http://host:port`; the next one is tried when one fails.
    pub urls: Vec<String>,
    /// Who.
    pub user: String,
    /// What proves it.
    pub credential: Credential,
    /// On which device.
    pub device: String,
    /// How frames are written.
    pub format: Format,
    /// Where an earlier client left off.
    pub resume: Option<Resume>,
    /// When entries are acknowledged.
    pub acks: Acks,
    /// Sends in flight per conversation.
    pub window: usize,
    /// Unanswered messages kept; more are refused.
    pub outbox_max: usize,
    /// Events the application may leave unread before ephemeral ones are dropped.
    pub events_max: usize,
    /// Sees every frame.
    pub observer: Option<Observer>,
    /// Remembers positions.
    pub keeper: Option<Keeper>,
}

impl Options {
    /// The usual choices for a user with a credential.
    #[must_use]
    pub fn new(urls: &[String], user: &str, credential: Credential) -> Self {
        Self {
            urls: urls.to_vec(),
            user: user.to_owned(),
            credential,
            device: "main".to_owned(),
            format: Format::Json,
            resume: None,
            acks: Acks::Taken,
            window: 32,
            outbox_max: 10_000,
            events_max: 1_024,
            observer: None,
            keeper: None,
        }
    }
}
