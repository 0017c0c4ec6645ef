//! An SDK with an exporter in memory.

use std::{collections::BTreeMap, fmt::Debug, net::SocketAddr};

use dualstack_metrics::{ClientScopes, Protocol, Scope, ScopedMeterProvider, ServerBinding};
use opentelemetry::{
    KeyValue, Value,
    metrics::{Meter, MeterProvider as _},
};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, InMemoryMetricExporterBuilder, Instrument, MeterProviderBuilder, PeriodicReader,
    SdkMeterProvider, Stream, Temporality,
    data::{AggregatedMetrics, Metric, MetricData},
};

/// An SDK, and its exports since the last look.
pub(crate) struct Sdk {
    pub(crate) provider: SdkMeterProvider,
    exporter: Exporter,
}

/// The exporter of an SDK, which may have been dropped.
pub(crate) struct Exporter(InMemoryMetricExporter);

impl Sdk {
    pub(crate) fn new() -> Self {
        Self::with(Temporality::Cumulative, |builder| builder)
    }

    pub(crate) fn delta() -> Self {
        Self::with(Temporality::Delta, |builder| builder)
    }

    pub(crate) fn with_view(view: impl Fn(&Instrument) -> Option<Stream> + Send + Sync + 'static) -> Self {
        Self::with(Temporality::Cumulative, |builder| builder.with_view(view))
    }

    /// An SDK that exports so many series of each instrument, and one for the rest.
    pub(crate) fn limited(temporality: Temporality, limit: usize) -> Self {
        let view = move |_: &Instrument| Stream::builder().with_cardinality_limit(limit).build().ok();
        Self::with(temporality, |builder| builder.with_view(view))
    }

    pub(crate) fn with(
        temporality: Temporality,
        build: impl FnOnce(MeterProviderBuilder) -> MeterProviderBuilder,
    ) -> Self {
        let exporter = InMemoryMetricExporterBuilder::new()
            .with_temporality(temporality)
            .build();
        let reader = PeriodicReader::builder(exporter.clone()).build();
        Self {
            provider: build(SdkMeterProvider::builder().with_reader(reader)).build(),
            exporter: Exporter(exporter),
        }
    }

    pub(crate) fn into_exporter(self) -> Exporter {
        self.exporter
    }

    pub(crate) fn scoped(&self) -> ScopedMeterProvider<SdkMeterProvider> {
        ScopedMeterProvider::new(self.provider.clone())
    }

    pub(crate) fn exported(&self) -> Exported {
        self.provider.force_flush().expect("a flush");
        self.already_exported()
    }

    /// Without a flush.
    pub(crate) fn already_exported(&self) -> Exported {
        self.exporter.already_exported()
    }
}

impl Exporter {
    pub(crate) fn already_exported(&self) -> Exported {
        let finished = self.0.get_finished_metrics().expect("metrics");
        self.0.reset();
        let mut exported = Exported::default();
        for resource in &finished {
            for scope in resource.scope_metrics() {
                for metric in scope.metrics() {
                    exported.read(metric);
                }
            }
        }
        exported
    }
}

/// The points of each metric.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Exported(BTreeMap<String, Vec<Point>>);

/// The attributes, as `key=value`, in the order of their keys, and the value.
pub(crate) type Point = (Vec<String>, String);

impl Exported {
    /// The points of a metric, in the order of their attributes.
    pub(crate) fn points(&self, name: &str) -> Vec<Point> {
        self.0.get(name).cloned().unwrap_or_default()
    }

    /// The sum of the series of `requests`.
    pub(crate) fn total(&self) -> u64 {
        let points = self.points("requests");
        points
            .iter()
            .map(|(_, value)| value.parse::<u64>().expect(value))
            .sum()
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    fn read(&mut self, metric: &Metric) {
        let points = match metric.data() {
            AggregatedMetrics::U64(data) => points(data),
            AggregatedMetrics::I64(data) => points(data),
            AggregatedMetrics::F64(data) => points(data),
        };
        let all = self.0.entry(metric.name().to_owned()).or_default();
        all.extend(points);
        all.sort();
    }
}

fn points<T: Copy + Debug>(data: &MetricData<T>) -> Vec<Point> {
    match data {
        MetricData::Sum(sum) => {
            let points = sum.data_points();
            points
                .map(|point| (written(point.attributes()), format!("{:?}", point.value())))
                .collect()
        }
        MetricData::Gauge(gauge) => {
            let points = gauge.data_points();
            points
                .map(|point| (written(point.attributes()), format!("{:?}", point.value())))
                .collect()
        }
        MetricData::Histogram(histogram) => {
            let value = |sum, buckets: Vec<u64>| format!("{sum:?} in {buckets:?}");
            let points = histogram.data_points().map(|point| {
                let value = value(point.sum(), point.bucket_counts().collect());
                (written(point.attributes()), value)
            });
            points.collect()
        }
        MetricData::ExponentialHistogram(_) => panic!("no test has one"),
    }
}

pub(crate) fn written<'a>(attributes: impl IntoIterator<Item = &'a KeyValue>) -> Vec<String> {
    let value = |value: &Value| match value {
        // A number is not a text.
        Value::String(text) => text.to_string(),
        other => format!("{other:?}"),
    };
    let attributes = attributes.into_iter();
    let mut written: Vec<_> = attributes
        .map(|pair| format!("{}={}", pair.key, value(&pair.value)))
        .collect();
    written.sort();
    written
}

/// The labels of a scope, and `more` attributes.
pub(crate) fn of(scope: Scope, more: &[&str]) -> Vec<String> {
    let labels = scope
        .pairs()
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let mut all: Vec<_> = labels.chain(more.iter().map(|more| (*more).to_owned())).collect();
    all.sort();
    all
}

/// A point of a scope.
pub(crate) fn point(scope: Scope, more: &[&str], value: impl Debug) -> Point {
    (of(scope, more), format!("{value:?}"))
}

/// The points in the order in which they are exported.
pub(crate) fn sorted(points: impl IntoIterator<Item = Point>) -> Vec<Point> {
    let mut points: Vec<_> = points.into_iter().collect();
    points.sort();
    points
}

/// A meter whose instruments are bound if the feature is on, and one whose instruments are not.
pub(crate) fn each_path(sdk: impl Fn() -> Sdk, test: impl Fn(&Sdk, &Meter)) {
    each_path_with(sdk, |provider| provider, test);
}

pub(crate) fn each_path_with(
    sdk: impl Fn() -> Sdk,
    configure: impl Fn(ScopedMeterProvider<SdkMeterProvider>) -> ScopedMeterProvider<SdkMeterProvider>,
    test: impl Fn(&Sdk, &Meter),
) {
    let run = |bound: fn(ScopedMeterProvider<SdkMeterProvider>) -> ScopedMeterProvider<SdkMeterProvider>| {
        let sdk = sdk();
        test(&sdk, &bound(configure(sdk.scoped())).meter("test"));
    };
    run(|provider| provider);
    #[cfg(feature = "opentelemetry-bound")]
    run(ScopedMeterProvider::without_binding);
}

pub(crate) fn scopes() -> ClientScopes {
    ClientScopes::new(ServerBinding::new(
        Protocol::Udp,
        "[::]:6969".parse().expect("an address"),
    ))
}

fn client(address: &str) -> Scope {
    scopes().for_client(address.parse::<SocketAddr>().expect("an address"))
}

pub(crate) fn inet() -> Scope {
    client("[::ffff:192.0.2.7]:50000")
}

pub(crate) fn inet6() -> Scope {
    client("[2001:db8::7]:50000")
}
