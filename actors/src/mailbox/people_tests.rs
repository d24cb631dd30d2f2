//! People, tested: who is refused, who is seen by whom, and that all of it is kept, and forgotten with its owner.

use proptest::prelude::*;

use super::*;
use crate::ids::{Cid, Conversation, DeviceId, Epoch, Kind, MessageId, ShardId, Timestamp};
use crate::mailbox::image::{self, Opening, Stored};
use crate::message::{Content, Send};
use crate::packet::Enclosed;
use crate::shard::state::{Batch, Change, Command, Happened, Outcome, State};

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

/// A shard with the mailbox of bob.
struct Bench {
    state: State,
    index: u64,
    effects: Vec<Effect>,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self { state: State::new(ShardId(0), 1), index: 0, effects: Vec::new() };
        bench.change(Change::Register { epoch: Epoch(1), password: "a".into() });
        bench
    }

    fn change(&mut self, change: Change) -> Outcome {
        self.index += 1;
        let commands = vec![Command::Mailbox(user("bob"), change)];
        let batch = Batch { wall: Timestamp(self.index), commands };
        let mut happened = Vec::new();
        let outcome = self.state.apply(self.index, 1, batch, &mut happened)[0];
        self.state.check();
        self.effects = happened
            .into_iter()
            .filter_map(|event| match event {
                Happened::Mailbox(_, effect) => Some(effect),
                _ => None,
            })
            .collect();
        outcome
    }

    fn wants(&mut self, call: Call) -> Outcome {
        self.change(Change::People(call))
    }

    fn append(&mut self, from: &str, cid: &str) -> Outcome {
        let content = Content {
            kind: Kind::parse("text").unwrap(),
            body: "hi".into(),
            reply_to: None,
            client: None,
        };
        let send = Send {
            from: user(from),
            device: DeviceId::parse("phone").unwrap(),
            to: Conversation::User(user("bob")),
            cid: Cid::parse(cid).unwrap(),
            content: content.into(),
        };
        self.change(Change::Append { mid: MessageId(self.index.into()), send: Box::new(send) })
    }

    fn bob(&self) -> &Mailbox {
        self.state.mailbox(&user("bob")).unwrap()
    }

    /// Bob as a checkpoint holds him, and the chunks of his head.
    fn stored(&self) -> (Mailbox, Vec<Vec<u8>>) {
        let (mut mailbox, mut stored) = (self.bob().clone(), Stored::default());
        let changes = image::save(&mut mailbox, &mut stored);
        let value =
            |key: &Vec<u8>| changes.puts.iter().find(|(put, _)| put == key).unwrap().1.clone();
        let chunks: Vec<_> =
            image::head_keys(&user("bob"), stored.chunks()).iter().map(value).collect();
        let opening = Opening::new(user("bob"), &chunks).unwrap();
        let values: Vec<_> = opening.keys().iter().map(value).collect();
        (opening.finish(&values).unwrap().0, chunks)
    }

    fn again(&self) -> Mailbox {
        self.stored().0
    }

    /// What lists show of bob, which must be the same whether he is in memory or on disk.
    fn card(&self, by: &str) -> Shown {
        let (by, (_, chunks)) = (user(by), self.stored());
        let shown = self.bob().card_for(&by);
        assert_eq!(image::card(&chunks, &by).unwrap(), shown);
        assert!(image::card(&chunks[1..], &by).is_err(), "not without the beginning");
        shown
    }
}

fn accepted(outcome: Outcome) -> (u64, bool) {
    match outcome {
        Outcome::Accepted(accepted) => (accepted.seq.0, accepted.dup),
        other => panic!("not accepted: {other:?}"),
    }
}

const BLOCKED: Outcome = Outcome::Refused(Refusal::Blocked);

#[test]
fn a_blocked_sender_is_refused_and_one_who_repeats_what_was_accepted_is_answered_again() {
    let mut bench = Bench::new();
    assert_eq!(accepted(bench.append("ann", "c1")), (1, false));
    assert_eq!(bench.wants(Call::Block(user("ann"))), Outcome::Done);
    assert_eq!(bench.effects, [Effect::Visibility(Some(user("ann")))]);
    assert_eq!(bench.append("ann", "c2"), BLOCKED);
    assert_eq!(bench.effects, [], "nothing of it is kept or told");
    assert_eq!(bench.bob().log().head().0, 1);
    assert_eq!(accepted(bench.append("ann", "c1")), (1, true), "it was accepted before");
    assert_eq!(accepted(bench.append("cat", "c1")), (1, false), "nobody else is");
    assert_eq!(bench.wants(Call::Block(user("ann"))), Outcome::Done);
    assert_eq!(bench.effects, [], "blocked twice is blocked once");
    assert_eq!(bench.wants(Call::Unblock(user("ann"))), Outcome::Done);
    assert_eq!(bench.effects, [Effect::Visibility(Some(user("ann")))]);
    assert_eq!(accepted(bench.append("ann", "c2")), (2, false), "without a gap");
    assert_eq!(bench.wants(Call::Unblock(user("ann"))), Outcome::Done);
    assert_eq!(bench.effects, []);
}

