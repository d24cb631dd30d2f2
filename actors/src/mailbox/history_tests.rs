//! Property: chats and pages say what the log says, whatever came, went and was read meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::group::Watermarks;
use crate::ids::{Cid, DeviceId, Epoch, GroupId, Kind, MessageId, UserId};
use crate::mailbox::image::{self, Opening, Stored};
use crate::mailbox::rules::{Effect, Now, Policy};
use crate::message::group::News;
use crate::message::{Content, Entry, Send, What};
use crate::packet::Enclosed;

const DAY: u64 = 86_400_000;

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn content(body: &str) -> Arc<Content> {
    let kind = Kind::parse("text").unwrap();
    Arc::new(Content { kind, body: body.into(), reply_to: None, client: None })
}

/// The mailbox of `bob`, and all of its log.
struct Bench {
    mailbox: Mailbox,
    log: Vec<Entry>,
    at: u64,
    club: u64,
}

impl Bench {
    fn new() -> Self {
        let mut mailbox = Mailbox::new(user("bob"), Epoch(1));
        let bench = |mailbox| Self { mailbox, log: Vec::new(), at: 1_000, club: 0 };
        let now = bench(mailbox.clone()).now();
        mailbox.ensure_device(&DeviceId::parse("phone").unwrap(), now).unwrap();
        bench(mailbox)
    }

    fn now(&self) -> Now {
        let (wall, cautious) = (Timestamp(self.at), Timestamp(self.at));
        Now { wall, cautious, policy: Policy::default(), large: crate::mailbox::rules::LARGE_GROUP }
    }

    fn note(&mut self, effects: Vec<Effect>) {
        self.log.extend(effects.into_iter().filter_map(|effect| match effect {
            Effect::Logged(entry) => Some(entry),
            _ => None,
        }));
    }

    fn club(&mut self, what: impl FnOnce(Seq) -> What, cid: Option<&Cid>) {
        self.club += 1;
        let (mut effects, now) = (Vec::new(), self.now());
        self.mailbox.hear(&what(Seq(self.club)), cid, now, &mut effects);
        self.note(effects);
    }

    fn post(&mut self, from: &str) {
        let at = Timestamp(self.at);
        let (mid, from) = (MessageId::new(at, self.club.into()), user(from));
        let (group, device) = (GroupId::parse("club").unwrap(), DeviceId::parse("phone").unwrap());
        let cid = Cid::parse(&format!("p{}", self.club)).unwrap();
        let what = |seq| What::Post { group, mid, from, device, seq, at, content: content("post") };
        self.club(what, Some(&cid));
    }

    fn change(&mut self, by: &str, news: News) {
        let (group, at, by) = (GroupId::parse("club").unwrap(), Timestamp(self.at), user(by));
        self.club(|seq| What::Group { group, seq, at, by, news: Arc::new(news) }, None);
    }

    fn step(&mut self, what: u8, pick: u8) {
        let who = ["ann", "cat", "dan"][usize::from(pick % 3)];
        let (mut effects, now) = (Vec::new(), self.now());
        let cid = Cid::parse(&format!("c{}", self.log.len())).unwrap();
        let device = DeviceId::parse("phone").unwrap();
        match what % 9 {
            0..=2 => {
                let to = Conversation::User(user("bob"));
                let from = user(who);
                let send = Send { from, device, to, cid, content: content("hi") };
                let mid = MessageId::new(now.wall, self.log.len() as u128);
                self.mailbox.append(send, mid, now, &mut effects).unwrap();
            }
            3 => {
                let (mid, conv) = (MessageId::new(now.wall, 7), Conversation::User(user(who)));
                let (seq, at, content) = (Seq(u64::from(pick)), now.wall, content("own"));
                let sent = Enclosed::Sent { mid, conv, seq, at, cid, device, content };
                self.mailbox.receive(sent, now, &mut effects);
            }
            4 => self.post(if pick.is_multiple_of(3) { "bob" } else { who }),
            5 if pick.is_multiple_of(4) => {
                let users = vec![user("bob")];
                self.change("ann", News::Added { title: "Club".into(), users });
            }
            5 if pick % 4 == 1 => self.change("ann", News::Removed(vec![user("bob")])),
            5 => self.change("ann", News::Role { user: user("cat"), admin: true }),
            6 => {
                let seq = Seq(u64::from(pick) % (self.club + 1));
                let group = Conversation::Group(GroupId::parse("club").unwrap());
                self.mailbox.read(&group, seq, &mut effects);
                let seq = Seq(u64::from(pick % 16));
                self.mailbox.read(&Conversation::User(user(who)), seq, &mut effects);
            }
            7 => {
                let n = Number(self.log.len() as u64 * u64::from(pick) / 255);
                self.mailbox.acknowledge(&device, n, now, &mut effects);
            }
            _ => {
                self.at += u64::from(pick) * DAY / 16;
                self.mailbox.expire(self.now(), &mut effects);
            }
        }
        self.at += 1;
        self.note(effects);
    }

    /// What the log still holds.
    fn kept(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        let low = self.mailbox.log.low();
        self.log.iter().filter(move |entry| entry.n > low)
    }

