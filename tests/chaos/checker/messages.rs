//! Messages: what was sent and what became of it, in the order of sending, and the numbers that users go by.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The same for the same text in every run.
pub(super) fn hash(text: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Users by number, from 0 in the order in which they are named.
#[derive(Default)]
pub(super) struct Users {
    ids: HashMap<String, usize>,
    names: Vec<String>,
}

impl Users {
    pub(super) fn id(&mut self, name: &str) -> usize {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.names.len();
        self.ids.insert(name.to_owned(), id);
        self.names.push(name.to_owned());
        id
    }

    /// Of `u:<user>`. A group goes by its whole `g:<group>`; any other form is a user that nobody is.
    pub(super) fn conv(&mut self, conv: &str) -> usize {
        self.id(conv.strip_prefix("u:").unwrap_or(conv))
    }

    pub(super) fn name(&self, id: usize) -> &str {
        self.names.get(id).map_or("?", String::as_str)
    }

    /// No user has such a name.
    pub(super) fn is_group(&self, id: usize) -> bool {
        self.name(id).starts_with("g:")
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }
}

/// What the nodes call a message: the hash of its id, and its place in the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) mid: u64,
    pub(super) seq: u64,
}

impl Place {
    pub(super) fn of(mid: &str, seq: u64) -> Self {
        Self { mid: hash(mid), seq }
    }
}

/// A message that a client sent.
pub(super) struct Message {
    pub(super) cid: Box<str>,
    pub(super) from: usize,
    pub(super) to: usize,
    /// Whether it is to a group.
    pub(super) is_post: bool,
    /// Hash of the device it was sent from.
    pub(super) device: u64,
    /// Hash of what is written.
    pub(super) body: u64,
    pub(super) invoked_at: u64,
    /// When its first check mark came.
    pub(super) marked_at: Option<u64>,
    /// As the check mark says; without one, as the first event says.
    pub(super) place: Option<Place>,
    pub(super) refused: bool,
    /// Its number in the recipient's log; of a post, in that of whoever is looked at first.
    pub(super) received: Option<u64>,
    /// The number of its `sent` in the sender's log.
    pub(super) sent: Option<u64>,
}

impl Message {
    /// With hash of device, hash of body and time; `to` with whether it is a group.
    pub(super) fn new(
        from: usize,
        (to, is_post): (usize, bool),
        cid: Box<str>,
        (device, body, invoked_at): (u64, u64, u64),
    ) -> Self {
        Self {
            cid,
            from,
            to,
            is_post,
            device,
            body,
            invoked_at,
            marked_at: None,
            place: None,
            refused: false,
            received: None,
            sent: None,
        }
    }
}

/// All that was sent.
#[derive(Default)]
pub(super) struct Messages {
    /// In the order of sending.
    pub(super) all: Vec<Message>,
    by_cid: HashMap<(usize, u64), usize>,
    newest: HashMap<(usize, usize), u64>,
}

impl Messages {
    /// Takes a message in, or gives back its `cid` when the sender has used it before.
    pub(super) fn invoke(&mut self, message: Message) -> Option<Box<str>> {
        match self.by_cid.entry((message.from, hash(&*message.cid))) {
            Entry::Occupied(_) => Some(message.cid),
            Entry::Vacant(free) => {
                free.insert(self.all.len());
                self.all.push(message);
                None
            }
        }
    }

    /// Where a message is in the order of sending.
    pub(super) fn find(&self, from: usize, cid: u64) -> Option<usize> {
        self.by_cid.get(&(from, cid)).copied()
    }

    pub(super) fn get_mut(&mut self, from: usize, cid: u64) -> Option<&mut Message> {
        let index = self.find(from, cid)?;
        self.all.get_mut(index)
    }

    /// Some client was told of a message with this `seq`.
    pub(super) fn exists(&mut self, from: usize, to: usize, seq: u64) {
        let newest = self.newest.entry((from, to)).or_default();
        *newest = seq.max(*newest);
    }

    /// The highest `seq` that any client was told of.
    pub(super) fn newest(&self, from: usize, to: usize) -> u64 {
        self.newest.get(&(from, to)).copied().unwrap_or(0)
    }
}
