//! The recorder from outside: the output of the Prometheus exporter, series by series.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dualstack_metrics::{
    ClientLabels, ClientScopes, Protocol, Scope, ScopedRecorder, ScopedRecorderLayer, ServerBinding,
    prometheus::Install,
};
use metrics::{
    Counter, Key, Level, Metadata, Recorder, Unit, counter, gauge, histogram, with_local_recorder,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use metrics_util::{
    MetricKindMask,
    layers::{FanoutBuilder, FilterLayer, Layer, PrefixLayer, RouterBuilder, Stack},
};
use test_support::{CountersOf, Digit, Metrics, eventually, numbered, samples};

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

fn scoped(layer: ScopedRecorderLayer) -> (ScopedRecorder<PrometheusRecorder>, Metrics) {
    let recorder = Install::new(PrometheusBuilder::new())
        .recorder(layer)
        .build_recorder();
    let metrics = Metrics::from(&recorder);
    (recorder, metrics)
}

/// The samples of a program.
fn counted(layer: ScopedRecorderLayer, program: impl FnOnce()) -> Metrics {
    let (recorder, metrics) = scoped(layer);
    with_local_recorder(&recorder, program);
    metrics
}

#[test]
fn macro_and_kept_handle_give_the_same_series() {
    let (recorder, metrics) = scoped(ScopedRecorderLayer::new());
    with_local_recorder(&recorder, || {
        let kept = counter!("requests_total");
        let registered_inside = native().run(|| counter!("requests_total"));
        assert_eq!(
            metrics.samples(),
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
    metrics.assert([
        "requests_total 11000".to_owned(),
        format!("requests_total{{{MAPPED},{SERVER}}} 111"),
        format!("requests_total{{{NATIVE},{SERVER}}} 111"),
        format!("zeros_total{{{MAPPED},{SERVER}}} 0"),
    ]);
}

#[test]
fn absolute_is_never_scoped() {
    let counted = counted(ScopedRecorderLayer::new(), || {
        mapped().run(|| counter!("total").absolute(7));
        counter!("total").absolute(9);
    });
    counted.assert(["total 9"]);
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
        let (recorder, metrics) = scoped(layer);
        with_local_recorder(&recorder, program);
        assert_eq!(metrics.samples(), samples(&inner.handle().render()));
    }
}

#[test]
fn the_label_at_the_call_wins_then_the_inner_scope_then_the_outer() {
    let outer = Scope::new(&(Digit::<0>(1), Digit::<1>(1)));
    let scope = outer.with(&Digit::<1>(2));
    let counted = counted(ScopedRecorderLayer::new(), || {
        scope.run(|| {
            counter!("a_total").increment(1);
            counter!("b_total", "ones" => "call").increment(1);
            counter!("c_total", "tens" => "call", "other" => "x").increment(1);
            counter!("d_total", "twice" => "1", "twice" => "2", "tens" => "3", "tens" => "4").increment(1);
        });
        Scope::new(&ClientLabels::UNKNOWN).run(|| {
            counter!("e_total", "client.address.ip.family" => "call").increment(1);
            counter!("f_total", "a.b" => "1", "a_b" => "2").increment(1);
        });
    });
    counted.assert([
        r#"a_total{ones="1",tens="2"} 1"#,
        r#"b_total{ones="call",tens="2"} 1"#,
        r#"c_total{ones="1",other="x",tens="call"} 1"#,
        r#"d_total{ones="1",tens="4",twice="2"} 1"#,
        r#"e_total{client_address_ip_family="call",client_address_ip_type="unknown"} 1"#,
        r#"f_total{a_b="2",client_address_ip_family="unknown",client_address_ip_type="unknown"} 1"#,
    ]);
}

#[test]
fn excluded_names_go_straight_through_to_the_inner_recorder() {
    let counted = counted(
        ScopedRecorderLayer::new()
            .exclude_prefix("swarm_coordination_registry_")
            .exclude("tracker_core_persistent_torrents_downloads_total"),
        || {
            Scope::new(&Digit::<0>(0)).run(|| {
                let _registered = counter!("swarm_coordination_registry_torrents_added_total");
                for _ in 0..2 {
                    counter!("tracker_core_persistent_torrents_downloads_total").increment(1);
                    counter!("tracker_core_requests_total").increment(1);
                }
            });
        },
    );
    counted.assert([
        "swarm_coordination_registry_torrents_added_total 0",
        "tracker_core_persistent_torrents_downloads_total 2",
        r#"tracker_core_requests_total{ones="0"} 2"#,
    ]);
}

#[test]
fn if_names_are_included_only_they_are_scoped() {
    let counted = counted(
        ScopedRecorderLayer::new()
            .include_prefix(MetricKindMask::ALL, "udp_")
            .include(MetricKindMask::ALL, "http_requests_total")
            .histograms()
            .gauges(),
        || {
            Scope::new(&Digit::<0>(0)).run(|| {
                counter!("udp_requests_total").increment(1);
                counter!("http_requests_total").increment(1);
                counter!("http_requests_total_2").increment(1);
                gauge!("udp_sockets").set(1.0);
                gauge!("http_sockets").set(1.0);
            });
        },
    );
    counted.assert([
        "http_requests_total_2 1",
        r#"http_requests_total{ones="0"} 1"#,
        "http_sockets 1",
        r#"udp_requests_total{ones="0"} 1"#,
        r#"udp_sockets{ones="0"} 1"#,
    ]);
}

#[test]
fn one_histogram_is_scoped_beside_all_counters_with_the_same_labels() {
    let (recorder, metrics) =
        scoped(ScopedRecorderLayer::new().include(MetricKindMask::HISTOGRAM, "request_seconds"));
    with_local_recorder(&recorder, || {
        mapped().run(|| {
            counter!("requests_total").increment(1);
            histogram!("request_seconds").record(2.0);
            histogram!("response_seconds").record(3.0);
            gauge!("sockets").set(4.0);
        });
    });
    let mut lines = metrics.samples();
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
    let program = |metrics: &Metrics| {
        let (kept_histogram, kept_gauge) = (histogram!("h"), gauge!("g"));
        Scope::new(&Digit::<0>(1)).run(|| {
            kept_histogram.record(1.0);
            histogram!("h").record_many(2.0, 2);
            kept_gauge.increment(1.0);
            let registered_inside = gauge!("g");
            registered_inside.increment(10.0);
            Scope::new(&Digit::<0>(2)).run(|| registered_inside.decrement(3.0));
        });
        metrics
            .samples()
            .into_iter()
            .filter(|line| !line.contains("quantile"))
            .collect::<Vec<_>>()
    };

    let (recorder, metrics) = scoped(ScopedRecorderLayer::new());
    let unscoped = with_local_recorder(&recorder, || program(&metrics));
    assert_eq!(unscoped, ["g 8", "h_count 3", "h_sum 5"]);

    let (recorder, metrics) = scoped(ScopedRecorderLayer::new().histograms().gauges());
    let scoped = with_local_recorder(&recorder, || program(&metrics));
    assert_eq!(
        scoped,
        [
            "g 1",
            r#"g{ones="1"} 7"#,
            r#"h_count{ones="1"} 3"#,
            r#"h_sum{ones="1"} 5"#
        ]
    );
}

#[test]
fn descriptions_pass_through() {
    let (recorder, metrics) = scoped(ScopedRecorderLayer::new());
    with_local_recorder(&recorder, || {
        metrics::describe_counter!("c_total", Unit::Count, "Counts.");
        metrics::describe_gauge!("g", "Gauges.");
        metrics::describe_histogram!("h", "Records.");
        Scope::new(&Digit::<0>(0)).run(|| counter!("c_total").increment(1));
        gauge!("g").set(1.0);
        histogram!("h").record(1.0);
    });
    let output = metrics.render();
    for line in ["# HELP c_total Counts.", "# HELP g Gauges.", "# HELP h Records."] {
        assert!(output.lines().any(|other| other == line), "{line} in {output}");
    }
}

#[test]
fn layers_of_metrics_util_are_above_and_below() {
    let prometheus = PrometheusBuilder::new().build_recorder();
    let metrics = Metrics::from(prometheus.handle());
    let recorder = Stack::new(prometheus)
        .push(PrefixLayer::new("below"))
        .push(FilterLayer::from_patterns(["dropped_below"]))
        .push(ScopedRecorderLayer::new())
        .push(FilterLayer::from_patterns(["dropped_above"]))
        .push(PrefixLayer::new("above"));
    with_local_recorder(&recorder, || {
        let kept = counter!("kept_total");
        Scope::new(&Digit::<0>(3)).run(|| {
            kept.increment(1);
            counter!("kept_total").increment(1);
            counter!("dropped_below_total").increment(1);
            counter!("dropped_above_total").increment(1);
        });
    });
    metrics.assert([r#"below_above_kept_total{ones="3"} 2"#]);
}

#[test]
fn router_and_fanout_are_above_with_each_target_wrapped() {
    let (first, first_metrics) = scoped(ScopedRecorderLayer::new());
    let (second, second_metrics) = scoped(ScopedRecorderLayer::new());
    let (third, third_metrics) = scoped(ScopedRecorderLayer::new());
    let fanout = FanoutBuilder::default()
        .add_recorder(second)
        .add_recorder(third)
        .build();
    let mut router = RouterBuilder::from_recorder(first);
    router.add_route(MetricKindMask::COUNTER, "both_", fanout);
    let router = router.build();
    with_local_recorder(&router, || {
        let kept = counter!("both_total");
        Scope::new(&Digit::<0>(4)).run(|| {
            kept.increment(1);
            counter!("one_total").increment(1);
        });
    });
    first_metrics.assert([r#"one_total{ones="4"} 1"#]);
    second_metrics.assert([r#"both_total{ones="4"} 1"#]);
    third_metrics.assert([r#"both_total{ones="4"} 1"#]);
}

#[test]
fn metrics_tracing_context_is_above_or_without_cache_below() {
    use metrics_tracing_context::{MetricsLayer, TracingContextLayer};
    use tracing_subscriber::layer::SubscriberExt as _;

    let program = |recorder: &dyn Recorder| {
        let subscriber = tracing_subscriber::registry().with(MetricsLayer::new());
        tracing::subscriber::with_default(subscriber, || {
            with_local_recorder(recorder, || {
                for user in ["ferris", "corro"] {
                    let span = tracing::info_span!("login", user, ones = "span");
                    let _entered = span.enter();
                    Scope::new(&(Digit::<0>(5), Digit::<1>(5))).run(|| counter!("logins_total").increment(1));
                }
            });
        });
    };
    let expected = [
        r#"logins_total{ones="span",tens="5",user="corro"} 1"#,
        r#"logins_total{ones="span",tens="5",user="ferris"} 1"#,
    ];

    let (recorder, metrics) = scoped(ScopedRecorderLayer::new());
    program(&TracingContextLayer::all().layer(recorder));
    metrics.assert(expected);

    // Below, it needs `without_cache`, and the label of the scope counts as written at the call.
    let prometheus = PrometheusBuilder::new().build_recorder();
    let metrics = Metrics::from(prometheus.handle());
    program(
        &ScopedRecorderLayer::new()
            .without_cache()
            .layer(TracingContextLayer::all().layer(prometheus)),
    );
    metrics.assert([
        r#"logins_total{ones="5",tens="5",user="corro"} 1"#,
        r#"logins_total{ones="5",tens="5",user="ferris"} 1"#,
    ]);
}

#[test]
fn two_recorders_in_turn_on_one_thread_stay_apart() {
    let (a, a_metrics) = scoped(ScopedRecorderLayer::new());
    let (b, b_metrics) = scoped(ScopedRecorderLayer::new().exclude("c_total"));
    for _ in 0..3 {
        with_local_recorder(&a, || mapped().run(|| counter!("c_total").increment(1)));
        with_local_recorder(&b, || mapped().run(|| counter!("c_total").increment(10)));
    }
    a_metrics.assert([format!("c_total{{{MAPPED},{SERVER}}} 3")]);
    b_metrics.assert(["c_total 30"]);
}

#[test]
fn more_counters_than_are_cached_in_a_hundred_scopes() {
    let (recorder, metrics) = scoped(ScopedRecorderLayer::new());
    let scopes: Vec<_> = (0..100).map(numbered).chain([Scope::none()]).collect();
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
    let samples = metrics.samples();
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
fn a_metric_that_the_exporter_forgot_counts_again_from_zero() {
    let idle = Duration::from_secs(1);
    for (histograms, by_install) in [(false, true), (true, false)] {
        let mut layer = ScopedRecorderLayer::new();
        if histograms {
            layer = layer.histograms();
        }
        let builder = PrometheusBuilder::new();
        let recorder = if by_install {
            let install = Install::new(builder).recorder(layer);
            install
                .idle_timeout(MetricKindMask::ALL, Some(idle))
                .build_recorder()
        } else {
            layer.wrap(
                builder
                    .idle_timeout(MetricKindMask::ALL, Some(idle))
                    .build_recorder(),
            )
        };
        let metrics = Metrics::from(&recorder);
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
                lines.push(format!(r#"{name}{{ones="6"}} {count}"#));
            }
            // A histogram that is not scoped is the exporter's own, which does not count again.
            lines.retain(|line| histograms || !line.starts_with("h_"));
            lines
        };
        let counts = || {
            let mut lines = metrics.samples();
            lines.retain(|line| line.starts_with("h_count") && histograms || line.contains("_total"));
            lines
        };

        for round in 0..3 {
            // On this thread, then on another, which has its own cache.
            increment();
            Scope::new(&Digit::<0>(6)).run(increment);
            assert_eq!(counts(), expected(1), "round {round}");
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    increment();
                    Scope::new(&Digit::<0>(6)).run(increment);
                });
            });
            assert_eq!(counts(), expected(2), "round {round}");
            eventually("all is forgotten", || metrics.samples().is_empty());
        }
    }
}

#[test]
fn an_idle_timeout_of_the_builder_is_replaced() {
    let builder =
        || PrometheusBuilder::new().idle_timeout(MetricKindMask::ALL, Some(Duration::from_nanos(1)));
    let all_but_gauges = MetricKindMask::COUNTER | MetricKindMask::HISTOGRAM;
    for (install, expected) in [
        (Install::new(builder()), &["c_total 1", "g 1"][..]),
        (
            Install::new(builder()).idle_timeout(all_but_gauges, Some(Duration::from_nanos(1))),
            &["g 1"],
        ),
    ] {
        let recorder = install.build_recorder();
        let metrics = Metrics::from(&recorder);
        with_local_recorder(&recorder, || {
            counter!("c_total").increment(1);
            gauge!("g").set(1.0);
        });
        // The exporter notes what it has at the first render, and forgets at the second.
        metrics.assert(["c_total 1", "g 1"]);
        metrics.assert(expected.iter().copied());
    }
}

#[test]
fn a_metric_in_use_is_not_forgotten() {
    let recorder = Install::new(PrometheusBuilder::new())
        .idle_timeout(MetricKindMask::ALL, Some(Duration::from_millis(400)))
        .build_recorder();
    let metrics = Metrics::from(&recorder);
    let mut count = 0;
    let start = Instant::now();
    with_local_recorder(&recorder, || {
        while start.elapsed() < Duration::from_millis(1_500) {
            mapped().run(|| counter!("c_total").increment(1));
            count += 1;
            metrics.assert([format!("c_total{{{MAPPED},{SERVER}}} {count}")]);
        }
    });
}

/// Name, target, level and module path.
type Registration = (String, String, Level, Option<String>);

/// The registrations at a recorder that counts them itself.
fn witnessed(layer: &ScopedRecorderLayer, program: impl FnOnce(&dyn Recorder)) -> Vec<Registration> {
    let registered = Arc::new(Mutex::new(Vec::new()));
    let witness = Arc::clone(&registered);
    let recorder = layer.layer(CountersOf::new(move |key, metadata| {
        if key.name() != "registrations_total" {
            counter!("registrations_total").increment(1);
        }
        witness.lock().unwrap().push((
            key.name().to_owned(),
            metadata.target().to_owned(),
            *metadata.level(),
            metadata.module_path().map(ToOwned::to_owned),
        ));
        Counter::noop()
    }));
    with_local_recorder(&recorder, || program(&recorder));
    std::mem::take(&mut *registered.lock().unwrap())
}

#[test]
fn a_metric_that_is_forgotten_before_its_first_use_loses_one_increment() {
    for scope in [mapped(), Scope::none()] {
        let registered = Registered::default();
        let recorder = ScopedRecorderLayer::new().layer(registered.recorder(2));
        with_local_recorder(&recorder, || {
            let handle = counter!("c_total");
            scope.run(|| (0..100).for_each(|_| handle.increment(1)));
        });
        assert_eq!(registered.values(), [1, 99]);
    }
}

#[test]
fn a_recorder_that_is_dropped_is_dropped() {
    let alive = Arc::new(());
    let inner = Arc::clone(&alive);
    let recorder = ScopedRecorderLayer::new().layer(CountersOf::new(move |_, _| {
        let _ = &inner;
        Counter::noop()
    }));
    let kept = with_local_recorder(&recorder, || {
        let kept = counter!("c_total");
        mapped().run(|| kept.increment(1));
        counter!("c_total").increment(1);
        kept
    });
    assert_eq!(Arc::strong_count(&alive), 2);
    drop(recorder);
    assert_eq!(Arc::strong_count(&alive), 1);
    native().run(|| kept.increment(1));
}

#[test]
fn after_its_recorder_is_dropped_a_kept_handle_increments_its_counters() {
    let layer = ScopedRecorderLayer::new().revalidate_after(Duration::from_nanos(1));
    let recorder = layer.wrap(PrometheusBuilder::new().build_recorder());
    let metrics = Metrics::from(&recorder);
    let kept = with_local_recorder(&recorder, || counter!("c_total"));
    mapped().run(|| kept.increment(1));
    mapped().run(|| kept.increment(1));
    drop(recorder);
    mapped().run(|| kept.increment(1));
    native().run(|| kept.increment(1));
    metrics.assert([format!("c_total{{{MAPPED},{SERVER}}} 3")]);
}

#[test]
fn a_recorder_may_emit_metrics_while_it_registers_one() {
    let registered = witnessed(&ScopedRecorderLayer::new().never_revalidate(), |_| {
        for _ in 0..3 {
            mapped().run(|| counter!("c_total").increment(1));
        }
    });
    let names: Vec<_> = registered.iter().map(|(name, ..)| &**name).collect();
    assert_eq!(names, ["registrations_total", "c_total"]);
}

#[test]
fn call_sites_that_differ_only_in_metadata_keep_their_own() {
    let registered = witnessed(&ScopedRecorderLayer::new().never_revalidate(), |recorder| {
        for _ in 0..2 {
            counter!(target: "a", level: Level::INFO, "c_total").increment(1);
            counter!(target: "b", level: Level::INFO, "c_total").increment(1);
            counter!(target: "b", level: Level::DEBUG, "c_total").increment(1);
            let metadata = Metadata::new("b", Level::DEBUG, None);
            let key = Key::from_static_name("c_total");
            recorder.register_counter(&key, &metadata).increment(1);
        }
    });
    let registered: Vec<_> = registered
        .iter()
        .filter(|(name, ..)| name == "c_total")
        .map(|(_, target, level, path)| (&**target, *level, path.as_deref()))
        .collect();
    let module_path = Some(module_path!());
    assert_eq!(
        registered,
        [
            ("a", Level::INFO, module_path),
            ("b", Level::INFO, module_path),
            ("b", Level::DEBUG, module_path),
            ("b", Level::DEBUG, None),
        ]
    );
}

#[test]
fn a_module_path_is_compared_even_if_it_is_the_target() {
    const SAME: &str = "module";

    let registered = witnessed(&ScopedRecorderLayer::new().never_revalidate(), |recorder| {
        let key = Key::from_static_name("registrations_total");
        for module_path in ["another", SAME] {
            let metadata = Metadata::new(SAME, Level::INFO, Some(module_path));
            recorder.register_counter(&key, &metadata).increment(1);
        }
    });
    let module_paths: Vec<_> = registered
        .iter()
        .map(|(.., path)| path.as_deref().unwrap())
        .collect();
    assert_eq!(module_paths, ["another", SAME]);
}

#[test]
fn the_inner_recorder_registers_once_or_at_each_use() {
    for (layer, times) in [
        (ScopedRecorderLayer::new().never_revalidate(), 1),
        (ScopedRecorderLayer::new().without_cache(), 20),
        (ScopedRecorderLayer::new().revalidate_after(Duration::ZERO), 20),
    ] {
        let registered = witnessed(&layer, |_| {
            let kept = counter!("registrations_total");
            for _ in 0..10 {
                kept.increment(1);
                counter!("registrations_total").increment(1);
            }
        });
        assert_eq!(registered.len(), times);
    }
}

/// Each counter that was registered.
#[derive(Clone, Default)]
struct Registered(Arc<Mutex<Vec<Arc<AtomicU64>>>>);

impl Registered {
    /// A recorder whose first `new` counters are different at each registration. Later ones are the last of them.
    fn recorder(&self, new: usize) -> impl Recorder + Send + Sync + 'static {
        let Self(all) = self.clone();
        CountersOf::new(move |_, _| {
            let mut all = all.lock().unwrap();
            if all.len() < new {
                all.push(Arc::default());
            }
            Counter::from_arc(Arc::clone(&all[all.len() - 1]))
        })
    }

    fn values(&self) -> Vec<u64> {
        let counters = self.0.lock().unwrap();
        counters
            .iter()
            .map(|counter| counter.load(Ordering::Relaxed))
            .collect()
    }
}

#[test]
fn after_its_recorder_is_dropped_a_kept_handle_increments_the_counter_that_was_registered_last() {
    for scope in [mapped(), Scope::none()] {
        let registered = Registered::default();
        let recorder = ScopedRecorderLayer::new()
            .revalidate_after(Duration::from_nanos(1))
            .layer(registered.recorder(usize::MAX));
        let kept = with_local_recorder(&recorder, || counter!("c_total"));
        scope.run(|| (0..3).for_each(|_| kept.increment(1)));
        drop(recorder);
        scope.run(|| (0..10).for_each(|_| kept.increment(1)));
        let values = registered.values();
        let (last, earlier) = values.split_last().unwrap();
        assert_eq!((*last, earlier), (11, &[1, 1][..]));
    }
}

#[test]
fn a_handle_registers_once_in_each_of_a_thousand_scopes_on_eight_threads() {
    let alone = (0..10).map(|hundreds| Scope::new(&Digit::<2>(hundreds)));
    let all: Vec<_> = (0..1_000).map(numbered).chain(alone).collect();
    let inner = Registered::default();
    let recorder = ScopedRecorderLayer::new()
        .never_revalidate()
        .layer(inner.recorder(usize::MAX));
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

    let (recorder, metrics) = scoped(ScopedRecorderLayer::new());
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
    metrics.assert([
        "kept_total 1".to_owned(),
        format!("kept_total{{{MAPPED},{SERVER}}} 2"),
        format!("macro_total{{{MAPPED},{SERVER}}} 2"),
    ]);
}
