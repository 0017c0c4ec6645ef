//! Which instruments are scoped, and that the rest stays as it is.

use dualstack_metrics::{Scope, ScopedMeterProvider, opentelemetry::InstrumentKind};
use opentelemetry::{
    InstrumentationScope, KeyValue,
    metrics::{Meter, MeterProvider},
};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider, data::ResourceMetrics,
};
use test_support::Digit;

use crate::exported::{Sdk, each_path, each_path_with, inet, inet6, point, sorted};

/// Uses an instrument of each kind and type, and an observable one.
fn use_each(meter: &Meter) {
    meter.u64_counter("counter.u64").build().add(1, &[]);
    meter.f64_counter("counter.f64").build().add(0.5, &[]);
    meter.i64_up_down_counter("up_down.i64").build().add(-3, &[]);
    meter.f64_up_down_counter("up_down.f64").build().add(-0.5, &[]);
    meter.u64_gauge("gauge.u64").build().record(4, &[]);
    meter.i64_gauge("gauge.i64").build().record(-4, &[]);
    meter.f64_gauge("gauge.f64").build().record(4.5, &[]);
    let bounds = || vec![1.0, 10.0];
    meter
        .u64_histogram("histogram.u64")
        .with_boundaries(bounds())
        .build()
        .record(5, &[]);
    meter
        .f64_histogram("histogram.f64")
        .with_boundaries(bounds())
        .build()
        .record(0.5, &[]);

    macro_rules! observe {
        ($($instrument:ident $name:literal $value:literal)+) => {
            $(meter.$instrument($name).with_callback(|seen| seen.observe($value, &[])).build();)+
        };
    }
    observe! {
        u64_observable_counter "observable.u64" 6
        f64_observable_counter "observable.f64" 6.5
        i64_observable_up_down_counter "observable.up_down.i64" -6
        f64_observable_up_down_counter "observable.up_down.f64" -6.5
        u64_observable_gauge "observable.gauge.u64" 7
        i64_observable_gauge "observable.gauge.i64" -7
        f64_observable_gauge "observable.gauge.f64" 7.5
    }
}

const VALUES: [(&str, &str); 16] = [
    ("counter.f64", "0.5"),
    ("counter.u64", "1"),
    ("gauge.f64", "4.5"),
    ("gauge.i64", "-4"),
    ("gauge.u64", "4"),
    ("histogram.f64", "0.5 in [1, 0, 0]"),
    ("histogram.u64", "5 in [0, 1, 0]"),
    ("observable.f64", "6.5"),
    ("observable.gauge.f64", "7.5"),
    ("observable.gauge.i64", "-7"),
    ("observable.gauge.u64", "7"),
    ("observable.u64", "6"),
    ("observable.up_down.f64", "-6.5"),
    ("observable.up_down.i64", "-6"),
    ("up_down.f64", "-0.5"),
    ("up_down.i64", "-3"),
];

type Provider = ScopedMeterProvider<SdkMeterProvider>;

/// Fails unless the instruments whose names begin with one of `scoped` are, and no others.
fn assert_scoped(configure: fn(Provider) -> Provider, scoped: &[&str]) {
    each_path_with(Sdk::new, configure, |sdk, meter| {
        inet().run(|| use_each(meter));
        // Observable instruments are asked while metrics are collected, which may be in a scope, too.
        let exported = inet().run(|| sdk.exported());
        assert_eq!(exported.names(), VALUES.map(|(name, _)| name));
        for (name, value) in VALUES {
            let is_scoped = scoped.iter().any(|prefix| name.starts_with(prefix));
            let scope = if is_scoped { inet() } else { Scope::none() };
            let expected = (point(scope, &[], ()).0, value.to_owned());
            assert_eq!(exported.points(name), [expected], "{name}");
        }
    });
}

#[test]
fn all_counters_and_nothing_else_are_scoped_by_default() {
    assert_scoped(|provider| provider, &["counter."]);
}

