//! Talk: people who write to each other, as much as they can, at a rate, to those who are away, and in groups.

use crate::Stage;
use crate::figures::{Chart, Columns, Figure, Found, Goal, Scale, Series, short};
use crate::generator::{measured, number, report, sum};
use crate::nodes::Nodes;

/// Messages outstanding of each sender.
const OUTSTANDING: [u32; 6] = [1, 2, 4, USUAL, 16, 32];
/// The same on one node, for comparison.
const FEWER: [u32; 3] = [1, USUAL, 32];
/// Those whose figure has a goal.
const USUAL: u32 = 8;
/// Messages a second, over all pairs.
const RATES: [u32; 6] = [1_000, RATE, 10_000, 20_000, 30_000, 40_000];
/// The one with a goal.
const RATE: u32 = 5_000;
const MEMBERS: [u32; 3] = [10, 100, 1_000];

pub(crate) async fn throughput(stage: &Stage) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let mut lines = Vec::new();
    let mut rows = Vec::new();
    for (count, goal) in [(3, 25_000.0), (1, 45_000.0)] {
        let nodes = Nodes::start(stage, count).await?;
        let name = if count == 1 { "one node" } else { "three nodes" };
        let mut points = Vec::new();
        let few = stage.quick || count == 1;
        for &outstanding in if few { &FEWER[..] } else { &OUTSTANDING } {
            stage.say(&format!("{name}, {outstanding} outstanding"));
            let mut columns = Columns::default();
            for _ in 0..stage.runs {
                let run = measured(stage, &nodes, &pairs(stage, outstanding)).await?;
                columns.push(&[
                    number(&run.report, "/receipts_per_s"),
                    number(&run.report, "/send_to_delivered_ms/p50"),
                    number(&run.report, "/send_to_delivered_ms/p99"),
                    run.cpu_us,
                ]);
            }
            let medians = columns.medians();
            points.push((f64::from(outstanding), medians[0]));
            let mut row = vec![format!("{name}, {outstanding}")];
            row.extend(medians.iter().map(|median| short(*median)));
            rows.push(row);
            if outstanding == USUAL {
                let what = format!("one-to-one, 50 pairs × {USUAL}, {name}");
                let figure = Figure::new(what, "msg/s", columns.take(0));
                found.figures.push(figure.goal(Goal::AtLeast(goal)));
            }
        }
        lines.push(Series { name: name.to_owned(), points });
    }
    let head = vec!["outstanding", "msg/s", "delivered p50 ms", "p99 ms", "nodes' CPU µs/msg"];
    found.tables.push((head, rows));
    found.charts.push(Chart {
        file: "throughput",
        title: "Throughput against messages outstanding, 50 pairs".to_owned(),
        x: ("messages unanswered of each sender", Scale::Linear),
        y: ("msg/s", Scale::Linear),
        series: lines,
    });
    Ok(found)
}

fn pairs(stage: &Stage, outstanding: u32) -> String {
    let seconds = stage.seconds;
    format!("--pairs 50 --outstanding {outstanding} --warmup 1 --seconds {seconds}")
}

pub(crate) async fn latency(stage: &Stage) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let rates: &[u32] = if stage.quick { &[RATE, 20_000, 40_000] } else { &RATES };
    let nodes = Nodes::start(stage, 3).await?;
    let (mut medians_of, mut rows) = (Vec::new(), Vec::new());
    for &rate in rates {
        stage.say(&format!("{rate} msg/s"));
        let mut columns = Columns::default();
        for _ in 0..stage.runs {
            let seconds = stage.seconds;
            let arguments = format!("--pairs 50 --rate {rate} --warmup 1 --seconds {seconds}");
            let report = report(stage, &nodes, &arguments).await?;
            columns.push(&[
                number(&report, "/ticks_in_time_per_s"),
                number(&report, "/send_to_delivered_ms/p50"),
                number(&report, "/send_to_delivered_ms/p99"),
                number(&report, "/send_to_tick_ms/p99"),
                sum(&report, "/put_off"),
                nodes.memory()?.rss / 1_048_576.0,
            ]);
        }
        let medians = columns.medians();
        let mut row = vec![short(f64::from(rate))];
        row.extend(medians.iter().map(|median| short(*median)));
        rows.push(row);
        medians_of.push((f64::from(rate), medians));
        if rate == RATE {
            for (at, percentile, most) in [(1, "p50", 4.0), (2, "p99", 20.0)] {
                let what =
                    format!("send → delivered at {} msg/s, {percentile}", short(rate.into()));
                let figure = Figure::new(what, "ms", columns.take(at));
                found.figures.push(figure.goal(Goal::AtMost(most)));
            }
        }
    }
    let most = medians_of.iter().map(|(_, medians)| medians[0]).fold(0.0, f64::max);
    let last = medians_of.last().map_or(0.0, |(_, medians)| medians[0]);
    let what = "check marks/s at the highest rate, of the most at any rate";
    found.figures.push(Figure::new(what, "%", vec![100.0 * last / most.max(1.0)]));
    let head = vec![
        "due msg/s",
        "check marks/s",
        "delivered p50 ms",
        "p99 ms",
        "check mark p99 ms",
        "put off",
        "nodes' RSS MiB",
    ];
    found.tables.push((head, rows));
    let line = |name: &str, at: usize| Series {
        name: name.to_owned(),
        points: medians_of.iter().map(|(rate, medians)| (*rate, medians[at])).collect(),
    };
    found.charts.push(Chart {
        file: "latency",
        title: "Latency against the rate of an open loop, three nodes".to_owned(),
        x: ("msg/s due", Scale::Linear),
        y: ("ms from due to delivered", Scale::Log),
        series: vec![line("p50", 1), line("p99", 2)],
    });
    found.charts.push(Chart {
        file: "overload",
        title: "Check marks against the rate of an open loop, three nodes".to_owned(),
        x: ("msg/s due", Scale::Linear),
        y: ("check marks/s while sending", Scale::Linear),
        series: vec![line("check marks", 0)],
    });
    Ok(found)
}

