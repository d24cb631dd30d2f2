//! People: whom the owner blocks, to whom they show themselves, and what they say of themselves.
//!
//! Blocking and privacy are decided where the owner's mailbox is, by what its replicas agree on. That somebody who hides
//! sees nobody is decided where *they* are: their home tells their sessions (`session`), and HTTP asks it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::rules::{Effect, Mailbox};
use crate::ids::{Seq, UserId};
use crate::message::Refusal;
use crate::message::people::{
    BLOCKED_MAX, Call, Card, LastSeen, Profile, Settings, Shown, ShownTo,
};

/// What an owner wants for themselves; most never say anything of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct People {
    blocked: BTreeSet<UserId>,
    last_seen: LastSeen,
    profile: Profile,
}

static UNSAID: People = People {
    blocked: BTreeSet::new(),
    last_seen: LastSeen::Everyone,
    profile: Profile { name: None, about: None, avatar: None },
};

impl People {
    /// As a mailbox keeps it: nothing, if there is nothing in it.
    pub(super) fn kept(self) -> Option<Box<Self>> {
        (self != UNSAID).then(|| Box::new(self))
    }

    /// What lists of this user show of the owner.
    pub(super) fn card_for(&self, user: &UserId) -> Shown {
        let Profile { name, avatar, .. } = &self.profile;
        let to = match self.blocked.is_empty() || avatar.is_none() {
            true => ShownTo::All,
            false => ShownTo::Asker,
        };
        let avatar = avatar.as_deref().filter(|_| !self.blocked.contains(user));
        let card = Card { name: name.as_deref().map(Into::into), avatar: avatar.map(Into::into) };
        Shown { card, to }
    }

    pub(super) fn weight(&self) -> usize {
        const NAME: usize = 48;
        size_of::<Self>() + self.blocked.len() * NAME + self.profile.weight()
    }
}

impl Mailbox {
    pub(super) fn people(&self) -> &People {
        self.people.as_deref().unwrap_or(&UNSAID)
    }

    /// Does what the owner wants. Done again, it changes nothing.
    pub fn wants(&mut self, call: Call, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        let mut people = self.people().clone();
        match call {
            Call::Block(user) if user == self.owner => return Err(Refusal::Oneself),
            Call::Block(user) => {
                if people.blocked.contains(&user) {
                    return Ok(());
                }
                if people.blocked.len() >= BLOCKED_MAX {
                    return Err(Refusal::TooManyBlocked);
                }
                people.blocked.insert(user.clone());
                effects.push(Effect::Visibility(Some(user)));
            }
            Call::Unblock(user) => {
                if people.blocked.remove(&user) {
                    effects.push(Effect::Visibility(Some(user)));
                }
            }
            Call::LastSeen(last_seen) => {
                if people.last_seen != last_seen {
                    people.last_seen = last_seen;
                    effects.push(Effect::Visibility(None));
                }
            }
            Call::Describe(profile) => people.profile.update(profile),
        }
        self.people = people.kept();
        Ok(())
    }

    /// Whether the owner wants nothing from a user.
    #[must_use]
    pub fn blocks(&self, user: &UserId) -> bool {
        self.people().blocked.contains(user)
    }

    /// Whom the owner blocks, in order.
    #[must_use]
    pub fn blocked(&self) -> Vec<UserId> {
        self.people().blocked.iter().cloned().collect()
    }

    /// What the owner has set.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings { last_seen: self.people().last_seen }
    }

    /// Whether the owner shows themselves to nobody, and so is shown nobody.
    #[must_use]
    pub fn hides(&self) -> bool {
        self.people().last_seen == LastSeen::Nobody
    }

    /// Whether a user may know if the owner is there, and when they last were.
    #[must_use]
    pub fn shows_itself_to(&self, user: &UserId) -> bool {
        let shown = match self.people().last_seen {
            LastSeen::Everyone => true,
            LastSeen::Contacts => self.peer(user).sent > Seq(0),
            LastSeen::Nobody => false,
        };
        *user == self.owner || shown && !self.blocks(user)
    }

    /// The owner has written to a user for the first time.
    pub(super) fn first_wrote_to(&self, user: &UserId, effects: &mut Vec<Effect>) {
        if self.people().last_seen == LastSeen::Contacts {
            effects.push(Effect::Visibility(Some(user.clone())));
        }
    }

    /// What the owner says of themselves to a user: to one they block no more than what to call them.
    #[must_use]
    pub fn profile_for(&self, user: &UserId) -> Profile {
        let Profile { name, about, avatar } = self.people().profile.clone();
        match self.blocks(user) {
            true => Profile { name, ..Profile::default() },
            false => Profile { name, about, avatar },
        }
    }

    /// What lists of a user show of the owner; of who was erased, nothing.
    #[must_use]
    pub fn card_for(&self, user: &UserId) -> Shown {
        self.people().card_for(user)
    }
}

#[cfg(test)]
#[path = "people_tests.rs"]
mod tests;
