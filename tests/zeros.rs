//! Counters that start at zero although nobody increments them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread,
    time::Duration,
};

use dualstack_metrics::{
    ClientScopes, FixedLabel, Protocol, Scope, ScopedRecorder, ScopedRecorderLayer, ServerBinding,
    prometheus::{Install, PrometheusBuilder, PrometheusRecorder},
    recorder::{MetricKindMask, Zeros},
};
use metrics::{Counter, counter, histogram, with_local_recorder};
use test_support::{
    CountersOf, INET, INET6, Labels, MAPPED, Metrics, and, eventually, sample, samples, seven,
};

fn http() -> SocketAddr {
    "[::]:7070".parse().unwrap()
}

/// The scopes of a dual-stack socket.
fn scopes() -> ClientScopes {
    ClientScopes::new(ServerBinding::new(Protocol::Http, http()))
}

fn classes() -> [Labels; 2] {
    [MAPPED, INET6].map(|seen| seven("http", http(), seen))
}

fn recorder(layer: ScopedRecorderLayer) -> (ScopedRecorder<PrometheusRecorder>, Metrics) {
    let recorder = Install::new(PrometheusBuilder::new())
        .recorder(layer)
        .build_recorder();
    let metrics = Metrics::from(&recorder);
    (recorder, metrics)
}

/// A library that keeps its counters to itself.
struct Library {
    kept: [Counter; 2],
}

impl Library {
    fn start() -> Self {
        Self {
            kept: ["primary", "secondary"].map(|role| counter!("zones_total", "role" => role)),
        }
    }

    fn zeros() -> impl Iterator<Item = String> {
        let roles = ["primary", "secondary"].into_iter();
        roles.flat_map(|role| classes().map(|labels| sample("zones_total", &and(labels, "role", role), 0)))
    }
}

#[test]
fn the_counters_of_a_library_start_at_zero_whether_its_scopes_are_made_before_or_after() {
    let zeros = Zeros::new();
    for (layer, are_made_before) in [
        (ScopedRecorderLayer::new().zeros(scopes().expected()), true),
        (ScopedRecorderLayer::new().zeros(zeros.clone()), false),
    ] {
        for layer in [
            layer.clone(),
            layer.clone().never_revalidate(),
            layer.without_cache(),
        ] {
            let (recorder, metrics) = recorder(layer);
            let library = with_local_recorder(&recorder, Library::start);
            if !are_made_before {
                zeros.add(scopes().expected());
            }
            metrics.assert(Library::zeros());

            let client = scopes().for_client("[2001:db8::7]:1".parse::<SocketAddr>().unwrap());
            client.run(|| library.kept[1].increment(3));
            let [_, inet6] = classes();
            let counted = and(inet6, "role", "secondary");
            let at_zero = sample("zones_total", &counted, 0);
            let others = Library::zeros().filter(|zero| *zero != at_zero);
            metrics.assert(others.chain([sample("zones_total", &counted, 3)]));
        }
    }
}

#[test]
fn scopes_are_added_one_socket_after_the_other_and_each_once() {
    let zeros = Zeros::new();
    let (recorder, metrics) = recorder(ScopedRecorderLayer::new().zeros(zeros.clone()));
    with_local_recorder(&recorder, || drop(counter!("early_total")));
    zeros.add(scopes().expected());
    with_local_recorder(&recorder, || drop(counter!("later_total")));
    // On a thread that is gone.
    thread::scope(|scope| {
        scope.spawn(|| with_local_recorder(&recorder, || drop(counter!("elsewhere_total"))));
    });
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7071));
    let on_v4 = ClientScopes::new(ServerBinding::new(Protocol::Http, v4));
    zeros.add(on_v4.expected().chain(scopes().expected()));

    let names = ["early_total", "later_total", "elsewhere_total"];
    let labels = classes().into_iter().chain([seven("http", v4, INET)]);
    metrics.assert(labels.flat_map(|labels| names.map(|name| sample(name, &labels, 0))));
    assert_eq!(
        format!("{zeros:?}").matches("client_address_ip_family").count(),
        3
    );
}

