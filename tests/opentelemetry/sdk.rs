//! The SDK below: views, temporality, the limit of cardinality.

use std::{collections::BTreeMap, thread};

use dualstack_metrics::{Scope, ScopedMeterProvider};
use opentelemetry::{Key, KeyValue, metrics::MeterProvider as _};
use opentelemetry_sdk::metrics::{Instrument, Stream, Temporality};
use test_support::Digit;

use crate::exported::{Sdk, each_path, each_path_with, inet, inet6, of, point, scopes, sorted};

#[test]
fn a_view_that_drops_attributes_adds_their_series_up() {
    let only_family = |_: &Instrument| {
        let keys = ["client_address_ip_family", "kind"].map(Key::from);
        Stream::builder().with_allowed_attribute_keys(keys).build().ok()
    };
    each_path(
        || Sdk::with_view(only_family),
        |sdk, meter| {
            let counter = meter.u64_counter("requests").build();
            let kind = [
                KeyValue::new("kind", "announce"),
                KeyValue::new("peer", "dropped"),
            ];
            for _ in 0..3 {
                for scope in [inet(), inet6()] {
                    scope.run(|| {
                        counter.add(1, &[]);
                        counter.add(10, &kind);
                    });
                }
                // Another type, but the same family.
                let plain = scopes().for_client(std::net::IpAddr::from([192, 0, 2, 7]));
                plain.run(|| counter.add(100, &[]));
            }
            let family = |value: &str| format!("client_address_ip_family={value}");
            let with_kind = |value| vec![family(value), "kind=announce".to_owned()];
            let expected = [
                (vec![family("inet")], "303"),
                (vec![family("inet6")], "3"),
                (with_kind("inet"), "30"),
                (with_kind("inet6"), "30"),
            ];
            let expected = sorted(expected.map(|(attributes, value)| (attributes, value.to_owned())));
            assert_eq!(sdk.exported().points("requests"), expected);
        },
    );
}

#[test]
fn a_view_that_drops_everything_leaves_one_series() {
    let none = |_: &Instrument| Stream::builder().with_allowed_attribute_keys([]).build().ok();
    each_path(
        || Sdk::with_view(none),
        |sdk, meter| {
            let counter = meter.u64_counter("requests").build();
            for _ in 0..3 {
                inet().run(|| counter.add(1, &[]));
                inet6().run(|| counter.add(1, &[KeyValue::new("kind", "announce")]));
            }
            assert_eq!(sdk.exported().points("requests"), [point(Scope::none(), &[], 6)]);
        },
    );
}

/// Filters are by the name that the program uses.
#[test]
fn a_view_may_rename_an_instrument() {
    let renamed = |instrument: &Instrument| {
        (instrument.name() == "requests").then(|| Stream::builder().with_name("renamed").build().ok())?
    };
    each_path_with(
        || Sdk::with_view(renamed),
        |provider| provider.exclude("renamed"),
        |sdk, meter| {
            let counter = meter.u64_counter("requests").build();
            inet().run(|| counter.add(1, &[]));
            let exported = sdk.exported();
            assert_eq!(exported.names(), ["renamed"]);
            assert_eq!(exported.points("renamed"), [point(inet(), &[], 1)]);
        },
    );
}

#[test]
fn cumulative_temporality_exports_totals() {
    each_path(Sdk::new, |sdk, meter| {
        let counter = meter.u64_counter("requests").build();
        let kind = [KeyValue::new("kind", "announce")];
        for round in 1..=4 {
            inet().run(|| {
                counter.add(1, &[]);
                counter.add(10, &kind);
            });
            let expected = sorted([
                point(inet(), &[], round),
                point(inet(), &["kind=announce"], 10 * round),
            ]);
            assert_eq!(sdk.exported().points("requests"), expected);
        }
    });
}

#[test]
fn delta_temporality_exports_increments_since_the_last_export_and_idle_series_come_back() {
    each_path(Sdk::delta, |sdk, meter| {
        let counter = meter.u64_counter("requests").build();
        let kind = [KeyValue::new("kind", "announce")];
        let count = |scope: Scope, value: u64| {
            scope.run(|| {
                counter.add(value, &[]);
                counter.add(value, &kind);
            });
        };
        let expected =
            |scope, value| sorted([point(scope, &[], value), point(scope, &["kind=announce"], value)]);
        for value in 1..=3 {
            count(inet(), value);
            assert_eq!(sdk.exported().points("requests"), expected(inet(), value));
        }
        // Idle for several collections, in which the SDK forgets series that are not bound.
        for value in 1..=3 {
            count(inet6(), value);
            assert_eq!(sdk.exported().points("requests"), expected(inet6(), value));
        }
        assert_eq!(sdk.exported().names(), [""; 0]);
        count(inet(), 5);
        assert_eq!(sdk.exported().points("requests"), expected(inet(), 5));
    });
}

const OVERFLOW: &str = "otel.metric.overflow=Bool(true)";

#[test]
fn the_limit_of_cardinality_holds_and_no_increment_is_lost() {
    for temporality in [Temporality::Cumulative, Temporality::Delta] {
        each_path(
            || Sdk::limited(temporality, 6),
            |sdk, meter| {
                let counter = meter.u64_counter("requests").build();
                for _ in 0..3 {
                    for tenant in 0..10 {
                        Scope::new(&Digit::<0>(tenant)).run(|| counter.add(1, &[]));
                    }
                }
                let known = (0..6).map(|tenant| point(Scope::new(&Digit::<0>(tenant)), &[], 3));
                let expected = sorted(known.chain([point(Scope::none(), &[OVERFLOW], 12)]));
                assert_eq!(sdk.exported().points("requests"), expected);
            },
        );
    }
}

