//! The recorder, from outside: what the Prometheus exporter writes, series by series.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use dualstack_metrics::{
    BoundedLabel, ClientLabels, ClientScopes, Protocol, Scope, ScopedRecorder, ScopedRecorderLayer,
    ServerBinding, prometheus::Install,
};
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Level, Metadata, Recorder, SharedString, Unit, counter, gauge,
    histogram, with_local_recorder,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_util::{
    MetricKindMask,
    layers::{FanoutBuilder, FilterLayer, Layer, PrefixLayer, RouterBuilder, Stack},
};
use test_support::{eventually, samples};

const SERVER: &str = r#"server_binding_address_ip_family="inet6",server_binding_address_ip_type="plain",server_binding_ip="::",server_binding_port="6969",server_binding_protocol="udp""#;

const MAPPED: &str = r#"client_address_ip_family="inet",client_address_ip_type="v4_mapped_v6""#;
const NATIVE: &str = r#"client_address_ip_family="inet6",client_address_ip_type="plain""#;

fn scopes() -> ClientScopes {
    ClientScopes::new(ServerBinding::new(Protocol::Udp, "[::]:6969".parse().unwrap()))
}

fn mapped() -> Scope {
    scopes().for_client("[::ffff:192.0.2.7]:1".parse::<SocketAddr>().unwrap())
}

fn native() -> Scope {
    scopes().for_client("[2001:db8::7]:1".parse::<SocketAddr>().unwrap())
}

fn scoped(layer: ScopedRecorderLayer) -> (ScopedRecorder<PrometheusRecorder>, PrometheusHandle) {
    let recorder = Install::new(PrometheusBuilder::new())
        .recorder(layer)
        .build_recorder();
    let handle = recorder.get_ref().handle();
    (recorder, handle)
}

/// Custom labels, enough for a hundred scopes together with [`Unit10`].
#[derive(Clone, Copy)]
struct Tenth(usize);

impl BoundedLabel for Tenth {
    const NAME: &'static str = "tenth";
    const VALUES: &'static [&'static str] = &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

    fn index(self) -> usize {
        self.0
    }
}

fn hundred_scopes() -> Vec<Scope> {
    (0..100)
        .map(|at| Scope::new(&(Tenth(at / 10), Unit10(at % 10))))
        .chain([Scope::none()])
        .collect()
}

#[derive(Clone, Copy)]
struct Unit10(usize);

impl BoundedLabel for Unit10 {
    const NAME: &'static str = "unit";
    const VALUES: &'static [&'static str] = Tenth::VALUES;

    fn index(self) -> usize {
        self.0
    }
}

#[derive(Clone, Copy)]
struct Hundred(usize);

impl BoundedLabel for Hundred {
    const NAME: &'static str = "hundred";
    const VALUES: &'static [&'static str] = Tenth::VALUES;

    fn index(self) -> usize {
        self.0
    }
}

#[test]
fn macro_and_kept_handle_give_the_same_series() {
    let (recorder, handle) = scoped(ScopedRecorderLayer::new());
    with_local_recorder(&recorder, || {
        let kept = counter!("requests_total");
        let registered_inside = native().run(|| counter!("requests_total"));
        assert_eq!(
            samples(&handle.render()),
            [""; 0],
            "a series appears with its first increment"
        );
        for scope in [mapped(), native()] {
            scope.run(|| {
                counter!("requests_total").increment(1);
                kept.increment(10);
                registered_inside.increment(100);
            });
        }
        kept.increment(1_000);
        registered_inside.increment(10_000);
        mapped().run(|| counter!("zeros_total").increment(0));
    });
    assert_eq!(
        samples(&handle.render()),
        [
            "requests_total 11000".to_owned(),
            format!("requests_total{{{MAPPED},{SERVER}}} 111"),
            format!("requests_total{{{NATIVE},{SERVER}}} 111"),
            format!("zeros_total{{{MAPPED},{SERVER}}} 0"),
        ]
    );
}