pub(crate) async fn offline(stage: &Stage) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let nodes = Nodes::start(stage, 3).await?;
    let mut columns = Columns::default();
    for _ in 0..stage.runs {
        let seconds = stage.seconds;
        let arguments =
            format!("--pairs 50 --outstanding 64 --offline --warmup 1 --seconds {seconds}");
        let report = report(stage, &nodes, &arguments).await?;
        columns.push(&[number(&report, "/sends_per_s"), number(&report, "/drained_per_s")]);
    }
    for (at, what, least) in [(0, "store", 40_000.0), (1, "drain", 80_000.0)] {
        let what = format!("offline: {what}, three nodes");
        found.figures.push(Figure::new(what, "msg/s", columns.take(at)).goal(Goal::AtLeast(least)));
    }
    Ok(found)
}

pub(crate) async fn groups(stage: &Stage) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let nodes = Nodes::start(stage, 3).await?;
    let (mut deliveries, mut last, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for members in MEMBERS {
        stage.say(&format!("{members} members"));
        let (mut busy, mut calm) = (Columns::default(), Columns::default());
        for _ in 0..stage.runs {
            let seconds = stage.seconds;
            let common = format!("--group {members} --warmup 1 --seconds {seconds}");
            let arguments = format!("{common} --posters 8 --outstanding 8");
            let of_busy = report(stage, &nodes, &arguments).await?;
            busy.push(&[
                number(&of_busy, "/posts_per_s"),
                number(&of_busy, "/deliveries_per_s"),
                number(&of_busy, "/post_to_last_member_ms/p50"),
            ]);
            let of_calm = report(stage, &nodes, &format!("{common} --rate 10")).await?;
            calm.push(&[
                number(&of_calm, "/post_to_tick_ms/p50"),
                number(&of_calm, "/post_to_last_member_ms/p50"),
                number(&of_calm, "/post_to_last_member_ms/p99"),
            ]);
        }
        let medians = [busy.medians(), calm.medians()].concat();
        deliveries.push((f64::from(members), medians[1]));
        last.push((f64::from(members), medians[4]));
        let mut row = vec![short(f64::from(members))];
        row.extend(medians.iter().map(|median| short(*median)));
        rows.push(row);
        let what = format!("group of {}, busy", short(f64::from(members)));
        found.figures.push(Figure::new(what, "deliveries/s", busy.take(1)));
    }
    let head = vec![
        "members",
        "busy: posts/s",
        "deliveries/s",
        "to the last member p50 ms",
        "calm: check mark p50 ms",
        "to the last member p50 ms",
        "p99 ms",
    ];
    found.tables.push((head, rows));
    let chart = |file, title: &str, y, name: &str, points| Chart {
        file,
        title: title.to_owned(),
        x: ("members", Scale::Log),
        y: (y, Scale::Log),
        series: vec![Series { name: name.to_owned(), points }],
    };
    let title = "Deliveries in one group, eight members post as much as they can";
    found.charts.push(chart("groups", title, "deliveries/s", "busy", deliveries));
    let title = "From a post to the last member, ten posts a second";
    found.charts.push(chart("groups-latency", title, "ms, p50", "calm", last));
    Ok(found)
}