    /// What a search finds, looked at as the home does.
    fn found(&self, wanted: &Wanted) -> Vec<Number> {
        let (mut found, mut searched) = (Vec::new(), None);
        loop {
            let candidates = self.mailbox.candidates(wanted, searched, 3);
            let Some(last) = candidates.last() else { break };
            searched = Some(*last);
            for n in candidates {
                let entry = &self.log[usize::try_from(n.0).unwrap() - 1];
                assert_eq!(entry.n, n);
                if wanted.takes(entry, &user("bob")) {
                    found.push(n);
                }
            }
        }
        found.truncate(wanted.limit.into());
        if !wanted.forward() {
            found.reverse();
        }
        found
    }
}

fn conv(entry: &Entry) -> Option<(Conversation, Part)> {
    Some(match &entry.what {
        What::Message { from, .. } => (Conversation::User(from.clone()), Part::Theirs),
        What::Post { group, .. } => (Conversation::Group(group.clone()), Part::Theirs),
        What::Sent { conv, .. } => (conv.clone(), Part::Own),
        What::Group { group, .. } => (Conversation::Group(group.clone()), Part::Change),
        _ => return None,
    })
}

/// What the list must say, from the log alone.
fn listed(bench: &Bench) -> Vec<(Conversation, Number, Option<Number>)> {
    let mut newest: BTreeMap<Conversation, (Number, Option<Number>)> = BTreeMap::new();
    for entry in bench.kept() {
        let Some((conv, part)) = conv(entry) else { continue };
        let known = newest.entry(conv).or_default();
        known.0 = entry.n;
        if part != Part::Change {
            known.1 = Some(entry.n);
        }
    }
    let mut list: Vec<_> = newest.into_iter().map(|(conv, (n, last))| (conv, n, last)).collect();
    list.sort_by_key(|(_, n, _)| std::cmp::Reverse(*n));
    list
}

proptest! {
    #[test]
    fn chats_and_pages_say_what_the_log_says(
        steps in prop::collection::vec((any::<u8>(), any::<u8>()), 1..160),
        (limit, cut) in (1_u16..20, any::<prop::sample::Index>()),
        restart in any::<prop::sample::Index>(),
    ) {
        let mut bench = Bench::new();
        let restart = restart.index(steps.len());
        let mut stored = Stored::default();
        let mut disk: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (at, (what, pick)) in steps.into_iter().enumerate() {
            bench.step(what, pick);
            bench.mailbox.check();
            if at % 40 == 7 || at == restart {
                let changes = image::save(&mut bench.mailbox, &mut stored);
                disk.extend(changes.puts);
                changes.deletes.iter().for_each(|key| drop(disk.remove(key)));
            }
            if at == restart {
                let read = |keys: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
                    keys.iter().map(|key| disk[key].clone()).collect()
                };
                let chunks = read(image::head_keys(&user("bob"), stored.chunks()));
                let opening = Opening::new(user("bob"), &chunks).unwrap();
                let values = read(opening.keys());
                let (mailbox, kept) = opening.finish(&values).unwrap();
                prop_assert_eq!(&mailbox, &bench.mailbox);
                (bench.mailbox, stored) = (mailbox, kept);
            }
        }
        // The list, whole and in parts.
        let list = listed(&bench);
        let told = |before, most| -> Vec<_> {
            let talks = bench.mailbox.talks(before, most).into_iter();
            talks.map(|(talk, last)| (talk.conv, talk.newest, last)).collect()
        };
        prop_assert_eq!(&told(None, usize::MAX), &list);
        let first = told(None, 2);
        let rest = first.last().map_or_else(Vec::new, |(_, n, _)| told(Some(*n), usize::MAX));
        prop_assert_eq!(first.into_iter().chain(rest).collect::<Vec<_>>(), list.clone());
        // Unread: what others wrote behind the mark, of what is kept; in the club, since the last coming in.
        for (talk, _) in bench.mailbox.talks(None, usize::MAX) {
            prop_assert_eq!(bench.mailbox.unread(&talk.conv), talk.unread);
            let group = match &talk.conv {
                Conversation::Group(group) => group,
                Conversation::User(user) => {
                    let read = bench.mailbox.peer(user).read;
                    let unread = bench.kept().filter(|entry| {
                        matches!(&entry.what, What::Message { from, seq, .. } if from == user && *seq > read)
                    });
                    prop_assert_eq!(talk.unread, unread.count() as u64);
                    continue;
                }
            };
            let Some(known) = bench.mailbox.groups.get(group) else { continue };
            let Watermarks { read, .. } = known.marks().had;
            let unread = bench.kept().filter(|entry| {
                matches!(&entry.what, What::Post { seq, .. } if *seq > read)
            });
            prop_assert_eq!(talk.unread, unread.count() as u64);
        }
        // Pages of one conversation and of all, from both ends.
        let middle = Number(cut.index(bench.log.len() + 1) as u64);
        for wanted_conv in list.iter().map(|(conv, ..)| Some(conv.clone())).chain([None]) {
            let all: Vec<Number> = bench.kept().filter_map(|entry| {
                let (of, part) = conv(entry)?;
                let of_it = wanted_conv.as_ref().is_none_or(|conv| *conv == of);
                (of_it && part != Part::Change).then_some(entry.n)
            }).collect();
            let wanted = Wanted { conv: wanted_conv, limit, ..Wanted::default() };
            let newest = |all: &[Number]| all[all.len().saturating_sub(limit.into())..].to_vec();
            prop_assert_eq!(bench.found(&wanted), newest(&all));
            let old: Vec<Number> = all.iter().copied().filter(|n| *n < middle).collect();
            let before = Wanted { before: Some(middle), ..wanted.clone() };
            prop_assert_eq!(bench.found(&before), newest(&old));
            let new = all.iter().copied().filter(|n| *n > middle);
            let after = Wanted { after: Some(middle), ..wanted.clone() };
            prop_assert_eq!(bench.found(&after), new.take(limit.into()).collect::<Vec<_>>());
            let skipped = &all[..all.len().saturating_sub(2)];
            let offset = Wanted { offset: 2, ..wanted.clone() };
            prop_assert_eq!(bench.found(&offset), newest(skipped));
            let Some(at) = bench.log.get(cut.index(bench.log.len().max(1))).map(|e| e.at) else { continue };
            let since = Wanted { since: Some(at), ..wanted };
            let late = |n: &Number| bench.log[usize::try_from(n.0).unwrap() - 1].at >= at;
            let late: Vec<Number> = all.into_iter().filter(late).collect();
            prop_assert_eq!(bench.found(&since), newest(&late));
        }
    }
}