#[test]
fn absolute_is_never_scoped() {
    let (recorder, handle) = scoped(ScopedRecorderLayer::new());
    with_local_recorder(&recorder, || {
        mapped().run(|| counter!("total").absolute(7));
        counter!("total").absolute(9);
    });
    assert_eq!(samples(&handle.render()), ["total 9"]);
}

#[test]
fn outside_every_scope_the_samples_are_those_of_the_inner_recorder() {
    fn program() {
        counter!("a_total").increment(1);
        counter!("a_total", "kind" => "x").increment(2);
        counter!("a_total", "kind" => "x", "kind" => "y").increment(3);
        counter!("b.total", "l.n" => String::from("dynamic")).increment(4);
        counter!("c_total").absolute(5);
        gauge!("g").set(6.0);
        gauge!("g", "kind" => "x").increment(7.0);
        histogram!("h").record(8.0);
        histogram!("h", "kind" => "x").record_many(9.0, 3);
    }

    let inner = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&inner, program);
    for layer in [
        ScopedRecorderLayer::new(),
        ScopedRecorderLayer::new().histograms().gauges(),
        ScopedRecorderLayer::new().without_cache(),
        ScopedRecorderLayer::new().never_revalidate(),
        ScopedRecorderLayer::new().exclude_prefix("a"),
    ] {
        let (recorder, handle) = scoped(layer);
        with_local_recorder(&recorder, program);
        assert_eq!(samples(&handle.render()), samples(&inner.handle().render()));
    }
}

#[test]
fn the_label_at_the_call_wins_then_the_inner_scope_then_the_outer() {
    let (recorder, handle) = scoped(ScopedRecorderLayer::new());
    let outer = Scope::new(&(Tenth(1), Unit10(1)));
    let scope = outer.with(&Unit10(2));
    with_local_recorder(&recorder, || {
        scope.run(|| {
            counter!("a_total").increment(1);
            counter!("b_total", "tenth" => "call").increment(1);
            counter!("c_total", "unit" => "call", "other" => "x").increment(1);
            counter!("d_total", "twice" => "1", "twice" => "2", "unit" => "3", "unit" => "4").increment(1);
        });
        Scope::new(&ClientLabels::UNKNOWN).run(|| {
            counter!("e_total", "client.address.ip.family" => "call").increment(1);
            counter!("f_total", "a.b" => "1", "a_b" => "2").increment(1);
        });
    });
    assert_eq!(
        samples(&handle.render()),
        [
            r#"a_total{tenth="1",unit="2"} 1"#,
            r#"b_total{tenth="call",unit="2"} 1"#,
            r#"c_total{other="x",tenth="1",unit="call"} 1"#,
            r#"d_total{tenth="1",twice="2",unit="4"} 1"#,
            r#"e_total{client_address_ip_family="call",client_address_ip_type="unknown"} 1"#,
            r#"f_total{a_b="2",client_address_ip_family="unknown",client_address_ip_type="unknown"} 1"#,
        ]
    );
}

#[test]
fn excluded_names_go_straight_through_to_the_inner_recorder() {
    let (recorder, handle) = scoped(
        ScopedRecorderLayer::new()
            .exclude_prefix("swarm_coordination_registry_")
            .exclude("tracker_core_persistent_torrents_downloads_total"),
    );
    with_local_recorder(&recorder, || {
        Scope::new(&Tenth(0)).run(|| {
            let _registered = counter!("swarm_coordination_registry_torrents_added_total");
            for _ in 0..2 {
                counter!("tracker_core_persistent_torrents_downloads_total").increment(1);
                counter!("tracker_core_requests_total").increment(1);
            }
        });
    });
    assert_eq!(
        samples(&handle.render()),
        [
            "swarm_coordination_registry_torrents_added_total 0",
            "tracker_core_persistent_torrents_downloads_total 2",
            r#"tracker_core_requests_total{tenth="0"} 2"#,
        ]
    );
}

