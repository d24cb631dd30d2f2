//! Campaign: many seeds on all cores. A seed that fails is shrunk to the faults it needs, and told with the command that
//! plays it again.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(debug_assertions)]
use actors::mutant::Mutant;

use crate::around::{Counts, Plant};
use crate::faults::KINDS;
use crate::world::{Report, Scenario, run};

/// A fault that was built in, within how many seeds it must be noticed, and words of the check that must notice it.
pub(crate) type Planted = (Plant, u64, &'static str);

/// All faults that can be built in.
pub(crate) fn planted() -> Vec<Planted> {
    let planted = [
        (Plant::PersistsEarly, 20, "is durable"),
        (Plant::AnswersEarly, 10, "is confirmed, so it is committed"),
        (Plant::MinorityAnswers, 20, "a minority confirmed"),
        (Plant::PushesEarly, 20, "is shown, so it is committed"),
        (Plant::ChangesCid, 10, "nobody wrote"),
        (Plant::SaysFree, 10, "stands for two messages"),
        (Plant::DiskLies, 40, "out of range"),
        (Plant::LosesEnvelopes, 10, "not drained"),
        (Plant::ForgetsBirth, 40, "out of range"),
        (Plant::CoolsEarly, 60, "went back"),
        (Plant::WarmsLate, 100, "can be read"),
        (Plant::StoresLate, 300, "only what is in the log can be compacted"),
        (Plant::SendsHalf, 20, "went back"),
        (Plant::SkipsMailbox, 20, "went back"),
        (Plant::TearsCheckpoint, 40, "after the one before"),
        (Plant::AppliesTwice, 100, "not drained"),
        (Plant::CompactsEarly, 100, "before the log goes"),
    ];
    planted.into_iter().chain(rules()).collect()
}

/// Rules that can be broken: a release has no seams for it.
#[cfg(not(debug_assertions))]
fn rules() -> [Planted; 0] {
    []
}

/// Rules that can be broken.
#[cfg(debug_assertions)]
fn rules() -> [Planted; 13] {
    [
        (Plant::Rule(Mutant::ForgetsMessages), 10, "one key per row"),
        (Plant::Rule(Mutant::LosesWatermark), 10, "after the one before"),
        (Plant::Rule(Mutant::RepeatsBackwards), 10, "was overtaken"),
        (Plant::Rule(Mutant::CursorGoesBack), 10, "went back"),
        (Plant::Rule(Mutant::StaleLeaderServes), 20, "not drained"),
        (Plant::Rule(Mutant::WindowOverrun), 10, "the window holds"),
        (Plant::Rule(Mutant::TwoSockets), 20, "one session per device"),
        (Plant::Rule(Mutant::ExpiresByLocalClock), 150, "old enough to expire"),
        (Plant::Rule(Mutant::TakesFromAnybody), 40, "was a member"),
        (Plant::Rule(Mutant::TicksOfTheFastest), 20, "is told"),
        (Plant::Rule(Mutant::TicksStop), 10, "knows what"),
        (Plant::Rule(Mutant::CountsPostsOnce), 20, "is stored once"),
        (Plant::Rule(Mutant::FetchesNext), 20, "after the one before"),
    ]
}

/// The first seed in which a fault that was built in is noticed, and what was said of it.
pub(crate) fn noticed((plant, within, words): Planted) -> Option<(u64, String)> {
    (0..within).find_map(|seed| {
        let why = outcome(&Scenario::new(seed, plant)).err()?;
        why.contains(words).then_some((seed, why))
    })
}

/// More faults than a run has.
const FAULTS_MAX: u64 = 512;

/// What many runs have shown together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Summary {
    pub(crate) seeds: u64,
    pub(crate) steps: u64,
    pub(crate) virtual_us: u64,
    pub(crate) sends: u64,
    pub(crate) counts: Counts,
    pub(crate) faults: [u64; KINDS],
}

impl Summary {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.steps += report.steps;
        self.virtual_us += report.virtual_us;
        self.sends += report.sends as u64;
        self.counts.add(report.counts);
        for (sum, more) in self.faults.iter_mut().zip(report.faults) {
            *sum += more;
        }
    }
}

/// A seed that broke a promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    /// Which promise, in the words of the check.
    pub(crate) why: String,
    /// Faults that are not needed for it, by number.
    pub(crate) skip: BTreeSet<u64>,
}

/// Runs one scenario; a broken promise is told in words.
pub(crate) fn outcome(scenario: &Scenario) -> Result<Report, String> {
    catch_unwind(AssertUnwindSafe(|| run(scenario))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_else(|| "it panicked".to_owned())
    })
}

/// Runs seeds in so many threads; `done` is told of each. Ends at the first that fails, the lowest of those under way.
pub(crate) fn campaign(
    seeds: std::ops::Range<u64>,
    threads: usize,
    done: impl Fn(&Summary) + Sync,
) -> Result<Summary, Failure> {
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new(Summary::default());
    let failed: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let work = || {
        while failed.lock().unwrap().is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            match outcome(&Scenario::new(seed, Plant::Nothing)) {
                Ok(report) => {
                    let mut summary = summary.lock().unwrap();
                    summary.add(&report);
                    done(&summary);
                }
                Err(why) => {
                    let mut failed = failed.lock().unwrap();
                    if failed.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                        *failed = Some((seed, why));
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    match failed.into_inner().unwrap() {
        None => Ok(summary.into_inner().unwrap()),
        Some((seed, why)) => Err(Failure { seed, why, skip: shrink(seed, Plant::Nothing) }),
    }
}

/// The faults that a failing seed does not need: first all after some moment, then one by one.
pub(crate) fn shrink(seed: u64, plant: Plant) -> BTreeSet<u64> {
    let fails = |skip: &BTreeSet<u64>| {
        let scenario = Scenario { skip: skip.clone(), ..Scenario::new(seed, plant) };
        outcome(&scenario).is_err()
    };
    let after = |last: u64| (last + 1..=FAULTS_MAX).collect::<BTreeSet<u64>>();
    let (mut enough, mut too_few) = (FAULTS_MAX, None);
    loop {
        let low = too_few.map_or(0, |few| few + 1);
        if low >= enough {
            break;
        }
        let middle = low.midpoint(enough);
        if fails(&after(middle)) {
            enough = middle;
        } else {
            too_few = Some(middle);
        }
    }
    let mut skip = after(enough);
    for fault in 1..=enough {
        skip.insert(fault);
        if !fails(&skip) {
            skip.remove(&fault);
        }
    }
    skip
}

impl Failure {
    /// The command that plays it again.
    pub(crate) fn command(&self) -> String {
        let needed = (1..=FAULTS_MAX).filter(|fault| !self.skip.contains(fault));
        let faults: Vec<String> = needed.map(|fault| fault.to_string()).collect();
        // What overflows without --release need not do so with it.
        let profile = if cfg!(debug_assertions) { "" } else { "--release " };
        let (seed, faults) = (self.seed, faults.join(","));
        format!("cargo run {profile}--example simulate -- --seed {seed} --faults '{faults}'")
    }
}

/// The faults to leave out when only these are to happen.
pub(crate) fn all_but(faults: &[u64]) -> BTreeSet<u64> {
    (1..=FAULTS_MAX).filter(|fault| !faults.contains(fault)).collect()
}
