//! Providers around providers, several of them, and the end of one.

use std::{
    cell::RefCell,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use dualstack_metrics::{Scope, ScopedMeterProvider};
use opentelemetry::{
    InstrumentationScope, KeyValue, global,
    metrics::{
        Counter, InstrumentBuilder, InstrumentProvider, Meter, MeterProvider, NoopMeterProvider,
        SyncInstrument,
    },
};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use test_support::{eventually, recorded, sample};

use crate::exported::{Sdk, each_path, inet, inet6, point, sorted, written};

#[test]
fn several_providers_do_not_see_each_other() {
    let sdks = [Sdk::new(), Sdk::new(), Sdk::new()];
    let counters = sdks.each_ref().map(|sdk| {
        let provider = sdk.scoped();
        // A clone is the same provider.
        let clone = provider.clone();
        [provider, clone].map(|provider| provider.meter("test").u64_counter("requests").build())
    });
    let kind = [KeyValue::new("kind", "announce")];
    for _ in 0..3 {
        for (at, [counter, clone]) in (1..).zip(&counters) {
            inet().run(|| {
                counter.add(at, &[]);
                clone.add(at, &kind);
                clone.add(at, &[]);
            });
        }
    }
    for (at, sdk) in (1..).zip(&sdks) {
        let expected = sorted([
            point(inet(), &[], 6 * at),
            point(inet(), &["kind=announce"], 3 * at),
        ]);
        assert_eq!(sdk.exported().points("requests"), expected);
    }
}

#[test]
fn excluding_a_name_does_not_change_a_clone() {
    let sdk = Sdk::new();
    let all = sdk.scoped();
    let fewer = all.clone().exclude("requests");
    for provider in [&all, &fewer] {
        let counter = provider.meter("test").u64_counter("requests").build();
        inet().run(|| counter.add(1, &[]));
    }
    let expected = sorted([point(inet(), &[], 1), point(Scope::none(), &[], 1)]);
    assert_eq!(sdk.exported().points("requests"), expected);
}

#[test]
fn the_global_provider_can_be_scoped() {
    let sdk = Sdk::new();
    global::set_meter_provider(sdk.scoped());
    let counter = global::meter("test").u64_counter("requests").build();
    inet().run(|| counter.add(1, &[]));
    assert_eq!(sdk.exported().points("requests"), [point(inet(), &[], 1)]);
    let provider: Arc<dyn MeterProvider + Send + Sync> = global::meter_provider();
    let counter = ScopedMeterProvider::new(Dynamic(provider))
        .meter("test")
        .u64_counter("again")
        .build();
    inet().run(|| counter.add(1, &[]));
    assert_eq!(sdk.exported().points("again"), [point(inet(), &[], 1)]);
}

struct Dynamic(Arc<dyn MeterProvider + Send + Sync>);

impl MeterProvider for Dynamic {
    fn meter_with_scope(&self, scope: InstrumentationScope) -> Meter {
        self.0.meter_with_scope(scope)
    }
}

#[test]
fn a_provider_around_a_scoped_one_changes_nothing() {
    let sdk = Sdk::new();
    let provider = ScopedMeterProvider::new(sdk.scoped());
    let counter = provider.meter("test").u64_counter("requests").build();
    for _ in 0..4 {
        inet().run(|| {
            counter.add(1, &[]);
            counter.add(1, &[KeyValue::new("kind", "announce")]);
        });
    }
    let expected = sorted([point(inet(), &[], 4), point(inet(), &["kind=announce"], 4)]);
    assert_eq!(sdk.exported().points("requests"), expected);
    let sdk: &SdkMeterProvider = provider.get_ref().get_ref();
    assert!(sdk.force_flush().is_ok());
    assert!(provider.into_inner().into_inner().shutdown().is_ok());
}

#[test]
fn a_provider_that_ignores_all_stays_so() {
    let provider = ScopedMeterProvider::new(NoopMeterProvider::new()).histograms();
    let meter = provider.meter("test");
    let (counter, histogram) = (
        meter.u64_counter("requests").build(),
        meter.f64_histogram("seconds").build(),
    );
    for _ in 0..4 {
        inet().run(|| {
            counter.add(1, &[]);
            counter.add(1, &[KeyValue::new("kind", "announce")]);
            histogram.record(1.0, &[]);
        });
    }
}

/// The value and the attributes.
type Measured = (u64, Vec<String>);

/// A provider of somebody else, whose instruments cannot be bound. It counts again while it counts.
#[derive(Clone, Default)]
struct Own {
    provider: Arc<()>,
    instrument: OwnInstrument,
}

#[derive(Clone, Default)]
struct OwnInstrument {
    measured: Arc<Mutex<Vec<Measured>>>,
    again: Arc<Mutex<Option<Counter<u64>>>>,
    depth: Arc<AtomicU64>,
}

impl MeterProvider for Own {
    fn meter_with_scope(&self, _: InstrumentationScope) -> Meter {
        Meter::new(Arc::new(self.instrument.clone()))
    }
}

impl InstrumentProvider for OwnInstrument {
    fn u64_counter(&self, _: InstrumentBuilder<'_, Counter<u64>>) -> Counter<u64> {
        Counter::new(Arc::new(self.clone()))
    }
}

impl SyncInstrument<u64> for OwnInstrument {
    fn measure(&self, value: u64, attributes: &[KeyValue]) {
        self.measured.lock().unwrap().push((value, written(attributes)));
        if self.depth.fetch_add(1, Ordering::Relaxed) < 3 {
            let again = self.again.lock().unwrap().clone();
            if let Some(counter) = again {
                counter.add(value * 10, attributes);
                counter.add(value * 100, &[]);
            }
        }
        self.depth.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn instruments_that_cannot_be_bound_lose_nothing() {
    let own = Own::default();
    let counter = ScopedMeterProvider::new(own.clone())
        .meter("test")
        .u64_counter("requests")
        .build();
    let kind = [KeyValue::new("kind", "announce")];
    for _ in 0..4 {
        inet().run(|| {
            counter.add(1, &[]);
            counter.add(2, &kind);
        });
        counter.add(3, &[]);
    }
    let round = [
        (1, point(inet(), &[], 0).0),
        (2, point(inet(), &["kind=announce"], 0).0),
        (3, vec![]),
    ];
    assert_eq!(
        *own.instrument.measured.lock().unwrap(),
        [round.clone(), round.clone(), round.clone(), round].concat()
    );
}

#[test]
fn an_instrument_may_be_used_while_it_measures() {
    let own = Own::default();
    let counter = ScopedMeterProvider::new(own.clone())
        .meter("test")
        .u64_counter("requests")
        .build();
    *own.instrument.again.lock().unwrap() = Some(counter.clone());
    inet().run(|| counter.add(1, &[KeyValue::new("kind", "announce")]));
    let measured = own.instrument.measured.lock().unwrap();
    // Three levels with two calls each.
    assert_eq!(measured.len(), 1 + 2 + 4 + 8);
    let of_scope = point(inet(), &[], 0).0;
    let with_kind = point(inet(), &["kind=announce"], 0).0;
    assert!(
        measured
            .iter()
            .all(|(_, attributes)| [&of_scope, &with_kind].contains(&attributes))
    );
    // Breaks the circle.
    drop(measured);
    *own.instrument.again.lock().unwrap() = None;
}

#[test]
fn a_provider_that_is_dropped_is_shut_down_although_instruments_are_kept() {
    let drop_first = |configure: fn(ScopedMeterProvider<SdkMeterProvider>) -> _| {
        let sdk = Sdk::new();
        let provider: ScopedMeterProvider<_> = configure(sdk.scoped());
        let counter = provider.meter("test").u64_counter("requests").build();
        let count = || {
            for scope in [inet(), inet6(), inet()] {
                scope.run(|| {
                    counter.add(1, &[]);
                    counter.add(1, &[KeyValue::new("kind", "announce")]);
                });
            }
        };
        count();
        let exporter = sdk.into_exporter();
        assert_eq!(exporter.already_exported().names(), [""; 0]);
        // The last provider is gone, which exports the rest.
        drop(provider);
        let expected = [(inet(), 2), (inet6(), 1)]
            .into_iter()
            .flat_map(|(scope, value)| [point(scope, &[], value), point(scope, &["kind=announce"], value)]);
        assert_eq!(exporter.already_exported().points("requests"), sorted(expected));
        count();
        assert_eq!(exporter.already_exported().names(), [""; 0]);
    };
    drop_first(|provider| provider);
    #[cfg(feature = "opentelemetry-bound")]
    drop_first(ScopedMeterProvider::without_binding);
}

#[test]
fn the_cache_keeps_nothing_alive() {
    let own = Own::default();
    let (providers, instruments) = (Arc::clone(&own.provider), Arc::clone(&own.instrument.measured));
    let provider = ScopedMeterProvider::new(own);
    let counter = provider.meter("test").u64_counter("requests").build();
    for _ in 0..3 {
        inet().run(|| {
            counter.add(1, &[]);
            counter.add(1, &[KeyValue::new("kind", "announce")]);
        });
    }
    drop(provider);
    assert_eq!(Arc::strong_count(&providers), 1);
    assert!(Arc::strong_count(&instruments) > 1);
    drop(counter);
    assert_eq!(Arc::strong_count(&instruments), 1);
}

#[test]
fn instruments_outlive_a_shutdown_and_later_measurements_are_lost() {
    each_path(Sdk::new, |sdk, meter| {
        let counter = meter.u64_counter("requests").build();
        inet().run(|| counter.add(1, &[]));
        sdk.provider.shutdown().unwrap();
        assert_eq!(sdk.already_exported().points("requests"), [point(inet(), &[], 1)]);
        for scope in [inet(), inet6(), Scope::none()] {
            scope.run(|| {
                counter.add(1, &[]);
                counter.add(1, &[KeyValue::new("kind", "announce")]);
                meter.u64_counter("late").build().add(1, &[]);
            });
        }
        assert!(sdk.provider.force_flush().is_err());
        assert_eq!(sdk.already_exported().names(), [""; 0]);
    });
}

#[test]
fn both_worlds_see_the_same_scope() {
    let sdk = Sdk::new();
    let requests = sdk.scoped().meter("test").u64_counter("requests").build();
    let all = [(inet(), 1), (inet6(), 2), (Scope::none(), 4)];
    recorded(async |metrics| {
        for (scope, times) in all {
            for _ in 0..times {
                scope.run(|| {
                    metrics::counter!("requests_total").increment(1);
                    requests.add(1, &[]);
                });
            }
        }
        let expected = all.map(|(scope, value)| point(scope, &[], value));
        assert_eq!(sdk.exported().points("requests"), sorted(expected));
        metrics.assert(all.map(|(scope, value)| {
            let labels = scope.pairs().iter();
            let labels = labels.map(|&(name, value)| (name, value.to_owned())).collect();
            sample("requests_total", &labels, value)
        }));
    });
}

#[cfg(feature = "opentelemetry-bound")]
#[test]
fn a_bound_counter_chooses_its_scope_at_each_increment() {
    each_path(Sdk::new, |sdk, meter| {
        let counter = meter.u64_counter("requests").build();
        let kind = [
            KeyValue::new("kind", "announce"),
            KeyValue::new("client_address_ip_type", "mine"),
        ];
        let (bound, bare) = (counter.bind(&kind), inet().run(|| counter.bind(&[])));
        // Nothing is measured before an increment.
        assert_eq!(sdk.exported().names(), [""; 0]);
        for _ in 0..3 {
            for scope in [inet(), inet6(), Scope::none()] {
                scope.run(|| {
                    bound.add(1);
                    bare.clone().add(10);
                });
            }
        }
        let mut expected = Vec::new();
        for scope in [inet(), inet6(), Scope::none()] {
            expected.push(point(scope, &[], 30));
            let mut with_kind = point(scope, &["kind=announce", "client_address_ip_type=mine"], 3);
            with_kind.0.retain(|pair| {
                !pair.starts_with("client_address_ip_type=") || pair == "client_address_ip_type=mine"
            });
            expected.push(with_kind);
        }
        assert_eq!(sdk.exported().points("requests"), sorted(expected));
    });
}

/// Counts when its thread's locals are dropped.
struct CountsLast(Counter<u64>);

impl Drop for CountsLast {
    fn drop(&mut self) {
        inet().run(|| {
            self.0.add(1, &[]);
            self.0.add(1, &[KeyValue::new("kind", "announce")]);
        });
    }
}

#[test]
fn an_instrument_may_be_used_while_the_locals_of_a_thread_are_dropped() {
    thread_local! {
        static LAST: RefCell<Vec<CountsLast>> = const { RefCell::new(Vec::new()) };
    }

    each_path(Sdk::new, |sdk, meter| {
        let counter = meter.u64_counter("requests").build();
        thread::scope(|threads| {
            for _ in 0..4 {
                let kept = CountsLast(counter.clone());
                threads.spawn(move || {
                    // Before and after the thread first uses the locals of the crate and of the SDK.
                    LAST.with_borrow_mut(|last| last.push(CountsLast(kept.0.clone())));
                    drop(kept);
                });
            }
        });
        // The locals may still be dropped when the threads are joined.
        let expected = sorted([point(inet(), &[], 8), point(inet(), &["kind=announce"], 8)]);
        eventually("all were counted", || {
            sdk.exported().points("requests") == expected
        });
    });
}
