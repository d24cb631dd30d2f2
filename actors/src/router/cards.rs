//! Cards: what people are called, and how they look, asked of their homes for whoever lists them.
//!
//! A card is a courtesy: a home that does not answer soon makes a list late by a moment, and never wrong or refused. What was
//! learnt is kept for a short while, so that a list that is asked for again and again asks nobody, and what is shown to
//! everybody alike is asked for once for all lists of this node. A card that its owner has turned from or to its reader since
//! it was asked for is neither shown nor kept: it may be as it was before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::RwLock;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::asking::Registered;
use super::{Inbound, Router, read, write};
use crate::clock;
use crate::cluster::Class;
use crate::ids::{NodeId, SessionId, UserId};
use crate::inbox::inbox;
use crate::message::people::{Card, Shown, ShownTo};
use crate::packet::{CardTurned, CardsWanted, Packet, Tell};
use crate::shard::lane;

/// How long a list waits for all of its cards together.
const PATIENCE: Duration = Duration::from_millis(250);
/// After this time homes that have not answered are asked again, or those that are in their place.
const AGAIN_AFTER: Duration = Duration::from_millis(80);
/// How long a card is kept: so late is a new name in others' lists.
const FRESH: Duration = Duration::from_secs(30);
/// How long a home that did not answer is left alone by who asked.
const SILENT: Duration = Duration::from_secs(2);
/// Cards kept.
const KEPT_MAX: usize = 50_000;
/// Turns remembered, for cards that were asked for before them.
const TURNS_MAX: usize = 4_096;

/// What cards are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardsFor {
    /// A list of chats: as its reader may see each.
    Chats,
    /// The members of a group: only what to call them, which is the same for all.
    Members,
}

#[derive(Default)]
pub(super) struct Cards(RwLock<Table>);

#[derive(Default)]
struct Table {
    for_all: HashMap<UserId, Kept>,
    /// Whose card, and as seen by whom.
    for_one: HashMap<(UserId, UserId), Kept>,
    turns: Turns,
}

/// Who has lately turned from whom or to them: cards that were asked for before may be as they were then, however late they
/// come.
#[derive(Default)]
struct Turns {
    latest: HashMap<UserId, HashMap<UserId, Instant>>,
    count: usize,
    /// Too many did: everybody counts as having turned then.
    all: Option<Instant>,
}

impl Turns {
    fn note(&mut self, CardTurned { of, by }: &CardTurned, now: Instant) {
        if self.count >= TURNS_MAX {
            *self = Self { all: Some(now), ..Self::default() };
        }
        let from = self.latest.entry(of.clone()).or_default();
        self.count += usize::from(from.insert(by.clone(), now).is_none());
    }

    /// Whether somebody has turned since a moment: from or to this one, or anybody.
    fn since(&self, asked: Instant, of: &UserId, by: Option<&UserId>) -> bool {
        let mut from = self.latest.get(of).into_iter().flatten();
        let turned = from.any(|(whom, at)| *at >= asked && by.is_none_or(|by| by == whom));
        turned || self.all.is_some_and(|at| at >= asked)
    }
}

struct Kept {
    card: Card,
    until: Instant,
}

impl Cards {
    /// The cards that are known, and not too old, and of whom there is none.
    fn find(
        &self,
        users: Vec<UserId>,
        by: &UserId,
        now: Instant,
    ) -> (BTreeMap<UserId, Card>, BTreeSet<UserId>) {
        let (mut found, mut missing) = (BTreeMap::new(), BTreeSet::new());
        let kept = read(&self.0);
        for user in users {
            match kept.find(&user, by, now) {
                Some(card) => drop(found.insert(user, card)),
                None => drop(missing.insert(user)),
            }
        }
        (found, missing)
    }

