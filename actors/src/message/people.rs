//! People: whom a user blocks, who may know when they were last there, and what they say of themselves.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::UserId;

/// Users one may block.
pub const BLOCKED_MAX: usize = 1_000;
/// Bytes of a name.
pub const NAME_BYTES_MAX: usize = 128;
/// Bytes of what users say about themselves.
pub const ABOUT_BYTES_MAX: usize = 512;
/// Bytes of a reference to a picture.
pub const AVATAR_BYTES_MAX: usize = 1_024;

/// What a user wants for themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// Take nothing from this user, and show them nothing. Who is blocked already stays so.
    Block(UserId),
    /// No longer.
    Unblock(UserId),
    /// Show to these when they were last there.
    LastSeen(LastSeen),
    /// Say what is given of them; what is empty goes.
    Describe(Profile),
}

impl Call {
    /// Bytes it takes besides its fixed part, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Describe(profile) => profile.weight(),
            Self::Block(_) | Self::Unblock(_) | Self::LastSeen(_) => 0,
        }
    }
}

/// Who may know whether a user is there, and when they last were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LastSeen {
    /// Whoever asks.
    #[default]
    Everyone,
    /// To whom the user has ever written, one to one.
    Contacts,
    /// Nobody; who hides like this is told of nobody.
    Nobody,
}

impl LastSeen {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Everyone => "everyone",
            Self::Contacts => "contacts",
            Self::Nobody => "nobody",
        }
    }

    /// What a word stands for.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Everyone, Self::Contacts, Self::Nobody].into_iter().find(|one| one.as_str() == word)
    }
}

/// What a user has set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Who may know when they were last there.
    pub last_seen: LastSeen,
}

/// What a user says of themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// What to call them.
    pub name: Option<Box<str>>,
    /// A word about them.
    pub about: Option<Box<str>>,
    /// An opaque reference to a picture.
    pub avatar: Option<Box<str>>,
}

/// What is shown of somebody in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// What to call them.
    pub name: Option<Arc<str>>,
    /// An opaque reference to a picture.
    pub avatar: Option<Arc<str>>,
}

impl Card {
    /// Bytes of it.
    #[must_use]
    pub fn weight(&self) -> usize {
        [&self.name, &self.avatar].into_iter().flatten().map(|text| text.len()).sum()
    }
}

/// A card, and who is shown the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// What is shown.
    pub card: Card,
    /// To whom.
    pub to: ShownTo,
}

/// Who is shown the same of somebody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShownTo {
    /// Everybody: nobody is blocked, or there is nothing that the blocked are not shown.
    #[default]
    All,
    /// Who asked; others may be shown something else.
    Asker,
}

/// A text that no profile may have: send another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadText {
    /// It is too long.
    #[error("{field}: at most {max} bytes")]
    TooLong {
        /// Which.
        field: &'static str,
        /// How many bytes it may have.
        max: usize,
    },
    /// It would upset whatever shows it.
    #[error("{field}: must be text without control characters")]
    Control {
        /// Which.
        field: &'static str,
    },
    /// Nobody could read it.
    #[error("name: must be empty or more than blanks")]
    Blank,
}

impl Profile {
    /// Refuses texts that are too long, or that have control characters in them.
    pub fn check(&self) -> Result<(), BadText> {
        for (field, text, max) in [
            ("name", &self.name, NAME_BYTES_MAX),
            ("about", &self.about, ABOUT_BYTES_MAX),
            ("avatar", &self.avatar, AVATAR_BYTES_MAX),
        ] {
            let text = text.as_deref().unwrap_or_default();
            if text.len() > max {
                return Err(BadText::TooLong { field, max });
            }
            if text.chars().any(char::is_control) {
                return Err(BadText::Control { field });
            }
        }
        match self.name.as_deref() {
            Some(name) if !name.is_empty() && name.trim().is_empty() => Err(BadText::Blank),
            _ => Ok(()),
        }
    }

    /// Whether nothing is given.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.name.is_none() && self.about.is_none() && self.avatar.is_none()
    }

    /// Takes over what is given; what is empty goes.
    pub fn update(&mut self, new: Self) {
        let Self { name, about, avatar } = new;
        for (old, new) in
            [(&mut self.name, name), (&mut self.about, about), (&mut self.avatar, avatar)]
        {
            if let Some(text) = new {
                *old = Some(text).filter(|text| !text.is_empty());
            }
        }
    }

    /// Bytes of it.
    #[must_use]
    pub fn weight(&self) -> usize {
        [&self.name, &self.about, &self.avatar].into_iter().flatten().map(|text| text.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Profile {
        Profile { name: Some(name.into()), ..Profile::default() }
    }

    #[test]
    fn what_no_profile_may_say_is_refused_and_named() {
        let long = |bytes: usize| Some("x".repeat(bytes).into());
        let most = Profile {
            name: long(NAME_BYTES_MAX),
            about: long(ABOUT_BYTES_MAX),
            avatar: long(AVATAR_BYTES_MAX),
        };
        assert_eq!(most.check(), Ok(()));
        assert_eq!(named("Zoë 🦜").check(), Ok(()));
        assert_eq!(named("").check(), Ok(()), "that removes it");
        for (bad, why) in [
            (named(&"é".repeat(65)), BadText::TooLong { field: "name", max: 128 }),
            (
                Profile { about: long(513), ..Profile::default() },
                BadText::TooLong { field: "about", max: 512 },
            ),
            (
                Profile { avatar: long(1_025), ..Profile::default() },
                BadText::TooLong { field: "avatar", max: 1_024 },
            ),
            (named("a\u{1b}[2Jb"), BadText::Control { field: "name" }),
            (named("two\nlines"), BadText::Control { field: "name" }),
            (named(" \u{a0} "), BadText::Blank),
        ] {
            assert_eq!(bad.check(), Err(why));
        }
    }

    #[test]
    fn only_what_is_given_changes_and_what_is_empty_goes() {
        let mut profile = named("Ann");
        profile.update(Profile { about: Some("here".into()), ..Profile::default() });
        assert_eq!(profile, Profile { about: Some("here".into()), ..named("Ann") });
        profile.update(Profile { about: Some("".into()), ..Profile::default() });
        assert_eq!(profile, named("Ann"));
        profile.update(Profile::default());
        assert_eq!(profile, named("Ann"));
    }

    #[test]
    fn each_choice_has_a_word() {
        for word in ["everyone", "contacts", "nobody"] {
            assert_eq!(LastSeen::parse(word).map(LastSeen::as_str), Some(word));
        }
        assert_eq!(LastSeen::parse("Nobody"), None);
    }
}