#[test]
fn other_kinds_are_scoped_when_asked_for_and_observable_instruments_never() {
    assert_scoped(ScopedMeterProvider::histograms, &["counter.", "histogram."]);
    assert_scoped(ScopedMeterProvider::gauges, &["counter.", "gauge."]);
    assert_scoped(ScopedMeterProvider::up_down_counters, &["counter.", "up_down."]);
    assert_scoped(
        |provider| provider.histograms().gauges().up_down_counters(),
        &["counter.", "histogram.", "gauge.", "up_down."],
    );
}

#[test]
fn names_are_included_and_excluded_in_any_case() {
    assert_scoped(
        |provider| {
            provider
                .include(InstrumentKind::Histogram, "Histogram.U64")
                .include_prefix(InstrumentKind::Gauge, "GAUGE.")
                .histograms()
                .exclude("gauge.F64")
                .exclude_prefix("Counter.f")
        },
        &["counter.u64", "histogram.u64", "gauge.i64", "gauge.u64"],
    );
    // Names that Prometheus writes alike are not the same here.
    assert_scoped(
        |provider| provider.exclude("counter_u64").exclude_prefix("counter_"),
        &["counter."],
    );
}

#[test]
fn each_kind_chooses_its_scope_when_it_measures() {
    let configure = |provider: Provider| provider.histograms().gauges().up_down_counters();
    each_path_with(Sdk::new, configure, |sdk, meter| {
        let seconds = meter.f64_histogram("seconds").with_boundaries(vec![1.0]).build();
        let level = meter.i64_gauge("level").build();
        let bytes = meter.f64_counter("bytes").build();
        let kind = [KeyValue::new("kind", "announce")];
        for (scope, value) in [(inet(), 0.5), (inet6(), 2.0), (inet(), 4.0)] {
            scope.run(|| {
                seconds.record(value, &[]);
                seconds.record(value, &kind);
                level.record(if value > 1.0 { -2 } else { 1 }, &kind);
                bytes.add(value, &[]);
            });
        }
        let exported = sdk.exported();
        let histogram = |scope, more: &[&str], value: &str| (point(scope, more, ()).0, value.to_owned());
        let expected = [&[][..], &["kind=announce"]].into_iter().flat_map(|more| {
            [
                histogram(inet(), more, "4.5 in [1, 1]"),
                histogram(inet6(), more, "2.0 in [0, 1]"),
            ]
        });
        assert_eq!(exported.points("seconds"), sorted(expected));
        let expected = [inet(), inet6()].map(|scope| point(scope, &["kind=announce"], -2));
        assert_eq!(exported.points("level"), sorted(expected));
        let expected = sorted([point(inet(), &[], 4.5), point(inet6(), &[], 2.0)]);
        assert_eq!(exported.points("bytes"), expected);
    });
}

#[test]
fn an_up_down_counter_is_lowered_in_the_series_that_it_was_raised_in_although_a_label_was_added() {
    each_path_with(Sdk::new, ScopedMeterProvider::up_down_counters, |sdk, meter| {
        let active = meter.i64_up_down_counter("active").build();
        let kind = [KeyValue::new("kind", "announce")];
        for scope in [inet(), inet6(), inet()] {
            scope.run(|| {
                active.add(1, &[]);
                active.add(1, &kind);
                Scope::add(&Digit::<0>(1));
                active.add(-1, &[]);
                active.add(-1, &kind);
            });
        }
        let expected = [inet(), inet6()].into_iter();
        let expected =
            expected.flat_map(|scope| [&[][..], &["kind=announce"]].map(|more| point(scope, more, 0)));
        assert_eq!(sdk.exported().points("active"), sorted(expected));
    });
}

#[test]
fn an_up_down_counter_that_is_lowered_in_another_scope_skews_two_series() {
    each_path_with(Sdk::new, ScopedMeterProvider::up_down_counters, |sdk, meter| {
        let active = meter.i64_up_down_counter("active").build();
        for scope in [inet(), inet6()] {
            scope.run(|| active.add(1, &[]));
        }
        // As the documentation advises, and otherwise.
        let raised_in = inet();
        inet6().run(|| raised_in.run(|| active.add(-1, &[])));
        active.add(-1, &[]);
        let skewed = sorted([
            point(inet(), &[], 0),
            point(inet6(), &[], 1),
            point(Scope::none(), &[], -1),
        ]);
        assert_eq!(sdk.exported().points("active"), skewed);
    });
}