    /// Keeps what was heard on a question asked at `asked`; of whom nothing was, who asked knows nothing for a moment.
    fn keep(
        &self,
        by: &UserId,
        heard: &BTreeMap<UserId, Shown>,
        silent: BTreeSet<UserId>,
        (asked, now): (Instant, Instant),
    ) {
        let mut kept = write(&self.0);
        kept.make_room(heard.len() + silent.len(), now);
        for (user, Shown { card, to }) in heard {
            let (user, fresh) = (user.clone(), Kept { card: card.clone(), until: now + FRESH });
            let turned = match to {
                ShownTo::All => kept.turns.since(asked, &user, None),
                ShownTo::Asker => kept.turns.since(asked, &user, Some(by)),
            };
            match to {
                _ if turned => {}
                ShownTo::All => drop(kept.for_all.insert(user, fresh)),
                ShownTo::Asker => drop(kept.for_one.insert((user, by.clone()), fresh)),
            }
        }
        for user in silent {
            // Another list may have heard of them meanwhile.
            if kept.find(&user, by, now).is_none() {
                let none = Kept { card: Card::default(), until: now + SILENT };
                kept.for_one.insert((user, by.clone()), none);
            }
        }
    }

    /// Leaves out the cards of those who have turned from or to this one since they were asked.
    fn leave_out_turned(&self, cards: &mut BTreeMap<UserId, Card>, by: &UserId, asked: Instant) {
        let kept = read(&self.0);
        cards.retain(|user, _| !kept.turns.since(asked, user, Some(by)));
    }

    fn forget(&self, turned: &CardTurned, now: Instant) {
        let mut kept = write(&self.0);
        kept.turns.note(turned, now);
        kept.for_all.remove(&turned.of);
        kept.for_one.remove(&(turned.of.clone(), turned.by.clone()));
    }
}

impl Table {
    fn find(&self, user: &UserId, by: &UserId, now: Instant) -> Option<Card> {
        let fresh = |kept: &&Kept| kept.until > now;
        let found = self.for_all.get(user).filter(fresh).or_else(|| {
            let any = !self.for_one.is_empty();
            any.then(|| self.for_one.get(&(user.clone(), by.clone())))?.filter(fresh)
        });
        found.map(|kept| kept.card.clone())
    }

    fn len(&self) -> usize {
        self.for_all.len() + self.for_one.len()
    }

    fn make_room(&mut self, count: usize, now: Instant) {
        if self.len() + count > KEPT_MAX {
            self.for_all.retain(|_, kept| kept.until > now);
            self.for_one.retain(|_, kept| kept.until > now);
        }
        if self.len() + count > KEPT_MAX {
            self.for_all.clear();
            self.for_one.clear();
        }
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
        let asked = clock::monotonic();
        let (mut cards, mut missing) = self.0.cards.find(users, by, asked);
        if !missing.is_empty() {
            let heard = self.ask_for_cards(&mut missing, by).await;
            self.0.cards.keep(by, &heard, missing, (asked, clock::monotonic()));
            cards.extend(heard.into_iter().map(|(user, shown)| (user, shown.card)));
            self.0.cards.leave_out_turned(&mut cards, by, asked);
        }
        if what == CardsFor::Members {
            cards.values_mut().for_each(|card| card.avatar = None);
        }
        cards
    }

    /// Asks the homes of these users; who is answered leaves `missing`.
    async fn ask_for_cards(
        &self,
        missing: &mut BTreeSet<UserId>,
        by: &UserId,
    ) -> BTreeMap<UserId, Shown> {
        let (inbox, mut arrivals) = inbox();
        let session = Registered(self, self.open_session(inbox));
        let deadline = clock::monotonic() + PATIENCE;
        let mut heard = BTreeMap::new();
        while clock::monotonic() < deadline {
            self.want_cards(session.1, by, missing);
            let again = (clock::monotonic() + AGAIN_AFTER).min(deadline);
            while let Ok(inbound) = timeout_at(again.into(), arrivals.recv()).await {
                // It was closed: nothing can come any more.
                let Some(inbound) = inbound else { return heard };
                let Inbound::Tell(Tell::Cards(told)) = *inbound else { continue };
                heard.extend(told.into_iter().filter(|(user, _)| missing.remove(user)));
                if missing.is_empty() {
                    return heard;
                }
            }
        }
        heard
    }

