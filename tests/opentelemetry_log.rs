//! The log of a program with a scoped meter provider, and its count of labels that are left out. It runs in its own
//! process, because both are the process's.

use std::{convert::Infallible, sync::Arc};

use dualstack_metrics::{
    ClientLabels, ClientLabelsLayer, FixedLabel, Protocol, Scope, ScopedMeterProvider, ServerBinding,
    scope::{label_sets, limit_label_sets, overflows},
};
use futures_util::FutureExt as _;
use http::{Request, Response};
use opentelemetry::{
    InstrumentationScope, KeyValue, global,
    metrics::{Counter, InstrumentBuilder, InstrumentProvider, Meter, MeterProvider, SyncInstrument},
};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData, ScopeMetrics},
};
use test_support::{Log, recorded};
use tower::{Layer as _, Service as _, service_fn};

/// A provider whose instruments cannot be bound.
struct Unbindable;

impl MeterProvider for Unbindable {
    fn meter_with_scope(&self, _: InstrumentationScope) -> Meter {
        Meter::new(Arc::new(Self))
    }
}

impl InstrumentProvider for Unbindable {
    fn u64_counter(&self, _: InstrumentBuilder<'_, Counter<u64>>) -> Counter<u64> {
        Counter::new(Arc::new(Self))
    }
}

impl SyncInstrument<u64> for Unbindable {
    fn measure(&self, _: u64, _: &[KeyValue]) {}
}

fn new_scope(region: u8) -> Scope {
    let regions = FixedLabel::new("region", ('1'..='5').map(String::from)).unwrap();
    Scope::new(&regions.value(region.to_string()))
}

/// The value of a counter without attributes.
fn exported(sdk: &SdkMeterProvider, exporter: &InMemoryMetricExporter, name: &str) -> Option<u64> {
    sdk.force_flush().unwrap();
    let finished = exporter.get_finished_metrics().unwrap();
    let mut metrics = finished.last()?.scope_metrics().flat_map(ScopeMetrics::metrics);
    let metric = metrics.find(|metric| metric.name() == name)?;
    let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() else {
        panic!("{metric:?}");
    };
    let points: Vec<_> = sum.data_points().collect();
    assert_eq!((points.len(), points[0].attributes().count()), (1, 0));
    Some(points[0].value())
}

#[test]
fn the_log_of_a_program_with_a_scoped_meter_provider() {
    const OVERFLOWED: &str = "label_sets_overflowed";

    let log = Log::of_process();
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).build();
    let sdk = SdkMeterProvider::builder().with_reader(reader).build();
    global::set_meter_provider(ScopedMeterProvider::new(sdk.clone()));

    // No recorder is missing.
    let layer = ClientLabelsLayer::new(ServerBinding::unix(Protocol::Http)).source(ClientLabels::UNKNOWN);
    let requests = global::meter("test").u64_counter("requests").build();
    let mut service = layer.layer(service_fn(|_: Request<()>| {
        requests.add(1, &[]);
        async { Ok::<_, Infallible>(Response::new(())) }
    }));
    service.call(Request::new(())).now_or_never().unwrap().unwrap();
    assert_eq!(log.lines(), [""; 0]);

    // An instrument that cannot be bound is logged once for each provider.
    let counter = ScopedMeterProvider::new(Unbindable)
        .meter("test")
        .u64_counter("requests")
        .build();
    for region in 1..=3 {
        new_scope(region).run(|| {
            counter.add(1, &[]);
            counter.add(1, &[KeyValue::new("kind", "announce")]);
        });
    }
    if cfg!(feature = "opentelemetry-bound") {
        log.assert_warning(&[
            "could not be bound",
            "`experimental_metrics_bound_instruments` of `opentelemetry_sdk`",
            "`ScopedMeterProvider::without_binding`",
        ]);
    } else {
        assert_eq!(log.lines(), [""; 0]);
    }

    // Labels that are left out are counted in both worlds, each in its own name.
    assert_eq!(exported(&sdk, &exporter, OVERFLOWED), None);
    limit_label_sets(label_sets(), 0).unwrap();
    assert_eq!(new_scope(4).run(Scope::current), Scope::none());
    assert_eq!((overflows(), exported(&sdk, &exporter, OVERFLOWED)), (1, Some(1)));
    recorded(async |metrics| {
        new_scope(5).run(|| {});
        assert_eq!((overflows(), exported(&sdk, &exporter, OVERFLOWED)), (2, Some(2)));
        metrics.assert(["label_sets_overflowed_total 1"]);
    });
}
