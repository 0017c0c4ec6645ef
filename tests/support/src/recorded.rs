//! Recorders of a test's own.

use std::{collections::BTreeMap, time::Duration};

use dualstack_metrics::{Scope, ScopedRecorder, prometheus::Install};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::time::timeout;

use crate::{assert_samples, block_on_local, samples, series, soon};

/// The samples of a recorder.
#[derive(Clone, Debug)]
pub struct Metrics(PrometheusHandle);

impl From<PrometheusHandle> for Metrics {
    fn from(handle: PrometheusHandle) -> Self {
        Self(handle)
    }
}

impl From<&ScopedRecorder<PrometheusRecorder>> for Metrics {
    fn from(recorder: &ScopedRecorder<PrometheusRecorder>) -> Self {
        Self(recorder.get_ref().handle())
    }
}

impl Metrics {
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// All samples, sorted.
    pub fn samples(&self) -> Vec<String> {
        samples(&self.render())
    }

    /// The samples of one metric.
    pub fn series(&self, name: &str) -> Vec<String> {
        series(&self.render(), name)
    }

    /// The values of all samples that are there.
    pub fn values(&self) -> BTreeMap<String, u64> {
        let samples = self.samples();
        let pairs = samples.iter().map(|line| line.rsplit_once(' ').expect(line));
        pairs
            .map(|(series, value)| (series.into(), value.parse().expect(value)))
            .collect()
    }

    /// The sum of a metric's series.
    pub fn total(&self, name: &str) -> u64 {
        let series = self.series(name);
        let values = series.iter().map(|line| line.rsplit_once(' ').expect(line).1);
        values.map(|value| value.parse::<u64>().expect(value)).sum()
    }

    /// Fails unless these are all samples, apart from zeros with which a `UdpServer` starts.
    #[track_caller]
    pub fn assert(&self, expected: impl IntoIterator<Item: Into<String>>) {
        let expected: Vec<String> = expected.into_iter().map(Into::into).collect();
        let mut samples = self.samples();
        samples.retain(|sample| !is_zero_of_server(sample) || expected.contains(sample));
        assert_samples(samples, expected);
    }

    /// Returns when there is this sample.
    pub async fn wait_for(&self, sample: &str) {
        soon(sample, || self.samples().iter().any(|line| line == sample)).await;
    }
}

fn is_zero_of_server(sample: &str) -> bool {
    // The prefix of the tests' servers, and the default.
    (sample.starts_with("s_") || sample.starts_with("udp_server_")) && sample.ends_with(" 0")
}

/// Runs a test on one thread, with a scoped recorder.
#[track_caller]
pub fn recorded(test: impl AsyncFnOnce(Metrics)) {
    recorded_by(Install::new(PrometheusBuilder::new()), test);
}

/// [`recorded`], with a recorder that is configured.
#[track_caller]
pub fn recorded_by(install: Install, test: impl AsyncFnOnce(Metrics)) {
    let recorder = install.build_recorder();
    let metrics = Metrics::from(&recorder);
    let _guard = metrics::set_default_local_recorder(&recorder);
    block_on_local(async { timeout(Duration::from_secs(60), test(metrics)).await })
        .expect("the test does not hang");
    assert_eq!(Scope::current(), Scope::none(), "a scope leaked");
}

/// A recorder whose counters a function makes. It has no gauges and no histograms.
#[derive(Clone, Copy, Debug)]
pub struct CountersOf<F>(F);

impl<F: Fn(&Key, &Metadata<'_>) -> Counter> CountersOf<F> {
    pub const fn new(make: F) -> Self {
        Self(make)
    }
}

impl<F: Fn(&Key, &Metadata<'_>) -> Counter> Recorder for CountersOf<F> {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.0(key, metadata)
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
