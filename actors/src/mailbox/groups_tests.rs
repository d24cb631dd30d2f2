//! Groups, tested: one order, who is in it, and ticks against a model that counts members.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ids::{DeviceId, Epoch, Kind, Timestamp};
use crate::mailbox::rules::Policy;
use crate::message::Content;
use crate::message::group::MEMBERS_MAX;

const AT: Now = Now {
    wall: Timestamp(1_000),
    cautious: Timestamp(1_000),
    policy: POLICY,
    large: crate::mailbox::rules::LARGE_GROUP,
};
const POLICY: Policy = Policy {
    expiry: std::time::Duration::from_secs(100),
    history: std::time::Duration::from_secs(100),
};

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn users(names: &[&str]) -> Vec<UserId> {
    names.iter().map(|name| user(name)).collect()
}

fn id() -> GroupId {
    GroupId::parse("club").unwrap()
}

fn post(from: &str, cid: &str) -> Send {
    let kind = Kind::parse("text").unwrap();
    let content = Content { kind, body: cid.into(), reply_to: None, client: None };
    Send {
        from: user(from),
        device: DeviceId::parse("phone").unwrap(),
        to: Conversation::Group(id()),
        cid: Cid::parse(cid).unwrap(),
        content: Arc::new(content),
    }
}

/// A group, the mailboxes of four users, and what is on its way between them at once.
struct Club {
    group: Mailbox,
    people: BTreeMap<UserId, Mailbox>,
}

impl Club {
    fn new() -> Self {
        let people = ["ann", "bob", "cat", "dan"].into_iter();
        let people = people.map(|name| (user(name), Mailbox::new(user(name), Epoch(1)))).collect();
        let mut club = Self { group: Mailbox::new(UserId::of_group(&id()), Epoch(2)), people };
        let phone = DeviceId::parse("phone").unwrap();
        for mailbox in club.people.values_mut() {
            mailbox.ensure_device(&phone, AT).unwrap();
        }
        club
    }

    /// Carries what was caused to whom it is for, until all is quiet.
    fn settle(&mut self, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            let mut more = Vec::new();
            match effect {
                Effect::Spread(spreading) => {
                    let Spreading { roster, what, cid, .. } = *spreading;
                    for member in roster.iter().flat_map(|(_, members)| members.iter()) {
                        let mailbox = self.people.get_mut(member).unwrap();
                        mailbox.hear(&what, cid.as_ref(), AT, &mut more);
                    }
                }
                Effect::Enclose(Envelope { to, what }) => {
                    let is_group = to == *self.group_owner();
                    let mailbox =
                        if is_group { Some(&mut self.group) } else { self.people.get_mut(&to) };
                    mailbox.unwrap().receive(what, AT, &mut more);
                }
                _ => {}
            }
            effects.extend(more);
        }
        self.group.check();
        self.people.values().for_each(Mailbox::check);
    }

    fn group_owner(&self) -> &UserId {
        &self.group.owner
    }

    fn call(&mut self, by: &str, call: &Call) -> Result<(), Refusal> {
        let mut effects = Vec::new();
        let done = self.group.call(&user(by), call, 4, AT, &mut effects);
        self.settle(effects);
        done
    }

    fn create(&mut self, by: &str, members: &[&str]) -> Result<(), Refusal> {
        self.call(by, &Call::Create { title: "Club".into(), members: users(members) })
    }

    fn write(&mut self, from: &str, cid: &str) -> Result<Accepted, Refusal> {
        let mut effects = Vec::new();
        let mid = MessageId(self.group.log.head().0.into());
        let done = self.group.append(post(from, cid), mid, AT, &mut effects);
        self.settle(effects);
        done
    }

    fn acknowledge(&mut self, who: &str, n: u64) {
        let (mut effects, phone) = (Vec::new(), DeviceId::parse("phone").unwrap());
        let mailbox = self.people.get_mut(&user(who)).unwrap();
        mailbox.acknowledge(&phone, Number(n), AT, &mut effects);
        self.settle(effects);
    }

    fn acknowledge_all(&mut self, who: &str) {
        let head = self.people[&user(who)].log.head().0;
        self.acknowledge(who, head);
    }

    fn read(&mut self, who: &str, seq: u64) {
        let mut effects = Vec::new();
        let mailbox = self.people.get_mut(&user(who)).unwrap();
        mailbox.read(&Conversation::Group(id()), Seq(seq), &mut effects);
        self.settle(effects);
    }

    fn log(&self, who: &str) -> Vec<What> {
        self.people[&user(who)].log.warm.iter().map(|entry| entry.what.clone()).collect()
    }

    /// The group's entries somebody has, by their places.
    fn places(&self, who: &str) -> Vec<u64> {
        let place = |what: &What| match what {
            What::Post { seq, .. } | What::Sent { seq, .. } | What::Group { seq, .. } => {
                Some(seq.0)
            }
            _ => None,
        };
        self.log(who).iter().filter_map(place).collect()
    }

    /// The newest ticks somebody was told of.
    fn told(&self, who: &str) -> (u64, u64) {
        let ticks = |what: &What| match what {
            What::Receipt { by: None, delivered, read, .. } => Some((delivered.0, read.0)),
            _ => None,
        };
        self.log(who).iter().filter_map(ticks).next_back().unwrap_or_default()
    }

    fn members(&self) -> Vec<(UserId, bool)> {
        let group = self.group.group().unwrap();
        let any = ["ann", "bob", "cat", "dan"].map(user).into_iter().find(|user| group.has(user));
        any.map(|any| group.info(&any).unwrap().members).unwrap_or_default()
    }
}

