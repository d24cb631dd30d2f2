//! Svg: timelines of a run as plain text: strips of time, one below the other, with the faults as bands behind them.

use super::figures::{Felt, Figures, SECOND, Second};
use super::pen::{axes, escape, sheet, text, tick_of_foot, tick_of_height};

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 1186.0;
/// Room for title and legend.
const HEAD: f64 = 58.0;
/// Room above a strip for the names of faults.
const NAMES: f64 = 84.0;
const PLOT: f64 = 150.0;
/// Room below a strip for its axis.
const FOOT: f64 = 26.0;
const BOTTOM: f64 = 26.0;
const STRIP: f64 = NAMES + PLOT + FOOT;
/// A strip shows this many seconds, and more of them only when there are already that many strips.
const STRIP_SECONDS: u64 = 180;
const STRIPS_MAX: u64 = 6;
/// Points in a strip.
const COLUMNS: u64 = 1_120;
/// Names of faults closer than this are left out.
const NAMES_APART: f64 = 10.0;
const NAME_CHARS: usize = 17;

const BLUE: &str = "#1f5fbf";
const ORANGE: &str = "#d9730d";
const RED: &str = "#c62828";
const FAULT: &str = "0.28";
const HEALING: &str = "0.12";

/// Check marks and events in each second.
pub(crate) fn throughput(figures: &Figures, title: &str) -> String {
    let strips = Strips::of(figures);
    let (marks, delivered) = (|second: &Second| second.marks, |second: &Second| second.delivered);
    let most = figures.seconds.values().map(|second| second.marks.max(second.delivered)).max();
    let chart = Chart {
        title,
        unit: "per second",
        legend: &[(BLUE, "check marks"), (ORANGE, "events delivered")],
        scale: Scale::linear(most.unwrap_or(0)),
    };
    chart.draw(figures, &strips, |strip| {
        let line = |color, value: &dyn Fn(&Second) -> u64| {
            let points: Vec<String> = strip
                .columns(strips.step)
                .map(|(from, to)| {
                    let sum = figures.seconds.range(from..to).map(|(_, second)| value(second));
                    let share = chart.scale.share(real(sum.sum()) / real(to - from));
                    format!("{:.1},{:.1}", strip.middle(from, to), strip.y(share))
                })
                .collect();
            format!(
                "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\" points=\"{}\"/>\n",
                points.join(" ")
            )
        };
        line(ORANGE, &delivered) + &line(BLUE, &marks)
    })
}

/// The longest wait of the messages answered in each second.
pub(crate) fn stalls(figures: &Figures, title: &str) -> String {
    let strips = Strips::of(figures);
    let most = figures.seconds.values().filter_map(|second| second.longest).max();
    let chart = Chart {
        title,
        unit: "waited",
        legend: &[(BLUE, "longest wait of the messages answered in a second")],
        scale: Scale::decades(most.unwrap_or(0)),
    };
    chart.draw(figures, &strips, |strip| {
        let bars: Vec<String> = strip
            .columns(strips.step)
            .filter_map(|(from, to)| {
                let longest = figures.seconds.range(from..to).filter_map(|(_, s)| s.longest).max();
                let (x, share) = (strip.middle(from, to), chart.scale.share(real(longest?)));
                // What is at or below the foot of the scale is still to be seen.
                let (foot, y) = (strip.y(0.0), strip.y(share).min(strip.y(0.0) - 1.0));
                Some(format!("M{x:.1} {foot:.1}V{y:.1}"))
            })
            .collect();
        let wide = (RIGHT - LEFT) * real(strips.step) / real(strips.span);
        format!(
            "<path fill=\"none\" stroke=\"{BLUE}\" stroke-width=\"{:.2}\" d=\"{}\"/>\n",
            (wide * 0.7).clamp(0.8, 12.0),
            bars.join("")
        )
    })
}

/// How heights are given to values.
enum Scale {
    /// A tick each `step` up to `top`.
    Linear { step: u64, top: u64 },
    /// Of times, from a millisecond on: so many powers of ten.
    Decades(u32),
}

impl Scale {
    fn linear(most: u64) -> Self {
        let rough = most.div_ceil(4).max(1);
        let power = 10_u64.saturating_pow(rough.ilog10());
        let steps = [1, 2, 5, 10].map(|times| power.saturating_mul(times));
        let step = steps.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        Self::Linear { step, top: most.div_ceil(step).max(1).saturating_mul(step) }
    }

