//! How long what the inner recorder gave is used, against an exporter that forgets: the registry and the recency of
//! `metrics-util`, which the Prometheus exporter is made of, used in the order of its render.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use dualstack_metrics::{ClientLabels, Scope, ScopedRecorder, ScopedRecorderLayer};
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Level, Metadata, Recorder, SharedString, Unit, counter,
    with_local_recorder,
};
use metrics_util::{
    MetricKindMask,
    layers::Layer as _,
    registry::{GenerationalAtomicStorage, Recency, Registry},
};
use quanta::{Clock, Mock};

const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// An exporter whose time moves only by hand.
struct Exporter {
    registry: Registry<Key, GenerationalAtomicStorage>,
    recency: Recency<Key>,
    time: Arc<Mock>,
    registrations: AtomicUsize,
}

impl Exporter {
    fn new() -> Self {
        let (clock, time) = Clock::mock();
        Self {
            registry: Registry::new(GenerationalAtomicStorage::atomic()),
            recency: Recency::new(clock, MetricKindMask::ALL, Some(IDLE_TIMEOUT)),
            time,
            registrations: AtomicUsize::new(0),
        }
    }

    /// Renders the counters, and calls `meanwhile` after their generations are read.
    fn render_counters(&self, meanwhile: impl FnOnce()) {
        let counters = self.registry.get_counter_handles();
        let read: Vec<_> = counters
            .iter()
            .map(|(key, counter)| (key, counter.get_generation()))
            .collect();
        meanwhile();
        for (key, generation) in read {
            self.recency.should_store_counter(key, generation, &self.registry);
        }
    }

    fn render_histograms(&self) {
        for (key, histogram) in self.registry.get_histogram_handles() {
            self.recency
                .should_store_histogram(&key, histogram.get_generation(), &self.registry);
        }
    }

    fn pass_the_idle_timeout(&self) {
        self.time.increment(IDLE_TIMEOUT + Duration::from_secs(1));
    }

    /// The value of the only counter, if it is not forgotten.
    fn counter(&self) -> Option<u64> {
        let counters = self.registry.get_counter_handles();
        assert!(counters.len() <= 1);
        let counter = counters.values().next()?;
        Some(counter.get_inner().load(Ordering::Relaxed))
    }
}

impl Recorder for Exporter {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.registrations.fetch_add(1, Ordering::Relaxed);
        self.registry
            .get_or_create_counter(key, |counter| counter.clone().into())
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.registry
            .get_or_create_gauge(key, |gauge| gauge.clone().into())
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.registry
            .get_or_create_histogram(key, |histogram| histogram.clone().into())
    }
}

fn renewing() -> ScopedRecorder<Exporter> {
    ScopedRecorderLayer::new()
        .revalidate_after(Duration::from_millis(400))
        .layer(Exporter::new())
}

fn scope() -> Scope {
    Scope::new(&ClientLabels::UNKNOWN)
}

/// A new handle of the same metric: one target each.
fn handle(recorder: &ScopedRecorder<Exporter>, target: &str) -> Counter {
    let metadata = Metadata::new(target, Level::INFO, None);
    recorder.register_counter(&Key::from_static_name("requests_total"), &metadata)
}