#[test]
fn all_members_have_one_order_from_their_coming_to_their_going() {
    let mut club = Club::new();
    club.create("ann", &["bob", "ann", "bob"]).unwrap();
    club.write("bob", "b1").unwrap();
    club.call("ann", &Call::Add(users(&["cat", "bob"]))).unwrap();
    club.write("ann", "a1").unwrap();
    club.call("ann", &Call::Remove(users(&["bob", "dan"]))).unwrap();
    assert_eq!(club.write("bob", "b2"), Err(Refusal::NotAMember));
    club.write("cat", "c1").unwrap();
    assert_eq!(club.places("ann"), [1, 2, 3, 4, 5, 6]);
    assert_eq!(club.places("bob"), [1, 2, 3, 4, 5], "up to the own removal");
    assert_eq!(club.places("cat"), [3, 4, 5, 6], "from the own coming");
    assert_eq!(club.places("dan"), [0; 0]);
    assert_eq!(club.people[&user("bob")].groups(), []);
    assert_eq!(club.people[&user("cat")].groups(), [(id(), "Club".into(), false)]);
    assert!(club.people[&user("ann")].groups()[0].2, "who made it is an admin");
}

#[test]
fn what_is_repeated_is_answered_again() {
    let mut club = Club::new();
    club.create("ann", &["bob"]).unwrap();
    club.create("ann", &["bob"]).unwrap();
    assert_eq!(club.create("ann", &["cat"]), Err(Refusal::Conflict));
    let first = club.write("ann", "a1").unwrap();
    let again = club.write("ann", "a1").unwrap();
    assert_eq!(again, Accepted { dup: true, ..first });
    let update = Call::Update { title: None, icon: Some("i".into()), status: Some("".into()) };
    for call in [Call::Add(users(&["bob"])), Call::Remove(users(&["cat"])), update.clone(), update]
    {
        club.call("ann", &call).unwrap();
    }
    assert_eq!(club.places("bob"), [1, 2, 3], "only the first update is news");
}

/// Its sender may not have heard of it: repeated later, it would overtake what was written since.
#[test]
fn a_post_that_was_refused_stays_refused() {
    let mut club = Club::new();
    club.create("ann", &[]).unwrap();
    assert_eq!(club.write("bob", "b1"), Err(Refusal::NotAMember));
    club.call("ann", &Call::Add(users(&["bob"]))).unwrap();
    club.write("bob", "b2").unwrap();
    assert_eq!(club.write("bob", "b1"), Err(Refusal::NotAMember));
    assert!(club.write("bob", "b2").unwrap().dup);
}

