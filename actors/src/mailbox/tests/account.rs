//! Account, tested: its password, and the mailbox of who has none.

use std::sync::Arc;

use super::user;
use crate::ids::{Epoch, GroupId, Seq, ShardId, Timestamp, UserId};
use crate::mailbox::rules::{Effect, LARGE_GROUP, Mailbox, Now, Policy};
use crate::message::group::{Call, News};
use crate::message::{Refusal, What};
use crate::packet::Enclosed;
use crate::shard::state::{Batch, Change, Command, Outcome, State};

/// A shard of one, and what it says to one change after the other.
struct Shard(State, u64);

impl Shard {
    fn new() -> Self {
        Self(State::new(ShardId(0), 1), 0)
    }

    fn change(&mut self, name: &str, change: Change) -> Outcome {
        self.1 += 1;
        let commands = vec![Command::Mailbox(user(name), change)];
        let batch = Batch { wall: Timestamp(self.1), commands };
        self.0.apply(self.1, 1, batch, &mut Vec::new())[0]
    }

    fn password(&self) -> Option<&str> {
        self.0.mailbox(&user("bob")).and_then(|mailbox| mailbox.password())
    }
}

fn password(old: &str, new: &str) -> Change {
    Change::Password { old: old.into(), new: new.into() }
}

#[test]
fn a_password_is_changed_only_in_place_of_the_one_that_was_verified() {
    let mut shard = Shard::new();
    assert_eq!(shard.change("bob", password("a", "b")), Outcome::Refused(Refusal::NotFound));
    shard.change("bob", Change::Register { epoch: Epoch(1), password: "a".into() });
    assert_eq!(shard.change("bob", password("a", "b")), Outcome::Done);
    assert_eq!(shard.password(), Some("b"));
    assert_eq!(shard.change("bob", password("a", "b")), Outcome::Done, "its answer was lost");
    assert_eq!(shard.change("bob", password("a", "c")), Outcome::Refused(Refusal::Conflict));
    assert_eq!(shard.password(), Some("b"));
    assert_eq!(shard.change("bob", password("b", "c")), Outcome::Done);
    assert_eq!(shard.password(), Some("c"));
}

#[test]
fn who_has_no_password_gets_none_by_changing_it() {
    let mut shard = Shard::new();
    shard.change("bob", Change::Open { epoch: Epoch(1) });
    assert_eq!(shard.change("bob", password("", "b")), Outcome::Refused(Refusal::Conflict));
    assert_eq!(shard.password(), None);
}

#[test]
fn a_mailbox_is_opened_once_and_one_that_is_there_is_left_alone() {
    let mut shard = Shard::new();
    assert_eq!(shard.change("bob", Change::Open { epoch: Epoch(1) }), Outcome::Done);
    assert_eq!(shard.change("bob", Change::Open { epoch: Epoch(2) }), Outcome::Done);
    let epoch = |shard: &Shard| shard.0.mailbox(&user("bob")).map(|mailbox| mailbox.epoch);
    assert_eq!(epoch(&shard), Some(Epoch(1)));
    let register = Change::Register { epoch: Epoch(3), password: "a".into() };
    assert_eq!(shard.change("bob", register), Outcome::Refused(Refusal::Taken));
    assert_eq!((epoch(&shard), shard.password()), (Some(Epoch(1)), None));
}

#[test]
fn who_was_erased_stays_in_no_group_whenever_they_were_taken_in() {
    let club = GroupId::parse("club").unwrap();
    let wall = Timestamp(7);
    let now = Now { wall, cautious: wall, policy: Policy::default(), large: LARGE_GROUP };
    for hears_first in [true, false] {
        let mut group = Mailbox::new(UserId::of_group(&club), Epoch(1));
        let mut bob = Mailbox::new(user("bob"), Epoch(2));
        let (title, mut effects) = ("Club".into(), Vec::new());
        let call = Call::Create { title, members: vec![user("bob")] };
        group.call(&user("ann"), &call, 1, now, &mut effects).unwrap();
        let what = effects.into_iter().find_map(|effect| match effect {
            Effect::Spread(spreading) => Some(spreading.what),
            _ => None,
        });
        let (what, mut effects) = (what.unwrap(), Vec::new());
        if hears_first {
            bob.hear(&what, None, now, &mut effects);
            effects.clear();
            bob.erase(&mut effects);
        } else {
            bob.erase(&mut effects);
            bob.hear(&what, None, now, &mut effects);
        }
        let told: Vec<_> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Enclose(envelope) => Some((envelope.to.clone(), envelope.what.clone())),
                _ => None,
            })
            .collect();
        let left = Enclosed::Left { by: user("bob") };
        assert_eq!(told, [(UserId::of_group(&club), left.clone())], "{hears_first}");
        for _ in 0..2 {
            group.receive(left.clone(), now, &mut Vec::new());
            group.check();
        }
        let members: Vec<_> = group.group().unwrap().members().cloned().collect();
        assert_eq!(members, [user("ann")]);
        assert_eq!(group.log().head().0, 2, "created and left, once each");
        // Changes of others are none of theirs.
        let news = Arc::new(News::Removed(vec![user("bob")]));
        let other =
            What::Group { group: club.clone(), seq: Seq(3), at: wall, by: user("ann"), news };
        let mut effects = Vec::new();
        bob.hear(&other, None, now, &mut effects);
        assert_eq!(effects, []);
    }
}
