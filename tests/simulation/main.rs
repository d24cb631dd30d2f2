//! Simulation: whole clusters around the real rules, with chance, time, network, disks and crashes from one seed.
//!
//! `ROOKERY_SEED=7 cargo test --test simulation` runs one seed, `ROOKERY_SEEDS=5000` a longer campaign.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says so by failing")]

mod around;
mod chance;
mod clients;
mod disk;
mod host;
mod network;
mod oracle;
mod storing;
mod turns;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use around::{Counts, Plant};
use world::{Report, run};

const SEEDS: u64 = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn check(seed: u64) -> Report {
    catch_unwind(AssertUnwindSafe(|| run(seed, Plant::Nothing))).unwrap_or_else(|_| {
        panic!("seed {seed}: ROOKERY_SEED={seed} cargo test --test simulation promises")
    })
}

#[test]
fn promises_hold_whatever_fails() {
    let seeds = match number("ROOKERY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ROOKERY_SEEDS").unwrap_or(SEEDS),
    };
    let (mut steps, mut virtual_us, mut sends) = (0, 0, 0);
    let mut all = Counts::default();
    let whole = seeds.end - seeds.start >= SEEDS;
    for seed in seeds {
        let report = check(seed);
        steps += report.steps;
        virtual_us += report.virtual_us;
        sends += report.sends;
        all.add(report.counts);
    }
    eprintln!("{steps} steps, {} virtual seconds, {sends} sends, {all:?}", virtual_us / 1_000_000);
    assert!(!whole || all.nothing_is_missing(), "all of it must happen: {all:?}");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [1, 2] {
        assert_eq!(check(seed), check(seed));
    }
}

/// Answers in which seed a fault built into the host was noticed.
fn caught(plant: Plant, within: u64) -> Option<u64> {
    (0..within).find(|seed| catch_unwind(AssertUnwindSafe(|| run(*seed, plant))).is_err())
}

#[test]
fn a_vote_or_entry_counted_before_it_is_durable_is_noticed() {
    assert!(caught(Plant::PersistsEarly, 20).is_some());
}

#[test]
fn a_confirmation_before_agreement_is_noticed() {
    assert!(caught(Plant::AnswersEarly, 10).is_some());
}

#[test]
fn a_repetition_under_another_cid_is_noticed() {
    assert!(caught(Plant::ChangesCid, 10).is_some());
}

#[test]
fn a_cid_that_may_stand_for_two_messages_is_noticed() {
    assert!(caught(Plant::SaysFree, 10).is_some());
}

#[test]
fn a_disk_that_lies_is_noticed() {
    assert!(caught(Plant::DiskLies, 40).is_some());
}

#[test]
fn envelopes_that_never_leave_are_noticed() {
    assert!(caught(Plant::LosesEnvelopes, 10).is_some());
}

#[test]
fn a_node_that_votes_as_if_its_disk_were_not_lost_is_noticed() {
    assert!(caught(Plant::ForgetsBirth, 40).is_some());
}

#[test]
fn a_mailbox_that_leaves_memory_before_it_is_on_disk_is_noticed() {
    assert!(caught(Plant::CoolsEarly, 20).is_some());
}

#[test]
fn a_mailbox_read_of_another_checkpoint_than_the_state_is_noticed() {
    assert!(caught(Plant::WarmsLate, 100).is_some());
}

#[test]
fn a_log_compacted_for_a_checkpoint_that_was_overtaken_is_noticed() {
    assert!(caught(Plant::StoresLate, 300).is_some());
}

#[test]
fn a_checkpoint_that_arrives_without_a_part_is_noticed() {
    assert!(caught(Plant::SendsHalf, 20).is_some());
}

#[test]
fn a_confirmation_by_a_minority_is_noticed() {
    let told = (0..20).find_map(|seed| {
        let panic = catch_unwind(AssertUnwindSafe(|| run(seed, Plant::MinorityAnswers))).err()?;
        panic.downcast_ref::<String>().filter(|told| told.contains("a minority confirmed")).cloned()
    });
    assert!(told.is_some());
}