#[test]
fn only_admins_change_who_is_in() {
    let mut club = Club::new();
    let update = Call::Update { title: None, icon: None, status: Some("away".into()) };
    assert_eq!(club.call("ann", &update), Err(Refusal::NotFound), "there is no group yet");
    club.create("ann", &["bob", "cat"]).unwrap();
    let role = |name: &str, admin| Call::Role { user: user(name), admin };
    for call in [
        Call::Add(users(&["dan"])),
        Call::Remove(users(&["cat"])),
        role("bob", true),
        update.clone(),
    ] {
        assert_eq!(club.call("bob", &call), Err(Refusal::NotAnAdmin));
        assert_eq!(club.call("dan", &call), Err(Refusal::NotAMember));
    }
    assert_eq!(club.call("ann", &role("dan", true)), Err(Refusal::NoSuchMember));
    assert_eq!(club.call("ann", &role("ann", false)), Err(Refusal::LastAdmin));
    club.call("ann", &update).unwrap();
    let info = club.group.group().unwrap().info(&user("cat")).unwrap();
    assert_eq!((info.status.as_deref(), info.icon), (Some("away"), None));
    assert_eq!(club.group.group().unwrap().info(&user("dan")), Err(Refusal::NotAMember));
    // Anybody may put themselves out.
    club.call("cat", &Call::Remove(users(&["cat"]))).unwrap();
    assert_eq!(club.members(), [(user("ann"), true), (user("bob"), false)]);
}

#[test]
fn the_oldest_member_follows_the_last_admin() {
    let mut club = Club::new();
    club.create("dan", &[]).unwrap();
    club.call("dan", &Call::Add(users(&["cat"]))).unwrap();
    club.call("dan", &Call::Add(users(&["ann"]))).unwrap();
    club.call("dan", &Call::Leave).unwrap();
    assert_eq!(club.members(), [(user("cat"), true), (user("ann"), false)]);
    let role = |what: &&What| matches!(what, What::Group { news, .. } if matches!(**news, News::Role { .. }));
    assert_eq!(club.log("ann").iter().filter(role).count(), 1, "and all hear of it");
    club.call("cat", &Call::Leave).unwrap();
    club.call("ann", &Call::Leave).unwrap();
    assert_eq!(club.members(), []);
    assert_eq!(club.write("ann", "a1"), Err(Refusal::NotAMember));
}

#[test]
fn a_group_has_only_so_many_members() {
    let mut group = Mailbox::new(UserId::of_group(&id()), Epoch(2));
    let many = |count: usize| (0..count).map(|at| user(&format!("u{at}"))).collect::<Vec<_>>();
    let create = |members| Call::Create { title: "Club".into(), members };
    let mut call = |call: Call| group.call(&user("ann"), &call, 4, AT, &mut Vec::new());
    assert_eq!(call(create(many(MEMBERS_MAX))), Err(Refusal::GroupFull));
    assert_eq!(call(create(many(MEMBERS_MAX - 1))), Ok(()));
    assert_eq!(call(Call::Add(users(&["one-more"]))), Err(Refusal::GroupFull));
    assert_eq!(call(Call::Add(users(&["u1"]))), Ok(()), "is in already");
}

#[test]
fn ticks_are_of_all_others() {
    let mut club = Club::new();
    club.create("ann", &["bob", "cat"]).unwrap();
    club.write("ann", "a1").unwrap();
    club.acknowledge_all("bob");
    assert_eq!(club.told("ann"), (0, 0), "cat has not got it");
    club.acknowledge_all("cat");
    assert_eq!(club.told("ann"), (2, 1), "delivered to all; nothing was there to read before it");
    club.read("cat", 2);
    club.read("bob", 99);
    assert_eq!(club.told("ann"), (2, 2));
    // Who lacks it has gone.
    club.write("bob", "b1").unwrap();
    club.acknowledge_all("ann");
    assert_eq!(club.told("bob"), (0, 0));
    club.call("ann", &Call::Remove(users(&["cat"]))).unwrap();
    assert_eq!(club.told("bob").0, 3);
    assert_eq!(club.told("cat"), (0, 0));
}