#[test]
fn if_names_are_included_only_they_are_scoped() {
    let (recorder, handle) = scoped(
        ScopedRecorderLayer::new()
            .include_prefix(MetricKindMask::ALL, "udp_")
            .include(MetricKindMask::ALL, "http_requests_total")
            .histograms()
            .gauges(),
    );
    with_local_recorder(&recorder, || {
        Scope::new(&Tenth(0)).run(|| {
            counter!("udp_requests_total").increment(1);
            counter!("http_requests_total").increment(1);
            counter!("http_requests_total_2").increment(1);
            gauge!("udp_sockets").set(1.0);
            gauge!("http_sockets").set(1.0);
        });
    });
    assert_eq!(
        samples(&handle.render()),
        [
            "http_requests_total_2 1",
            r#"http_requests_total{tenth="0"} 1"#,
            "http_sockets 1",
            r#"udp_requests_total{tenth="0"} 1"#,
            r#"udp_sockets{tenth="0"} 1"#,
        ]
    );
}

#[test]
fn one_histogram_is_scoped_beside_all_counters_with_the_same_labels() {
    let (recorder, handle) =
        scoped(ScopedRecorderLayer::new().include(MetricKindMask::HISTOGRAM, "request_seconds"));
    with_local_recorder(&recorder, || {
        mapped().run(|| {
            counter!("requests_total").increment(1);
            histogram!("request_seconds").record(2.0);
            histogram!("response_seconds").record(3.0);
            gauge!("sockets").set(4.0);
        });
    });
    let mut lines = samples(&handle.render());
    lines.retain(|line| !line.contains("quantile"));
    assert_eq!(
        lines,
        [
            format!("request_seconds_count{{{MAPPED},{SERVER}}} 1"),
            format!("request_seconds_sum{{{MAPPED},{SERVER}}} 2"),
            format!("requests_total{{{MAPPED},{SERVER}}} 1"),
            "response_seconds_count 1".to_owned(),
            "response_seconds_sum 3".to_owned(),
            "sockets 4".to_owned(),
        ]
    );
}

#[test]
fn histograms_are_scoped_at_the_record_and_gauges_at_the_registration() {
    let program = |handle: &PrometheusHandle| {
        let (kept_histogram, kept_gauge) = (histogram!("h"), gauge!("g"));
        Scope::new(&Tenth(1)).run(|| {
            kept_histogram.record(1.0);
            histogram!("h").record_many(2.0, 2);
            kept_gauge.increment(1.0);
            let registered_inside = gauge!("g");
            registered_inside.increment(10.0);
            Scope::new(&Tenth(2)).run(|| registered_inside.decrement(3.0));
        });
        samples(&handle.render())
            .into_iter()
            .filter(|line| !line.contains("quantile"))
            .collect::<Vec<_>>()
    };

    let (recorder, handle) = scoped(ScopedRecorderLayer::new());
    let unscoped = with_local_recorder(&recorder, || program(&handle));
    assert_eq!(unscoped, ["g 8", "h_count 3", "h_sum 5"]);

    let (recorder, handle) = scoped(ScopedRecorderLayer::new().histograms().gauges());
    let scoped = with_local_recorder(&recorder, || program(&handle));
    assert_eq!(
        scoped,
        [
            "g 1",
            r#"g{tenth="1"} 7"#,
            r#"h_count{tenth="1"} 3"#,
            r#"h_sum{tenth="1"} 5"#
        ]
    );
}

#[test]
fn descriptions_pass_through() {
    let (recorder, handle) = scoped(ScopedRecorderLayer::new());
    with_local_recorder(&recorder, || {
        metrics::describe_counter!("c_total", Unit::Count, "Counts.");
        metrics::describe_gauge!("g", "Gauges.");
        metrics::describe_histogram!("h", "Records.");
        Scope::new(&Tenth(0)).run(|| counter!("c_total").increment(1));
        gauge!("g").set(1.0);
        histogram!("h").record(1.0);
    });
    let output = handle.render();
    for line in ["# HELP c_total Counts.", "# HELP g Gauges.", "# HELP h Records."] {
        assert!(output.lines().any(|other| other == line), "{line} in {output}");
    }
}