    /// Asks each node for the cards of those whose homes are there, as far as it is known.
    fn want_cards(&self, session: SessionId, by: &UserId, users: &BTreeSet<UserId>) {
        let mut there: BTreeMap<NodeId, Vec<UserId>> = BTreeMap::new();
        for user in users {
            if let Some((_, leader)) = self.leader(self.shard_of(user)) {
                there.entry(leader).or_default().push(user.clone());
            }
        }
        for (node, users) in there {
            let wanted = CardsWanted { session, by: by.clone(), users };
            if node != self.me() {
                let _asked_again = self.send(node, Class::Normal, &[Packet::Cards(wanted.into())]);
                continue;
            }
            for (lane, wanted) in self.lanes().iter().zip(self.by_lane(wanted)) {
                let _stopping = lane.cast(lane::Msg::Packets(node, wanted.into_iter().collect()));
            }
        }
    }

    /// What each lane is to be asked for.
    pub(super) fn by_lane(&self, wanted: CardsWanted) -> Vec<Option<Packet>> {
        let CardsWanted { session, by, users } = wanted;
        let mut lanes: Vec<Vec<UserId>> = self.lanes().iter().map(|_| Vec::new()).collect();
        let count = lanes.len().max(1);
        for user in users {
            if let Some(lane) = lanes.get_mut(usize::from(self.shard_of(&user).0) % count) {
                lane.push(user);
            }
        }
        let wanted = |users: Vec<UserId>| {
            let wanted = CardsWanted { session, by: by.clone(), users };
            (!wanted.users.is_empty()).then(|| Packet::Cards(wanted.into()))
        };
        lanes.into_iter().map(wanted).collect()
    }

