//! Cards: what users of the shards led here are called, for lists that are made on any node.
//!
//! A list of chats names two hundred people, most of whom have not been here for days. So a mailbox that is only on disk
//! stays there: of its head no more than the card is taken, on a thread of the disk's.

use std::collections::BTreeMap;

use super::{Msg, State};
use crate::ids::{SessionId, ShardId, UserId};
use crate::mailbox::image;
use crate::message::people::Shown;
use crate::packet::{CardTurned, CardsWanted, Packet, Tell};
use crate::store::StoreError;

/// Shards whose disk is read for cards at the same time; who is not answered asks again.
const READING_MAX: usize = 1_000;
/// Bytes of cards in one answer, about.
const BYTES: usize = 64 * 1024;

/// Cards read from one shard's disk, or of whom they could not be.
pub(crate) type Read = Result<Vec<(UserId, Shown)>, Vec<UserId>>;

impl State {
    /// A node wants cards of users of this lane. Who has no home here is asked for again, and found elsewhere.
    pub(super) fn cards(&mut self, wanted: CardsWanted) {
        let CardsWanted { session, by, users } = wanted;
        let mut cards = Vec::new();
        let mut cold: BTreeMap<ShardId, Vec<(UserId, u16)>> = BTreeMap::new();
        for user in users {
            let shard = self.router.shard_of(&user);
            let Some(hosted) = self.shards.get(&shard).filter(|h| h.replica.role().serves) else {
                continue;
            };
            let state = hosted.replica.state();
            match state.cold(&user) {
                Some(chunks) => cold.entry(shard).or_default().push((user, chunks)),
                None => {
                    let shown = state.mailbox(&user).map(|mailbox| mailbox.card_for(&by));
                    cards.push((user, shown.unwrap_or_default()));
                }
            }
        }
        self.tell_cards(session, cards);
        for (shard, users) in cold {
            self.read_cards(shard, users, session, by.clone());
        }
    }

    /// Who is blocked, or no longer, is not to be shown what they were shown before.
    pub(super) fn turn_card(&mut self, of: &UserId, by: &UserId) {
        let turned = Box::new(CardTurned { of: of.clone(), by: by.clone() });
        self.router.card_turned(&turned);
        for node in self.router.peers().into_keys() {
            self.outlet.node(node, Packet::CardTurned(turned.clone()));
        }
    }

    fn tell_cards(&mut self, session: SessionId, cards: Vec<(UserId, Shown)>) {
        let mut part = Vec::new();
        let mut bytes = 0;
        for (user, shown) in cards {
            bytes += user.as_str().len() + shown.card.weight();
            part.push((user, shown));
            if bytes > BYTES {
                bytes = 0;
                self.outlet.tell(session, Tell::Cards(std::mem::take(&mut part)));
            }
        }
        if !part.is_empty() {
            self.outlet.tell(session, Tell::Cards(part));
        }
        self.schedule();
    }

    fn read_cards(
        &mut self,
        shard: ShardId,
        users: Vec<(UserId, u16)>,
        session: SessionId,
        by: UserId,
    ) {
        let Some(image) = self.shards.get(&shard).map(|hosted| hosted.images) else { return };
        if self.cards_reading >= READING_MAX {
            return;
        }
        self.cards_reading += 1;
        let keys = users.iter().flat_map(|(user, chunks)| image::head_keys(user, *chunks));
        let (lane, keys) = (self.myself.clone(), keys.collect());
        let reply = Box::new(move |heads: Result<Vec<Option<Vec<u8>>>, StoreError>| {
            let read = heads.ok().and_then(|heads| cards_of(&users, heads, &by));
            let read = read.ok_or_else(|| users.into_iter().map(|(user, _)| user).collect());
            let _stopping = lane.cast(Msg::CardsRead((shard, image), session, read));
        });
        self.disks.checkpoints.load(shard, keys, reply);
    }

    /// Cards were read from disk, under the checkpoint with this number.
    pub(super) fn cards_read(
        &mut self,
        (shard, image): (ShardId, u64),
        session: SessionId,
        read: Read,
    ) {
        self.cards_reading -= 1;
        let Some(hosted) = self.shards.get(&shard) else { return };
        match read {
            Ok(cards) => {
                // Of a checkpoint that another has replaced nothing is told; who asked asks again.
                if hosted.images == image && hosted.replica.role().serves {
                    self.tell_cards(session, cards);
                }
            }
            // Written anew between two reads, or damaged, which shows when all of it is read.
            Err(users) => {
                let state = hosted.replica.state();
                let cold = users.into_iter().filter_map(|user| Some((state.cold(&user)?, user)));
                for (chunks, user) in cold.collect::<Vec<_>>() {
                    self.load(shard, &user, chunks);
                }
            }
        }
    }
}

/// Takes each user's card out of the chunks of their head.
fn cards_of(
    users: &[(UserId, u16)],
    heads: Vec<Option<Vec<u8>>>,
    by: &UserId,
) -> Option<Vec<(UserId, Shown)>> {
    let mut heads = heads.into_iter();
    let mut cards = Vec::with_capacity(users.len());
    for (user, chunks) in users {
        let head: Option<Vec<Vec<u8>>> = heads.by_ref().take(usize::from(*chunks)).collect();
        cards.push((user.clone(), image::card(&head?, by).ok()?));
    }
    Some(cards)
}
