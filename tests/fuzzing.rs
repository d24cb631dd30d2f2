//! Fuzzing: bytes from clients, peers, disks and operators, mutated and made up, never end a node or fill its memory.
//!
//! The twin of the targets in `fuzz/`: the same entry points, without a fuzzer. The process may take little memory: an
//! allocation that a length in the bytes asks for, and nothing in them pays for, ends it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says so by failing")]

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop};
use proptest::test_runner::{TestError, TestRunner};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the whole process may take: a value of a few KiB may cost up to `codec::DECODED_BYTES_MAX`, which is 8 MiB.
const MEMORY_BYTES_MAX: u64 = 128 << 20;
/// How many inputs each family gets, if `PROPTEST_CASES` does not ask for more.
const CASES: u32 = 5_000;

/// What claims to be followed by gigabytes: in bincode, msgpack, and the numbers of frames and journals.
const LENGTHS: &[&[u8]] = &[
    &[253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[252, 0, 0, 0, 0xf0],
    &[253, 0, 0, 0, 0, 1, 0, 0, 0],
    &[0xc6, 0xf0, 0, 0, 0],
    &[0xdb, 0xff, 0xff, 0xff, 0xff],
    &[0xdd, 0xff, 0xff, 0xff, 0xff],
    &[0xdf, 0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0xff; 8],
];

/// One step from a good value to a bad one; places are fractions of the length.
#[derive(Debug, Clone)]
enum Step {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Drop(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Length(prop::sample::Index, &'static [u8]),
    Overwrite(prop::sample::Index, &'static [u8]),
    Repeat(prop::sample::Index, u8, u16),
    Splice(prop::sample::Index, prop::sample::Index, prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let at = any::<prop::sample::Index>;
    let lengths = || prop::sample::select(LENGTHS);
    let few = prop::collection::vec(any::<u8>(), 1..9);
    proptest::prop_oneof![
        3 => (at(), any::<u8>()).prop_map(|(at, bits)| Step::Flip(at, bits)),
        1 => at().prop_map(Step::Cut),
        1 => (at(), any::<u8>()).prop_map(|(at, count)| Step::Drop(at, count)),
        1 => (at(), few).prop_map(|(at, bytes)| Step::Insert(at, bytes)),
        2 => (at(), lengths()).prop_map(|(at, bytes)| Step::Length(at, bytes)),
        2 => (at(), lengths()).prop_map(|(at, bytes)| Step::Overwrite(at, bytes)),
        1 => (at(), 1_u8..9, 1_u16..3_000).prop_map(|(at, long, times)| Step::Repeat(at, long, times)),
        1 => (at(), at(), at()).prop_map(|(at, seed, from)| Step::Splice(at, seed, from)),
    ]
}

fn take(bytes: &mut Vec<u8>, step: &Step, seeds: &[Vec<u8>]) {
    let place = |at: &prop::sample::Index| at.index(bytes.len() + 1);
    match step {
        Step::Flip(at, bits) => {
            let at = place(at);
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bits);
        }
        Step::Cut(at) => bytes.truncate(place(at)),
        Step::Drop(at, count) => {
            let at = place(at);
            let end = bytes.len().min(at + usize::from(*count));
            bytes.drain(at..end);
        }
        Step::Insert(at, new) => drop(bytes.splice(place(at)..place(at), new.iter().copied())),
        // In place of one byte, as a length is in place of a short one.
        Step::Length(at, new) => {
            let at = place(at);
            bytes.splice(at..bytes.len().min(at + 1), new.iter().copied());
        }
        Step::Overwrite(at, new) => {
            let at = place(at);
            bytes.splice(at..bytes.len().min(at + new.len()), new.iter().copied());
        }
        Step::Repeat(at, long, times) => {
            let at = place(at);
            let end = bytes.len().min(at + usize::from(*long));
            let more = bytes[at..end].repeat(usize::from(*times));
            bytes.splice(end..end, more);
        }
        Step::Splice(at, seed, from) => {
            let other = &seeds[seed.index(seeds.len())];
            bytes.truncate(place(at));
            bytes.extend(&other[from.index(other.len() + 1)..]);
        }
    }
}

/// Good values with a few steps away from them, and bytes that never were good.
fn inputs(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let steps = prop::collection::vec(step(), 0..5);
    let mutated = (prop::sample::select(seeds.clone()), steps, Just(seeds));
    let mutated = mutated.prop_map(|(mut bytes, steps, seeds)| {
        steps.iter().for_each(|step| take(&mut bytes, step, &seeds));
        bytes
    });
    let made_up = prop::collection::vec(any::<u8>(), 0..400);
    proptest::prop_oneof![5 => mutated, 1 => made_up]
}

/// Every good value is understood; no other does any harm.
#[track_caller]
fn check(target: fn(&[u8]) -> bool, seeds: Vec<Vec<u8>>) {
    if getrlimit(Resource::Data).current.is_none_or(|bytes| bytes > MEMORY_BYTES_MAX) {
        let limit = Rlimit { current: Some(MEMORY_BYTES_MAX), maximum: None };
        setrlimit(Resource::Data, limit).unwrap();
    }
    for (at, seed) in seeds.iter().enumerate() {
        assert!(target(seed), "seed {at} is not understood");
    }
    for nested in nested() {
        let _any = target(&nested);
    }
    let config = ProptestConfig::default();
    let cases = config.cases.max(CASES);
    let config = ProptestConfig { cases, failure_persistence: None, ..config };
    let result = TestRunner::new(config).run(&inputs(seeds), |bytes| {
        let _any = target(&bytes);
        Ok(())
    });
    if let Err(TestError::Fail(why, bytes)) = result {
        panic!("{why}: {}", bytes.escape_ascii());
    }
}

/// Deeper than any stack, if what reads them goes down into itself.
fn nested() -> Vec<Vec<u8>> {
    let deep = |open: &[u8]| open.repeat(60_000 / open.len());
    let mut all: Vec<Vec<u8>> =
        [&b"["[..], b"{\"d\":", b"\x91", b"\x81\xa1d", b"a.", b"a=[", b"a={b=", b"\x01", b"\xff"]
            .map(deep)
            .to_vec();
    for (head, open) in [
        (&b"{\"id\":\"1\",\"op\":\"send\",\"d\":"[..], &b"["[..]),
        (b"{\"re\":\"1\",\"ok\":", b"{\"a\":"),
        (b"{\"to\":\"u:bob\",\"client\":", b"{\"a\":"),
        (b"\x82\xa2op\xa4send\xa1d", b"\x91"),
        (b"\x82\xa2re\xa11\xa2ok", b"\x81\xa1a"),
        (b"[cluster]\nname = ", b"["),
    ] {
        all.push([head, &deep(open)].concat());
    }
    all
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn no_frame_ends_a_node_or_a_client() {
    let asks = [
        r#"{"id":"1","op":"auth","d":{"token":"t","device":"phone","resume":{"n":3,"epoch":"0"}}}"#,
        r#"{"id":"2","op":"send","d":{"to":"u:bob","cid":"c","kind":"text","body":"h\u00e9","client":{"a":[1,-2,3.5,null,true]}}}"#,
        r#"{"op":"ack","d":{"n":5}}"#,
        r#"{"id":"3","op":"pull","d":{"after":1,"limit":20}}"#,
        r#"{"id":"4","op":"read","d":{"conv":"u:bob","seq":5}}"#,
        r#"{"id":"5","op":"group.create","d":{"title":"Club","members":["bob","cat"],"cid":"c1"}}"#,
        r#"{"id":"6","op":"group.update","d":{"group":"G1","title":"Club","icon":"i","status":""}}"#,
        r#"{"id":"7","op":"group.remove","d":{"group":"G1","users":["bob"]}}"#,
        r#"{"id":"8","op":"group.role","d":{"group":"G1","user":"bob","role":"admin"}}"#,
        r#"{"id":"9","op":"receipts","d":{"conv":"g:G1","seq":5}}"#,
        r#"{"n":8,"ev":"group","d":{"conv":"g:G1","seq":2,"at":70,"by":"al","change":"added","title":"Club","users":["bob"]}}"#,
        r#"{"re":"2","ok":{"mid":"00000000000000000000000002","seq":1,"at":5,"dup":true}}"#,
        r#"{"re":null,"err":{"code":"rate_limited","message":"slow","retry":true,"retry_after_ms":1200}}"#,
        r#"{"n":7,"ev":"message","d":{"mid":"00000000000000000000000002","conv":"u:al","from":"al","seq":3,"at":70,"kind":"text","body":"a"}}"#,
        r#"{"ev":"hello","d":{"server":"rookery","node":"a","protocol":1,"heartbeat_ms":5000}}"#,
    ];
    let mut seeds = texts(&asks);
    for text in asks {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        seeds.push(rmp_serde::to_vec(&value).unwrap());
    }
    check(rookery::fuzzing::frames, seeds);
}

#[test]
fn no_http_body_ends_a_node() {
    let bodies = [
        r#"{"user":"alice","password":"correct horse"}"#,
        r#"{"to":"u:bob","cid":"c","kind":"text","body":"h\u00e9","reply_to":"00000000000000000000000002","client":{"a":[1]}}"#,
        r#" { "to" : "u:bob", "cid":"c-1", "kind":"text", "body":"", "client":null } "#,
    ];
    check(rookery::fuzzing::http, texts(&bodies));
}

#[test]
fn no_bytes_of_a_peer_end_a_node() {
    check(actors::fuzzing::peers, actors::fuzzing::peers_seeds());
}

#[test]
fn no_stored_bytes_end_a_node() {
    check(actors::fuzzing::stored, actors::fuzzing::stored_seeds());
}

#[test]
fn no_configuration_ends_a_node_otherwise_than_by_a_refusal() {
    let dev = rookery::config::Config::dev(
        3,
        8080,
        "data".as_ref(),
        &"s".repeat(40),
        "cookie-of-16-chars",
    );
    check(
        rookery::fuzzing::config,
        vec![include_bytes!("../cluster.toml").to_vec(), dev.into_bytes()],
    );
}
