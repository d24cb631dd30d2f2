//! Figures: what was measured, as medians beside the goals.

/// What a figure should be.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    pub(crate) fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

/// One figure: the same thing measured some times.
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) values: Vec<f64>,
    pub(crate) goal: Option<Goal>,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, values: Vec<f64>) -> Self {
        Self { what: what.into(), unit, values, goal: None }
    }

    pub(crate) fn goal(self, goal: Goal) -> Self {
        Self { goal: Some(goal), ..self }
    }

    pub(crate) fn median(&self) -> f64 {
        median(&self.values)
    }
}

/// The middle one; of an even number, the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len() / 2, sorted.len() % 2) {
        (0, 0) => f64::NAN,
        (middle, 1) => sorted[middle],
        (middle, _) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// A line of a chart.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// How an axis is divided.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    Linear,
    /// In powers; only what is above 0 is shown.
    Log,
}

/// A picture.
pub(crate) struct Chart {
    /// The file's name, without its ending.
    pub(crate) file: &'static str,
    pub(crate) title: String,
    pub(crate) x: (&'static str, Scale),
    pub(crate) y: (&'static str, Scale),
    pub(crate) series: Vec<Series>,
}

/// What came of one part.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) figures: Vec<Figure>,
    /// Head and rows.
    pub(crate) tables: Vec<(Vec<&'static str>, Vec<Vec<String>>)>,
    pub(crate) charts: Vec<Chart>,
    pub(crate) notes: Vec<String>,
}

/// The same thing measured some times, with several results each: turned into columns.
#[derive(Default)]
pub(crate) struct Columns(Vec<Vec<f64>>);

impl Columns {
    pub(crate) fn push(&mut self, row: &[f64]) {
        self.0.resize(row.len(), Vec::new());
        for (column, value) in self.0.iter_mut().zip(row) {
            column.push(*value);
        }
    }

    pub(crate) fn take(&mut self, at: usize) -> Vec<f64> {
        self.0.get_mut(at).map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn medians(&self) -> Vec<f64> {
        self.0.iter().map(|column| median(column)).collect()
    }
}

/// A number for people: three digits or so, thousands apart.
pub(crate) fn short(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let digits = match value.abs() {
        whole if whole.fract() == 0.0 => 0,
        below if below < 1.0 => 3,
        below if below < 10.0 => 2,
        below if below < 100.0 => 1,
        _ => 0,
    };
    // No zero is negative.
    let text = format!("{:.digits$}", value + 0.0);
    let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) && digit.is_ascii_digit() {
            out.push(',');
        }
        out.push(digit);
    }
    if !rest.is_empty() {
        out.push('.');
        out.push_str(rest);
    }
    out.replace("-,", "-")
}
