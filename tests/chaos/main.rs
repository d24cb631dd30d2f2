//! Chaos: real processes and real clients while everything fails; and the checker that judges it.
//!
//! `cargo run --release --example chaos` is the same for as long as you like, with a report.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says so by failing")]

#[path = "../simulation/chance.rs"]
#[expect(dead_code, reason = "simulations draw more of it")]
mod chance;
mod checker;
mod cluster;
mod history;
mod judging;
mod nemesis;
mod person;
mod proxy;
mod recorder;
mod report;
mod run;

use std::path::Path;
use std::time::Duration;

use run::Plan;

/// How long faults happen here.
const LASTS: Duration = Duration::from_secs(100);

#[tokio::test]
async fn nothing_is_lost_doubled_or_out_of_order_whatever_fails() {
    let seed = std::env::var("ROOKERY_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(1);
    let dir = tempfile::Builder::new()
        .prefix(&format!("cluster-{}-chaos-", std::process::id()))
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap();
    let plan = Plan {
        program: Path::new(env!("CARGO_BIN_EXE_rookery")).to_owned(),
        dir: dir.path().to_owned(),
        history: dir.path().join("chaos.jsonl"),
        command: format!("ROOKERY_SEED={seed} cargo test --test chaos"),
        seed,
        nodes: 3,
        users: 100,
        rate: 150,
        // Ten more than there are users: those come only at the end.
        group_size: 110,
        lasts: LASTS,
    };
    let ended = run::run(&plan, |line| eprintln!("{line}")).await;
    let report = dir.path().join("chaos.md");
    let unfinished = ended.as_ref().err().cloned();
    let judgement = judging::judge(&plan.history, &report, unfinished).unwrap();
    if !judgement.is_clean() {
        let kept = dir.keep();
        panic!("{judgement}\nall of it is in {}; repeat: {}", kept.display(), plan.command);
    }
    let counts = judgement.counts();
    assert!(ended.unwrap() >= 8, "too few faults");
    eprintln!("{counts:?}");
    assert!(counts.acknowledged >= 5_000, "too few messages: {counts:?}");
    assert!(counts.posts_acknowledged >= 1_000, "too few posts: {counts:?}");
    assert!(counts.changes >= 50, "too few come and go: {counts:?}");
}
