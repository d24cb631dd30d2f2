//! Tests of the rules and frames of links.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq};
use proptest::{prop_oneof, proptest};

use super::Refused;
use super::frame::{
    self, BadFrame, FRAME_BYTES_MAX, HEAD_BYTES, Head, Hello, Joiner, Kind, PACKET_BYTES_MAX,
    Packer, Rest,
};
use super::gate::Gate;
use super::rules::{
    CONTROL_BYTES_MAX, CREDIT_BYTES_FIRST, CREDIT_BYTES_MAX, CREDIT_BYTES_MIN, Class, Credit,
    Detector, Health, Pairing, Receipts, Redial, Timing,
};
use crate::ids::{BootId, NodeId, ShardId};
use crate::packet::Packet;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn detector() -> Detector {
    Detector::new(&Timing::default())
}

#[test]
fn a_peer_silent_for_600_ms_is_suspect() {
    let mut detector = detector();
    detector.opened(ms(0));
    detector.heard(ms(100));
    for now in [150, 300, 450, 600] {
        assert_eq!(detector.look(ms(now)), Health::Fine);
    }
    assert_eq!(detector.look(ms(699)), Health::Fine);
    assert_eq!(detector.look(ms(750)), Health::Suspect);
}

#[test]
fn without_a_session_nobody_is_suspect() {
    let mut detector = detector();
    assert_eq!(detector.look(ms(5_000)), Health::Fine);
    detector.opened(ms(6_000));
    detector.closed();
    detector.heard(ms(6_100));
    assert_eq!(detector.look(ms(9_000)), Health::Fine);
}

#[test]
fn own_sleep_is_forgiven_once_per_silence() {
    let mut detector = detector();
    detector.opened(ms(0));
    assert_eq!(detector.look(ms(150)), Health::Fine);
    // Ten seconds stopped: the peer gets half the time again, and no more.
    assert_eq!(detector.look(ms(10_000)), Health::Fine);
    assert_eq!(detector.look(ms(10_150)), Health::Fine);
    assert_eq!(detector.look(ms(10_310)), Health::Suspect);
}

#[test]
fn dials_are_one_at_a_time_and_spread() {
    let mut redial = Redial::new(&Timing::default());
    assert!(redial.due(ms(0)));
    redial.begun(ms(0), 0);
    assert!(!redial.due(ms(1_000)));
    redial.ended();
    assert!(!redial.due(ms(209)));
    assert!(redial.due(ms(210)));
    assert_eq!(redial.wait(ms(200)), ms(10));
    redial.begun(ms(1_000), 60);
    redial.ended();
    assert!(!redial.due(ms(1_389)));
    assert!(redial.due(ms(1_390)));
}

#[test]
fn a_dial_whose_end_is_never_told_does_not_block_for_ever() {
    let mut redial = Redial::new(&Timing::default());
    redial.begun(ms(0), 7);
    assert!(redial.due(redial.wait(ms(0))));
    assert!(redial.wait(ms(0)) < ms(2_000));
}

#[test]
fn a_frozen_peer_gets_no_more_than_the_credit() {
    let mut credit = Credit::default();
    let mut queued = [0_u64; 3];
    for class in Class::ALL {
        while credit.admits(class) {
            credit.sent(class, 1_000);
            queued[class.index()] += 1_000;
        }
    }
    assert!(queued[0] < CONTROL_BYTES_MAX + 1_000);
    assert!(queued[1] < CREDIT_BYTES_FIRST + 1_000);
    assert!(queued[2] < CREDIT_BYTES_FIRST / 4 + 1_000);
    assert_eq!(credit.under_way_in_all(), queued.iter().sum::<u64>());
}

