//! Recorder: gathers the process's metrics and writes them as Prometheus reads them.

use std::sync::Arc;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::Duration;

/// Bounds of all histograms of time, in seconds; without bounds they would become summaries.
const SECONDS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0,
    5.0, 10.0,
];
/// Bounds of all other histograms: counts and bytes.
const SIZES: [f64; 12] = [
    1.0,
    2.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
];
/// How often samples are put into their buckets, so that they do not pile up when nobody reads.
const UPKEEP: Duration = Duration::from_secs(5);

/// The process has a recorder already: there is one for each process.
#[derive(Debug, thiserror::Error)]
#[error("the process records its metrics already")]
pub struct RecorderTaken;

/// The process's metrics.
#[derive(Clone)]
pub struct Recorder(Arc<PrometheusHandle>);

impl Recorder {
    /// Begins to record all metrics of this process. Once for each process, before anything is counted.
    pub fn install() -> Result<Self, RecorderTaken> {
        let recorder = build();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| RecorderTaken)?;
        Ok(Self(Arc::new(handle)))
    }

    /// Keeps the memory of histograms small; runs until it is dropped.
    pub async fn upkeep(self) {
        let mut tick = tokio::time::interval(UPKEEP);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.0.run_upkeep();
        }
    }

    /// Writes all metrics in the text format of Prometheus.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}

fn build() -> metrics_exporter_prometheus::PrometheusRecorder {
    let suffix = Matcher::Suffix("_seconds".to_owned());
    let builder = PrometheusBuilder::new()
        .set_buckets(&SIZES)
        .and_then(|builder| builder.set_buckets_for_metric(suffix, &SECONDS));
    // Invariant: the only error is an empty list of bounds.
    builder.expect("bounds are not empty").build_recorder()
}

#[cfg(test)]
impl Recorder {
    /// A recorder for one test, which records nothing outside `metrics::with_local_recorder`.
    pub(crate) fn local() -> (metrics_exporter_prometheus::PrometheusRecorder, Self) {
        let recorder = build();
        let handle = recorder.handle();
        (recorder, Self(Arc::new(handle)))
    }
}
