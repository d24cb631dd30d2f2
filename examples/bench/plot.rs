//! Plot: lines over two axes, as SVG in plain text.

use std::fmt::Write as _;

use crate::figures::{Chart, Scale, short};
use crate::pen::{axes, sheet, text, tick_of_foot, tick_of_height};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 700.0;
const TOP: f64 = 64.0;
const FOOT: f64 = 346.0;
/// Distinct also for those who do not see all colours (Okabe and Ito).
const COLORS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// From values to places.
struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone, scale: Scale) -> Self {
        let most = values.clone().fold(0.0, f64::max);
        match scale {
            Scale::Linear => {
                let step = step(most);
                Self { scale, from: 0.0, to: (most / step).ceil().max(1.0) * step }
            }
            Scale::Log => {
                let least = values.filter(|value| *value > 0.0).fold(f64::MAX, f64::min);
                let from = 10_f64.powf(least.min(most.max(1e-6)).log10().floor());
                let to = 10_f64.powf(most.max(from * 1.01).log10().ceil());
                Self { scale, from, to }
            }
        }
    }

    /// Between 0 and 1; what an axis of powers cannot show has none.
    fn share(&self, value: f64) -> Option<f64> {
        match self.scale {
            Scale::Linear => Some((value - self.from) / (self.to - self.from)),
            Scale::Log if value <= 0.0 => None,
            Scale::Log => {
                let (from, to) = (self.from.log10(), self.to.log10());
                Some((value.log10() - from) / (to - from))
            }
        }
    }

    fn ticks(&self) -> Vec<f64> {
        let mut ticks = Vec::new();
        match self.scale {
            Scale::Linear => {
                let step = step(self.to);
                let mut tick = self.from;
                while tick <= self.to + step / 2.0 {
                    ticks.push(tick);
                    tick += step;
                }
            }
            Scale::Log => {
                let mut tick = self.from;
                while tick <= self.to * 1.01 {
                    ticks.push(tick);
                    tick *= 10.0;
                }
            }
        }
        ticks
    }
}

/// A round step that gives about five of them.
fn step(most: f64) -> f64 {
    let rough = (most / 5.0).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|times| times * power >= rough * 0.999);
    times.unwrap_or(10.0) * power
}

/// Draws it.
pub(crate) fn svg(chart: &Chart) -> Result<String, std::fmt::Error> {
    let points = || chart.series.iter().flat_map(|series| &series.points);
    let x = Axis::over(points().map(|point| point.0), chart.x.1);
    let y = Axis::over(points().map(|point| point.1), chart.y.1);
    let mut out = sheet((WIDTH, HEIGHT), &chart.title);
    out.push_str(&text((LEFT, 24.0), "start", 15, &chart.title));
    legend(&mut out, chart)?;
    let across = |share: f64| LEFT + share * (RIGHT - LEFT);
    let up = |share: f64| FOOT - share * (FOOT - TOP);
    for tick in y.ticks() {
        let at = up(y.share(tick).unwrap_or(0.0));
        out.push_str(&tick_of_height((LEFT, RIGHT), at, &short(tick)));
    }
    for tick in x.ticks() {
        let at = across(x.share(tick).unwrap_or(0.0));
        out.push_str(&tick_of_foot(at, FOOT, &short(tick)));
    }
    out.push_str(&axes((LEFT, RIGHT), (TOP, FOOT)));
    let below = (f64::midpoint(LEFT, RIGHT), HEIGHT - 14.0);
    out.push_str(&text(below, "middle", 12, chart.x.0));
    out.push_str(&text((8.0, TOP - 10.0), "start", 12, chart.y.0));
    for (series, color) in chart.series.iter().zip(COLORS.iter().cycle()) {
        let mut path = String::new();
        let mut dots = String::new();
        for (of_x, of_y) in &series.points {
            let (Some(of_x), Some(of_y)) = (x.share(*of_x), y.share(*of_y)) else { continue };
            let (of_x, of_y) = (across(of_x), up(of_y));
            write!(path, "{of_x:.1},{of_y:.1} ")?;
            writeln!(dots, "<circle cx=\"{of_x:.1}\" cy=\"{of_y:.1}\" r=\"3\" fill=\"{color}\"/>")?;
        }
        writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" points=\"{}\"/>",
            path.trim_end()
        )?;
        out.push_str(&dots);
    }
    out.push_str("</svg>\n");
    Ok(out)
}

fn legend(out: &mut String, chart: &Chart) -> std::fmt::Result {
    let mut x = LEFT + 80.0;
    for (series, color) in chart.series.iter().zip(COLORS.iter().cycle()) {
        writeln!(out, "<rect x=\"{x:.1}\" y=\"34\" width=\"14\" height=\"10\" fill=\"{color}\"/>")?;
        out.push_str(&text((x + 19.0, 43.0), "start", 12, &series.name));
        x += 36.0 + 6.8 * series.name.chars().count() as f64;
    }
    Ok(())
}