#[test]
fn labels_of_ones_own_and_no_labels_can_start_at_zero() {
    let tenants = FixedLabel::new("tenant", ["acme"]).unwrap();
    let product = scopes().expected_with(&tenants.other()).unwrap();
    let (recorder, metrics) =
        recorder(ScopedRecorderLayer::new().zeros([Scope::none()].into_iter().chain(product)));
    with_local_recorder(&recorder, || drop(counter!("logins_total")));
    let tenants = ["acme", "other"].into_iter();
    let of_tenants = tenants.flat_map(|tenant| classes().map(|labels| and(labels, "tenant", tenant)));
    let labels = of_tenants.chain([Labels::new()]);
    metrics.assert(labels.map(|labels| sample("logins_total", &labels, 0)));
}

#[test]
fn other_metrics_are_as_without_zeros() {
    fn program() {
        let _excluded = counter!("process_cpu_seconds_total");
        let _histogram = histogram!("seconds");
        // Registered in a request.
        scopes().server().run(|| drop(counter!("late_total")));
        // A counter of this crate.
        _ = FixedLabel::new("tenant", ["acme"]).unwrap().value("unknown");
    }

    let plain = ScopedRecorderLayer::new().histograms().exclude_prefix("process_");
    let [without, with] = [plain.clone(), plain.zeros(scopes().expected())].map(|layer| {
        let (recorder, metrics) = recorder(layer);
        with_local_recorder(&recorder, program);
        metrics.samples()
    });
    assert_eq!(with, without);
    assert_eq!(
        with,
        [
            r#"label_values_overflowed_total{label="tenant",reason="unknown"} 1"#,
            "process_cpu_seconds_total 0",
        ]
    );
}

/// As the exporter forgets a counter that was only registered.
#[test]
fn an_idle_timeout_forgets_a_zero_and_the_counter_counts_again() {
    let timeout = |builder: PrometheusBuilder| {
        builder.idle_timeout(MetricKindMask::ALL, Some(Duration::from_millis(200)))
    };
    let alone = timeout(PrometheusBuilder::new()).build_recorder();
    let _kept = with_local_recorder(&alone, || counter!("errors_total"));
    let recorder = Install::new(PrometheusBuilder::new())
        .idle_timeout(MetricKindMask::ALL, Some(Duration::from_millis(200)))
        .recorder(ScopedRecorderLayer::new().zeros(scopes().expected()))
        .build_recorder();
    let metrics = Metrics::from(&recorder);
    let kept = with_local_recorder(&recorder, || counter!("errors_total"));

    assert_eq!(samples(&alone.handle().render()), ["errors_total 0"]);
    metrics.assert(classes().map(|labels| sample("errors_total", &labels, 0)));
    eventually("both are forgotten", || {
        alone.handle().render().is_empty() & metrics.samples().is_empty()
    });
    let client = scopes().expected().next().unwrap();
    client.run(|| kept.increment(1));
    let [inet, _] = classes();
    metrics.assert([sample("errors_total", &inet, 1)]);
}

#[test]
fn a_recorder_that_is_dropped_is_dropped_and_its_counters_with_it() {
    let (zeros, witness) = (Zeros::new(), Arc::new(()));
    let layer = ScopedRecorderLayer::new().zeros(zeros.clone());
    let kept = Arc::clone(&witness);
    let inner = CountersOf::new(move |_: &_, _: &_| {
        let _ = &kept;
        Counter::noop()
    });
    let first = metrics_util::layers::Layer::layer(&layer, inner);
    with_local_recorder(&first, || drop(counter!("first_total")));
    drop(first);
    assert_eq!(Arc::strong_count(&witness), 1);

    let (second, metrics) = recorder(layer);
    with_local_recorder(&second, || drop(counter!("second_total")));
    zeros.add(scopes().expected());
    metrics.assert(classes().map(|labels| sample("second_total", &labels, 0)));
}

#[test]
fn names_without_end_do_not_start_at_zero_without_end() {
    const MANY: usize = 5_000;

    let zeros = Zeros::new();
    let (recorder, metrics) = recorder(ScopedRecorderLayer::new().zeros(zeros.clone()));
    with_local_recorder(&recorder, || {
        for number in 0..MANY {
            counter!("requests_total", "path" => number.to_string()).increment(1);
        }
    });
    zeros.add([scopes().server()]);
    assert_eq!(metrics.total("requests_total"), MANY as u64);
    assert_eq!(metrics.samples().len(), MANY + 4_096);
}