#[test]
fn a_message_is_found_by_its_id_and_its_sender() {
    let mut bench = Bench::new();
    for step in 0..200_u8 {
        bench.step(if step.is_multiple_of(5) { 8 } else { 0 }, step % 40);
    }
    let kept: Vec<Entry> = bench.kept().cloned().collect();
    for entry in kept {
        let What::Message { mid, from, .. } = &entry.what else { continue };
        let wanted = Wanted { mid: Some(*mid), limit: 1, ..Wanted::default() };
        assert_eq!(bench.found(&wanted), [entry.n]);
        let from = Wanted { from: Some(from.clone()), limit: 200, ..Wanted::default() };
        assert!(bench.found(&from).contains(&entry.n));
    }
    let none = Wanted { mid: Some(MessageId(1)), limit: 1, ..Wanted::default() };
    assert_eq!(bench.found(&none), []);
}

#[test]
fn what_one_writes_to_oneself_is_there_once_and_not_new() {
    let mut bench = Bench::new();
    let (own, device) = (Conversation::User(user("bob")), DeviceId::parse("phone").unwrap());
    let cid = Cid::parse("note").unwrap();
    let (mut effects, now) = (Vec::new(), bench.now());
    let mid = MessageId::new(now.wall, 1);
    let (from, content) = (user("bob"), content("milk"));
    let send = Send {
        from,
        device: device.clone(),
        to: own.clone(),
        cid: cid.clone(),
        content: content.clone(),
    };
    let taken = bench.mailbox.append(send, mid, now, &mut effects).unwrap();
    let (conv, at) = (own.clone(), now.wall);
    let sent = Enclosed::Sent { mid, conv, seq: taken.seq, at, cid, device, content };
    bench.mailbox.receive(sent, now, &mut effects);
    bench.note(effects);
    bench.mailbox.check();
    let copies = bench.kept().filter(|entry| conv_is(entry, &own)).count();
    assert_eq!(copies, 2, "both are told on the socket: {:?}", bench.log);
    for conv in [Some(own.clone()), None] {
        let wanted = Wanted { conv, limit: 10, ..Wanted::default() };
        let found = bench.found(&wanted);
        let is_own = |n: &Number| {
            let entry = &bench.log[usize::try_from(n.0).unwrap() - 1];
            matches!(entry.what, What::Sent { .. })
        };
        assert!(found.len() == 1 && is_own(&found[0]), "{found:?}");
    }
    let talks = bench.mailbox.talks(None, 10);
    assert_eq!((talks.len(), talks[0].0.unread), (1, 0));
    assert!(bench.mailbox.theirs(Number(0), Number(9)).is_empty(), "nobody is woken by it");
}

fn conv_is(entry: &Entry, wanted: &Conversation) -> bool {
    conv(entry).is_some_and(|(of, _)| of == *wanted)
}

#[test]
fn a_search_knows_nothing_that_came_after_it_began() {
    let mut bench = Bench::new();
    let fill = |bench: &mut Bench| (0..6).for_each(|_| bench.step(0, 0));
    fill(&mut bench);
    let head = bench.mailbox.log.head();
    let all = Wanted { after: Some(Number(0)), limit: 200, ..Wanted::default() }.as_of(head);
    let few = Wanted { before: Some(Number(3)), ..all.clone() }.as_of(head);
    fill(&mut bench);
    assert_eq!(bench.found(&all).last(), Some(&head));
    assert_eq!(bench.found(&few).last(), Some(&Number(2)));
}
