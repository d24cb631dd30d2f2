//! Report: what was measured, for people or for programs.

use std::fmt::Write as _;
use std::io::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::field::Field;

impl Field {
    /// Prints what was measured. False if something acknowledged went wrong.
    pub(crate) fn report(&self) -> anyhow::Result<bool> {
        let counts = self.counts.borrow();
        let lost = self.missing();
        let seconds = self.arguments.seconds;
        let wrong = counts.duplicated + counts.misordered + counts.unanswered;
        let good = lost == 0 && wrong == 0;
        let names = match self.arguments.group {
            None => ["send_to_tick", "send_to_delivered", "send_to_receipt"],
            Some(_) => ["post_to_tick", "post_to_last_member", "post_to_all_have_it"],
        };
        let histograms = [&counts.tick, &counts.delivery, &counts.receipt];
        let answers = self.answers.borrow();
        let pages = [("list_of_200", &answers.lists), ("page_of_50", &answers.pages)];
        let pages = pages.into_iter().filter(|_| self.arguments.pages.is_some());
        let latencies = names.into_iter().zip(histograms).chain(pages);
        let rate = |count: u64| (count as f64 / seconds * 10.0).round() / 10.0;
        let mut text = String::new();
        if self.arguments.json {
            let mut report = serde_json::json!({
                "pairs": self.pairs.borrow().len(), "outstanding": self.arguments.outstanding,
                "rate": self.arguments.rate, "seconds": seconds, "idle": self.idle.get(),
                "format": self.arguments.format, "body_bytes": self.arguments.body_bytes,
                "sends_per_s": rate(counts.accepted), "delivered_per_s": rate(counts.delivered),
                "receipts_per_s": rate(counts.receipted),
                "ticks_in_time_per_s": rate(counts.ticks_in_time),
                "sent": counts.accepted_in_all, "delivered": counts.delivered_in_all,
                "lost": lost, "duplicated": counts.duplicated, "misordered": counts.misordered,
                "unanswered": counts.unanswered, "repeated_entries": counts.repeated_entries,
                "disconnects": counts.reconnects, "errors": counts.errors,
                "longest_stall_ms": counts.longest_stall.as_millis() as u64, "ok": good,
                "put_off": counts.put_off, "longest_gap_ms": Percentiles::of(&counts.gaps),
            });
            self.report_comings(&mut report)?;
            self.report_group(&mut report, rate(counts.accepted), rate(counts.delivered));
            if self.arguments.pages.is_some() {
                report["lists_per_s"] = rate(answers.lists.len()).into();
                report["pages_per_s"] = rate(answers.pages.len()).into();
            }
            for (name, histogram) in latencies {
                report[format!("{name}_ms")] = serde_json::json!(Percentiles::of(histogram));
            }
            writeln!(text, "{report}")?;
        } else {
            let [sends, deliveries] = match self.arguments.group {
                None => ["sends/s", "delivered/s"],
                Some(_) => ["posts/s", "deliveries/s"],
            };
            writeln!(text, "{sends:<13}{:>10.1}", rate(counts.accepted))?;
            match self.drained_per_s.get() {
                Some(drained) => writeln!(text, "drained/s    {drained:>10.1}")?,
                None => writeln!(text, "{deliveries:<13}{:>10.1}", rate(counts.delivered))?,
            }
            if self.arguments.pages.is_some() {
                writeln!(text, "lists/s      {:>10.1}", rate(answers.lists.len()))?;
                writeln!(text, "pages/s      {:>10.1}", rate(answers.pages.len()))?;
            }
            if self.arguments.storm.is_some() {
                self.comings.borrow().iter().try_for_each(|coming| writeln!(text, "{coming}"))?;
            } else {
                table(&mut text, latencies)?;
            }
            writeln!(text, "errors       {:?}", counts.errors)?;
            writeln!(
                text,
                "lost {lost}  duplicated {}  misordered {}  unanswered {}  repeated entries {}",
                counts.duplicated, counts.misordered, counts.unanswered, counts.repeated_entries
            )?;
        }
        std::io::stdout().write_all(text.as_bytes())?;
        Ok(good)
    }

    /// Of those who were away, or were dropped, and came back.
    fn report_comings(&self, report: &mut serde_json::Value) -> anyhow::Result<()> {
        if let Some(drained) = self.drained_per_s.get() {
            report["drained_per_s"] = drained.round().into();
        }
        if self.arguments.storm.is_some() {
            report["comings"] = serde_json::to_value(&*self.comings.borrow())?;
        }
        Ok(())
    }

    fn report_group(&self, report: &mut serde_json::Value, posts: f64, deliveries: f64) {
        let Some(size) = self.arguments.group else { return };
        report["group"] = size.into();
        report["posters"] = self.arguments.posters.into();
        report["posts_per_s"] = posts.into();
        // While they are away there are none.
        if !self.arguments.offline {
            report["deliveries_per_s"] = deliveries.into();
        }
    }
}

/// Latencies, a line each.
fn table<'a>(
    text: &mut String,
    latencies: impl Iterator<Item = (&'a str, &'a Histogram<u64>)>,
) -> std::fmt::Result {
    writeln!(text, "                          p50 ms    p99 ms   p999 ms    max ms")?;
    for (name, histogram) in latencies {
        let Percentiles { p50, p99, p999, max } = Percentiles::of(histogram);
        writeln!(text, "{name:<20} {p50:>10.2}{p99:>10.2}{p999:>10.2}{max:>10.2}")?;
    }
    Ok(())
}

/// Latencies in milliseconds.
#[derive(Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    p999: f64,
    pub(crate) max: f64,
}

impl Percentiles {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: histogram.max() as f64 / 1_000.0 }
    }
}
