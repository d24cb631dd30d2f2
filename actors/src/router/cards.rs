//! Cards: what people are called, and how they look, asked of their homes for whoever lists them.
//!
//! A card is a courtesy: a home that does not answer soon makes a list late by a moment, and never wrong or refused. What was
//! learnt is kept for a short while, so that a list that is asked for again and again asks nobody.

use std::collections::BTreeMap;
use std::sync::RwLock;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::{Inbound, Router, read, write};
use crate::clock;
use crate::ids::{SessionId, UserId};
use crate::message::Refusal;
use crate::packet::{Answer, Question};

/// How long a list waits for all of its cards together.
const PATIENCE: Duration = Duration::from_millis(250);
/// Homes asked at the same time for one list.
const AT_ONCE: usize = 64;
/// How long a card is kept: so late is a new name in others' lists.
const FRESH: Duration = Duration::from_secs(30);
/// How long a home that did not answer is left alone.
const SILENT: Duration = Duration::from_secs(2);
/// Cards kept.
const KEPT_MAX: usize = 50_000;

/// What is shown of somebody in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Card {
    /// What to call them.
    pub name: Option<Box<str>>,
    /// An opaque reference to a picture.
    pub avatar: Option<Box<str>>,
}

/// What cards are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardsFor {
    /// A list of chats: as its reader may see each.
    Chats,
    /// The members of a group: only what to call them, which is the same for all.
    Members,
}

/// Whose card, and as seen by whom.
type Key = (UserId, Option<UserId>);

#[derive(Default)]
pub(super) struct Cards(RwLock<BTreeMap<Key, Kept>>);

struct Kept {
    card: Card,
    until: Instant,
}

impl Cards {
    /// A card that is known, and not too old.
    fn find(&self, key: &Key, now: Instant) -> Option<Card> {
        let kept = read(&self.0);
        kept.get(key).filter(|kept| kept.until > now).map(|kept| kept.card.clone())
    }

    fn keep(&self, key: Key, card: Card, until: Instant, now: Instant) {
        let mut kept = write(&self.0);
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, kept| kept.until > now);
        }
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, Kept { card, until });
    }
}

impl Router {
    /// The cards of these users, as far as their homes say them in time.
    pub async fn cards(
        &self,
        users: Vec<UserId>,
        by: &UserId,
        what: CardsFor,
    ) -> BTreeMap<UserId, Card> {
        let now = clock::monotonic();
        let key = |user: &UserId| (user.clone(), (what == CardsFor::Chats).then(|| by.clone()));
        let (mut cards, mut missing) = (BTreeMap::new(), Vec::new());
        for user in users {
            match self.0.cards.find(&key(&user), now) {
                Some(card) => drop(cards.insert(user, card)),
                None => missing.push(user),
            }
        }
        if missing.is_empty() {
            return cards;
        }
        let mut heard = self.ask_for_cards(&missing, by, now + PATIENCE).await;
        let now = clock::monotonic();
        for user in missing {
            let card = heard.remove(&user).map(|card| match what {
                CardsFor::Chats => card,
                CardsFor::Members => Card { avatar: None, ..card },
            });
            let lasts = if card.is_some() { FRESH } else { SILENT };
            let card = card.unwrap_or_default();
            self.0.cards.keep(key(&user), card.clone(), now + lasts, now);
            cards.insert(user, card);
        }
        cards
    }

    async fn ask_for_cards(
        &self,
        users: &[UserId],
        by: &UserId,
        deadline: Instant,
    ) -> BTreeMap<UserId, Card> {
        let (mut heard, mut asked, mut next) = (BTreeMap::new(), JoinSet::new(), users.iter());
        loop {
            while asked.len() < AT_ONCE
                && let Some(user) = next.next()
            {
                let (router, user, by) = (self.clone(), user.clone(), by.clone());
                asked.spawn(async move {
                    let question = Question::Profile { by };
                    let answer = router.ask(&user, question, PATIENCE).await;
                    (user, answer)
                });
            }
            match timeout_at(deadline.into(), asked.join_next()).await {
                Ok(Some(Ok((user, answer)))) => heard.extend(card(answer).map(|card| (user, card))),
                Ok(Some(Err(_))) => {}
                Ok(None) | Err(_) => return heard,
            }
        }
    }

    /// Asks what these users are called; a session of this node is told `Named`.
    pub fn name(&self, session: SessionId, request: u32, users: Vec<UserId>, by: UserId) {
        let router = self.clone();
        tokio::spawn(async move {
            let cards = router.cards(users, &by, CardsFor::Members).await;
            let names = cards.into_iter().filter_map(|(user, card)| Some((user, card.name?)));
            router.put(session.count, Inbound::Named { request, names: names.collect() });
        });
    }
}

/// What a home's answer says; who is not there or has left has an empty card.
fn card(answer: Result<Answer, Refusal>) -> Option<Card> {
    match answer {
        Ok(Answer::Profile(profile)) => Some(Card { name: profile.name, avatar: profile.avatar }),
        Err(Refusal::NotFound | Refusal::Gone) => Some(Card::default()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        (UserId::parse(name).unwrap(), None)
    }

    fn named(name: &str) -> Card {
        Card { name: Some(name.into()), avatar: None }
    }

    #[test]
    fn a_card_is_kept_for_a_while_and_never_more_than_so_many() {
        let (cards, now) = (Cards::default(), clock::monotonic());
        cards.keep(key("ann"), named("Ann"), now + FRESH, now);
        assert_eq!(cards.find(&key("ann"), now), Some(named("Ann")));
        assert_eq!(cards.find(&key("ann"), now + FRESH), None, "too old");
        assert_eq!(cards.find(&key("bob"), now), None);
        for at in 0..KEPT_MAX {
            cards.keep(key(&format!("u{at}")), Card::default(), now + SILENT, now);
        }
        assert!(read(&cards.0).len() <= KEPT_MAX);
        cards.keep(key("cat"), named("Cat"), now + FRESH, now + SILENT);
        assert_eq!(cards.find(&key("cat"), now), Some(named("Cat")));
    }

    #[test]
    fn who_has_left_has_an_empty_card_and_who_is_silent_has_none() {
        assert_eq!(card(Err(Refusal::Gone)), Some(Card::default()));
        assert_eq!(card(Err(Refusal::NotFound)), Some(Card::default()));
        assert_eq!(card(Err(Refusal::Unavailable)), None);
    }
}
