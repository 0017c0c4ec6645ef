//! Heap allocations of scoped OpenTelemetry instruments: none after warming up, and memory that stays flat.

use std::net::SocketAddr;

use allocation_counter::measure;
use dualstack_metrics::{ClientLabels, ClientScopes, Protocol, Scope, ScopedMeterProvider, ServerBinding};
use opentelemetry::{
    KeyValue,
    metrics::{Counter, MeterProvider as _},
};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, Instrument, PeriodicReader, SdkMeterProvider, Stream,
    data::{AggregatedMetrics, MetricData, SumDataPoint},
};
use test_support::numbered;

struct Sdk {
    provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

impl Sdk {
    fn new(limit: usize) -> Self {
        let exporter = InMemoryMetricExporter::default();
        let limited = move |_: &Instrument| Stream::builder().with_cardinality_limit(limit).build().ok();
        let provider = SdkMeterProvider::builder()
            .with_reader(PeriodicReader::builder(exporter.clone()).build())
            .with_view(limited)
            .build();
        Self { provider, exporter }
    }

    /// The sum of all series, and their number.
    fn total(&self) -> (u64, usize) {
        self.provider.force_flush().unwrap();
        let finished = self.exporter.get_finished_metrics().unwrap();
        let metric = finished
            .last()
            .unwrap()
            .scope_metrics()
            .next()
            .unwrap()
            .metrics()
            .next()
            .unwrap();
        let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() else {
            panic!("{metric:?}");
        };
        (
            sum.data_points().map(SumDataPoint::value).sum(),
            sum.data_points().count(),
        )
    }
}

/// Runs a test with a counter that is bound, if the feature is on, and with one that is not.
fn each_path(limit: usize, test: impl Fn(&Sdk, &Counter<u64>)) {
    let with = |sdk: Sdk, provider: ScopedMeterProvider<SdkMeterProvider>| {
        test(&sdk, &provider.meter("test").u64_counter("requests").build());
    };
    let sdk = Sdk::new(limit);
    let provider = ScopedMeterProvider::new(sdk.provider.clone());
    with(sdk, provider);
    #[cfg(feature = "opentelemetry-bound")]
    {
        let sdk = Sdk::new(limit);
        let provider = ScopedMeterProvider::new(sdk.provider.clone()).without_binding();
        with(sdk, provider);
    }
}

fn client() -> Scope {
    let peer: SocketAddr = "[::ffff:192.0.2.7]:50000".parse().unwrap();
    ClientScopes::new(ServerBinding::new(Protocol::Udp, "[::]:6969".parse().unwrap())).for_client(peer)
}

#[test]
fn an_add_allocates_nothing_after_warming_up() {
    each_path(2_000, |sdk, counter| {
        let kinds: Vec<_> = (0..100)
            .map(|kind| [KeyValue::new("kind", kind), KeyValue::new("a", "b")])
            .collect();
        let classes = ClientLabels::ALL.iter().map(Scope::new);
        let scopes: Vec<_> = classes.chain([client(), Scope::none()]).collect();
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
        assert_eq!(sdk.total().0, 12 * 6 * 101);
    });
}

#[test]
fn values_that_occur_once_take_no_more_memory_after_some_time() {
    const VALUES: u64 = 100_000;

    each_path(10, |sdk, counter| {
        let hot = [KeyValue::new("kind", "announce")];
        let count = |range: std::ops::Range<u64>| {
            client().run(|| {
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
        // What is used all the time is still known.
        assert_eq!(client().run(|| measure(|| counter.add(1, &hot))).count_total, 0);
        assert_eq!(sdk.total(), (2 * VALUES + 1, 11));
    });
}

#[test]
fn more_scopes_than_an_instrument_remembers_with_attributes_lose_nothing() {
    const SCOPES: usize = 1_000;

    let scopes: Vec<_> = (0..SCOPES).map(numbered).collect();
    let kinds = [0, 1, 2, 3].map(|kind| [KeyValue::new("kind", kind)]);
    each_path(8_000, |sdk, counter| {
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
        assert_eq!(sdk.total(), (3 * 5 * SCOPES as u64, 5 * SCOPES));
    });
}
