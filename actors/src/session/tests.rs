//! Session: what its rules promise, call by call and against a home that fails in every way.

mod model;

use std::sync::Arc;
use std::time::Duration;

use super::{AckedTooFar, Limits, Output, RequestRef, Session};
use crate::ids::{
    BootId, Cid, Conversation, DeviceId, Epoch, Kind, MessageId, NodeId, Number, Seq, SessionId,
    Timestamp, UserId, shard_of,
};
use crate::message::{
    Accepted, CidUse, Content, Entry, Position, Refusal, Resume, Resumed, Send, What,
};
use crate::packet::{Answer, Ask, Closed, Place, Question, Start, Tell, ToHome};

const SHARDS: u16 = 4;
const EPOCH: Epoch = Epoch(7);

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn device(name: &str) -> DeviceId {
    DeviceId::parse(name).unwrap()
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn id() -> SessionId {
    SessionId { node: NodeId(1), boot: BootId(1), count: 1 }
}

fn content(body: &str) -> Arc<Content> {
    let kind = Kind::parse("text").unwrap();
    Arc::new(Content { kind, body: body.into(), reply_to: None, client: None })
}

fn message(to: &str, cid: &str, body: &str) -> Send {
    Send {
        from: user("alice"),
        device: device("phone"),
        to: Conversation::User(user(to)),
        cid: Cid::parse(cid).unwrap(),
        content: content(body),
    }
}

fn entry(n: u64) -> Entry {
    let what = What::Message {
        mid: MessageId(u128::from(n)),
        from: user("bob"),
        device: device("d"),
        seq: Seq(n),
        content: content("hi"),
    };
    Entry { n: Number(n), at: Timestamp(n), what }
}

fn position(from: u64, head: u64) -> Position {
    Position { epoch: EPOCH, from: Number(from), head: Number(head), resumed: Resumed::NotAsked }
}

fn accepted(seq: u64) -> Accepted {
    Accepted { mid: MessageId(u128::from(seq)), seq: Seq(seq), at: Timestamp(1), dup: false }
}

fn fresh() -> Session {
    Session::new(id(), SHARDS, Arc::new(Limits::default()))
}

fn attached() -> Session {
    let mut session = fresh();
    let mut out = Vec::new();
    session.authenticate(user("alice"), device("phone"), None, Timestamp(9), at(0), &mut out);
    let position = Ok(position(10, 20));
    session.tell(Tell::Attached { life: 1, position }, at(1), &mut out);
    assert!(matches!(out.last(), Some(Output::Attached(_))));
    session
}

/// A session that has heard of all there is, and whose user uses no `cid` yet.
fn ready() -> Session {
    let mut session = fresh();
    let mut out = Vec::new();
    session.authenticate(user("alice"), device("phone"), None, Timestamp(9), at(0), &mut out);
    session.tell(Tell::Attached { life: 1, position: Ok(position(10, 10)) }, at(0), &mut out);
    out.clear();
    session.send(RequestRef(0), message("bob", "c0", "hi"), at(0), &mut out);
    let (request, uses, true) = asked(&out).remove(0) else { panic!("all are asked for") };
    session.tell(cids_told(request, &vec![true; uses.len()], Some(&[])), at(0), &mut out);
    session.check();
    session
}

/// The questions about `cid`s: their numbers, what they are about, and whether all were asked for.
fn asked(out: &[Output]) -> Vec<(u32, Vec<CidUse>, bool)> {
    let question = |output: &Output| match output {
        Output::Home(ToHome {
            ask: Ask::Question { request, question: Question::Cids { uses, all } },
            ..
        }) => Some((*request, uses.clone(), *all)),
        _ => None,
    };
    out.iter().filter_map(question).collect()
}

fn cids_told(request: u32, taken: &[bool], all: Option<&[u32]>) -> Tell {
    let answer = Answer::Cids { taken: taken.to_vec(), all: all.map(<[u32]>::to_vec) };
    Tell::Answer { request, answer: Ok(answer) }
}

fn refused(out: &[Output]) -> Vec<(u32, Refusal)> {
    let refusal = |output: &Output| match output {
        Output::Sent { request, result } => result.err().map(|why| (request.0, why)),
        _ => None,
    };
    out.iter().filter_map(refusal).collect()
}

fn did(act: impl FnOnce(&mut Vec<Output>)) -> Vec<Output> {
    let mut out = Vec::new();
    act(&mut out);
    out
}

fn places(out: &[Output]) -> Vec<(u32, u32, &str)> {
    out.iter()
        .filter_map(|output| match output {
            Output::Home(ToHome { ask: Ask::Send { place, send }, .. }) => {
                Some((place.life, place.count, send.cid.as_str()))
            }
            _ => None,
        })
        .collect()
}

fn starts(out: &[Output]) -> Vec<(u32, Start)> {
    out.iter()
        .filter_map(|output| match output {
            Output::Home(ToHome { ask: Ask::Attach { life, start, .. }, .. }) => {
                Some((*life, *start))
            }
            _ => None,
        })
        .collect()
}

fn numbers(out: &[Output]) -> Vec<u64> {
    out.iter()
        .flat_map(|output| match output {
            Output::Entries { entries, .. } => entries.iter().map(|entry| entry.n.0).collect(),
            _ => Vec::new(),
        })
        .collect()
}

fn sent(to: &str, life: u32, count: u32, seq: u64) -> Tell {
    Tell::Sent { to: user(to), place: Place { life, count }, result: Ok(accepted(seq)) }
}

#[test]
fn a_home_that_leads_no_more_and_is_followed_by_none_ends_the_session() {
    let mut session = attached();
    let (mut out, home) = (Vec::new(), shard_of(&user("alice"), SHARDS));
    let limits = Limits::default();
    let since = limits.answer + at(1);
    session.tell(Tell::NotHome { shard: home }, since, &mut out);
    for ms in (0..=limits.parked.as_millis()).step_by(100) {
        assert!(!out.contains(&Output::Unavailable), "after {ms} ms");
        let now = since + at(u64::try_from(ms).unwrap());
        session.tick(now, &mut out);
        session.tell(Tell::NotHome { shard: home }, now, &mut out);
    }
    assert!(out.contains(&Output::Unavailable));
}

#[test]
fn the_late_answer_of_an_old_home_does_not_detach_who_is_attached_at_the_new_one() {
    let mut session = attached();
    let (mut out, home) = (Vec::new(), shard_of(&user("alice"), SHARDS));
    session.home_moved(home, at(100), &mut out);
    let late = Tell::NotHome { shard: home };
    session.tell(Tell::Attached { life: 2, position: Ok(position(10, 20)) }, at(101), &mut out);
    session.tell(late.clone(), at(102), &mut out);
    out.clear();
    let entries = Tell::Entries { life: 2, entries: vec![entry(11)], head: Number(20) };
    session.tell(entries, at(103), &mut out);
    assert!(matches!(&out[..], [Output::Entries { .. }]), "{out:?}");
    // Who is not attached tries again soon.
    session.home_moved(home, at(200), &mut out);
    session.tell(late, at(201), &mut out);
    out.clear();
    session.tick(at(400), &mut out);
    let again = |output: &Output| {
        matches!(output, Output::Home(ToHome { ask: Ask::Attach { life: 4, .. }, .. }))
    };
    assert!(out.iter().any(again), "{out:?}");
}

#[test]
fn an_idle_session_is_small() {
    assert!(size_of::<Session>() < 320, "{}", size_of::<Session>());
    assert!(!attached().needs_tick());
}

#[test]
fn entries_reach_the_client_once_and_without_gaps() {
    let mut session = attached();
    let mut push = |ns: &[u64], life| {
        let entries = ns.iter().copied().map(entry).collect();
        let head = Number(20);
        did(|out| session.tell(Tell::Entries { life, entries, head }, at(900), out))
    };
    assert_eq!(numbers(&push(&[11, 12], 1)), [11, 12]);
    assert_eq!(numbers(&push(&[12, 13], 1)), [13]);
    assert_eq!(push(&[14], 9), []);
    let gap = push(&[14, 16], 1);
    assert_eq!(numbers(&gap), [14]);
    let resume = Resume { n: Number(14), epoch: EPOCH };
    assert_eq!(starts(&gap), [(2, Start::Continue(resume))]);
    assert_eq!(push(&[15], 1), []);
}

#[test]
fn caught_up_is_told_once() {
    let mut session = attached();
    let caught_up = |life| Tell::CaughtUp { life, head: Number(20) };
    assert_eq!(
        did(|out| session.tell(caught_up(1), at(2), out)),
        [Output::CaughtUp { head: Number(20) }]
    );
    let home = shard_of(&user("alice"), SHARDS);
    did(|out| session.home_moved(home, at(3), out));
    did(|out| session.tell(Tell::Attached { life: 2, position: Ok(position(10, 20)) }, at(4), out));
    assert_eq!(did(|out| session.tell(caught_up(2), at(5), out)), []);
}

#[test]
fn only_what_was_sent_can_be_acknowledged() {
    let mut session = attached();
    let beyond = did(|out| {
        assert_eq!(session.ack(Number(11), out), Err(AckedTooFar { newest: Number(10) }));
    });
    assert_eq!(beyond, []);
    let tell = Tell::Entries { life: 1, entries: vec![entry(11)], head: Number(20) };
    did(|out| session.tell(tell, at(2), out));
    let once = did(|out| session.ack(Number(11), out).unwrap());
    assert!(matches!(
        &once[..],
        [Output::Home(ToHome { ask: Ask::Acknowledge { life: 1, n: Number(11) }, .. })]
    ));
    assert_eq!(did(|out| session.ack(Number(11), out).unwrap()), []);
}

#[test]
fn a_session_without_a_home_gives_up_in_the_end() {
    let mut session = fresh();
    let mut out = Vec::new();
    session.authenticate(user("alice"), device("phone"), None, Timestamp(9), at(0), &mut out);
    session.tick(at(9_900), &mut out);
    assert!(!out.contains(&Output::Unavailable));
    session.tick(at(10_000), &mut out);
    assert_eq!(out.last(), Some(&Output::Unavailable));
    let mut session = attached();
    let home = shard_of(&user("alice"), SHARDS);
    session.home_failed(home, at(100), &mut out);
    assert_eq!(starts(&did(|out| session.tick(at(250), out))), []);
    assert_eq!(starts(&did(|out| session.tick(at(300), out))).len(), 1);
    assert_eq!(did(|out| session.tick(at(3_100), out)), [Output::Unavailable]);
    assert!(!session.needs_tick());
}

#[test]
fn a_replaced_socket_closes_and_a_lost_one_goes_on() {
    let mut session = attached();
    let closed = |life, why| Tell::Closed { life, why };
    let lost = did(|out| session.tell(closed(1, Closed::Lost), at(500), out));
    assert_eq!(starts(&lost).len(), 1);
    assert_eq!(did(|out| session.tell(closed(1, Closed::Replaced), at(501), out)), []);
    assert_eq!(
        did(|out| session.tell(closed(2, Closed::Replaced), at(502), out)),
        [Output::Close(Closed::Replaced)]
    );
}

#[test]
fn a_log_that_was_lost_is_not_gone_on_with() {
    let mut session = attached();
    did(|out| session.home_moved(shard_of(&user("alice"), SHARDS), at(3), out));
    let other = Position { epoch: Epoch(8), ..position(0, 0) };
    let tell = Tell::Attached { life: 2, position: Ok(other) };
    assert_eq!(did(|out| session.tell(tell, at(4), out)), [Output::Unavailable]);
}

#[test]
fn a_broken_stream_repeats_what_waits_in_its_order() {
    let mut session = ready();
    let mut out = Vec::new();
    for n in 1..=3 {
        session.send(RequestRef(n), message("bob", &format!("c{n}"), "hi"), at(10), &mut out);
    }
    assert_eq!(places(&out), [(1, 1, "c1"), (1, 2, "c2"), (1, 3, "c3")]);
    out.clear();
    session.tell(sent("bob", 1, 1, 1), at(11), &mut out);
    session.tell(Tell::Broken { to: user("bob"), life: 1 }, at(12), &mut out);
    assert_eq!(places(&out), [(2, 1, "c2"), (2, 2, "c3")]);
    // What the first life still accepted holds, but not what it refused; a second break waits.
    out.clear();
    let (place, result) = (Place { life: 1, count: 3 }, Err(Refusal::MailboxFull));
    session.tell(Tell::Sent { to: user("bob"), place, result }, at(13), &mut out);
    session.tell(sent("bob", 1, 2, 2), at(13), &mut out);
    session.tell(Tell::Broken { to: user("bob"), life: 1 }, at(13), &mut out);
    let done = Output::Sent { request: RequestRef(2), result: Ok(accepted(2)) };
    assert_eq!(out, [done]);
    out.clear();
    session.tell(Tell::Broken { to: user("bob"), life: 2 }, at(14), &mut out);
    session.tell(Tell::Broken { to: user("bob"), life: 2 }, at(14), &mut out);
    session.send(RequestRef(4), message("bob", "c4", "hi"), at(15), &mut out);
    assert_eq!(places(&out), []);
    out.clear();
    session.home_moved(shard_of(&user("bob"), SHARDS), at(20), &mut out);
    session.check();
    let repeated = places(&out);
    assert_eq!(repeated.iter().map(|place| place.2).collect::<Vec<_>>(), ["c3", "c4"]);
}

#[test]
fn messages_without_a_home_are_refused_together_and_oldest_first() {
    let mut session = ready();
    let mut out = Vec::new();
    session.send(RequestRef(1), message("bob", "c1", "hi"), at(100), &mut out);
    session.home_failed(shard_of(&user("bob"), SHARDS), at(100), &mut out);
    session.send(RequestRef(2), message("bob", "c2", "hi"), at(2_000), &mut out);
    assert!(session.needs_tick());
    out.clear();
    session.tick(at(3_100), &mut out);
    assert_eq!(refused(&out), [(1, Refusal::Unavailable), (2, Refusal::Unavailable)]);
    assert!(session.streams_are_empty());
    // The next one opens a newer life.
    out.clear();
    session.send(RequestRef(3), message("bob", "c3", "hi"), at(3_200), &mut out);
    assert!(places(&out)[0].0 > 1);
}

#[test]
fn what_is_behind_a_refused_message_is_refused_with_it() {
    let mut session = ready();
    let mut out = Vec::new();
    for n in 1..=4 {
        session.send(RequestRef(n), message("bob", &format!("c{n}"), "hi"), at(10), &mut out);
    }
    out.clear();
    let tell =
        |count, result| Tell::Sent { to: user("bob"), place: Place { life: 1, count }, result };
    session.tell(tell(2, Err(Refusal::MailboxFull)), at(11), &mut out);
    let full = |request| {
        let result = Err(Refusal::MailboxFull);
        Output::Sent { request: RequestRef(request), result }
    };
    assert_eq!(out, [full(2), full(3), full(4)]);
    session.check();
    // What was before it keeps its turn; what is refused for good takes nobody along.
    out.clear();
    session.tell(sent("bob", 1, 4, 9), at(12), &mut out);
    assert_eq!(out, []);
    session.send(RequestRef(5), message("bob", "c5", "hi"), at(13), &mut out);
    out.clear();
    session.tell(tell(1, Err(Refusal::NotFound)), at(14), &mut out);
    assert_eq!(out, [Output::Sent { request: RequestRef(1), result: Err(Refusal::NotFound) }]);
    out.clear();
    session.tell(tell(5, Ok(accepted(1))), at(15), &mut out);
    assert_eq!(out, [Output::Sent { request: RequestRef(5), result: Ok(accepted(1)) }]);
    assert!(session.streams_are_empty());
}

#[test]
fn an_unanswered_message_is_repeated() {
    let mut session = ready();
    did(|out| session.send(RequestRef(1), message("bob", "c1", "hi"), at(0), out));
    assert_eq!(places(&did(|out| session.tick(at(1_400), out))), []);
    assert_eq!(places(&did(|out| session.tick(at(1_500), out))), [(2, 1, "c1")]);
}

#[test]
fn a_cid_used_for_something_else_is_a_conflict() {
    let mut session = ready();
    did(|out| session.send(RequestRef(1), message("bob", "c1", "hi"), at(0), out));
    let conflict = |request| {
        let result = Err(Refusal::Conflict);
        vec![Output::Sent { request: RequestRef(request), result }]
    };
    for (request, other) in [(2, message("bob", "c1", "ho")), (3, message("carol", "c1", "hi"))] {
        let out = did(|out| session.send(RequestRef(request), other, at(1), out));
        assert_eq!(out, conflict(request));
    }
    let out = did(|out| session.send(RequestRef(4), message("bob", "c1", "hi"), at(2), out));
    let told = cids_told(asked(&out)[0].0, &[false], None);
    let out = did(|out| session.tell(told, at(3), out));
    assert_eq!(places(&out), [(1, 2, "c1")]);
}

/// The user's own message in the log, from another device.
fn copy(n: u64, send: Send) -> Entry {
    let what = What::Sent {
        mid: MessageId(1),
        conv: send.to,
        seq: Seq(1),
        at: Timestamp(1),
        cid: send.cid,
        device: device("laptop"),
        content: send.content,
    };
    Entry { n: Number(n), at: Timestamp(1), what }
}

#[test]
fn the_first_messages_wait_until_the_own_mailbox_has_said_which_cids_are_taken() {
    let mut session = attached();
    let mut out = Vec::new();
    let message = |n: u32, to| message(to, &format!("c{n}"), "hi");
    session.send(RequestRef(1), message(1, "bob"), at(10), &mut out);
    let [(first, uses, true)] = &asked(&out)[..] else { panic!("{out:?}") };
    assert_eq!(*uses, [message(1, "bob").cid_use()]);
    let first = *first;
    // Only one question at a time, and what is written meanwhile stays behind.
    for (n, to) in [(2, "carol"), (3, "bob"), (4, "bob")] {
        session.send(RequestRef(n), message(n, to), at(11), &mut out);
    }
    assert_eq!((asked(&out).len(), places(&out).len()), (1, 0));
    session.check();
    // The client has not been sent all of its log: other devices may have used more than was told.
    out.clear();
    session.tell(cids_told(first, &[false], Some(&[])), at(12), &mut out);
    assert_eq!(places(&out), [(1, 1, "c1")]);
    let [(second, uses, false)] = &asked(&out)[..] else { panic!("{out:?}") };
    assert_eq!((uses.len(), session.needs_tick()), (3, true));
    let second = *second;
    // Answers to another question are nobody's.
    out.clear();
    session.tell(cids_told(first, &[true, true, true], None), at(13), &mut out);
    assert_eq!(out, []);
    session.tell(cids_told(second, &[false, true, false], None), at(13), &mut out);
    assert_eq!(places(&out), [(2, 1, "c2"), (1, 2, "c4")]);
    assert_eq!(refused(&out), [(3, Refusal::Conflict)]);
    session.check();
}

#[test]
fn only_a_doubtful_cid_is_asked_for() {
    let mut session = ready();
    let own = did(|out| session.send(RequestRef(1), message("bob", "c1", "hi"), at(1), out));
    assert_eq!((places(&own).len(), asked(&own).len()), (1, 0));
    let entries = vec![copy(11, message("bob", "c9", "hi"))];
    did(|out| session.tell(Tell::Entries { life: 1, entries, head: Number(11) }, at(3), out));
    let out = did(|out| session.send(RequestRef(2), message("bob", "c9", "no"), at(4), out));
    let [(request, _, false)] = asked(&out)[..] else { panic!("{out:?}") };
    assert_eq!(places(&out), []);
    let out = did(|out| session.tell(cids_told(request, &[true], None), at(5), out));
    assert_eq!(refused(&out), [(2, Refusal::Conflict)]);
    // Nothing more in doubt.
    let out = did(|out| session.send(RequestRef(3), message("bob", "c3", "hi"), at(6), out));
    assert_eq!((places(&out).len(), asked(&out).len()), (1, 0));
    // There is more in the log than was sent; then, what was sent may have filled the window.
    let more = Tell::Entries { life: 1, entries: vec![entry(12)], head: Number(13) };
    did(|out| session.tell(more, at(7), out));
    let out = did(|out| session.send(RequestRef(4), message("bob", "c4", "hi"), at(8), out));
    assert_eq!((places(&out).len(), asked(&out).len()), (0, 1));
}

#[test]
fn a_session_that_is_not_the_only_one_asks_for_each_cid() {
    let mut session = ready();
    let company = |life, others| Tell::Company { life, others };
    let asks = |session: &mut Session, cid, ms| {
        let out = did(|out| session.send(RequestRef(1), message("bob", cid, "hi"), at(ms), out));
        let asked = asked(&out);
        for (request, ..) in &asked {
            session.tell(cids_told(*request, &[false], None), at(ms), &mut Vec::new());
        }
        !asked.is_empty()
    };
    assert!(!asks(&mut session, "c1", 1));
    session.tell(company(1, true), at(2), &mut Vec::new());
    assert!(asks(&mut session, "c2", 2));
    session.tell(company(1, false), at(3), &mut Vec::new());
    assert!(!asks(&mut session, "c3", 3));
    session.tell(company(0, true), at(4), &mut Vec::new());
    assert!(!asks(&mut session, "c4", 4), "of an attachment that is over");
    session.tell(
        Tell::Used { cid: message("bob", "c5", "").cid_use().short() },
        at(5),
        &mut vec![],
    );
    assert!(asks(&mut session, "c5", 5), "the user used it over HTTP");
}

#[test]
fn while_more_is_logged_than_was_sent_each_cid_is_asked_for() {
    let mut session = ready();
    let more = Tell::Entries { life: 1, entries: Vec::new(), head: Number(11) };
    did(|out| session.tell(more, at(1), out));
    let out = did(|out| session.send(RequestRef(1), message("bob", "c1", "hi"), at(2), out));
    assert_eq!((places(&out).len(), asked(&out).len()), (0, 1));
}

/// Also one that waits so long that many others were answered since.
#[test]
fn a_cid_that_waits_is_not_taken_again() {
    let limits = Limits { cids_max: 2, ..Limits::default() };
    let mut session = Session::new(id(), SHARDS, Arc::new(limits));
    let mut out = Vec::new();
    session.authenticate(user("alice"), device("phone"), None, Timestamp(9), at(0), &mut out);
    session.tell(Tell::Attached { life: 1, position: Ok(position(10, 10)) }, at(0), &mut out);
    out.clear();
    session.send(RequestRef(1), message("bob", "c1", "hi"), at(0), &mut out);
    session.tell(cids_told(asked(&out)[0].0, &[false], Some(&[])), at(1), &mut out);
    for n in 2..6 {
        session.send(RequestRef(n), message("carol", &format!("c{n}"), "hi"), at(2), &mut out);
        session.tell(sent("carol", 2, n - 1, 1), at(3), &mut out);
    }
    out.clear();
    session.send(RequestRef(9), message("dave", "c1", "hi"), at(4), &mut out);
    assert_eq!(refused(&out), [(9, Refusal::Conflict)]);
}

#[test]
fn of_too_many_cids_each_one_is_asked_for() {
    let mut session = attached();
    let out = did(|out| session.send(RequestRef(1), message("bob", "c1", "hi"), at(1), out));
    let request = asked(&out)[0].0;
    did(|out| session.tell(cids_told(request, &[false], None), at(2), out));
    let out = did(|out| session.send(RequestRef(2), message("bob", "c2", "hi"), at(3), out));
    let [(_, _, false)] = asked(&out)[..] else { panic!("{out:?}") };
}

#[test]
fn a_question_of_cids_survives_a_failover_or_its_messages_are_refused() {
    let mut session = attached();
    let home = shard_of(&user("alice"), SHARDS);
    let out = did(|out| session.send(RequestRef(1), message("bob", "c1", "hi"), at(0), out));
    let lost = asked(&out)[0].0;
    assert_eq!(asked(&did(|out| session.tick(at(1_499), out))).len(), 0);
    assert_eq!(asked(&did(|out| session.tick(at(1_500), out))).len(), 1);
    did(|out| session.home_moved(home, at(1_600), out));
    did(|out| session.send(RequestRef(2), message("bob", "c2", "hi"), at(1_600), out));
    let tell = Tell::Attached { life: 2, position: Ok(position(10, 20)) };
    let out = did(|out| session.tell(tell, at(1_700), out));
    assert_eq!(asked(&out)[0].1.len(), 2);
    assert_eq!(did(|out| session.tell(cids_told(lost, &[false], None), at(1_800), out)), []);
    let out = did(|out| session.tick(at(3_000), out));
    assert_eq!(refused(&out), [(1, Refusal::Unavailable), (2, Refusal::Unavailable)]);
    assert!(session.streams_are_empty() && !session.needs_tick());
}

#[test]
fn what_waits_for_its_cid_is_refused_with_what_is_before_it() {
    let mut session = ready();
    let mut out = Vec::new();
    session.send(RequestRef(1), message("bob", "c1", "hi"), at(1), &mut out);
    let entries = vec![copy(11, message("dave", "c2", "hi"))];
    session.tell(Tell::Entries { life: 1, entries, head: Number(11) }, at(2), &mut out);
    session.send(RequestRef(2), message("bob", "c2", "hi"), at(3), &mut out);
    session.send(RequestRef(3), message("carol", "c3", "hi"), at(3), &mut out);
    let question = asked(&out)[0].0;
    out.clear();
    let (place, result) = (Place { life: 1, count: 1 }, Err(Refusal::MailboxFull));
    session.tell(Tell::Sent { to: user("bob"), place, result }, at(4), &mut out);
    assert_eq!(refused(&out), [(1, Refusal::MailboxFull), (2, Refusal::MailboxFull)]);
    session.check();
    // What waited only behind it goes on, and the answer is nobody's.
    assert_eq!(places(&out), [(2, 1, "c3")]);
    assert_eq!(did(|out| session.tell(cids_told(question, &[false], None), at(5), out)), []);
}

#[test]
fn too_much_in_flight_is_refused() {
    let mut session = attached();
    let mut out = Vec::new();
    for n in 0..300 {
        session.send(RequestRef(n), message("bob", &format!("c{n}"), "hi"), at(0), &mut out);
    }
    let refused =
        |output: &&Output| matches!(output, Output::Sent { result: Err(Refusal::Overloaded), .. });
    assert_eq!(out.iter().filter(refused).count(), 44);
    let mut session = attached();
    let body = "x".repeat(2 * 1024 * 1024);
    out.clear();
    for n in 0..3 {
        session.send(RequestRef(n), message("bob", &format!("c{n}"), &body), at(0), &mut out);
    }
    assert_eq!(out.iter().filter(refused).count(), 2);
    session.check();
}

#[test]
fn questions_and_pulls_survive_a_failover_or_are_refused() {
    let mut session = attached();
    let mut out = Vec::new();
    session.question(RequestRef(1), Question::Devices, at(0), &mut out);
    session.pull(RequestRef(2), Number(5), 3, at(0), &mut out);
    assert_eq!(out.len(), 2);
    out.clear();
    session.home_moved(shard_of(&user("alice"), SHARDS), at(10), &mut out);
    let tell = Tell::Attached { life: 2, position: Ok(position(10, 20)) };
    session.tell(tell, at(20), &mut out);
    let repeated = |out: &[Output]| {
        out.iter()
            .filter(|output| match output {
                Output::Home(home) => matches!(home.ask, Ask::Question { .. } | Ask::Pull { .. }),
                _ => false,
            })
            .count()
    };
    assert_eq!(repeated(&out), 2);
    out.clear();
    let entries = vec![entry(6), entry(7), entry(8)];
    session.tell(Tell::Pulled { life: 2, entries: entries.clone() }, at(30), &mut out);
    assert_eq!(out, [Output::Pulled { request: RequestRef(2), result: Ok(entries) }]);
    out.clear();
    session.tick(at(3_000), &mut out);
    let refused = Err(Refusal::Unavailable);
    assert_eq!(out, [Output::Answered { request: RequestRef(1), answer: refused }]);
    assert!(!session.needs_tick());
}

#[test]
fn the_home_hears_now_and_then_that_the_client_is_alive() {
    let mut session = attached();
    assert_eq!(did(|out| session.alive(at(5_000), out)), []);
    assert!(!did(|out| session.alive(at(31_000), out)).is_empty());
    assert_eq!(did(|out| session.alive(at(36_000), out)), []);
}
