//! A recorder that makes scopes at the limit of label sets. It runs in its own process, because there is
//! one limit.

use std::sync::atomic::{AtomicU64, Ordering};

use dualstack_metrics::{
    FixedLabel, Scope, ScopedRecorderLayer,
    scope::{limit_label_sets, overflows},
};
use metrics::{Counter, counter};
use test_support::CountersOf;

static REGISTERED: AtomicU64 = AtomicU64::new(0);

/// Has no labels at the limit.
fn make(region: &str) -> Scope {
    Scope::new(&FixedLabel::new("region", ["eu", "us"]).unwrap().value(region))
}

#[test]
fn counting_an_overflow_does_not_start_again_while_it_counts() {
    limit_label_sets(0, 0).unwrap();
    // Makes a scope at each registration.
    let makes_scopes = CountersOf::new(|_, _| {
        REGISTERED.fetch_add(1, Ordering::Relaxed);
        assert_eq!(make("us"), Scope::none());
        Counter::noop()
    });
    let recorder = ScopedRecorderLayer::new().never_revalidate().wrap(makes_scopes);
    assert!(metrics::set_global_recorder(recorder).is_ok());

    assert_eq!(make("eu"), Scope::none());
    assert_eq!(
        REGISTERED.load(Ordering::Relaxed),
        1,
        "`label_sets_overflowed_total`"
    );
    // The second one is the recorder's own.
    assert_eq!(overflows(), 2);

    // Later overflows are counted as well.
    counter!("a_total").increment(1);
    assert_eq!((REGISTERED.load(Ordering::Relaxed), overflows()), (2, 3));
}