/// Increments until the exporter knows the counter. An increment follows less than `revalidate_after` after the last.
fn increment_until_known(exporter: &Exporter, counter: &Counter) {
    let start = Instant::now();
    while exporter.counter().is_none() {
        scope().run(|| counter.increment(1));
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "it counts into nowhere"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Increments without a longer pause, for at least `time`, and returns the longest pause.
fn increment_for(time: Duration, increment: impl Fn()) -> Duration {
    let start = Instant::now();
    let (mut last, mut longest_pause) = (start, Duration::ZERO);
    while start.elapsed() < time {
        increment();
        longest_pause = longest_pause.max(last.elapsed());
        last = Instant::now();
        thread::sleep(Duration::from_millis(1));
    }
    longest_pause
}

#[test]
fn a_handle_that_is_first_used_during_the_render_that_forgets_its_metric_counts_again() {
    let recorder = renewing();
    let exporter = recorder.get_ref();
    let (early, late) = (handle(&recorder, "early"), handle(&recorder, "late"));
    scope().run(|| early.increment(1));
    exporter.render_counters(|| ());
    exporter.pass_the_idle_timeout();
    exporter.render_counters(|| scope().run(|| late.increment(1)));
    assert_eq!(exporter.counter(), None, "the render has deleted it");

    increment_until_known(exporter, &late);
    let before = exporter.counter().unwrap();
    scope().run(|| (0..5).for_each(|_| late.increment(1)));
    assert_eq!(exporter.counter(), Some(before + 5));
}

#[test]
fn a_kept_handle_that_is_renewed_during_the_render_that_forgets_its_metric_counts_again() {
    let recorder = renewing();
    let exporter = recorder.get_ref();
    let kept = handle(&recorder, "kept");
    for _ in 0..2 {
        scope().run(|| kept.increment(1));
        exporter.render_counters(|| ());
        exporter.pass_the_idle_timeout();
        // The lease expires.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500) {
            thread::sleep(Duration::from_millis(10));
        }
        exporter.render_counters(|| scope().run(|| kept.increment(1)));
        assert_eq!(exporter.counter(), None, "the render has deleted it");
        increment_until_known(exporter, &kept);
    }
}

#[test]
fn a_busy_metric_is_registered_three_times_and_never_again() {
    // First for its first use, then to be kept, then to be confirmed. A pause makes it idle, so try again.
    for _ in 0..20 {
        let recorder = renewing();
        let pause = with_local_recorder(&recorder, || {
            let kept = counter!("requests_total");
            increment_for(Duration::from_millis(1_600), || {
                scope().run(|| {
                    kept.increment(1);
                    counter!("requests_total").increment(1);
                });
            })
        });
        if pause < Duration::from_millis(150) {
            assert_eq!(recorder.get_ref().registrations.load(Ordering::Relaxed), 3);
            return;
        }
    }
    panic!("this machine pauses all the time");
}

#[test]
fn with_the_default_settings_almost_every_use_is_cached() {
    let recorder = ScopedRecorderLayer::new().layer(Exporter::new());
    with_local_recorder(&recorder, || {
        let kept = counter!("requests_total");
        for _ in 0..10_000 {
            scope().run(|| {
                kept.increment(1);
                counter!("requests_total").increment(1);
            });
        }
    });
    let exporter = recorder.get_ref();
    assert_eq!(exporter.counter(), Some(20_000));
    // Three, and three more for each time that this machine pauses for half a second.
    let registrations = exporter.registrations.load(Ordering::Relaxed);
    assert!((2..200).contains(&registrations), "{registrations} registrations");
}

#[test]
fn records_of_nothing_do_not_hide_that_a_histogram_is_idle() {
    let revalidate_after = Duration::from_millis(200);
    let recorder = ScopedRecorderLayer::new()
        .histograms()
        .revalidate_after(revalidate_after)
        .layer(Exporter::new());
    let exporter = recorder.get_ref();
    let metadata = Metadata::new("", Level::INFO, None);
    let kept = recorder.register_histogram(&Key::from_static_name("request_seconds"), &metadata);
    let samples = || {
        let mut samples = Vec::new();
        for histogram in exporter.registry.get_histogram_handles().values() {
            histogram
                .get_inner()
                .clear_with(|block| samples.extend_from_slice(block));
        }
        samples
    };

    // Confirmed, then on trial.
    for busy_for in [revalidate_after * 2, Duration::ZERO] {
        increment_for(busy_for, || scope().run(|| kept.record(1.0)));
        scope().run(|| kept.record(2.0));
        exporter.render_histograms();
        exporter.pass_the_idle_timeout();
        increment_for(revalidate_after * 3, || scope().run(|| kept.record_many(3.0, 0)));
        exporter.render_histograms();
        assert!(exporter.registry.get_histogram_handles().is_empty());
        increment_for(revalidate_after * 3, || scope().run(|| kept.record_many(3.0, 0)));
        scope().run(|| kept.record_many(4.0, 2));
        assert_eq!(samples(), [4.0, 4.0]);
    }
}

#[test]
fn a_record_of_nothing_makes_the_series_appear() {
    let recorder = ScopedRecorderLayer::new().histograms().layer(Exporter::new());
    let metadata = Metadata::new("", Level::INFO, None);
    let kept = recorder.register_histogram(&Key::from_static_name("request_seconds"), &metadata);
    let known = || recorder.get_ref().registry.get_histogram_handles().len();
    assert_eq!(known(), 0);
    kept.record_many(1.0, 0);
    assert_eq!(known(), 1);
}
