//! Cids: which ids a session knows its user to use, and the sends that wait until the user's own mailbox has said more.
//!
//! The first send of a session asks which ids are in use, and the session learns of each later one as it is logged. So
//! nearly every send goes out at once; one whose id may stand for another message is asked about first.

use std::collections::VecDeque;
use std::time::Duration;

use super::RequestRef;
use crate::message::{CidUse, Send};
use crate::packet::Question;

/// More than these (64 KiB) are not kept; each send is asked about then.
const KNOWN_MAX: usize = 16_384;
/// Numbers of a session's own questions have this bit, those of its client have not.
const OWN: u32 = 1 << 31;

#[derive(Debug, Default)]
pub(super) struct Cids {
    /// What the newest were used for on this socket, newest last.
    recent: VecDeque<CidUse>,
    known: Known,
    /// Sends that wait for the mailbox's word, oldest first.
    waiting: VecDeque<Asking>,
    asked: Option<Asked>,
    questions: u32,
}

/// Short forms of the ids in use.
#[derive(Debug, Default)]
enum Known {
    /// Not yet told.
    #[default]
    Nothing,
    /// All there are, and some more, sorted.
    All(Vec<u32>),
    /// Too many to keep.
    TooMany,
}

/// A send that waits for the mailbox's word on its id.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) request: RequestRef,
    pub(super) send: Box<Send>,
    pub(super) since: Duration,
    pub(super) cid: CidUse,
}

#[derive(Debug)]
struct Asked {
    request: u32,
    /// How many of those that wait it is about, from the oldest on.
    of: usize,
    at: Duration,
}

/// Whether an answer is to a session's own question.
pub(super) const fn is_own(request: u32) -> bool {
    request & OWN != 0
}

impl Cids {
    /// Whether the id was used for something else on this socket, as far as it remembers.
    pub(super) fn clashes(&self, cid: CidUse) -> bool {
        self.recent.iter().any(|known| known.clashes(cid))
    }

    /// Whether the id may stand for another message, for all that is known; `all_told` says that no id is in use of
    /// which this session has not heard.
    pub(super) fn is_doubtful(&self, cid: CidUse, all_told: bool) -> bool {
        match &self.known {
            Known::All(known) => !all_told || known.binary_search(&cid.short()).is_ok(),
            Known::Nothing | Known::TooMany => true,
        }
    }

    /// Remembers what an id is to be used for; so many at most.
    pub(super) fn remember(&mut self, cid: CidUse, max: usize) {
        if self.recent.contains(&cid) {
            return;
        }
        if self.recent.len() >= max {
            self.recent.pop_front();
        }
        self.recent.push_back(cid);
    }

    /// An id, in its short form, is in use.
    pub(super) fn learn(&mut self, cid: u32) {
        if let Known::All(known) = &mut self.known
            && let Err(place) = known.binary_search(&cid)
        {
            if known.len() < KNOWN_MAX {
                known.insert(place, cid);
            } else {
                self.known = Known::TooMany;
            }
        }
    }

    /// A message that was refused for good never was: its id is free again.
    pub(super) fn forget(&mut self, cid: CidUse) {
        self.recent.retain(|known| *known != cid);
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Lets a send wait.
    pub(super) fn wait(&mut self, asking: Asking) {
        self.waiting.push_back(asking);
    }

    /// The question to ask now: one at a time, and again after `patience`.
    pub(super) fn question(
        &mut self,
        now: Duration,
        patience: Duration,
    ) -> Option<(u32, Question)> {
        let asked = self.asked.as_ref().filter(|asked| now.saturating_sub(asked.at) < patience);
        if self.waiting.is_empty() || asked.is_some() {
            return None;
        }
        self.questions += 1;
        let (request, of) = (OWN | self.questions, self.waiting.len());
        self.asked = Some(Asked { request, of, at: now });
        let uses = self.waiting.iter().map(|asking| asking.cid).collect();
        Some((request, Question::Cids { uses, all: matches!(self.known, Known::Nothing) }))
    }

    /// The home that was asked may be gone.
    pub(super) fn ask_again(&mut self) {
        self.asked = None;
    }

    /// Takes an answer: those it is about wait no longer, and with each comes whether its id is taken.
    pub(super) fn answered(
        &mut self,
        request: u32,
        taken: Vec<bool>,
        all: Option<Vec<u32>>,
    ) -> Vec<(Asking, bool)> {
        let Some(asked) = self.asked.take_if(|asked| asked.request == request) else {
            return Vec::new();
        };
        if let Known::Nothing = self.known {
            self.known = match all {
                Some(mut all) if all.len() <= KNOWN_MAX => {
                    all.sort_unstable();
                    Known::All(all)
                }
                _ => Known::TooMany,
            };
        }
        let of = asked.of.min(taken.len()).min(self.waiting.len());
        self.waiting.drain(..of).zip(taken).collect()
    }

    /// Takes the oldest send that waits if its id is not doubtful after all.
    pub(super) fn next(&mut self, all_told: bool) -> Option<Asking> {
        let cid = self.waiting.front()?.cid;
        if self.asked.is_some() || self.is_doubtful(cid, all_told) {
            return None;
        }
        self.waiting.pop_front()
    }

    /// How long the oldest send has waited.
    pub(super) fn oldest(&self, now: Duration) -> Option<Duration> {
        self.waiting.front().map(|asking| now.saturating_sub(asking.since))
    }

    /// Takes all that wait and are `such`; what is left is asked about anew.
    pub(super) fn take(&mut self, such: impl FnMut(&Asking) -> bool) -> VecDeque<Asking> {
        let (taken, left) = std::mem::take(&mut self.waiting).into_iter().partition(such);
        self.waiting = left;
        if !VecDeque::is_empty(&taken) {
            self.asked = None;
        }
        taken
    }

    /// The sends that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Send> {
        self.waiting.iter().map(|asking| &*asking.send)
    }
}
