//! A recorder that makes scopes at the limit of label sets. It runs in its own process, because there is
//! one limit.

use std::sync::atomic::{AtomicU64, Ordering};

use dualstack_metrics::{
    FixedLabel, Scope, ScopedRecorderLayer,
    scope::{limit_label_sets, overflows},
};
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, NoopRecorder, Recorder, SharedString, Unit, counter,
};
use metrics_util::layers::Layer as _;

static REGISTERED: AtomicU64 = AtomicU64::new(0);

/// Makes a scope at each registration.
struct MakesScopes;

impl Recorder for MakesScopes {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        REGISTERED.fetch_add(1, Ordering::Relaxed);
        assert_eq!(make("us"), Scope::none());
        NoopRecorder.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        NoopRecorder.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        NoopRecorder.register_histogram(key, metadata)
    }
}

/// Has no labels at the limit.
fn make(region: &str) -> Scope {
    Scope::new(&FixedLabel::new("region", ["eu", "us"]).unwrap().value(region))
}

#[test]
fn counting_an_overflow_does_not_start_again_while_it_counts() {
    limit_label_sets(0, 0).unwrap();
    let recorder = ScopedRecorderLayer::new().never_revalidate().layer(MakesScopes);
    metrics::set_global_recorder(recorder).unwrap_or_else(|_| panic!("a recorder is installed"));

    assert_eq!(make("eu"), Scope::none());
    assert_eq!(
        REGISTERED.load(Ordering::Relaxed),
        1,
        "`label_sets_overflowed_total`"
    );
    // The second one is that of the recorder.
    assert_eq!(overflows(), 2);

    // Later overflows are counted as well.
    counter!("a_total").increment(1);
    assert_eq!((REGISTERED.load(Ordering::Relaxed), overflows()), (2, 3));
}
