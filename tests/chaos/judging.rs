//! Judging: a recorded history in, a report and a verdict out.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use crate::checker::{self, Verdict};
use crate::report::{self, Judged};

/// What is said of a history.
pub(crate) struct Judgement {
    verdict: Verdict,
    unfinished: Option<String>,
}

impl Judgement {
    /// Whether nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.verdict.anomalies.is_empty() && self.unfinished.is_none()
    }

    /// What was counted.
    pub(crate) fn counts(&self) -> &checker::Counts {
        &self.verdict.counts
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for anomaly in &self.verdict.anomalies {
            writeln!(f, "{} at {} us: {}", anomaly.kind.name(), anomaly.at, anomaly.text)?;
        }
        if let Some(why) = &self.unfinished {
            writeln!(f, "unfinished: {why}")?;
        }
        let anomalies: u64 = self.verdict.counts_by_kind.values().sum();
        let acknowledged = self.counts().acknowledged;
        write!(f, "{anomalies} anomalies in {acknowledged} acknowledged messages")
    }
}

/// Checks a history and writes the report, with its pictures beside it; `unfinished` says why the run did not come to its
/// end, if it did not.
pub(crate) fn judge(
    history: &Path,
    report: &Path,
    unfinished: Option<String>,
) -> Result<Judgement, String> {
    let named = |path: &Path, error: &dyn fmt::Display| format!("{}: {error}", path.display());
    let file = File::open(history).map_err(|error| named(history, &error))?;
    let lines = checker::read(BufReader::new(file)).map_err(|error| named(history, &error))?;
    let figures = report::figures(&lines);
    let verdict = checker::check(lines);
    let mut judged = Judged {
        anomalies: checker::Kind::ALL
            .iter()
            .map(|kind| {
                (kind.name().to_owned(), verdict.counts_by_kind.get(kind).copied().unwrap_or(0))
            })
            .collect(),
        texts: verdict.anomalies.iter().map(|anomaly| anomaly.text.clone()).collect(),
        counts: verdict.counts.named(),
    };
    let broken = figures.together.broken;
    let never = (broken > 0).then(|| format!("not seen whole again after {broken} faults"));
    let unfinished = unfinished.or(never);
    if let Some(why) = &unfinished {
        judged.anomalies.push(("run that did not end".to_owned(), 1));
        judged.texts.push(why.clone());
    }
    if let Some(beside) = report.parent() {
        std::fs::create_dir_all(beside).map_err(|error| named(beside, &error))?;
    }
    let stem = report.file_stem().map_or_else(|| "chaos".into(), |stem| stem.to_string_lossy());
    let mut pictures = Vec::new();
    for (suffix, title, svg) in report::pictures(&figures) {
        let name = format!("{stem}-{suffix}.svg");
        let path = report.with_file_name(&name);
        std::fs::write(&path, svg).map_err(|error| named(&path, &error))?;
        pictures.push((name, title));
    }
    let text = report::markdown(&figures, &judged, &pictures);
    std::fs::write(report, text).map_err(|error| named(report, &error))?;
    Ok(Judgement { verdict, unfinished })
}
