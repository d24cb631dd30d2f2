//! Report: what a run promised and what was found, as Markdown with pictures.

// With their paths, for this file is also a module of a program in another directory.
#[path = "report/figures.rs"]
mod figures;
#[path = "report/pen.rs"]
mod pen;
#[path = "report/svg.rs"]
mod svg;

use figures::{Felt, Kind, Pains, Spread, Way};
pub(crate) use figures::{Figures, figures};

/// What the checker found.
pub(crate) struct Judged {
    /// Every kind of anomaly it looks for, and how many there are.
    pub(crate) anomalies: Vec<(String, u64)>,
    /// Anomalies in words.
    pub(crate) texts: Vec<String>,
    /// What was counted, and how many there are.
    pub(crate) counts: Vec<(String, u64)>,
}

/// Anomalies told in words.
const TEXTS_MAX: usize = 50;
/// Interruptions told one by one.
const WORST: usize = 10;

/// The pictures of a run: what to add to the file's name, title, and SVG.
pub(crate) fn pictures(figures: &Figures) -> Vec<(String, String, String)> {
    let throughput = "Check marks and events delivered per second";
    let stalls = "Longest wait for a check mark in each second";
    vec![
        ("throughput".into(), throughput.into(), svg::throughput(figures, throughput)),
        ("stalls".into(), stalls.into(), svg::stalls(figures, stalls)),
    ]
}