#[test]
fn a_group_survives_a_checkpoint_as_it_was() {
    use crate::mailbox::image::{Opening, Stored, head_of, save};
    let mut club = Club::new();
    club.create("ann", &["bob", "cat"]).unwrap();
    club.write("ann", "a1").unwrap();
    club.acknowledge_all("bob");
    let Club { group, people } = &mut club;
    for mailbox in people.values_mut().chain([group]) {
        let puts: BTreeMap<_, _> = save(mailbox, &mut Stored::default()).puts.into_iter().collect();
        let (key, head) = puts.iter().find(|(key, _)| head_of(key).is_some()).unwrap();
        assert_eq!(head_of(key).as_ref(), Some(&mailbox.owner));
        let opening = Opening::new(mailbox.owner.clone(), std::slice::from_ref(head)).unwrap();
        let values: Vec<_> = opening.keys().iter().map(|key| puts[key].clone()).collect();
        let (read, _) = opening.finish(&values).unwrap();
        read.check();
        assert_eq!(read, *mailbox);
        *mailbox = read;
    }
    club.acknowledge_all("cat");
    assert_eq!(club.told("ann").0, 2);
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize),
    Acknowledge(usize, u64),
    Read(usize, u64),
    Add(usize, usize),
    Remove(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..4_usize;
    prop_oneof![
        6 => who.clone().prop_map(Step::Write),
        6 => (who.clone(), 0..6_u64).prop_map(|(who, back)| Step::Acknowledge(who, back)),
        4 => (who.clone(), 0..6_u64).prop_map(|(who, back)| Step::Read(who, back)),
        1 => (who.clone(), who.clone()).prop_map(|(by, whom)| Step::Add(by, whom)),
        1 => (who.clone(), who).prop_map(|(by, whom)| Step::Remove(by, whom)),
    ]
}

proptest! {
    /// Whoever writes is told of exactly what all others have, whatever they do in between.
    #[test]
    fn ticks_agree_with_counting_every_member(steps in prop::collection::vec(step(), 1..80)) {
        const NAMES: [&str; 4] = ["ann", "bob", "cat", "dan"];
        let mut club = Club::new();
        club.create("ann", &["bob", "cat"]).unwrap();
        let mut written: Vec<(usize, u64)> = Vec::new();
        for (at, step) in steps.into_iter().enumerate() {
            match step {
                Step::Write(who) => {
                    if let Ok(accepted) = club.write(NAMES[who], &format!("c{at}")) {
                        written.push((who, accepted.seq.0));
                    }
                }
                Step::Acknowledge(who, back) => {
                    let head = club.people[&user(NAMES[who])].log.head().0;
                    club.acknowledge(NAMES[who], head.saturating_sub(back));
                }
                Step::Read(who, back) => {
                    club.read(NAMES[who], club.group.log.head().0.saturating_sub(back));
                }
                Step::Add(by, whom) => drop(club.call(NAMES[by], &Call::Add(users(&[NAMES[whom]])))),
                Step::Remove(by, whom) => {
                    let gone = club.call(NAMES[by], &Call::Remove(users(&[NAMES[whom]])));
                    // Of what was written before, nobody is told who was out in between.
                    if gone.is_ok() {
                        written.retain(|(who, _)| *who != whom);
                    }
                }
            }
            let group = club.group.group().unwrap();
            let Some(any) = NAMES.into_iter().find(|name| group.has(&user(name))) else { break };
            let progress = group.progress(&user(any)).unwrap();
            for (who, seq) in &written {
                let others = || progress.iter().filter(|p| p.user != user(NAMES[*who]));
                let (told, alone) = (club.told(NAMES[*who]), others().count() == 0);
                let delivered = others().all(|p| p.delivered.0 >= *seq) && !alone;
                let read = others().all(|p| p.read.0 >= *seq) && !alone;
                prop_assert!(told.0 >= *seq || !delivered, "{} of {seq}: {told:?}", NAMES[*who]);
                prop_assert!(told.1 >= *seq || !read, "{} of {seq}: {told:?}", NAMES[*who]);
                prop_assert!(told.0 < *seq || delivered || alone, "{} of {seq}: early", NAMES[*who]);
                prop_assert!(told.1 < *seq || read || alone, "{} of {seq}: early", NAMES[*who]);
            }
        }
    }
}
