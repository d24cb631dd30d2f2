//! Compare: the same talk over another server, in the same run.

use crate::Stage;
use crate::ejabberd::{self, Ejabberd};
use crate::figures::{Columns, Figure, Found, Goal, short};
use crate::generator::{Generator, number, report};
use crate::nodes::Nodes;

const PAIRS: u32 = 50;
const OUTSTANDING: u32 = 8;

pub(crate) async fn compare(stage: &Stage) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let Some(ctl) = ejabberd::find() else {
        found.notes.push("Skipped: no `ejabberdctl` is installed here.".to_owned());
        return Ok(found);
    };
    let mut columns = Columns::default();
    for run in 0..stage.runs {
        stage.say(&format!("run {}: ejabberd, then three nodes, then one", run + 1));
        let theirs = theirs(stage, &ctl).await?;
        let three = ours(stage, 3).await?;
        let one = ours(stage, 1).await?;
        columns.push(&[
            theirs[0],
            three[0],
            one[0],
            three[0] / theirs[0].max(1.0),
            theirs[1],
            three[1],
            one[1],
            theirs[2],
            three[2],
            one[2],
        ]);
    }
    let medians = columns.medians();
    let rows = [("ejabberd, one node, nothing flushed", 0), ("three nodes", 1), ("one node", 2)];
    let rows = rows.map(|(what, at)| {
        let cells = [medians[at], medians[4 + at], medians[7 + at]].map(short);
        [vec![what.to_owned()], cells.to_vec()].concat()
    });
    let head = vec!["50 pairs × 8", "msg/s with receipts", "receipt p50 ms", "p99 ms"];
    found.tables.push((head, rows.to_vec()));
    for (at, what) in ["ejabberd over WebSocket", "three nodes beside it", "one node beside it"]
        .iter()
        .enumerate()
    {
        found.figures.push(Figure::new(*what, "msg/s", columns.take(at)));
    }
    let times = Figure::new("three nodes against ejabberd", "×", columns.take(3));
    found.figures.push(times.goal(Goal::AtLeast(4.0)));
    Ok(found)
}

async fn theirs(stage: &Stage, ctl: &std::path::PathBuf) -> anyhow::Result<[f64; 3]> {
    let server = Ejabberd::start(stage, ctl).await?;
    let mut client = tokio::process::Command::new(std::env::current_exe()?);
    client.args([
        "--all",
        "--xmpp",
        &server.port.to_string(),
        "--seconds",
        &stage.seconds.to_string(),
    ]);
    let report = Generator::spawn(client)?.finish().await?;
    Ok(three(&report))
}

async fn ours(stage: &Stage, count: usize) -> anyhow::Result<[f64; 3]> {
    let nodes = Nodes::start(stage, count).await?;
    let seconds = stage.seconds;
    let arguments =
        format!("--pairs {PAIRS} --outstanding {OUTSTANDING} --warmup 1 --seconds {seconds}");
    Ok(three(&report(stage, &nodes, &arguments).await?))
}

fn three(report: &serde_json::Value) -> [f64; 3] {
    ["/receipts_per_s", "/send_to_receipt_ms/p50", "/send_to_receipt_ms/p99"]
        .map(|pointer| number(report, pointer))
}

/// What a process that was started for it does: talks over the other server.
pub(crate) fn talk(port: u16, seconds: f64) -> anyhow::Result<()> {
    crate::xmpp::run(port, PAIRS as usize, OUTSTANDING as usize, seconds)
}