/// The whole report. Pictures are given by file name and title.
pub(crate) fn markdown(
    figures: &Figures,
    judged: &Judged,
    pictures: &[(String, String)],
) -> String {
    let mut parts = vec![
        summary(figures, judged),
        repeat(figures),
        found(figures, judged),
        faults(figures),
        ways(figures),
        waits(figures),
        counts(judged),
    ];
    if !pictures.is_empty() {
        let pictures = pictures.iter().map(|(file, title)| format!("![{}]({file})\n", cell(title)));
        parts.push(format!("## Over time\n\n{}", pictures.collect::<Vec<_>>().join("\n")));
    }
    parts.push(LIMITS.to_owned());
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

const LIMITS: &str = "\
## What this does not show

- All nodes and all clients share one machine and its clock: no two machines fail together, and none has another time.
- Nodes talk over loopback: no real network, no switches, no distance.
- A client without a connection, or with too much unanswered, writes nothing meanwhile: its waits are not counted.
- No disk lies: what a node has synced stays, unless a fault damages it on purpose. Processes fail, never the power.
- Times include the machine's own noise, and that of the clients beside the nodes.
- Nothing found is no proof: the bounds hold for runs like this one, as if messages failed independently of each other.
";

fn summary(figures: &Figures, judged: &Judged) -> String {
    let anomalies =
        judged.anomalies.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
    let faults = many(figures.faults.len(), "fault", "faults");
    let kinds = many(figures.kinds.len(), "kind", "kinds");
    let lasted = seconds(figures.end.saturating_sub(figures.begin));
    let on = figures.run.as_ref().map_or_else(String::new, |run| {
        let (nodes, users) = (many(run.nodes, "node", "nodes"), many(run.users, "user", "users"));
        format!(" on {nodes}, with {users} and {}", many(run.devices, "device", "devices"))
    });
    let acknowledged = number(figures.acknowledged);
    let lost = judged.anomalies.iter().find(|(kind, _)| kind.starts_with("lost"));
    let lost = lost.map_or_else(
        || format!("{} acknowledged.\n", many(figures.acknowledged, "message", "messages")),
        |(_, lost)| format!("Messages: lost {} of {acknowledged} acknowledged.\n", number(*lost)),
    );
    let mut out = vec![
        format!("# Chaos: {}\n\n", many(anomalies, "anomaly", "anomalies")),
        format!("{faults} of {kinds} in {lasted} s{on}.\n{lost}"),
    ];
    if figures.groups > 0 {
        let posts = many(figures.posts.acknowledged, "of them was a post", "of them were posts");
        let groups = many(figures.groups, "group", "groups");
        let changes = many(figures.changes, "change", "changes");
        out.push(format!("{posts} to {groups}, with {changes} of these.\n"));
    }
    if figures.unanswered > 0 {
        let unanswered = many(figures.unanswered, "message was", "messages were");
        out.push(format!("{unanswered} never answered.\n"));
    }
    if figures.together.broken > 0 {
        let broken = many(figures.together.broken, "fault", "faults");
        out.push(format!("After {broken} the cluster was not seen whole again.\n"));
    }
    out.concat()
}

fn repeat(figures: &Figures) -> String {
    figures.run.as_ref().map_or_else(
        || "## Repeat\n\nThe history does not say how it came about.\n".to_owned(),
        |run| {
            format!(
                "## Repeat\n\n{}\nSeed {}. The same seed draws the same faults; when each strikes is up to the machine.\n",
                verbatim(&run.command),
                run.seed
            )
        },
    )
}

fn found(figures: &Figures, judged: &Judged) -> String {
    let acknowledged = figures.acknowledged;
    let bound = match acknowledged / 3 {
        0 => "–".to_owned(),
        third => format!("1 in {}", number(third)),
    };
    let rows = judged.anomalies.iter().map(|(kind, count)| {
        let what = cell(&kind.replace('_', " "));
        let bound = if *count == 0 { bound.as_str() } else { "–" };
        vec![what, number(*count), number(acknowledged), bound.to_owned()]
    });
    let head = ["never to happen", "found", "acknowledged messages", "95 % upper bound (3/n)"];
    let found = format!("## Promised and found\n\n{}", table(&head, rows));
    if judged.texts.is_empty() {
        return found;
    }
    let told = judged.texts.len().min(TEXTS_MAX);
    let words = judged.texts.iter().take(TEXTS_MAX).map(|text| verbatim(&text.replace('\n', " ")));
    format!("{found}\nThe first {told} in words:\n\n{}", words.collect::<String>())
}

fn faults(figures: &Figures) -> String {
    if figures.faults.is_empty() {
        return "## Faults\n\nThere were none.\n".to_owned();
    }
    let rows = || figures.kinds.iter().chain([&figures.together]);
    let row = |kind: &Kind, pains: &Pains| {
        let mut row = vec![cell(&kind.name), number(kind.count)];
        row.extend(three(pains.stalls));
        row.extend(three(pains.waits));
        row
    };
    let all = rows().map(|kind| {
        let mut row = row(kind, &kind.all);
        row.extend(three(kind.heal));
        row
    });
    let elsewhere = rows().map(|kind| row(kind, &kind.elsewhere));
    let head = ["fault", "count", "no mark p50", "p99", "max", "waited p50", "p99", "max"];
    let healing = [head.as_slice(), &["heal p50", "p99", "max"]].concat();
    format!(
        "## Faults\n\n\
         In milliseconds. A fault lasts from its beginning until the cluster is whole again: every shard has a\n\
         leader, all replicas are in reach.\n\n\
         - *no mark*: once for each fault, the longest time in which messages waited and nobody got a check mark; it\n\
         \x20 counts from the fault on, and to its end even if that is after whole, but not into the next fault.\n\
         - *waited*: once for each message on its way during a fault, the whole time to its check mark.\n\
         - *heal*: from the fault undone to the cluster whole.\n\n\
         With fewer than 100 of something, its p99 is its maximum.\n\n\
         ### All clients\n\n{}\n\
         ### Elsewhere\n\n\
         Only messages whose check mark came from a node that was not hit. Who fled there brings the wait along.\n\
         Faults that hit every node have no elsewhere.\n\n{}\n\
         ### Longest without a check mark\n\n{}",
        table(&healing, all),
        table(&head, elsewhere),
        worst(figures)
    )
}

fn worst(figures: &Figures) -> String {
    let stall = |fault: &Felt| fault.all.as_ref().map(|pain| pain.stall);
    let mut faults: Vec<&Felt> = figures.faults.iter().collect();
    faults.sort_by_key(|fault| std::cmp::Reverse(stall(fault)));
    let rows = faults.into_iter().take(WORST).map(|fault| {
        let longest = fault.all.as_ref().and_then(|pain| pain.waits.iter().copied().max());
        vec![
            cell(&fault.detail),
            fault.id.to_string(),
            seconds(fault.begin),
            or_dash(stall(fault)),
            or_dash(fault.elsewhere.as_ref().map(|pain| pain.stall)),
            or_dash(longest),
            or_dash(fault.heal()),
        ]
    });
    let head = ["what", "fault", "at s", "no mark", "elsewhere", "longest wait", "heal"];
    table(&head, rows)
}

/// One to one, and in groups.
fn ways(figures: &Figures) -> String {
    if figures.groups == 0 {
        return String::new();
    }
    let counts = |way: &Way| [way.sent, way.acknowledged, way.refused, way.delivered];
    let whats =
        ["messages sent", "acknowledged", "refused for good", "delivered, summed over devices"];
    let both = counts(&figures.letters).into_iter().zip(counts(&figures.posts));
    let rows = whats
        .into_iter()
        .zip(both)
        .map(|(what, (letters, posts))| vec![what.to_owned(), number(letters), number(posts)]);
    let changes = ["groups made and changed", "–", &number(figures.changes)].map(str::to_owned);
    let rows = rows.chain([changes.to_vec()]);
    format!(
        "## Groups\n\n\
         Members come and go while others post: what is posted by who has just gone is refused.\n\n{}",
        table(&["what", "one to one", "in groups"], rows)
    )
}

fn waits(figures: &Figures) -> String {
    let rows = [
        ("all messages", figures.waits),
        ("one to one", figures.letters.waits),
        ("posts to groups", figures.posts.waits),
        ("not touched by a fault", figures.calm),
        ("some part in a fault", figures.troubled),
    ];
    let rows = rows.into_iter().map(|(what, spread)| {
        let mut row = vec![what.to_owned(), number(spread.map_or(0, |spread| spread.count))];
        let times = spread.map(|spread| [spread.p50, spread.p99, spread.p999, spread.max]);
        row.extend((0..4).map(|at| or_dash(times.and_then(|times| times.get(at).copied()))));
        row
    });
    let head = ["waits for the check mark, ms", "messages", "p50", "p99", "p99.9", "max"];
    format!(
        "## Latency\n\n\
         From the first sending to the check mark, repeats and reconnects included. Messages never answered: {}; they\n\
         wait until the end of the run. Messages refused for good: {}; they do not count.\n\n{}",
        number(figures.unanswered),
        number(figures.refused),
        table(&head, rows)
    )
}

fn counts(judged: &Judged) -> String {
    if judged.counts.is_empty() {
        return String::new();
    }
    let rows = judged.counts.iter().map(|(what, count)| vec![cell(what), number(*count)]);
    format!("## Counted\n\n{}", table(&["what", "count"], rows))
}

/// The first column holds words, the others numbers.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let rule: Vec<String> = std::iter::once("---".to_owned())
        .chain(head.iter().skip(1).map(|_| "---:".to_owned()))
        .collect();
    let rows: String = rows.map(|cells| row(&cells)).collect();
    row(&head) + &row(&rule) + &rows
}

