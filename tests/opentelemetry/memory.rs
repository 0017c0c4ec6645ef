//! Heap allocations of scoped OpenTelemetry instruments: none after warming up, and memory that stays flat.

use allocation_counter::measure;
use dualstack_metrics::{ClientLabels, Scope};
use opentelemetry::KeyValue;
use opentelemetry_sdk::metrics::Temporality;
use test_support::numbered;

use crate::exported::{Sdk, each_path, inet};

fn limited(limit: usize) -> impl Fn() -> Sdk {
    move || Sdk::limited(Temporality::Cumulative, limit)
}

#[test]
fn an_add_allocates_nothing_after_warming_up() {
    each_path(limited(2_000), |sdk, meter| {
        let counter = meter.u64_counter("requests").build();
        let kinds: Vec<_> = (0..100)
            .map(|kind| [KeyValue::new("kind", kind), KeyValue::new("a", "b")])
            .collect();
        let classes = ClientLabels::ALL.iter().map(Scope::new);
        let scopes: Vec<_> = classes.chain([inet(), Scope::none()]).collect();
        let round = || {
            for scope in &scopes {
                scope.run(|| {
                    counter.add(1, &[]);
                    for kind in &kinds {
                        counter.add(1, kind);
                    }
                });
            }
        };
        // The third use is as fast as they get.
        (0..2).for_each(|_| round());
        assert_eq!(measure(|| (0..10).for_each(|_| round())).count_total, 0);
        assert_eq!(sdk.exported().total(), 12 * 6 * 101);
    });
}

#[test]
fn values_that_occur_once_take_no_more_memory_after_some_time() {
    const VALUES: u64 = 100_000;

    each_path(limited(10), |sdk, meter| {
        let counter = meter.u64_counter("requests").build();
        let hot = [KeyValue::new("kind", "announce")];
        let count = |range: std::ops::Range<u64>| {
            inet().run(|| {
                for value in range {
                    counter.add(1, &[KeyValue::new("peer", value.to_string())]);
                    counter.add(1, &hot);
                }
            });
        };
        let warm_up = measure(|| count(0..10_000));
        let rest = measure(|| count(10_000..VALUES));
        assert!(warm_up.bytes_current > 0, "{warm_up:?}");
        // 90,000 values of 7 to 12 bytes later.
        assert!(rest.bytes_current.unsigned_abs() < 64 * 1024, "{rest:?}");
        // Attributes that are used all the time are still known.
        assert_eq!(inet().run(|| measure(|| counter.add(1, &hot))).count_total, 0);
        let exported = sdk.exported();
        assert_eq!(
            (exported.total(), exported.points("requests").len()),
            (2 * VALUES + 1, 11)
        );
    });
}

#[test]
fn more_scopes_than_an_instrument_remembers_with_attributes_lose_nothing() {
    const SCOPES: usize = 1_000;

    let scopes: Vec<_> = (0..SCOPES).map(numbered).collect();
    let kinds = [0, 1, 2, 3].map(|kind| [KeyValue::new("kind", kind)]);
    each_path(limited(8_000), |sdk, meter| {
        let counter = meter.u64_counter("requests").build();
        for _ in 0..3 {
            for scope in &scopes {
                scope.run(|| {
                    for kind in &kinds {
                        counter.add(1, kind);
                    }
                    counter.add(1, &[]);
                });
            }
        }
        let exported = sdk.exported();
        let series = exported.points("requests").len();
        assert_eq!((exported.total(), series), (3 * 5 * SCOPES as u64, 5 * SCOPES));
    });
}