#[test]
fn nobody_blocks_themselves_or_more_than_so_many() {
    let mut bench = Bench::new();
    assert_eq!(bench.wants(Call::Block(user("bob"))), Outcome::Refused(Refusal::Oneself));
    for at in 0..BLOCKED_MAX {
        assert_eq!(bench.wants(Call::Block(user(&format!("u{at}")))), Outcome::Done);
    }
    let refused = Outcome::Refused(Refusal::TooManyBlocked);
    assert_eq!(bench.wants(Call::Block(user("one-more"))), refused);
    assert_eq!(bench.wants(Call::Block(user("u7"))), Outcome::Done, "who is, stays");
    assert_eq!(bench.bob().blocked().len(), BLOCKED_MAX);
    assert_eq!(&bench.again(), bench.bob(), "kept, in more than one chunk");
    bench.wants(Call::Unblock(user("u7")));
    assert_eq!(bench.wants(Call::Block(user("one-more"))), Outcome::Done);
}

#[test]
fn who_is_shown_what_follows_the_settings() {
    let mut bench = Bench::new();
    let sees = |bench: &Bench, name: &str| bench.bob().shows_itself_to(&user(name));
    assert!(sees(&bench, "ann"), "everyone, unless it is said otherwise");
    bench.wants(Call::LastSeen(LastSeen::Contacts));
    assert_eq!(bench.effects, [Effect::Visibility(None)]);
    bench.append("ann", "c1");
    assert!(!sees(&bench, "ann"), "to be written to is not enough");
    assert!(sees(&bench, "bob"), "oneself");
    assert!(!bench.bob().hides());
    bench.wants(Call::LastSeen(LastSeen::Nobody));
    assert!(!sees(&bench, "ann") && sees(&bench, "bob") && bench.bob().hides());
    bench.wants(Call::LastSeen(LastSeen::Nobody));
    assert_eq!(bench.effects, [], "no news");
    bench.wants(Call::LastSeen(LastSeen::Everyone));
    assert!(sees(&bench, "ann") && !bench.bob().hides());
    bench.wants(Call::Block(user("ann")));
    assert!(!sees(&bench, "ann") && sees(&bench, "cat"));
}

#[test]
fn who_is_written_to_is_a_contact_from_then_on() {
    let mut mailbox = Mailbox::new(user("bob"), Epoch(1));
    let sent = |seq: u64| Enclosed::Sent {
        mid: MessageId(1),
        conv: Conversation::User(user("ann")),
        seq: Seq(seq),
        at: Timestamp(1),
        cid: Cid::parse(&format!("c{seq}")).unwrap(),
        device: DeviceId::parse("phone").unwrap(),
        content: Content {
            kind: Kind::parse("text").unwrap(),
            body: "hi".into(),
            reply_to: None,
            client: None,
        }
        .into(),
    };
    let now = State::new(ShardId(0), 1).now();
    let mut effects = Vec::new();
    mailbox.wants(Call::LastSeen(LastSeen::Contacts), &mut effects).unwrap();
    for (seq, news) in [(1, true), (2, false)] {
        effects.clear();
        mailbox.receive(sent(seq), now, &mut effects);
        let told = effects.contains(&Effect::Visibility(Some(user("ann"))));
        assert_eq!(told, news, "{seq}");
        assert!(mailbox.shows_itself_to(&user("ann")));
    }
    assert!(!mailbox.shows_itself_to(&user("cat")));
}

#[test]
fn a_profile_is_shown_to_others_and_little_of_it_to_those_who_are_blocked() {
    let mut bench = Bench::new();
    let name = Some("Bob".into());
    let (about, avatar) = (Some("about".into()), Some("blob:1".into()));
    let whole = Profile { name: name.clone(), about, avatar };
    assert_eq!(bench.wants(Call::Describe(whole.clone())), Outcome::Done);
    assert_eq!(bench.effects, []);
    assert_eq!(bench.bob().profile_for(&user("ann")), whole);
    bench.wants(Call::Block(user("ann")));
    assert_eq!(bench.bob().profile_for(&user("ann")), Profile { name, ..Profile::default() });
    assert_eq!(bench.bob().profile_for(&user("bob")), whole);
}