/// Text that cannot leave its cell, or begin anything.
fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '|' | '*' | '`' | '[' | ']' | '\\' => out.extend(['\\', char]),
            '<' => out.push_str("&lt;"),
            char if char.is_control() => out.push(' '),
            char => out.push(char),
        }
    }
    out
}

/// As it is, a block of its own.
fn verbatim(text: &str) -> String {
    text.lines().flat_map(|line| ["    ", line, "\n"]).collect()
}

fn three(spread: Option<Spread>) -> [String; 3] {
    let spread = spread.map(|spread| [spread.p50, spread.p99, spread.max]);
    [0, 1, 2].map(|at| or_dash(spread.and_then(|times| times.get(at).copied())))
}

fn or_dash(time: Option<u64>) -> String {
    time.map_or_else(|| "–".to_owned(), millis)
}

/// Microseconds as milliseconds; below 100 with a tenth.
fn millis(time: u64) -> String {
    if time >= 100_000 {
        return number(time.saturating_add(500) / 1_000);
    }
    let tenths = (time + 50) / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Microseconds as seconds with a tenth.
fn seconds(time: u64) -> String {
    let tenths = time.saturating_add(figures::SECOND / 20) / (figures::SECOND / 10);
    format!("{}.{}", number(tenths / 10), tenths % 10)
}

fn many(count: impl ToString + Copy, one: &str, more: &str) -> String {
    let count = number(count);
    let what = if count == "1" { one } else { more };
    format!("{count} {what}")
}

/// With a comma before each three digits.
fn number(number: impl ToString + Copy) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