#[test]
fn credit_follows_what_the_peer_drains() {
    let mut credit = Credit::default();
    let limit = |credit: &mut Credit| {
        let mut queued = 0;
        while credit.admits(Class::Normal) {
            credit.sent(Class::Normal, 1_024);
            queued += 1_024;
        }
        queued
    };
    let mut total = limit(&mut credit);
    credit.sample(ms(0));
    // A peer that drains nothing while we want more: down to the least.
    for tick in 1..20 {
        assert!(!credit.admits(Class::Normal));
        credit.sample(ms(150 * tick));
    }
    credit.taken([0, total, 0]);
    let least = limit(&mut credit);
    assert_eq!(least, CREDIT_BYTES_MIN);
    total += least;
    // One that drains 100 MB/s: up to the most.
    let mut now = 150 * 20;
    for _ in 0..40 {
        for _ in 0..15 {
            credit.taken([0, total, 0]);
            total += limit(&mut credit);
        }
        now += 10;
        credit.sample(ms(now));
    }
    credit.taken([0, total, 0]);
    assert_eq!(limit(&mut credit), CREDIT_BYTES_MAX);
}

#[test]
fn an_idle_link_keeps_its_credit() {
    let mut credit = Credit::default();
    for tick in 0..100 {
        credit.sample(ms(150 * tick));
    }
    credit.sent(Class::Normal, CREDIT_BYTES_FIRST - 1);
    assert!(credit.admits(Class::Normal));
}

#[test]
fn receipts_are_told_when_they_are_worth_it() {
    let mut receipts = Receipts::default();
    receipts.took(Class::Normal, Receipts::WORTH_TELLING - 1);
    assert!(!receipts.worth_telling());
    receipts.took(Class::Bulk, 1);
    assert!(receipts.worth_telling());
    assert_eq!(receipts.tell(), [0, Receipts::WORTH_TELLING - 1, 1]);
    assert!(!receipts.worth_telling());
}

#[test]
fn a_packet_that_is_too_long_is_counted_and_what_is_around_it_goes() {
    let gate = Gate::new(NodeId(2), 1);
    gate.open(BootId(1));
    let packets = [packet(10), packet(PACKET_BYTES_MAX), packet(20)];
    assert_eq!(gate.send(Class::Normal, &packets), Err(Refused::TooLong));
    assert_eq!(gate.status().too_long, 1);
    let bodies = gate.take().into_iter().map(|(_, frame)| frame::unpack(&frame[HEAD_BYTES..]));
    let arrived: Vec<Packet> = bodies.flat_map(|(packets, _)| packets).collect();
    assert_eq!(arrived, [packet(10), packet(20)]);
}

/// Something that happens to two ends, `false` being the left one.
#[derive(Debug, Clone, Copy)]
enum Step {
    Open(bool),
    Close(bool),
    Deliver(bool),
}

#[derive(Default)]
struct End {
    pairing: Pairing,
    lives: u32,
    inbox: VecDeque<(u32, u32)>,
}

fn say_hello(ends: &mut [End; 2], who: usize) {
    if let Some(life) = ends[who].pairing.ours() {
        let hello = (life, ends[who].pairing.echo());
        ends[1 - who].inbox.push_back(hello);
    }
}