#[test]
fn a_card_is_the_same_for_all_until_somebody_is_blocked_who_is_not_shown_the_picture() {
    let mut bench = Bench::new();
    let card =
        |avatar: Option<&str>| Card { name: Some("Bob".into()), avatar: avatar.map(Into::into) };
    assert_eq!(bench.card("ann"), Shown::default());
    bench.wants(Call::Describe(Profile { name: Some("Bob".into()), ..Profile::default() }));
    bench.wants(Call::Block(user("ann")));
    assert_eq!(bench.card("ann"), Shown { card: card(None), to: ShownTo::All });
    bench.wants(Call::Describe(Profile { avatar: Some("blob:1".into()), ..Profile::default() }));
    assert_eq!(bench.card("ann"), Shown { card: card(None), to: ShownTo::Asker });
    assert_eq!(bench.card("cat"), Shown { card: card(Some("blob:1")), to: ShownTo::Asker });
    for at in 0..BLOCKED_MAX - 1 {
        bench.wants(Call::Block(user(&format!("{at:064}"))));
    }
    assert!(bench.stored().1.len() > 1, "also of a head in more than one chunk");
    assert_eq!(bench.card("ann"), Shown { card: card(None), to: ShownTo::Asker });
    for name in bench.bob().blocked() {
        bench.wants(Call::Unblock(name));
    }
    assert_eq!(bench.card("ann"), Shown { card: card(Some("blob:1")), to: ShownTo::All });
    bench.change(Change::Erase);
    assert_eq!(bench.card("ann"), Shown::default());
}

#[test]
fn nothing_of_it_outlives_its_owner() {
    let mut bench = Bench::new();
    let name = Profile { name: Some("Bob".into()), ..Profile::default() };
    bench.wants(Call::Describe(name.clone()));
    bench.wants(Call::Block(user("ann")));
    bench.wants(Call::LastSeen(LastSeen::Nobody));
    bench.change(Change::Erase);
    let bob = bench.again();
    assert_eq!((bob.blocked(), bob.settings()), (Vec::new(), Settings::default()));
    assert_eq!(bob.profile_for(&user("cat")), Profile::default());
    for call in [Call::Block(user("ann")), Call::Describe(name)] {
        assert_eq!(bench.wants(call), Outcome::Refused(Refusal::Gone));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Block(u8),
    Unblock(u8),
    Send(u8, u8),
    Again,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..3_u8).prop_map(Step::Block),
        (0..3_u8).prop_map(Step::Unblock),
        (0..3_u8, 0..6_u8).prop_map(|(from, cid)| Step::Send(from, cid)),
        Just(Step::Again),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    /// Of any order of blocking, sending, repeating and starting again: a message is taken if and only if its sender is
    /// not blocked at that place of the order, and a repeated one gets its first answer whoever is blocked.
    #[test]
    fn the_agreed_order_alone_decides_who_is_refused(steps in steps()) {
        let mut bench = Bench::new();
        let mut blocked = BTreeSet::new();
        let mut taken: std::collections::BTreeMap<(u8, u8), u64> = Default::default();
        for step in steps {
            match step {
                Step::Block(who) => {
                    bench.wants(Call::Block(user(&format!("u{who}"))));
                    blocked.insert(who);
                }
                Step::Unblock(who) => {
                    bench.wants(Call::Unblock(user(&format!("u{who}"))));
                    blocked.remove(&who);
                }
                Step::Send(from, cid) => {
                    let outcome = bench.append(&format!("u{from}"), &format!("c{cid}"));
                    let count = taken.keys().filter(|(who, _)| *who == from).count() as u64;
                    match taken.get(&(from, cid)) {
                        Some(seq) => prop_assert_eq!(accepted(outcome), (*seq, true)),
                        None if blocked.contains(&from) => prop_assert_eq!(outcome, BLOCKED),
                        None => {
                            prop_assert_eq!(accepted(outcome), (count + 1, false));
                            taken.insert((from, cid), count + 1);
                        }
                    }
                }
                Step::Again => prop_assert_eq!(&bench.again(), bench.bob()),
            }
        }
        let names: Vec<UserId> = blocked.iter().map(|who| user(&format!("u{who}"))).collect();
        prop_assert_eq!(bench.bob().blocked(), names);
    }
}