/// Everything that is exported, without the times.
fn described(sdk: &SdkMeterProvider, exporter: &InMemoryMetricExporter) -> Vec<String> {
    sdk.force_flush().unwrap();
    let finished = exporter.get_finished_metrics().unwrap();
    let mut all: Vec<_> = finished
        .iter()
        .flat_map(ResourceMetrics::scope_metrics)
        .flat_map(|scope| {
            scope.metrics().map(move |metric| {
                let (name, unit, description) = (metric.name(), metric.unit(), metric.description());
                let of = scope.scope();
                let (version, schema): (_, _) = (of.version(), of.schema_url());
                let attributes: Vec<_> = of.attributes().collect();
                format!(
                    "{name} {unit} {description} {} {version:?} {schema:?} {attributes:?}",
                    of.name()
                )
            })
        })
        .collect();
    all.sort();
    all
}

#[test]
fn units_descriptions_and_the_identity_of_meters_stay() {
    let describe = |wrap: fn(SdkMeterProvider) -> Box<dyn MeterProvider>| {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone()).build();
        let sdk = SdkMeterProvider::builder().with_reader(reader).build();
        let provider = wrap(sdk.clone());
        let scope = InstrumentationScope::builder("library")
            .with_version("1.2.3")
            .with_schema_url("https://opentelemetry.io/schemas/1.40.0")
            .with_attributes([KeyValue::new("shard", 7)])
            .build();
        for meter in [provider.meter_with_scope(scope), provider.meter("plain")] {
            macro_rules! described {
                ($instrument:ident $unit:literal $description:literal) => {
                    meter
                        .$instrument(stringify!($instrument))
                        .with_unit($unit)
                        .with_description($description)
                };
            }
            described!(u64_counter "{request}" "Requests").build().add(1, &[]);
            described!(f64_histogram "s" "Seconds").build().record(1.0, &[]);
            described!(i64_up_down_counter "1" "Open").build().add(1, &[]);
            described!(f64_gauge "Cel" "Heat").build().record(1.0, &[]);
            let observable = described!(u64_observable_counter "By" "Bytes");
            observable.with_callback(|seen| seen.observe(1, &[])).build();
        }
        described(&sdk, &exporter)
    };
    let alone = describe(|sdk| Box::new(sdk));
    assert_eq!(alone.len(), 10);
    assert_eq!(
        describe(|sdk| Box::new(
            ScopedMeterProvider::new(sdk)
                .histograms()
                .gauges()
                .up_down_counters()
        )),
        alone
    );
}

#[test]
fn an_instrument_that_is_made_twice_is_one() {
    each_path(Sdk::new, |sdk, meter| {
        let [first, second] = [(); 2].map(|()| meter.u64_counter("requests").build());
        let clone = first.clone();
        for _ in 0..3 {
            inet().run(|| {
                first.add(1, &[]);
                second.add(10, &[]);
                clone.add(100, &[]);
            });
        }
        assert_eq!(sdk.exported().points("requests"), [point(inet(), &[], 333)]);
    });
}

#[test]
fn names_and_values_that_the_sdk_rejects_stay_rejected() {
    each_path(Sdk::new, |sdk, meter| {
        let invalid = meter.u64_counter("1 is not a name").build();
        inet().run(|| invalid.add(1, &[]));
        let ignored = meter.f64_counter("bytes").build();
        inet().run(|| {
            ignored.add(1.5, &[]);
            ignored.add(f64::NAN, &[]);
            ignored.add(f64::INFINITY, &[]);
        });
        let exported = sdk.exported();
        assert_eq!(exported.names(), ["bytes"]);
        assert_eq!(exported.points("bytes"), [point(inet(), &[], 1.5)]);
    });
}