    /// What a user shows to another has changed: from now on it is asked for again.
    pub fn card_turned(&self, turned: &CardTurned) {
        self.0.cards.forget(turned, clock::monotonic());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn named(name: &str) -> Card {
        Card { name: Some(name.into()), avatar: None }
    }

    fn heard(name: &str, to: ShownTo) -> BTreeMap<UserId, Shown> {
        [(user(name), Shown { card: named(name), to })].into()
    }

    /// The names that are known of these, as seen by `by`.
    fn known(cards: &Cards, by: &str, users: &[&str], now: Instant) -> Vec<String> {
        let users = users.iter().map(|name| user(name)).collect();
        let (found, _) = cards.find(users, &user(by), now);
        found.into_values().filter_map(|card| Some(card.name?.to_string())).collect()
    }

    #[test]
    fn a_card_is_kept_for_a_while_and_never_more_than_so_many() {
        let (cards, now) = (Cards::default(), clock::monotonic());
        cards.keep(&user("ann"), &heard("bob", ShownTo::All), BTreeSet::new(), (now, now));
        assert_eq!(known(&cards, "ann", &["bob", "cat"], now), ["bob"]);
        assert!(known(&cards, "ann", &["bob"], now + FRESH).is_empty(), "too old");
        for at in 0..KEPT_MAX {
            let silent = [user(&format!("u{at}"))].into();
            cards.keep(&user("ann"), &BTreeMap::new(), silent, (now, now));
        }
        assert!(read(&cards.0).len() <= KEPT_MAX);
        cards.keep(
            &user("ann"),
            &heard("cat", ShownTo::Asker),
            BTreeSet::new(),
            (now, now + SILENT),
        );
        assert_eq!(known(&cards, "ann", &["cat"], now + SILENT), ["cat"]);
    }

    #[test]
    fn what_only_the_asker_is_shown_is_for_no_other_list() {
        let (cards, now) = (Cards::default(), clock::monotonic());
        cards.keep(&user("ann"), &heard("bob", ShownTo::Asker), BTreeSet::new(), (now, now));
        cards.keep(&user("ann"), &heard("cat", ShownTo::All), BTreeSet::new(), (now, now));
        assert_eq!(known(&cards, "ann", &["bob", "cat"], now), ["bob", "cat"]);
        assert_eq!(known(&cards, "dan", &["bob", "cat"], now), ["cat"]);
    }

    #[test]
    fn who_blocks_somebody_is_asked_again_what_they_show_them() {
        let (cards, now) = (Cards::default(), clock::monotonic());
        for to in [ShownTo::All, ShownTo::Asker] {
            cards.keep(&user("ann"), &heard("bob", to), BTreeSet::new(), (now, now));
            cards.forget(&CardTurned { of: user("bob"), by: user("ann") }, now);
            assert!(known(&cards, "ann", &["bob"], now).is_empty(), "{to:?}");
        }
    }

    #[test]
    fn a_card_that_comes_after_its_owner_has_turned_is_neither_kept_nor_shown() {
        let (cards, asked) = (Cards::default(), clock::monotonic());
        let turned = asked + Duration::from_millis(5);
        let late = asked + Duration::from_millis(200);
        cards.forget(&CardTurned { of: user("bob"), by: user("ann") }, turned);
        for to in [ShownTo::All, ShownTo::Asker] {
            for by in ["ann", "dan"] {
                cards.keep(&user(by), &heard("bob", to), BTreeSet::new(), (asked, late));
                let mut shown = [(user("bob"), named("bob"))].into();
                cards.leave_out_turned(&mut shown, &user(by), asked);
                assert_eq!(shown.is_empty(), by == "ann", "{by} is shown it");
            }
            assert!(known(&cards, "ann", &["bob"], late).is_empty(), "{to:?}");
        }
        assert_eq!(known(&cards, "dan", &["bob"], late), ["bob"], "what he alone was shown");
        cards.keep(&user("ann"), &heard("bob", ShownTo::All), BTreeSet::new(), (late, late));
        assert_eq!(known(&cards, "ann", &["bob"], late), ["bob"], "asked for afterwards");
    }

    #[test]
    fn of_many_turns_it_is_remembered_that_there_were() {
        let (cards, asked) = (Cards::default(), clock::monotonic());
        let turned = |name: &str| CardTurned { of: user(name), by: user("ann") };
        cards.forget(&turned("bob"), asked);
        for at in 0..TURNS_MAX {
            cards.forget(&turned(&format!("u{at}")), asked);
        }
        assert!(read(&cards.0).turns.count <= TURNS_MAX);
        cards.keep(&user("ann"), &heard("bob", ShownTo::All), BTreeSet::new(), (asked, asked));
        assert!(known(&cards, "ann", &["bob"], asked).is_empty());
        let later = asked + Duration::from_millis(1);
        cards.keep(&user("ann"), &heard("bob", ShownTo::All), BTreeSet::new(), (later, later));
        assert_eq!(known(&cards, "ann", &["bob"], later), ["bob"]);
    }

    #[test]
    fn a_home_that_is_silent_is_left_alone_for_a_moment_and_its_silence_hides_no_card() {
        let (cards, now) = (Cards::default(), clock::monotonic());
        let ask = |at| cards.find(vec![user("bob")], &user("ann"), at);
        cards.keep(&user("ann"), &BTreeMap::new(), [user("bob")].into(), (now, now));
        assert_eq!(ask(now), ([(user("bob"), Card::default())].into(), BTreeSet::new()));
        assert_eq!(ask(now + SILENT).1, [user("bob")].into());
        let (_, missing) = cards.find(vec![user("bob")], &user("dan"), now);
        assert_eq!(missing, [user("bob")].into(), "others ask for themselves");
        cards.keep(&user("cat"), &heard("bob", ShownTo::All), BTreeSet::new(), (now, now));
        cards.keep(&user("ann"), &BTreeMap::new(), [user("bob")].into(), (now, now));
        assert_eq!(known(&cards, "ann", &["bob"], now + SILENT), ["bob"]);
    }
}
