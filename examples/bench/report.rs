//! Report: all that was measured as one page of Markdown with its pictures, and the same figures for programs.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::figures::{Figure, Found, Goal, short};
use crate::plot;

/// One part of the page.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) what: &'static str,
    pub(crate) found: Result<Found, String>,
    pub(crate) seconds: f64,
}

/// What is told of the whole.
pub(crate) struct Page {
    pub(crate) command: String,
    pub(crate) runs: usize,
    pub(crate) machine: Vec<(&'static str, String)>,
    pub(crate) sections: Vec<Section>,
}

impl Page {
    /// Writes `bench.md`, `bench.json` and the pictures; says where the page is.
    pub(crate) fn write(&self, out: &Path) -> anyhow::Result<PathBuf> {
        let page = out.join("bench.md");
        fs::write(&page, self.markdown()?)?;
        fs::write(out.join("bench.json"), serde_json::to_string_pretty(&self.json())?)?;
        for chart in self.found().flat_map(|found| &found.charts) {
            fs::write(out.join(format!("{}.svg", chart.file)), plot::svg(chart)?)?;
        }
        Ok(page)
    }

    fn found(&self) -> impl Iterator<Item = &Found> {
        self.sections.iter().filter_map(|section| section.found.as_ref().ok())
    }

    fn markdown(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::from("# Benchmarks\n\n");
        writeln!(text, "`{}`\n", self.command)?;
        for (name, value) in &self.machine {
            writeln!(text, "- {name}: {value}")?;
        }
        let times = if self.runs == 1 { "one run".into() } else { format!("{} runs", self.runs) };
        writeln!(text, "\nEach figure is the median of {times}, with the least and the most.\n")?;
        table(&mut text, &FIGURES, self.found().flat_map(|found| &found.figures).map(row))?;
        for section in &self.sections {
            writeln!(text, "\n## {}\n\n{}\n", section.title, section.what)?;
            match &section.found {
                Ok(found) => describe(&mut text, found)?,
                Err(why) => writeln!(text, "**Not measured**: {why}")?,
            }
        }
        Ok(text)
    }

    fn json(&self) -> Value {
        let figures = self.found().flat_map(|found| &found.figures).map(|figure| {
            let mut value = json!({
                "what": figure.what, "unit": figure.unit, "median": figure.median(),
                "values": figure.values,
            });
            match figure.goal {
                Some(Goal::AtLeast(least)) => value["at_least"] = least.into(),
                Some(Goal::AtMost(most)) => value["at_most"] = most.into(),
                None => {}
            }
            if let Some(goal) = figure.goal {
                value["met"] = goal.is_met(figure.median()).into();
            }
            value
        });
        let machine: serde_json::Map<String, Value> = self
            .machine
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
            .collect();
        let parts = self.sections.iter().map(|section| {
            let error = section.found.as_ref().err();
            json!({"title": section.title, "seconds": section.seconds, "error": error})
        });
        json!({
            "command": self.command, "runs": self.runs, "machine": machine,
            "figures": figures.collect::<Vec<_>>(), "parts": parts.collect::<Vec<_>>(),
        })
    }
}

const FIGURES: [&str; 5] = ["what", "median", "least – most", "goal", ""];

fn row(figure: &Figure) -> Vec<String> {
    let unit = figure.unit;
    let least = figure.values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figure.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (goal, met) = match figure.goal {
        None => (String::new(), String::new()),
        Some(goal) => {
            let told = match goal {
                Goal::AtLeast(least) => format!("≥ {} {unit}", short(least)),
                Goal::AtMost(most) => format!("≤ {} {unit}", short(most)),
            };
            let met = if goal.is_met(figure.median()) { "met" } else { "**missed**" };
            (told, met.to_owned())
        }
    };
    vec![
        figure.what.clone(),
        format!("{} {unit}", short(figure.median())),
        format!("{} – {}", short(least), short(most)),
        goal,
        met,
    ]
}

fn describe(text: &mut String, found: &Found) -> std::fmt::Result {
    for (head, rows) in &found.tables {
        table(text, head, rows.iter().cloned())?;
        text.push('\n');
    }
    for chart in &found.charts {
        writeln!(text, "![{}]({}.svg)\n", chart.title, chart.file)?;
    }
    for note in &found.notes {
        writeln!(text, "- {note}")?;
    }
    Ok(())
}

/// The first column holds words, the others numbers.
fn table(
    text: &mut String,
    head: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> std::fmt::Result {
    writeln!(text, "| {} |", head.join(" | "))?;
    writeln!(text, "|---{}|", "|---:".repeat(head.len().saturating_sub(1)))?;
    for row in rows {
        writeln!(text, "| {} |", row.join(" | "))?;
    }
    Ok(())
}
