//! Account, tested: its password, and the mailbox of who has none.

use super::user;
use crate::ids::{Epoch, ShardId, Timestamp};
use crate::message::Refusal;
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