    fn decades(most: u64) -> Self {
        let ends = |decades: &u32| 10_u64.saturating_pow(3 + decades) >= most;
        Self::Decades((3..10).find(ends).unwrap_or(10))
    }

    /// Between 0 and 1.
    fn share(&self, value: f64) -> f64 {
        let share = match self {
            Self::Linear { top, .. } => value / real(*top),
            Self::Decades(decades) => (value.max(1.0).log10() - 3.0) / f64::from(*decades),
        };
        share.clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        match self {
            Self::Linear { step, top } => (0..=top / step)
                .map(|tick| tick.saturating_mul(*step))
                .map(|value| (self.share(real(value)), value.to_string()))
                .collect(),
            Self::Decades(decades) => (0..=*decades)
                .map(|tick| {
                    let power = 10_u64.saturating_pow(tick);
                    let (value, unit) = if tick < 3 { (power, "ms") } else { (power / 1_000, "s") };
                    (f64::from(tick) / f64::from(*decades), format!("{value} {unit}"))
                })
                .collect(),
        }
    }
}

/// How a run's time is cut.
struct Strips {
    /// The first second.
    begin: u64,
    /// The one after the last.
    end: u64,
    /// Seconds of a strip.
    span: u64,
    /// Seconds of a point.
    step: u64,
    count: u64,
}

impl Strips {
    fn of(figures: &Figures) -> Self {
        let (begin, end) = (figures.begin / SECOND, figures.end / SECOND + 1);
        let total = end.saturating_sub(begin).max(1);
        let count = total.div_ceil(STRIP_SECONDS).clamp(1, STRIPS_MAX);
        let span = total.div_ceil(count);
        Self { begin, end, span, step: span.div_ceil(COLUMNS), count }
    }

    fn height(&self) -> f64 {
        HEAD + STRIP * real(self.count) + BOTTOM
    }

    fn all(&self) -> impl Iterator<Item = Strip> {
        (0..self.count).map(|place| {
            let from = self.begin + place * self.span;
            let to = (from + self.span).min(self.end).max(from);
            let top = HEAD + STRIP * real(place) + NAMES;
            Strip { from, to, span: self.span, top }
        })
    }
}

/// A part of the time, and where it is drawn.
struct Strip {
    from: u64,
    to: u64,
    span: u64,
    top: f64,
}

impl Strip {
    fn x(&self, at: u64) -> f64 {
        let (from, to) = (self.from.saturating_mul(SECOND), self.to.saturating_mul(SECOND));
        let passed = real((at.clamp(from, to) - from) / 1_000);
        LEFT + (RIGHT - LEFT) * passed / real(self.span.saturating_mul(1_000))
    }

    /// The middle of these seconds.
    fn middle(&self, from: u64, to: u64) -> f64 {
        let second = |second: u64| self.x(second.saturating_mul(SECOND));
        f64::midpoint(second(from), second(to))
    }

    fn y(&self, share: f64) -> f64 {
        self.top + PLOT * (1.0 - share)
    }

    fn has(&self, at: u64) -> bool {
        (self.from..self.to).contains(&(at / SECOND))
    }

    fn columns(&self, step: u64) -> impl Iterator<Item = (u64, u64)> {
        let (from, to) = (self.from, self.to);
        (0..(to - from).div_ceil(step)).map(move |column| {
            let begin = from + column * step;
            (begin, (begin + step).min(to))
        })
    }

    /// The faults of its time, with their names above.
    fn bands(&self, faults: &[Felt]) -> String {
        let mut out = String::new();
        let mut free = 0.0;
        for fault in faults {
            let (begin, until) = (fault.begin / SECOND, fault.until / SECOND);
            if until < self.from || begin >= self.to {
                continue;
            }
            let healed = fault.healed.map_or(fault.until, |healed| healed.min(fault.until));
            let (x, healed, until) = (self.x(fault.begin), self.x(healed), self.x(fault.until));
            out.extend(["<g><title>", &escape(&tip(fault)), "</title>\n"]);
            out.push_str(&self.band(x, healed.max(x + 1.0), FAULT));
            out.push_str(&self.band(healed.max(x + 1.0), until, HEALING));
            if self.has(fault.begin) && x >= free {
                out.push_str(&self.name(&fault.kind, x));
                free = x + NAMES_APART;
            }
            out.push_str("</g>\n");
        }
        out
    }

