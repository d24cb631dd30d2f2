//! Crowd: what it costs that many are connected, while they do nothing and while others write.

use std::time::Duration;

use actors::clock;

use crate::Stage;
use crate::figures::{Chart, Columns, Figure, Found, Goal, Scale, Series, short};
use crate::generator::{Generator, number};
use crate::nodes::{Memory, Nodes};

/// Connected users whose memory is measured.
const LEVELS: [u64; 5] = [0, 1_000, 5_000, 10_000, 15_000];
/// After so long buffers have shrunk, and users are at rest.
const SETTLE: Duration = Duration::from_secs(5);
/// The last level is looked at later, when also mailboxes that nobody asks are at rest.
const REST: Duration = Duration::from_secs(25);
/// Processor time is watched for so long: two heartbeats of each user.
const WATCHED: Duration = Duration::from_secs(10);
/// Pairs write so many messages a second while processor time is measured.
const RATE: u32 = 5_000;
/// Connected users in all, then.
const CROWDS: [u64; 2] = [100, 15_000];

/// What one sweep over all levels saw.
struct Sweep {
    memory: Vec<Memory>,
    /// Per cent of a core, of nobody and of a crowd.
    empty: f64,
    crowded: f64,
}

pub(crate) async fn idle(stage: &Stage) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let levels = if stage.quick { vec![0, 1_000, 5_000] } else { LEVELS.to_vec() };
    let mut levels: Vec<u64> = levels.into_iter().map(|level| stage.users(level)).collect();
    levels.dedup();
    let most = levels[levels.len() - 1];
    let beating = levels[levels.len() - 2];
    let (mut rss, mut pss, mut each) = (Columns::default(), Columns::default(), Columns::default());
    for run in 0..stage.runs {
        stage.say(&format!("run {}: up to {most} users", run + 1));
        let Sweep { memory, empty, crowded } = sweep(stage, &levels).await?;
        // In a hurry there are too few of them to be seen.
        let away = if stage.quick { f64::NAN } else { away(stage).await? };
        rss.push(&memory.iter().map(|memory| memory.rss).collect::<Vec<_>>());
        pss.push(&memory.iter().map(|memory| memory.pss).collect::<Vec<_>>());
        let (first, last) = (memory[0], memory[memory.len() - 1]);
        let kib = |from: f64, to: f64| (to - from) / most as f64 / 1_024.0;
        each.push(&[kib(first.rss, last.rss), kib(first.pss, last.pss), away, empty, crowded]);
    }
    let at = short(most as f64);
    let mut add = |column, what, unit, goal: Option<Goal>| {
        let figure = Figure::new(what, unit, each.take(column));
        found.figures.push(Figure { goal, ..figure });
    };
    let goal = (most == 15_000).then_some(Goal::AtMost(11.0));
    add(0, format!("RSS per idle user, three nodes, at {at}"), "KiB", goal);
    add(1, format!("PSS per idle user, three nodes, at {at}"), "KiB", None);
    if !stage.quick {
        add(2, "RSS per user who is away, three nodes".to_owned(), "KiB", None);
    }
    let goal = Some(Goal::AtMost(1.5));
    add(3, "idle cluster, 64 shards, three nodes".to_owned(), "% of a core", goal);
    // The goal is one of ten thousand.
    let goal = (beating == 10_000).then_some(Goal::AtMost(8.0));
    let what = format!("{} idle users heart-beating, three nodes", short(beating as f64));
    add(4, what, "% of a core", goal);
    let (rss, pss) = (rss.medians(), pss.medians());
    let mib = |bytes: &f64| bytes / 1_048_576.0;
    let rows = levels
        .iter()
        .zip(rss.iter().zip(&pss))
        .map(|(level, (rss, pss))| vec![short(*level as f64), short(mib(rss)), short(mib(pss))]);
    found.tables.push((vec!["idle users", "RSS MiB", "PSS MiB"], rows.collect()));
    let points = |values: &[f64]| {
        levels.iter().zip(values).map(|(level, value)| (*level as f64, mib(value))).collect()
    };
    let series = vec![
        Series { name: "RSS".to_owned(), points: points(&rss) },
        Series { name: "PSS".to_owned(), points: points(&pss) },
    ];
    found.charts.push(Chart {
        file: "memory",
        title: "Resident memory of three nodes together against idle users".to_owned(),
        x: ("idle users", Scale::Linear),
        y: ("MiB", Scale::Linear),
        series,
    });
    short_of_files(stage, &mut found);
    Ok(found)
}

