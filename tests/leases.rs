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
        .wrap(Exporter::new())
}

fn scope() -> Scope {
    Scope::new(&ClientLabels::UNKNOWN)
}

/// A new handle of the same metric: one target each.
fn handle(recorder: &ScopedRecorder<Exporter>, target: &str) -> Counter {
    let metadata = Metadata::new(target, Level::INFO, None);
    recorder.register_counter(&Key::from_static_name("requests_total"), &metadata)
}

fn wait_until_leases_have_expired() {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        thread::sleep(Duration::from_millis(10));
    }
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
fn increment_for(time: Duration, mut increment: impl FnMut()) -> Duration {
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
        wait_until_leases_have_expired();
        exporter.render_counters(|| scope().run(|| kept.increment(1)));
        assert_eq!(exporter.counter(), None, "the render has deleted it");
        increment_until_known(exporter, &kept);
    }
}

/// The bare macro loses the increments during the render, and none later.
#[test]
fn a_metric_that_wakes_up_during_the_render_that_forgets_it_loses_less_than_twice_as_much_as_without_this_layer()
 {
    // The increments during the render, and how many of as many more are counted.
    const CASES: [(u64, u64); 7] = [(1, 1), (2, 1), (3, 3), (5, 3), (8, 1), (100, 73), (1_000, 977)];

    let recorders = CASES.map(|case| (case, renewing()));
    let all = recorders
        .each_ref()
        .map(|(case, recorder)| (*case, recorder.get_ref(), handle(recorder, "kept")));
    // Forgotten once before it was confirmed, and once after.
    for busy_for in [1, 350].map(Duration::from_millis) {
        increment_for(busy_for, || {
            for (.., kept) in &all {
                scope().run(|| kept.increment(1));
            }
        });
        for (_, exporter, _) in &all {
            exporter.render_counters(|| ());
            exporter.pass_the_idle_timeout();
        }
        wait_until_leases_have_expired();
        for ((increments, counted), exporter, kept) in &all {
            let increment = || scope().run(|| (0..*increments).for_each(|_| kept.increment(1)));
            exporter.render_counters(increment);
            assert_eq!(exporter.counter(), None, "the render has deleted it");
            increment();
            // More, if this machine pauses meanwhile.
            assert!(
                exporter.counter() >= Some(*counted),
                "{:?} of {increments}",
                exporter.counter()
            );
        }
    }
}

#[test]
fn a_busy_metric_is_registered_when_its_increments_have_doubled_then_to_confirm_it_and_never_again() {
    // A pause makes it idle, so try again.
    for _ in 0..20 {
        let recorder = renewing();
        let registrations = || recorder.get_ref().registrations.load(Ordering::Relaxed);
        let (mut increments, mut registered_at) = (0_u32, Vec::new());
        let pause = with_local_recorder(&recorder, || {
            let kept = counter!("requests_total");
            increment_for(Duration::from_millis(1_600), || {
                let before = registrations();
                increments += 1;
                scope().run(|| match increments % 2 {
                    0 => kept.increment(1),
                    _ => counter!("requests_total").increment(1),
                });
                registered_at.extend((registrations() > before).then_some(increments));
            })
        });
        if pause < Duration::from_millis(150) {
            let (_confirmed, doubled) = registered_at.split_last().unwrap();
            let powers_of_two: Vec<u32> = (0..doubled.len()).map(|at| 1 << at).collect();
            assert_eq!(doubled, powers_of_two);
            return;
        }
    }
    panic!("this machine pauses all the time");
}

#[test]
fn threads_that_renew_the_same_metrics_lose_no_increment() {
    let revalidate_after = Duration::from_millis(200);
    let recorder = ScopedRecorderLayer::new()
        .revalidate_after(revalidate_after)
        .wrap(Exporter::new());
    let kept = handle(&recorder, "kept");
    let exporter = recorder.get_ref();
    let increments = AtomicUsize::new(0);
    thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                // Each burst is confirmed, and its lease expires before the next.
                for _ in 0..4 {
                    increment_for(revalidate_after, || {
                        increments.fetch_add(1, Ordering::Relaxed);
                        scope().run(|| kept.increment(1));
                    });
                    thread::sleep(revalidate_after);
                }
            });
        }
    });
    let registrations = exporter.registrations.load(Ordering::Relaxed);
    let increments = increments.into_inner();
    assert_eq!(exporter.counter(), Some(increments as u64));
    // More than the first burst takes, and far fewer than increments.
    assert!(
        (20..increments / 4).contains(&registrations),
        "{registrations} of {increments}"
    );
}

#[test]
fn with_the_default_settings_almost_every_use_is_cached() {
    let recorder = ScopedRecorderLayer::new().wrap(Exporter::new());
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
    // Fourteen, and as many more for each time that this machine pauses for half a second.
    let registrations = exporter.registrations.load(Ordering::Relaxed);
    assert!((2..200).contains(&registrations), "{registrations} registrations");
}

#[test]
fn records_of_nothing_do_not_hide_that_a_histogram_is_idle() {
    let revalidate_after = Duration::from_millis(200);
    let recorder = ScopedRecorderLayer::new()
        .histograms()
        .revalidate_after(revalidate_after)
        .wrap(Exporter::new());
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
    let recorder = ScopedRecorderLayer::new().histograms().wrap(Exporter::new());
    let metadata = Metadata::new("", Level::INFO, None);
    let kept = recorder.register_histogram(&Key::from_static_name("request_seconds"), &metadata);
    let known = || recorder.get_ref().registry.get_histogram_handles().len();
    assert_eq!(known(), 0);
    kept.record_many(1.0, 0);
    assert_eq!(known(), 1);
}