/// With delta temporality, the SDK forgets series that are idle and has room again. A bound series is never forgotten.
#[test]
fn without_binding_there_is_room_again_after_an_overflow() {
    let delta = || Sdk::limited(Temporality::Delta, 2);
    let counted = |provider: ScopedMeterProvider<_>, sdk: &Sdk| {
        let counter = provider.meter("test").u64_counter("requests").build();
        let count = |tenant| Scope::new(&Digit::<0>(tenant)).run(|| counter.add(1, &[]));
        (0..4).for_each(count);
        sdk.exported();
        // Now the first two are idle.
        for _ in 0..3 {
            count(2);
            count(3);
            sdk.exported();
        }
        count(2);
        sdk.exported().points("requests")
    };
    let room = [point(Scope::new(&Digit::<0>(2)), &[], 1)];
    #[cfg(feature = "opentelemetry-bound")]
    {
        let (bound, plain) = (delta(), delta());
        let overflow = [point(Scope::none(), &[OVERFLOW], 1)];
        assert_eq!(counted(bound.scoped(), &bound), overflow);
        assert_eq!(counted(plain.scoped().without_binding(), &plain), room);
    }
    #[cfg(not(feature = "opentelemetry-bound"))]
    {
        let plain = delta();
        assert_eq!(counted(plain.scoped(), &plain), room);
    }
}

#[test]
fn the_documented_number_of_series_fits_the_limit() {
    let kinds = ["announce", "scrape"].map(|kind| [KeyValue::new("kind", kind)]);
    // Each scope with each value at the call, and once outside every scope.
    let needed = (scopes().max_label_sets(&Digit::<0>(0)) + 1) * kinds.len();
    each_path(
        || Sdk::limited(Temporality::Cumulative, needed),
        |sdk, meter| {
            let counter = meter.u64_counter("requests").build();
            let mut all = vec![Scope::none()];
            for class in dualstack_metrics::ClientLabels::ALL {
                let scope = scopes().for_client(*class);
                all.extend((0..10).map(|tenant| scope.with(&Digit::<0>(tenant))));
            }
            for scope in all {
                scope.run(|| kinds.iter().for_each(|kind| counter.add(1, kind)));
            }
            let points = sdk.exported().points("requests");
            assert_eq!(points.len(), needed);
            assert!(
                points
                    .iter()
                    .all(|(attributes, value)| value == "1" && !attributes.contains(&OVERFLOW.into()))
            );
        },
    );
}

/// Runs `work` in eight threads, and collects meanwhile. Returns each series with its count, of `at_most` at a time.
fn count_in_threads(
    sdk: &Sdk,
    temporality: Temporality,
    at_most: usize,
    work: impl Fn(usize) + Sync,
) -> BTreeMap<Vec<String>, u64> {
    let mut counts = BTreeMap::new();
    let mut collect = || {
        let points = sdk.exported().points("requests");
        assert!(points.len() <= at_most, "{}", points.len());
        for (attributes, value) in points {
            let count: &mut u64 = counts.entry(attributes).or_default();
            let before = if temporality == Temporality::Delta {
                *count
            } else {
                0
            };
            *count = before + value.parse::<u64>().unwrap();
        }
    };
    let work = &work;
    thread::scope(|threads| {
        let workers = (0..8).map(|worker| threads.spawn(move || work(worker)));
        let workers: Vec<_> = workers.collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            collect();
        }
    });
    collect();
    counts
}

#[test]
fn a_million_increments_from_eight_threads_are_a_million() {
    const EACH: u64 = 125_000;

    for temporality in [Temporality::Cumulative, Temporality::Delta] {
        let sdk = || Sdk::with(temporality, |builder| builder);
        each_path(sdk, |sdk, meter| {
            let counter = meter.u64_counter("requests").build();
            let kinds = [0, 1, 2].map(|kind| [KeyValue::new("kind", kind)]);
            let counts = count_in_threads(sdk, temporality, 12, |worker| {
                let scope = [inet(), inet6(), Scope::none(), inet()][worker % 4];
                for at in 0..EACH {
                    scope.run(|| match at % 4 {
                        3 => counter.add(1, &[]),
                        kind => counter.add(1, &kinds[usize::try_from(kind).unwrap()]),
                    });
                }
            });
            let expected = [(inet(), 4), (inet6(), 2), (Scope::none(), 2)];
            let expected = expected.into_iter().flat_map(|(scope, workers)| {
                let more = ["kind=I64(0)", "kind=I64(1)", "kind=I64(2)"].map(|kind| vec![kind]);
                let each = more.into_iter().chain([vec![]]);
                each.map(move |more| (of(scope, &more), workers * EACH / 4))
            });
            assert_eq!(counts, expected.collect());
        });
    }
}

/// Entries are evicted in all threads while others use them.
#[test]
fn eight_threads_with_many_values_lose_nothing() {
    const EACH: i64 = 4_000;

    for temporality in [Temporality::Cumulative, Temporality::Delta] {
        let limited = || Sdk::limited(temporality, 50);
        each_path(limited, |sdk, meter| {
            let counter = meter.u64_counter("requests").build();
            let counts = count_in_threads(sdk, temporality, 51, |worker| {
                let scope = [inet(), inet6()][worker % 2];
                for at in 0..EACH {
                    scope.run(|| {
                        // Each value is used by four threads at about the same time.
                        counter.add(1, &[KeyValue::new("peer", at)]);
                        counter.add(1, &[KeyValue::new("kind", at % 4)]);
                    });
                }
            });
            assert_eq!(counts.values().sum::<u64>(), 8 * 2 * EACH.unsigned_abs());
        });
    }
}
