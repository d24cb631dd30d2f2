//! Failures: thousands who come back at once, and a node that dies.

use crate::Stage;
use crate::figures::{Chart, Columns, Figure, Found, Goal, Scale, Series, short};
use crate::generator::{Generator, number, report};
use crate::nodes::Nodes;

/// Clients of a storm.
const STORM: u64 = 10_000;
/// Those who log in at the same time otherwise.
const PARALLEL: u32 = 128;
/// Messages a second while a node dies.
const RATE: u32 = 2_000;

pub(crate) async fn storm(stage: &Stage) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let users = stage.users(if stage.quick { 2_000 } else { STORM });
    let mut columns = Columns::default();
    for run in 0..stage.runs {
        stage.say(&format!("run {}: {users} users", run + 1));
        let nodes = Nodes::start(stage, 3).await?;
        let arguments = format!("--storm {users} --parallel {PARALLEL}");
        let calm = report(stage, &nodes, &arguments).await?;
        // A cluster of its own, for users who have never been there.
        drop(nodes);
        let nodes = Nodes::start(stage, 3).await?;
        let before = nodes.memory()?.rss;
        let mut generator = Generator::start(stage, &nodes, &format!("--storm {users}"))?;
        generator.until("dropping").await?;
        generator.until("back").await?;
        let grown = nodes.memory()?.rss - before;
        let wild = generator.finish().await?;
        columns.push(&[
            number(&calm, "/comings/0/per_s"),
            number(&calm, "/comings/1/per_s"),
            number(&wild, "/comings/1/authenticated_s"),
            number(&wild, "/comings/1/caught_up_s"),
            number(&wild, "/comings/1/caught_up_ms/p50"),
            number(&wild, "/comings/1/caught_up_ms/p99"),
            100.0 * number(&wild, "/comings/1/resumed") / users as f64,
            number(&wild, "/disconnects"),
            grown / 1_048_576.0,
        ]);
    }
    let count = short(users as f64);
    let mut add = |at: usize, what: String, unit, goal: Option<Goal>| {
        let figure = Figure::new(what, unit, columns.take(at));
        found.figures.push(Figure { goal, ..figure });
    };
    add(0, "first logins (a new mailbox each)".to_owned(), "/s", None);
    let least = Some(Goal::AtLeast(10_000.0));
    add(1, "logins that resume".to_owned(), "/s", least);
    add(2, format!("storm of {count}: until all are authenticated"), "s", None);
    // The goal is one of ten thousand.
    let most = (users == STORM).then_some(Goal::AtMost(2.0));
    add(3, format!("storm of {count}: until all are caught up"), "s", most);
    add(4, format!("storm of {count}: each caught up, p50"), "ms", None);
    add(5, format!("storm of {count}: each caught up, p99"), "ms", None);
    add(6, format!("storm of {count}: resumed"), "%", Some(Goal::AtLeast(100.0)));
    add(7, format!("storm of {count}: attempts that failed"), "", None);
    add(8, format!("storm of {count}: RSS of the nodes above the empty cluster"), "MiB", None);
    Ok(found)
}

pub(crate) async fn failover(stage: &Stage) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let mut columns = Columns::default();
    let mut points = Vec::new();
    // Longer than an election and a client's way to another node.
    let seconds = if stage.quick { 5.0 } else { 8.0 };
    for run in 0..stage.runs {
        stage.say(&format!("run {}: {RATE} msg/s, kill -9", run + 1));
        let mut nodes = Nodes::start(stage, 3).await?;
        let leader = nodes.leader().await?;
        let arguments = format!("--pairs 50 --rate {RATE} --warmup 2 --seconds {seconds}");
        let mut generator = Generator::start(stage, &nodes, &arguments)?;
        generator.until("measuring").await?;
        nodes.kill(leader)?;
        let report = generator.finish().await?;
        let gaps = [
            number(&report, "/longest_gap_ms/p50"),
            number(&report, "/longest_gap_ms/p99"),
            number(&report, "/longest_gap_ms/max"),
        ];
        points.push((run as f64 + 1.0, gaps[2]));
        columns.push(&gaps);
    }
    for (at, what) in ["half of the clients", "99 of 100 clients", "any client"].iter().enumerate()
    {
        let what = format!("a node is killed: longest gap of {what}");
        let figure = Figure::new(what, "ms", columns.take(at));
        let goal = (at == 2).then_some(Goal::AtMost(2_000.0));
        found.figures.push(Figure { goal, ..figure });
    }
    found.charts.push(Chart {
        file: "failover",
        title: "Longest gap between two check marks of any client while a node is killed"
            .to_owned(),
        x: ("run", Scale::Linear),
        y: ("ms", Scale::Linear),
        series: vec![Series { name: "any client".to_owned(), points }],
    });
    Ok(found)
}
