//! Crowd: what it costs that many are connected, while they do nothing and while others write.

use std::time::Duration;

use actors::clock;

use crate::Stage;
use crate::figures::{Chart, Columns, Figure, Found, Goal, Scale, Series, short};
use crate::generator::{Generator, number};
use crate::nodes::Nodes;

/// Connected users whose memory is measured.
const LEVELS: [u64; 5] = [0, 1_000, 5_000, 10_000, 15_000];
/// After so long buffers have shrunk, and whoever rests is at rest.
const SETTLE: Duration = Duration::from_secs(6);
/// Those who only send heartbeats.
const IDLE: u64 = 10_000;
/// Pairs write so many messages a second while processor time is measured.
const RATE: u32 = 5_000;
/// Connected users in all, then.
const CROWDS: [u64; 2] = [100, 15_000];

pub(crate) async fn memory(stage: &Stage) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let levels: Vec<u64> = match stage.quick {
        true => vec![0, 1_000, 5_000],
        false => LEVELS.to_vec(),
    };
    let mut levels: Vec<u64> = levels.into_iter().map(|level| stage.users(level)).collect();
    levels.dedup();
    let (mut rss, mut pss) = (Columns::default(), Columns::default());
    let mut slopes = Columns::default();
    for run in 0..stage.runs {
        stage.say(&format!("run {}: up to {} users", run + 1, levels.last().unwrap_or(&0)));
        let memory = sweep(stage, &levels).await?;
        rss.push(&memory.iter().map(|memory| memory.rss).collect::<Vec<_>>());
        pss.push(&memory.iter().map(|memory| memory.pss).collect::<Vec<_>>());
        let last = levels.len() - 1;
        let users = (levels[last] - levels[1]) as f64;
        slopes.push(&[
            (memory[last].rss - memory[1].rss) / users / 1_024.0,
            (memory[last].pss - memory[1].pss) / users / 1_024.0,
            (memory[last].rss - memory[0].rss) / levels[last] as f64 / 1_024.0,
        ]);
    }
    let most = short(levels.last().copied().unwrap_or(0) as f64);
    let slope = Figure::new(format!("RSS per idle user, up to {most}"), "KiB", slopes.take(0));
    found.figures.push(slope.goal(Goal::AtMost(11.0)));
    found.figures.push(Figure::new(
        format!("RSS of {most} idle users, each, above the empty cluster"),
        "KiB",
        slopes.take(2),
    ));
    found.figures.push(Figure::new(
        format!("PSS per idle user, up to {most}"),
        "KiB",
        slopes.take(1),
    ));
    let (rss, pss) = (rss.medians(), pss.medians());
    let mib = |bytes: &f64| bytes / 1_048_576.0;
    let rows = levels
        .iter()
        .zip(rss.iter().zip(&pss))
        .map(|(level, (rss, pss))| vec![short(*level as f64), short(mib(rss)), short(mib(pss))]);
    found.tables.push((vec!["idle users", "RSS MiB", "PSS MiB"], rows.collect()));
    let line = |name: &str, values: &[f64]| Series {
        name: name.to_owned(),
        points: levels
            .iter()
            .zip(values)
            .map(|(level, value)| (*level as f64, mib(value)))
            .collect(),
    };
    found.charts.push(Chart {
        file: "memory",
        title: "Resident memory of three nodes together against idle users".to_owned(),
        x: ("idle users", Scale::Linear),
        y: ("MiB", Scale::Linear),
        series: vec![line("RSS", &rss), line("PSS", &pss)],
    });
    short_of_files(stage, &mut found);
    Ok(found)
}

/// One after the other, the users of a level come to those of the last.
async fn sweep(stage: &Stage, levels: &[u64]) -> anyhow::Result<Vec<crate::nodes::Memory>> {
    let nodes = Nodes::start(stage, 3).await?;
    let mut memory = Vec::new();
    // They stay until all is measured.
    let mut crowds = Vec::new();
    let mut before = 0;
    for &level in levels {
        if level > before {
            let arguments = format!("--pairs 0 --idle {} --settle 3600", level - before);
            let mut crowd = Generator::start(stage, &nodes, &arguments)?;
            crowd.until("settling").await?;
            crowds.push(crowd);
            before = level;
        }
        tokio::time::sleep(SETTLE).await;
        memory.push(nodes.memory()?);
    }
    Ok(memory)
}

fn short_of_files(stage: &Stage, found: &mut Found) {
    if stage.files < super::FILES_WANTED {
        found.notes.push(format!(
            "Only {} files may be open in a process here: fewer users were connected than wanted.",
            stage.files
        ));
    }
}

pub(crate) async fn idle(stage: &Stage) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let (mut empty, mut crowded) = (Vec::new(), Vec::new());
    let users = stage.users(if stage.quick { 2_000 } else { IDLE });
    let lasts = if stage.quick { Duration::from_secs(5) } else { Duration::from_secs(10) };
    for run in 0..stage.runs {
        stage.say(&format!("run {}: nobody, then {users} users", run + 1));
        let nodes = Nodes::start(stage, 3).await?;
        tokio::time::sleep(SETTLE).await;
        empty.push(percent(&nodes, lasts).await?);
        let arguments = format!("--pairs 0 --idle {users} --settle 3600");
        let mut crowd = Generator::start(stage, &nodes, &arguments)?;
        crowd.until("settling").await?;
        tokio::time::sleep(SETTLE).await;
        crowded.push(percent(&nodes, lasts).await?);
    }
    let figure = Figure::new("idle cluster, 64 shards, three nodes", "% of a core", empty);
    found.figures.push(figure.goal(Goal::AtMost(1.5)));
    let what = format!("{} idle users heart-beating, three nodes", short(users as f64));
    let figure = Figure::new(what, "% of a core", crowded);
    // The goal is one of ten thousand.
    let most = 8.0 * users as f64 / IDLE as f64;
    found.figures.push(figure.goal(Goal::AtMost(most)));
    short_of_files(stage, &mut found);
    Ok(found)
}

async fn percent(nodes: &Nodes, lasts: Duration) -> anyhow::Result<f64> {
    let (begin, before) = (clock::monotonic(), nodes.cpu()?);
    tokio::time::sleep(lasts).await;
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
    let (settle, seconds) = (SETTLE.as_secs() + 4, stage.seconds);
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