fn step(ends: &mut [End; 2], step: Step) {
    match step {
        Step::Open(who) => {
            let who = usize::from(who);
            ends[who].lives += 1;
            let life = ends[who].lives;
            ends[who].pairing.opened(life);
            say_hello(ends, who);
        }
        Step::Close(who) => ends[usize::from(who)].pairing.closed(),
        Step::Deliver(who) => {
            let who = usize::from(who);
            let Some((life, echo)) = ends[who].inbox.pop_front() else {
                return;
            };
            let boot = BootId(u64::from(who == 0));
            if ends[who].pairing.hello(boot, life, echo).answer {
                say_hello(ends, who);
            }
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<bool>().prop_map(Step::Open),
        any::<bool>().prop_map(Step::Close),
        any::<bool>().prop_map(Step::Deliver),
        any::<bool>().prop_map(Step::Deliver),
    ]
}

fn head() -> Head {
    Head {
        kind: Kind::Packets(Class::Normal),
        rest: Rest::Whole,
        from: NodeId(2),
        boot: BootId(0x0123_4567_89ab_cdef),
        life: 7,
        echo: 9,
        clock: 11,
        clock_echo: 13,
        taken: [1, 2, u64::MAX],
    }
}

fn packet(bytes: usize) -> Packet {
    Packet::Raft(ShardId(3), Bytes::from(vec![0xa5; bytes]))
}

/// Packs, stamps, reads and unpacks.
fn through(packets: &[Packet], class: Class) -> (Vec<Packet>, usize) {
    let mut packer = Packer::default();
    let mut joiner = Joiner::default();
    let mut out = Vec::new();
    let queued: u64 = packets.iter().map(|p| packer.push(p).unwrap()).sum();
    let mut bodies = 0;
    let frames = packer.take();
    for mut frame in frames.clone() {
        let head = Head { kind: Kind::Packets(class), ..head() };
        frame::stamp(&mut frame, &head);
        let read = frame::read(&frame).unwrap();
        assert_eq!(read.kind, head.kind);
        let body = &frame[HEAD_BYTES..];
        bodies += body.len() as u64;
        if let Some((packets, bad)) = joiner.join(class, read.rest, body) {
            assert_eq!(bad, 0);
            out.extend(packets);
        }
    }
    assert_eq!(bodies, queued, "credit is counted alike at both ends");
    assert!(packer.take().is_empty());
    (out, frames.len())
}

#[test]
fn a_head_is_read_as_it_was_written() {
    let mut bytes = vec![0; HEAD_BYTES];
    frame::stamp(&mut bytes, &head());
    assert_eq!(frame::read(&bytes), Ok(head()));
    let hello = Hello { cluster: "cluster".into(), to: NodeId(4) };
    let bytes = frame::bare(&head(), Some(&hello));
    assert_eq!(frame::unpack_hello(&bytes[HEAD_BYTES..]), Some(hello));
}

#[test]
fn waiting_packets_share_a_frame() {
    let packets: Vec<_> = (0..100).map(|n| packet(n * 3)).collect();
    assert_eq!(through(&packets, Class::Normal), (packets, 1));
}

#[test]
fn what_does_not_fit_goes_into_more_frames() {
    let packets = vec![packet(100_000), packet(200_000), packet(10), packet(250_000)];
    assert_eq!(through(&packets, Class::Bulk), (packets, 3));
}

#[test]
fn a_packet_longer_than_a_frame_is_cut_and_joined() {
    let packets = vec![packet(10), packet(1_000_000), packet(20), packet(30)];
    let (read, frames) = through(&packets, Class::Control);
    assert_eq!(read, packets);
    assert_eq!(frames, 1 + 4 + 1);
}

#[test]
fn a_packet_longer_than_any_is_refused_and_leaves_no_trace() {
    let mut packer = Packer::default();
    packer.push(&packet(5)).unwrap();
    assert!(packer.push(&packet(PACKET_BYTES_MAX)).is_err());
    packer.push(&packet(6)).unwrap();
    let frames = packer.take();
    assert_eq!(frames.len(), 1);
    let (packets, bad) = frame::unpack(&frames[0][HEAD_BYTES..]);
    assert_eq!((packets, bad), (vec![packet(5), packet(6)], 0));
}

#[test]
fn endless_parts_are_dropped() {
    let mut joiner = Joiner::default();
    let body = vec![0; FRAME_BYTES_MAX - HEAD_BYTES];
    let mut dropped = 0;
    for _ in 0..200 {
        let joined = joiner.join(Class::Bulk, Rest::More, &body);
        dropped += joined.map_or(0, |(_, bad)| bad);
    }
    assert!(dropped >= 5);
}

#[test]
fn other_versions_and_damage_are_refused() {
    let mut bytes = vec![0; HEAD_BYTES + 10];
    frame::stamp(&mut bytes, &head());
    let mut other = bytes.clone();
    other[0] = 2;
    assert_eq!(frame::read(&other), Err(BadFrame::Version(2)));
    assert_eq!(frame::read(&bytes[..20]), Err(BadFrame::Length(20)));
    for at in 1..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        assert_eq!(frame::read(&bad), Err(BadFrame::Checksum), "byte {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = frame::read(&bytes);
        let _ = frame::unpack(&bytes);
        let _ = frame::unpack_hello(&bytes);
        let mut joiner = Joiner::default();
        let _ = joiner.join(Class::Normal, Rest::More, &bytes);
        let _ = joiner.join(Class::Normal, Rest::Whole, &bytes);
    }

    #[test]
    fn mutated_bodies_never_panic(
        sizes in proptest::collection::vec(0_usize..300, 1..20),
        hits in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..8),
        cut in any::<u16>(),
    ) {
        let mut packer = Packer::default();
        for size in &sizes {
            packer.push(&packet(*size)).unwrap();
        }
        let mut frame = packer.take().remove(0);
        frame::stamp(&mut frame, &head());
        for (at, value) in hits {
            let at = usize::from(at) % frame.len();
            frame[at] ^= value;
        }
        frame.truncate(HEAD_BYTES.max(usize::from(cut) % (frame.len() + 1)));
        let _ = frame::read(&frame);
        let (packets, _) = frame::unpack(&frame[HEAD_BYTES..]);
        prop_assert!(packets.len() <= frame.len());
    }

    #[test]
    fn packets_come_out_as_they_went_in(
        sizes in proptest::collection::vec(
            prop_oneof![0_usize..400, 0_usize..400, 100_000_usize..700_000], 0..12),
    ) {
        let packets: Vec<_> = sizes.iter().map(|size| packet(*size)).collect();
        prop_assert_eq!(through(&packets, Class::Normal).0, packets);
    }

    #[test]
    fn credit_stays_within_its_bounds(
        steps in proptest::collection::vec((0_u8..4, 0_usize..3, 0_u64..3_000_000), 0..200),
    ) {
        let mut credit = Credit::default();
        let mut sent = [0_u64; 3];
        let mut now = 0;
        for (what, class, amount) in steps {
            let class = Class::ALL[class];
            match what {
                0 | 1 => {
                    let before = credit.under_way(class);
                    if credit.admits(class) {
                        prop_assert!(before < CREDIT_BYTES_MAX);
                        credit.sent(class, amount);
                        sent[class.index()] += amount;
                    }
                }
                2 => credit.taken([amount, amount * 2, amount / 2]),
                _ => {
                    now += amount / 1_000;
                    credit.sample(ms(now));
                }
            }
            credit.check();
            prop_assert!(credit.under_way(class) <= sent[class.index()]);
        }
        credit.taken(sent);
        prop_assert_eq!(credit.under_way_in_all(), 0);
        prop_assert!(credit.admits(Class::Bulk));
    }

    #[test]
    fn both_ends_agree_in_the_end_and_fall_quiet(
        steps in proptest::collection::vec(any_step(), 0..60),
        last in Just([Step::Open(false), Step::Open(true)]),
    ) {
        let mut ends = [End::default(), End::default()];
        for next in steps.into_iter().chain(last) {
            step(&mut ends, next);
        }
        let mut rounds = 0;
        while ends.iter().any(|end| !end.inbox.is_empty()) {
            step(&mut ends, Step::Deliver(false));
            step(&mut ends, Step::Deliver(true));
            rounds += 1;
            prop_assert!(rounds < 300, "hellos for ever");
        }
        for who in [0, 1] {
            let boot = BootId(u64::from(who == 0));
            prop_assert_eq!(ends[who].pairing.up(), Some(boot));
            prop_assert!(ends[who].pairing.belongs(boot, ends[1 - who].lives));
        }
    }

    #[test]
    fn a_peer_that_speaks_every_probe_is_never_suspect(
        delays in proptest::collection::vec(0_u64..290, 1..100),
    ) {
        let mut detector = detector();
        detector.opened(ms(0));
        let mut now = 0;
        for delay in delays {
            now += 150;
            detector.heard(ms(now - delay.min(now)));
            prop_assert_eq!(detector.look(ms(now)), Health::Fine);
        }
    }
}