#[test]
fn layers_of_metrics_util_stand_above_and_below() {
    let prometheus = PrometheusBuilder::new().build_recorder();
    let handle = prometheus.handle();
    let recorder = Stack::new(prometheus)
        .push(PrefixLayer::new("below"))
        .push(FilterLayer::from_patterns(["dropped_below"]))
        .push(ScopedRecorderLayer::new())
        .push(FilterLayer::from_patterns(["dropped_above"]))
        .push(PrefixLayer::new("above"));
    with_local_recorder(&recorder, || {
        let kept = counter!("kept_total");
        Scope::new(&Tenth(3)).run(|| {
            kept.increment(1);
            counter!("kept_total").increment(1);
            counter!("dropped_below_total").increment(1);
            counter!("dropped_above_total").increment(1);
        });
    });
    assert_eq!(
        samples(&handle.render()),
        [r#"below_above_kept_total{tenth="3"} 2"#]
    );
}

#[test]
fn router_and_fanout_stand_above_with_each_target_wrapped() {
    let (first, first_handle) = scoped(ScopedRecorderLayer::new());
    let (second, second_handle) = scoped(ScopedRecorderLayer::new());
    let (third, third_handle) = scoped(ScopedRecorderLayer::new());
    let fanout = FanoutBuilder::default()
        .add_recorder(second)
        .add_recorder(third)
        .build();
    let mut router = RouterBuilder::from_recorder(first);
    router.add_route(MetricKindMask::COUNTER, "both_", fanout);
    let router = router.build();
    with_local_recorder(&router, || {
        let kept = counter!("both_total");
        Scope::new(&Tenth(4)).run(|| {
            kept.increment(1);
            counter!("one_total").increment(1);
        });
    });
    assert_eq!(samples(&first_handle.render()), [r#"one_total{tenth="4"} 1"#]);
    assert_eq!(samples(&second_handle.render()), [r#"both_total{tenth="4"} 1"#]);
    assert_eq!(samples(&third_handle.render()), [r#"both_total{tenth="4"} 1"#]);
}

#[test]
fn metrics_tracing_context_stands_above_or_without_cache_below() {
    use metrics_tracing_context::{MetricsLayer, TracingContextLayer};
    use tracing_subscriber::layer::SubscriberExt as _;

    let program = |recorder: &dyn Recorder| {
        let subscriber = tracing_subscriber::registry().with(MetricsLayer::new());
        tracing::subscriber::with_default(subscriber, || {
            with_local_recorder(recorder, || {
                for user in ["ferris", "corro"] {
                    let span = tracing::info_span!("login", user, tenth = "span");
                    let _entered = span.enter();
                    Scope::new(&(Tenth(5), Unit10(5))).run(|| counter!("logins_total").increment(1));
                }
            });
        });
    };
    let expected = [
        r#"logins_total{tenth="span",unit="5",user="corro"} 1"#,
        r#"logins_total{tenth="span",unit="5",user="ferris"} 1"#,
    ];

    let (recorder, handle) = scoped(ScopedRecorderLayer::new());
    program(&TracingContextLayer::all().layer(recorder));
    assert_eq!(samples(&handle.render()), expected);

    // Below, it needs `without_cache`, and the label of the scope counts as written at the call.
    let prometheus = PrometheusBuilder::new().build_recorder();
    let handle = prometheus.handle();
    program(
        &ScopedRecorderLayer::new()
            .without_cache()
            .layer(TracingContextLayer::all().layer(prometheus)),
    );
    assert_eq!(
        samples(&handle.render()),
        [
            r#"logins_total{tenth="5",unit="5",user="corro"} 1"#,
            r#"logins_total{tenth="5",unit="5",user="ferris"} 1"#
        ]
    );
}

#[test]
fn two_recorders_in_turn_on_one_thread_stay_apart() {
    let (a, a_handle) = scoped(ScopedRecorderLayer::new());
    let (b, b_handle) = scoped(ScopedRecorderLayer::new().exclude("c_total"));
    for _ in 0..3 {
        with_local_recorder(&a, || mapped().run(|| counter!("c_total").increment(1)));
        with_local_recorder(&b, || mapped().run(|| counter!("c_total").increment(10)));
    }
    assert_eq!(
        samples(&a_handle.render()),
        [format!("c_total{{{MAPPED},{SERVER}}} 3")]
    );
    assert_eq!(samples(&b_handle.render()), ["c_total 30"]);
}

#[test]
fn more_counters_than_are_cached_in_a_hundred_scopes() {
    let (recorder, handle) = scoped(ScopedRecorderLayer::new());
    let scopes = hundred_scopes();
    with_local_recorder(&recorder, || {
        let kept = counter!("kept_total");
        for _ in 0..3 {
            for scope in &scopes {
                scope.run(|| {
                    kept.increment(1);
                    counter!("macro_total").increment(1);
                });
            }
        }
        for round in 0..2 {
            for name in 0..3_000 {
                scopes[name % 24].run(|| counter!(format!("dynamic_{name}_total")).increment(1 + round));
            }
        }
    });
    let samples = samples(&handle.render());
    for (name, count, series) in [
        ("kept_total", " 3", 101),
        ("macro_total", " 3", 101),
        ("dynamic_", " 3", 3_000),
    ] {
        let of_name: BTreeSet<_> = samples.iter().filter(|line| line.starts_with(name)).collect();
        assert_eq!(of_name.len(), series, "{name}");
        assert!(of_name.iter().all(|line| line.ends_with(count)), "{of_name:?}");
    }
}

#[test]
fn threads_share_a_kept_handle() {
    let (recorder, handle) = scoped(ScopedRecorderLayer::new());
    let kept = with_local_recorder(&recorder, || counter!("c_total"));
    std::thread::scope(|threads| {
        for at in 0..8 {
            let (kept, recorder) = (&kept, &recorder);
            threads.spawn(move || {
                for _ in 0..1_000 {
                    Scope::new(&Tenth(at % 5)).run(|| {
                        kept.increment(1);
                        with_local_recorder(recorder, || counter!("c_total").increment(1));
                    });
                }
            });
        }
    });
    let expected: Vec<_> = (0..5)
        .map(|at| {
            format!(
                r#"c_total{{tenth="{at}"}} {}"#,
                if at < 3 { 4_000 } else { 2_000 }
            )
        })
        .collect();
    assert_eq!(samples(&handle.render()), expected);
}

#[test]
fn a_metric_that_the_exporter_forgot_counts_again_from_zero() {
    let idle = Duration::from_secs(1);
    for (histograms, timeout_by_builder) in [(false, false), (true, true)] {
        let mut builder = PrometheusBuilder::new();
        let mut layer = ScopedRecorderLayer::new();
        if histograms {
            layer = layer.histograms();
        }
        if timeout_by_builder {
            builder = builder.idle_timeout(MetricKindMask::ALL, Some(idle));
        }
        let mut install = Install::new(builder).recorder(layer);
        if !timeout_by_builder {
            install = install.idle_timeout(MetricKindMask::ALL, Some(idle));
        }
        let recorder = install.build_recorder();
        let handle = recorder.get_ref().handle();
        let kept = with_local_recorder(&recorder, || counter!("kept_total"));
        let kept_histogram = with_local_recorder(&recorder, || histogram!("h"));
        let increment = || {
            with_local_recorder(&recorder, || counter!("macro_total").increment(1));
            kept.increment(1);
            kept_histogram.record(1.0);
        };
        let expected = |count: u32| {
            let mut lines = Vec::new();
            for name in ["h_count", "kept_total", "macro_total"] {
                lines.push(format!("{name} {count}"));
                lines.push(format!(r#"{name}{{tenth="6"}} {count}"#));
            }
            // A histogram that is not scoped is the exporter's own, which does not count again.
            lines.retain(|line| histograms || !line.starts_with("h_"));
            lines
        };
        let counts = || {
            let mut lines = samples(&handle.render());
            lines.retain(|line| line.starts_with("h_count") && histograms || line.contains("_total"));
            lines
        };

        for round in 0..3 {
            // On this thread, then on another, which has its own cache.
            increment();
            Scope::new(&Tenth(6)).run(increment);
            assert_eq!(counts(), expected(1), "round {round}");
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    increment();
                    Scope::new(&Tenth(6)).run(increment);
                });
            });
            assert_eq!(counts(), expected(2), "round {round}");
            eventually("all is forgotten", || samples(&handle.render()).is_empty());
        }
    }
}

#[test]
fn a_metric_in_use_is_not_forgotten() {
    let recorder = Install::new(PrometheusBuilder::new())
        .idle_timeout(MetricKindMask::ALL, Some(Duration::from_millis(400)))
        .build_recorder();
    let handle = recorder.get_ref().handle();
    let mut count = 0;
    let start = Instant::now();
    with_local_recorder(&recorder, || {
        while start.elapsed() < Duration::from_millis(1_500) {
            mapped().run(|| counter!("c_total").increment(1));
            count += 1;
            assert_eq!(
                samples(&handle.render()),
                [format!("c_total{{{MAPPED},{SERVER}}} {count}")]
            );
        }
    });
}

/// Name, target, level and module path.
type Registration = (String, String, Level, Option<String>);

/// A recorder that records the registrations, and whether it was dropped.
#[derive(Clone, Default)]
struct Witness {
    registered: Arc<Mutex<Vec<Registration>>>,
    registrations: Arc<AtomicUsize>,
    is_dropped: Arc<AtomicBool>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.is_dropped.store(true, Ordering::Relaxed);
    }
}

impl Recorder for Witness {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.registrations.fetch_add(1, Ordering::Relaxed);
        // A recorder may count its own work.
        if key.name() != "registrations_total" {
            counter!("registrations_total").increment(1);
        }
        self.registered.lock().unwrap().push((
            key.name().to_owned(),
            metadata.target().to_owned(),
            *metadata.level(),
            metadata.module_path().map(ToOwned::to_owned),
        ));
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// A recorder that forgets its first metric before that is used.
#[derive(Default)]
struct ForgetsTheFirst {
    registrations: AtomicUsize,
    kept: Arc<AtomicU64>,
}

impl Recorder for ForgetsTheFirst {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        match self.registrations.fetch_add(1, Ordering::Relaxed) {
            0 => Counter::from_arc(Arc::new(AtomicU64::new(0))),
            _ => Counter::from_arc(Arc::clone(&self.kept)),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn a_metric_that_is_forgotten_before_its_first_use_loses_one_increment() {
    for scope in [mapped(), Scope::none()] {
        let inner = ForgetsTheFirst::default();
        let kept = Arc::clone(&inner.kept);
        let recorder = ScopedRecorderLayer::new().layer(inner);
        with_local_recorder(&recorder, || {
            let handle = counter!("c_total");
            scope.run(|| (0..100).for_each(|_| handle.increment(1)));
        });
        assert_eq!(kept.load(Ordering::Relaxed), 99);
    }
}

#[test]
fn a_recorder_that_is_dropped_is_dropped() {
    let witness = Witness::default();
    let is_dropped = Arc::clone(&witness.is_dropped);
    let recorder = ScopedRecorderLayer::new().layer(witness);
    let kept = with_local_recorder(&recorder, || {
        let kept = counter!("c_total");
        mapped().run(|| kept.increment(1));
        counter!("c_total").increment(1);
        kept
    });
    assert!(!is_dropped.load(Ordering::Relaxed));
    drop(recorder);
    assert!(is_dropped.load(Ordering::Relaxed));
    native().run(|| kept.increment(1));
}

#[test]
fn after_its_recorder_is_dropped_a_kept_handle_increments_what_it_has() {
    let (recorder, handle) = scoped(ScopedRecorderLayer::new().revalidate_after(Duration::from_nanos(1)));
    let kept = with_local_recorder(&recorder, || counter!("c_total"));
    mapped().run(|| kept.increment(1));
    mapped().run(|| kept.increment(1));
    drop(recorder);
    mapped().run(|| kept.increment(1));
    native().run(|| kept.increment(1));
    assert_eq!(
        samples(&handle.render()),
        [format!("c_total{{{MAPPED},{SERVER}}} 3")]
    );
}

#[test]
fn a_recorder_may_emit_metrics_while_it_registers_one() {
    let witness = Witness::default();
    let registered = Arc::clone(&witness.registered);
    let recorder = ScopedRecorderLayer::new().never_revalidate().layer(witness);
    with_local_recorder(&recorder, || {
        for _ in 0..3 {
            mapped().run(|| counter!("c_total").increment(1));
        }
    });
    let names: Vec<_> = registered
        .lock()
        .unwrap()
        .iter()
        .map(|(name, ..)| name.clone())
        .collect();
    assert_eq!(names, ["registrations_total", "c_total"]);
}

#[test]
fn call_sites_that_differ_only_in_metadata_keep_their_own() {
    let witness = Witness::default();
    let registered = Arc::clone(&witness.registered);
    let recorder = ScopedRecorderLayer::new().never_revalidate().layer(witness);
    with_local_recorder(&recorder, || {
        for _ in 0..2 {
            counter!(target: "a", level: Level::INFO, "c_total").increment(1);
            counter!(target: "b", level: Level::INFO, "c_total").increment(1);
            counter!(target: "b", level: Level::DEBUG, "c_total").increment(1);
            let metadata = Metadata::new("b", Level::DEBUG, None);
            metrics::with_recorder(|recorder| {
                recorder
                    .register_counter(&Key::from_static_name("c_total"), &metadata)
                    .increment(1);
            });
        }
    });
    let module_path = Some(module_path!().to_owned());
    let mut registered = registered.lock().unwrap().clone();
    registered.retain(|(name, ..)| name == "c_total");
    assert_eq!(
        registered
            .into_iter()
            .map(|(_, target, level, path)| (target, level, path))
            .collect::<Vec<_>>(),
        [
            ("a".to_owned(), Level::INFO, module_path.clone()),
            ("b".to_owned(), Level::INFO, module_path.clone()),
            ("b".to_owned(), Level::DEBUG, module_path),
            ("b".to_owned(), Level::DEBUG, None),
        ]
    );
}

#[test]
fn a_module_path_is_compared_even_if_it_is_the_target() {
    const SAME: &str = "module";

    let witness = Witness::default();
    let registered = Arc::clone(&witness.registered);
    let recorder = ScopedRecorderLayer::new().never_revalidate().layer(witness);
    let key = Key::from_static_name("registrations_total");
    for module_path in ["another", SAME] {
        let metadata = Metadata::new(SAME, Level::INFO, Some(module_path));
        recorder.register_counter(&key, &metadata).increment(1);
    }
    let module_paths: Vec<_> = registered
        .lock()
        .unwrap()
        .iter()
        .map(|(.., module_path)| module_path.clone().unwrap())
        .collect();
    assert_eq!(module_paths, ["another", SAME]);
}

#[test]
fn the_inner_recorder_registers_once_or_at_each_use() {
    let asked = |layer: ScopedRecorderLayer| {
        let witness = Witness::default();
        let registrations = Arc::clone(&witness.registrations);
        let recorder = layer.layer(witness);
        with_local_recorder(&recorder, || {
            let kept = counter!("registrations_total");
            for _ in 0..10 {
                kept.increment(1);
                counter!("registrations_total").increment(1);
            }
        });
        registrations.load(Ordering::Relaxed)
    };
    assert_eq!(asked(ScopedRecorderLayer::new().never_revalidate()), 1);
    assert_eq!(asked(ScopedRecorderLayer::new().without_cache()), 20);
    assert_eq!(
        asked(ScopedRecorderLayer::new().revalidate_after(Duration::ZERO)),
        20
    );
}

/// A recorder whose counters are different at each registration, and kept.
#[derive(Clone, Default)]
struct AlwaysNew(Arc<Mutex<Vec<Arc<AtomicU64>>>>);

impl AlwaysNew {
    fn values(&self) -> Vec<u64> {
        let counters = self.0.lock().unwrap();
        counters
            .iter()
            .map(|counter| counter.load(Ordering::Relaxed))
            .collect()
    }
}

impl Recorder for AlwaysNew {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        let counter = Arc::new(AtomicU64::new(0));
        self.0.lock().unwrap().push(Arc::clone(&counter));
        Counter::from_arc(counter)
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn after_its_recorder_is_dropped_a_kept_handle_increments_what_was_registered_last() {
    for scope in [mapped(), Scope::none()] {
        let inner = AlwaysNew::default();
        let recorder = ScopedRecorderLayer::new()
            .revalidate_after(Duration::from_nanos(1))
            .layer(inner.clone());
        let kept = with_local_recorder(&recorder, || counter!("c_total"));
        scope.run(|| (0..3).for_each(|_| kept.increment(1)));
        drop(recorder);
        scope.run(|| (0..10).for_each(|_| kept.increment(1)));
        let values = inner.values();
        let (last, earlier) = values.split_last().unwrap();
        assert_eq!((*last, earlier.iter().sum()), (10, 3), "{values:?}");
    }
}

#[test]
fn a_handle_registers_once_in_each_of_a_thousand_scopes_on_eight_threads() {
    let all: Vec<_> = (0..10)
        .flat_map(|hundred| {
            hundred_scopes()
                .into_iter()
                .map(move |scope| scope.with(&Hundred(hundred)))
        })
        .collect();
    let distinct: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), 1_010);
    let inner = AlwaysNew::default();
    let recorder = ScopedRecorderLayer::new().never_revalidate().layer(inner.clone());
    let kept = with_local_recorder(&recorder, || counter!("c_total"));
    let use_all = || {
        std::thread::scope(|threads| {
            for at in 0..8 {
                let (kept, all) = (&kept, &all);
                threads.spawn(move || {
                    for round in 0..all.len() {
                        all[(at * 3 + round) % all.len()].run(|| kept.increment(1));
                    }
                });
            }
        });
        inner.values().len()
    };
    // Two threads may be the first in a scope at the same time.
    let registrations = use_all();
    assert!(registrations >= 1_010);
    assert_eq!(use_all(), registrations);
    assert_eq!(inner.values().iter().sum::<u64>(), 2 * 8 * 1_010);
}

#[test]
fn a_counter_may_be_emitted_while_a_threads_locals_are_destroyed() {
    struct CountsItsDrop(
        RefCell<Option<(Scope, Counter)>>,
        Arc<ScopedRecorder<PrometheusRecorder>>,
    );

    impl Drop for CountsItsDrop {
        fn drop(&mut self) {
            let (scope, kept) = self.0.take().unwrap();
            scope.run(|| {
                kept.increment(1);
                // The thread's local recorder is a thread local as well, and may be destroyed already.
                let metadata = Metadata::new("", Level::INFO, None);
                let key = Key::from_static_name("macro_total");
                self.1.register_counter(&key, &metadata).increment(1);
            });
        }
    }

    thread_local! {
        static EARLY: RefCell<Option<CountsItsDrop>> = const { RefCell::new(None) };
        static LATE: RefCell<Option<CountsItsDrop>> = const { RefCell::new(None) };
    }

    let (recorder, handle) = scoped(ScopedRecorderLayer::new());
    let recorder = Arc::new(recorder);
    // Not a scoped thread, because `thread::scope` returns before the locals are destroyed.
    let thread = std::thread::spawn(move || {
        let new = || {
            let kept = with_local_recorder(&*recorder, || counter!("kept_total"));
            CountsItsDrop(RefCell::new(Some((mapped(), kept))), Arc::clone(&recorder))
        };
        // The order of destruction is not specified: one of these two is destroyed after the caches.
        EARLY.with(|local| local.replace(Some(new())));
        with_local_recorder(&*recorder, || counter!("kept_total").increment(1));
        LATE.with(|local| local.replace(Some(new())));
    });
    thread.join().unwrap();
    assert_eq!(
        samples(&handle.render()),
        [
            "kept_total 1".to_owned(),
            format!("kept_total{{{MAPPED},{SERVER}}} 2"),
            format!("macro_total{{{MAPPED},{SERVER}}} 2"),
        ]
    );
}