    fn band(&self, from: f64, to: f64, opacity: &str) -> String {
        if to <= from {
            return String::new();
        }
        let (top, wide) = (self.top, to - from);
        format!(
            "<rect x=\"{from:.1}\" y=\"{top:.1}\" width=\"{wide:.1}\" height=\"{PLOT:.1}\" \
             fill=\"{RED}\" fill-opacity=\"{opacity}\"/>\n"
        )
    }

    fn name(&self, kind: &str, x: f64) -> String {
        let (x, y) = ((x + 8.0).min(WIDTH - 4.0), self.top - 4.0);
        let name: String = kind.chars().take(NAME_CHARS).collect();
        format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" transform=\"rotate(-90 {x:.1} {y:.1})\" \
             font-size=\"10\" fill=\"{RED}\">{}</text>\n",
            escape(&name)
        )
    }

    fn axes(&self, scale: &Scale) -> String {
        let mut out = String::new();
        for (share, label) in scale.ticks() {
            out.push_str(&tick_of_height((LEFT, RIGHT), self.y(share), &label));
        }
        let (foot, step) = (self.y(0.0), tick(self.span));
        let ticks = (self.from.div_ceil(step)..).map(|count| count.saturating_mul(step));
        for second in ticks.take_while(|second| *second <= self.to) {
            let x = self.x(second.saturating_mul(SECOND));
            out.push_str(&tick_of_foot(x, foot, &second.to_string()));
        }
        out + &axes((LEFT, RIGHT), (self.top, foot))
    }
}

/// What is said of a fault that is pointed at.
fn tip(fault: &Felt) -> String {
    let seconds = |at: u64| format!("{}.{} s", at / SECOND, at % SECOND / (SECOND / 10));
    let begin = format!("{} {}: from {}", fault.id, fault.detail, seconds(fault.begin));
    let healed = fault.healed.map(|at| format!(", healed at {}", seconds(at)));
    let whole = fault.whole.map(|at| format!(", whole at {}", seconds(at)));
    begin + &healed.unwrap_or_default() + whole.as_deref().unwrap_or(", never whole")
}

/// Seconds between two ticks.
fn tick(span: u64) -> u64 {
    let steps = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600];
    steps.into_iter().find(|step| span / step <= 20).unwrap_or_else(|| span.div_ceil(10))
}

/// What all pictures have.
struct Chart<'a> {
    title: &'a str,
    unit: &'a str,
    legend: &'a [(&'a str, &'a str)],
    scale: Scale,
}

impl Chart<'_> {
    fn draw(&self, figures: &Figures, strips: &Strips, body: impl Fn(&Strip) -> String) -> String {
        let height = strips.height();
        let mut out = sheet((WIDTH, height), self.title);
        out.push_str(&self.head());
        for strip in strips.all() {
            out.push_str(&strip.axes(&self.scale));
            out.push_str(&strip.bands(&figures.faults));
            out.push_str(&body(&strip));
            out.push_str(&text((LEFT, strip.top - 11.0), "end", 11, self.unit));
        }
        let below = (f64::midpoint(LEFT, RIGHT), height - 12.0);
        out.push_str(&text(below, "middle", 12, "seconds since the run began"));
        out.push_str("</svg>\n");
        out
    }

    fn head(&self) -> String {
        let mut out = text((LEFT, 24.0), "start", 16, self.title);
        let bands = [(RED, FAULT, "fault"), (RED, HEALING, "healed, not yet whole")];
        let lines = self.legend.iter().map(|(color, label)| (*color, "1", *label));
        let mut x = LEFT;
        for (color, opacity, label) in lines.chain(bands) {
            let key = format!(
                "<rect x=\"{x:.1}\" y=\"36\" width=\"14\" height=\"12\" fill=\"{color}\" \
                 fill-opacity=\"{opacity}\"/>\n"
            );
            out.push_str(&key);
            out.push_str(&text((x + 19.0, 46.0), "start", 12, label));
            let chars = u32::try_from(label.chars().count()).unwrap_or(0);
            x += 40.0 + 6.5 * f64::from(chars);
        }
        out
    }
}

/// Exact up to four thousand millions, which no picture needs more than.
fn real(number: u64) -> f64 {
    u32::try_from(number).map_or(f64::from(u32::MAX), f64::from)
}