/// One after the other, the users of a level come to those of the last.
async fn sweep(stage: &Stage, levels: &[u64]) -> anyhow::Result<Sweep> {
    let nodes = Nodes::start(stage, 3).await?;
    let mut seen = Sweep { memory: Vec::new(), empty: 0.0, crowded: 0.0 };
    // They stay until all is measured.
    let mut crowds = Vec::new();
    let mut before = 0;
    for (at, &level) in levels.iter().enumerate() {
        if level > before {
            crowds.push(crowd(stage, &nodes, level - before).await?);
            before = level;
        }
        let last = at + 1 == levels.len();
        let settle = if last && !stage.quick { REST } else { SETTLE };
        tokio::time::sleep(settle).await;
        seen.memory.push(nodes.memory()?);
        if at == 0 {
            seen.empty = percent(&nodes).await?;
        } else if at + 2 == levels.len() {
            seen.crowded = percent(&nodes).await?;
        }
    }
    Ok(seen)
}

/// Users who only send heartbeats, as long as it is kept.
async fn crowd(stage: &Stage, nodes: &Nodes, users: u64) -> anyhow::Result<Generator> {
    let arguments = format!("--pairs 0 --idle {users} --settle 3600");
    let mut crowd = Generator::start(stage, nodes, &arguments)?;
    crowd.until("settling").await?;
    Ok(crowd)
}

/// KiB for each of those who were there once: what comes with their sockets is used again by those who come next.
async fn away(stage: &Stage) -> anyhow::Result<f64> {
    const ROUND: u64 = 1_000;
    let nodes = Nodes::start(stage, 3).await?;
    let mut memory = Vec::new();
    for _ in 0..7 {
        drop(crowd(stage, &nodes, stage.users(ROUND)).await?);
        tokio::time::sleep(Duration::from_secs(2)).await;
        memory.push(nodes.memory()?.rss);
    }
    // In the first rounds memory is taken up that an empty node had left over.
    let counted = &memory[2..];
    let users = stage.users(ROUND) * (counted.len() as u64 - 1);
    Ok((counted[counted.len() - 1] - counted[0]) / users as f64 / 1_024.0)
}

fn short_of_files(stage: &Stage, found: &mut Found) {
    if stage.files < super::FILES_WANTED {
        found.notes.push(format!(
            "Only {} files may be open in a process here: fewer users were connected than wanted.",
            stage.files
        ));
    }
}

/// Of one core, for all nodes.
async fn percent(nodes: &Nodes) -> anyhow::Result<f64> {
    let (begin, before) = (clock::monotonic(), nodes.cpu()?);
    tokio::time::sleep(WATCHED).await;
    Ok(100.0 * (nodes.cpu()? - before) / begin.elapsed().as_secs_f64())
}

pub(crate) async fn cpu(stage: &Stage) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let rate = if stage.quick { RATE / 2 } else { RATE };
    let most = if stage.quick { 3_000 } else { CROWDS[1] };
    let mut medians = Vec::new();
    for users in [CROWDS[0], stage.users(most)] {
        let name = short(users as f64);
        stage.say(&format!("{rate} msg/s with {name} users"));
        let mut columns = Columns::default();
        for _ in 0..stage.runs {
            columns.push(&beside(stage, users - CROWDS[0], rate).await?);
        }
        medians.push(columns.medians());
        let at = short(f64::from(rate));
        let whole = format!("CPU per message at {at} msg/s, {name} users connected");
        found.figures.push(Figure::new(whole, "µs", columns.take(0)));
        if users > CROWDS[0] {
            let less = format!("the same without what {name} users cost while idle");
            found.figures.push(Figure::new(less, "µs", columns.take(1)));
        }
    }
    let growth = 100.0 * (medians[1][0] / medians[0][0] - 1.0);
    let figure = Figure::new("growth of CPU per message with the crowd", "%", vec![growth]);
    found.figures.push(figure.goal(Goal::AtMost(20.0)));
    short_of_files(stage, &mut found);
    Ok(found)
}

/// Pairs write beside so many idle users: microseconds per message, with and without what those cost.
async fn beside(stage: &Stage, idle: u64, rate: u32) -> anyhow::Result<[f64; 2]> {
    let nodes = Nodes::start(stage, 3).await?;
    let (settle, seconds) = (SETTLE.as_secs() + 3, stage.seconds);
    let arguments = format!(
        "--pairs 50 --idle {idle} --settle {settle} --rate {rate} --warmup 1 --seconds {seconds}"
    );
    let mut generator = Generator::start(stage, &nodes, &arguments)?;
    generator.until("settling").await?;
    tokio::time::sleep(SETTLE).await;
    let (begin, before) = (clock::monotonic(), nodes.cpu()?);
    generator.until("settled").await?;
    let idle_share = (nodes.cpu()? - before) / begin.elapsed().as_secs_f64();
    generator.until("measuring").await?;
    let (begin, before) = (clock::monotonic(), nodes.cpu()?);
    generator.until("measured").await?;
    let (lasted, spent) = (begin.elapsed().as_secs_f64(), nodes.cpu()? - before);
    let report = generator.finish().await?;
    let messages = number(&report, "/ticks_in_time_per_s") * seconds;
    let each = |spent: f64| spent * 1e6 / messages.max(1.0);
    Ok([each(spent), each(spent - idle_share * lasted)])
}
