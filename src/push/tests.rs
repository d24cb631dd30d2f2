//! Push, tested: what waits, what is given up, and that requests are signed as the README says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use actors::ids::{Conversation, DeviceId, Epoch, Number, Timestamp, UserId};
use actors::shard::home::Notice;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use proptest::prelude::*;

use super::http::{Service, retry_after};
use super::rules::{Answer, Next, Queue, Then};
use super::signature::{id, key, sign};
use super::{Settings, start};

const HOUR: Duration = Duration::from_secs(3_600);

fn notice(user: &str, from: &str, n: u64) -> Notice {
    Notice {
        user: UserId::parse(user).unwrap(),
        device: DeviceId::parse("phone").unwrap(),
        conv: Conversation::User(UserId::parse(from).unwrap()),
        n: Number(n),
        unread: 2,
        since: Timestamp(1_700_000_000_123),
        epoch: Epoch(7),
        seen: Timestamp(1_000),
        acked: Number(3),
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// What is sent now, and under which ticket.
#[track_caller]
fn sent(queue: &mut Queue, now: Duration) -> (u64, Notice) {
    match queue.next(now) {
        Next::Send(ticket, notice) => (ticket, notice),
        Next::Wait(wait) => panic!("nothing is sent, but after {wait:?}"),
    }
}

#[track_caller]
fn then(queue: &mut Queue, ticket: u64, answer: Answer, now: Duration) -> Then {
    let (_, then) = queue.answered(ticket, answer, now, u32::MAX).expect("it was sent");
    queue.check();
    then
}

#[test]
fn a_signature_is_the_hmac_of_timestamp_and_body() {
    // printf '1700000000123.{"n":1}' | openssl dgst -sha256 -hmac 'whsec-for-tests-only'
    let signed = sign(&key("whsec-for-tests-only"), Timestamp(1_700_000_000_123), br#"{"n":1}"#);
    assert_eq!(signed, "sha256=be71de0c01afe3b64f67d1987a42e69f01ea7a6f7a7cdb952be77d18da8cdf23");
}

#[test]
fn an_id_is_that_of_one_entry_in_one_conversation_on_one_device() {
    let one = notice("bob", "ann", 5);
    let same = Notice { unread: 9, since: Timestamp(0), seen: Timestamp(9), ..one.clone() };
    assert_eq!(id(&one), id(&same));
    // printf 'bob\nphone\nu:ann\n00000000000000000000000007\n5' | openssl dgst -sha256
    assert_eq!(id(&one), "475548d0f711a51a330b741778a79d13");
    let laptop = Notice { device: DeviceId::parse("laptop").unwrap(), ..one.clone() };
    let anew = Notice { epoch: Epoch(8), ..one.clone() };
    let others = [notice("bob", "ann", 6), notice("bob", "cat", 5), notice("dan", "ann", 5)];
    let ids: BTreeSet<String> = others.iter().chain([&one, &laptop, &anew]).map(id).collect();
    assert_eq!(ids.len(), 6);
}

#[tokio::test]
async fn a_request_says_where_and_not_what() {
    let settings = Settings {
        url: "http://127.0.0.1:9/wake?x=1".to_owned(),
        secret: "0123456789abcdef".to_owned(),
        timeout: secs(1),
    };
    let (service, one) = (Service::new(&settings).unwrap(), notice("bob", "ann", 5));
    let request = service.request(&one, Timestamp(42)).unwrap();
    assert_eq!(request.uri(), "http://127.0.0.1:9/wake?x=1");
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let header = |name: &str| parts.headers[name].to_str().unwrap().to_owned();
    let name = id(&one);
    let expected = format!(
        r#"{{"user":"bob","device":"phone","conv":"u:ann","kind":"message","n":5,"unread":2,"since_ms":1700000000123,"id":"{name}"}}"#
    );
    assert_eq!(body, expected.as_bytes());
    assert_eq!((header("x-rookery-id"), header("x-rookery-timestamp")), (name, "42".to_owned()));
    let signature = sign(&key("0123456789abcdef"), Timestamp(42), &body);
    assert_eq!(header("x-rookery-signature"), signature);
    assert_eq!(header("content-type"), "application/json");
}

#[tokio::test]
async fn only_http_is_an_address() {
    for url in ["https://127.0.0.1/", "127.0.0.1:80", "/push", "http://", "nonsense here"] {
        let (url, secret) = (url.to_owned(), "0123456789abcdef".to_owned());
        let settings = Settings { url: url.clone(), secret, timeout: secs(1) };
        let refused = start(&settings).err().unwrap_or_else(|| panic!("{url}")).to_string();
        assert!(refused.contains(&url) && refused.contains("http://host:port/path"), "{refused}");
    }
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let read = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", text.parse().unwrap());
        // Sun, 06 Nov 1994 08:49:37 GMT, the example of the RFC.
        retry_after(&headers, Timestamp(784_111_777_000))
    };
    assert_eq!(read("120"), Some(secs(120)));
    assert_eq!(read("Sun, 06 Nov 1994 08:50:37 GMT"), Some(secs(60)));
    assert_eq!(read("Sun, 06 Nov 1994 08:40:00 GMT"), Some(secs(0)), "it is over");
    assert_eq!((read("soon"), read("-1")), (None, None));
    assert_eq!(retry_after(&HeaderMap::new(), Timestamp(0)), None);
}

#[test]
fn what_the_service_takes_is_told_once() {
    let mut queue = Queue::default();
    assert_eq!(queue.take(notice("bob", "ann", 1), secs(0)), None);
    let (ticket, told) = sent(&mut queue, secs(0));
    assert_eq!(told, notice("bob", "ann", 1));
    assert_eq!(then(&mut queue, ticket, Answer::Status(204, None), secs(1)), Then::Done);
    assert_eq!(queue.next(secs(9_999)), Next::Wait(None));
}

#[test]
fn what_fails_is_repeated_ever_later_and_given_up_after_an_hour() {
    let (mut queue, mut now, mut waits) = (Queue::default(), secs(0), Vec::new());
    queue.take(notice("bob", "ann", 1), now);
    let failures =
        [Answer::Nothing, Answer::Status(500, None), Answer::Status(408, None)].iter().cycle();
    for failure in failures {
        let (ticket, _) = sent(&mut queue, now);
        match then(&mut queue, ticket, *failure, now) {
            Then::Again(wait) => {
                assert_eq!(queue.next(now), Next::Wait(Some(wait)), "not before");
                waits.push(wait.as_secs());
                now += wait;
            }
            end => {
                assert_eq!(end, Then::GiveUp);
                break;
            }
        }
    }
    assert_eq!(waits[..11], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    assert!(now <= HOUR && now + secs(300) > HOUR, "{now:?}");
    assert_eq!(queue.next(HOUR * 2), Next::Wait(None));
}

#[test]
fn a_service_that_says_when_is_not_asked_before() {
    let mut queue = Queue::default();
    queue.take(notice("bob", "ann", 1), secs(0));
    let (ticket, _) = sent(&mut queue, secs(0));
    let busy = |after: u64| Answer::Status(429, Some(secs(after)));
    assert_eq!(then(&mut queue, ticket, busy(77), secs(0)), Then::Again(secs(77)));
    assert_eq!(queue.next(secs(76)), Next::Wait(Some(secs(1))));
    let (ticket, _) = sent(&mut queue, secs(77));
    assert_eq!(then(&mut queue, ticket, busy(0), secs(77)), Then::Again(secs(2)), "in peace");
    let (ticket, _) = sent(&mut queue, secs(79));
    assert_eq!(then(&mut queue, ticket, busy(7_200), secs(79)), Then::GiveUp);
}

#[test]
fn what_is_refused_is_dropped() {
    for status in [301, 400, 401, 403, 404, 422] {
        let mut queue = Queue::default();
        queue.take(notice("bob", "ann", 1), secs(0));
        let (ticket, _) = sent(&mut queue, secs(0));
        let refused = then(&mut queue, ticket, Answer::Status(status, None), secs(0));
        assert_eq!(refused, Then::Refuse(status));
        assert_eq!(queue.next(HOUR), Next::Wait(None));
    }
}

#[test]
fn a_device_that_is_gone_is_not_told_of_until_it_is_heard_again() {
    let mut queue = Queue::default();
    queue.take(notice("bob", "ann", 5), secs(0));
    queue.take(notice("bob", "cat", 6), secs(0));
    queue.take(notice("dan", "cat", 6), secs(0));
    let (first, _) = sent(&mut queue, secs(0));
    let (second, _) = sent(&mut queue, secs(0));
    queue.take(notice("bob", "eve", 7), secs(0));
    assert_eq!(then(&mut queue, first, Answer::Status(410, None), secs(1)), Then::Forget);
    // What was on its way, what waited and what comes are of the same device.
    assert_eq!(then(&mut queue, second, Answer::Nothing, secs(1)), Then::Forget);
    assert_eq!(queue.take(notice("bob", "ann", 8), secs(2)), Some("gone"));
    let (_, other) = sent(&mut queue, secs(2));
    assert_eq!(other, notice("dan", "cat", 6));
    assert_eq!(queue.next(HOUR), Next::Wait(None));
    let heard = Notice { seen: Timestamp(1_001), ..notice("bob", "ann", 9) };
    assert_eq!(queue.take(heard.clone(), secs(3)), None);
    assert_eq!(sent(&mut queue, secs(3)).1, heard);
    let (mut queue, acked) =
        (Queue::default(), Notice { acked: Number(4), ..notice("bob", "ann", 9) });
    queue.take(notice("bob", "ann", 5), secs(0));
    let (ticket, _) = sent(&mut queue, secs(0));
    then(&mut queue, ticket, Answer::Status(410, None), secs(1));
    assert_eq!(queue.take(acked, secs(2)), None);
}

#[test]
fn of_a_conversation_the_newest_waits() {
    let mut queue = Queue::default();
    queue.take(notice("bob", "ann", 1), secs(0));
    let (ticket, _) = sent(&mut queue, secs(0));
    assert_eq!(queue.take(notice("bob", "ann", 5), secs(1)), None, "the first is on its way");
    assert_eq!(queue.take(notice("bob", "ann", 9), secs(1)), Some("replaced"));
    assert_eq!(then(&mut queue, ticket, Answer::Nothing, secs(1)), Then::Replaced);
    assert_eq!(sent(&mut queue, secs(1)).1, notice("bob", "ann", 9));
    assert_eq!(queue.next(HOUR), Next::Wait(None));
}

#[test]
fn only_so_many_wait_and_fly() {
    let mut queue = Queue::default();
    for n in 1..=10_000 {
        assert_eq!(queue.take(notice(&format!("u{n}"), "ann", n), secs(0)), None);
    }
    assert_eq!(queue.take(notice("bob", "ann", 1), secs(0)), Some("dropped"));
    queue.check();
    let flying: Vec<(u64, Notice)> = (0..16).map(|_| sent(&mut queue, secs(0))).collect();
    assert_eq!(flying[0].1, notice("u2", "ann", 2), "the oldest was dropped");
    assert_eq!(queue.next(secs(0)), Next::Wait(None));
    then(&mut queue, flying[3].0, Answer::Status(200, None), secs(0));
    sent(&mut queue, secs(0));
}

/// What may happen to a queue.
#[derive(Debug, Clone)]
enum Step {
    Take(u8, u8),
    Answer(u8, u16),
    Pass(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let statuses = prop::sample::select(vec![0, 200, 400, 408, 410, 429, 500, 503]);
    let step = prop_oneof![
        (0..6u8, 0..3u8).prop_map(|(user, from)| Step::Take(user, from)),
        (any::<u8>(), statuses).prop_map(|(which, status)| Step::Answer(which, status)),
        (0..600u16).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    /// Whatever the service answers and in which order: nothing is told again that was done or refused, each request
    /// waits for its time, and in the end nothing is left.
    #[test]
    fn every_notice_comes_to_an_end(steps in steps()) {
        let (mut queue, mut now, mut n) = (Queue::default(), secs(0), 0);
        let mut flying: BTreeMap<u64, Notice> = BTreeMap::new();
        let (mut over, mut not_before) = (BTreeSet::new(), BTreeMap::new());
        for step in steps {
            match step {
                Step::Take(user, from) => {
                    n += 1;
                    queue.take(notice(&format!("u{user}"), &format!("f{from}"), n), now);
                }
                Step::Pass(span) => now += secs(span.into()),
                Step::Answer(which, status) => {
                    let Some(ticket) = flying.keys().nth(usize::from(which) % flying.len().max(1)) else { continue };
                    let ticket = *ticket;
                    flying.remove(&ticket);
                    let answer = match status {
                        0 => Answer::Nothing,
                        429 => Answer::Status(429, Some(secs(50))),
                        status => Answer::Status(status, None),
                    };
                    let (notice, then) = queue.answered(ticket, answer, now, 1 << 30).unwrap();
                    if let Then::Again(wait) = then {
                        prop_assert!(wait >= Duration::from_millis(500) && wait <= secs(300));
                        prop_assert!(status != 429 || wait >= secs(50));
                        not_before.insert(notice.n, now + wait);
                    } else {
                        over.insert(notice.n);
                    }
                }
            }
            queue.check();
            while let Next::Send(ticket, notice) = queue.next(now) {
                prop_assert!(!over.contains(&notice.n), "{:?} was over", notice);
                prop_assert!(not_before.get(&notice.n).is_none_or(|at| *at <= now));
                flying.insert(ticket, notice);
            }
            prop_assert!(flying.len() <= 16);
        }
        let mut rounds = 0;
        while !flying.is_empty() || queue.waiting() > 0 {
            rounds += 1;
            prop_assert!(rounds < 1_000, "it ends");
            for ticket in std::mem::take(&mut flying).into_keys() {
                queue.answered(ticket, Answer::Nothing, now, 1 << 30);
            }
            now += secs(300);
            while let Next::Send(ticket, notice) = queue.next(now) {
                flying.insert(ticket, notice);
            }
        }
    }
}
