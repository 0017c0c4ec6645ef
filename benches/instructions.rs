//! Instructions of the hot operations, counted under callgrind by gungraun: a guard that noise cannot move.
//!
//! ```text
//! cargo install gungraun-runner --version =0.20.0 --locked     # once; and valgrind, from the system's packages
//! cargo bench --bench instructions                             # fails when an operation is over its limit
//! ```
//!
//! The profile `bench` has one codegen unit, so that the compiler inlines the same in each build. If a newer compiler or
//! libc moves a count, or a change is worth its price, set the limit to the new count.

#![allow(
    missing_docs,
    clippy::must_use_candidate,
    reason = "gungraun's macros make public items"
)]

use std::{
    convert::Infallible,
    hint::black_box,
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::ConnectInfo,
    routing::get,
};
use dualstack_metrics::{
    CappedLabel, ClientLabels, ClientLabelsLayer, ClientScopes, FixedLabel, Protocol, Scope,
    ScopedRecorderLayer, ServerBinding,
    prometheus::{Install, MetricKindMask},
};
use futures_util::FutureExt as _;
use gungraun::{
    Callgrind, EntryPoint, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group,
    main,
};
use http::{Request, Response};
use metrics::{Counter, counter, set_global_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::{Layer as _, Service as _, layer::util::Identity, service_fn};

const CALLS: u64 = 1_000;

/// Fails when one call takes 5 % more than this number of instructions.
fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::with_args(["--cache-sim=no"]);
    callgrind
        .format([EventKind::Ir])
        .entry_point(EntryPoint::Custom("*counted_by_callgrind*".into()))
        .hard_limits([(EventKind::Ir, instructions * CALLS * 105 / 100)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

/// Counts the instructions in here, and no others.
#[inline(never)]
fn counted_by_callgrind(mut operation: impl FnMut()) {
    for _ in 0..CALLS {
        operation();
    }
}

/// Warms an operation up, and then counts: the lease of a metric is confirmed 250 ms after its first use.
fn measured(mut operation: impl FnMut()) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(400) {
        operation();
    }
    counted_by_callgrind(operation);
}

fn binding() -> ServerBinding {
    ServerBinding::new(Protocol::Http, ([0; 16], 7070).into())
}

fn client() -> Scope {
    ClientScopes::new(binding()).for_client(ClientLabels::ALL[1])
}

fn install(layer: ScopedRecorderLayer) {
    set(Install::new(PrometheusBuilder::new()).recorder(layer));
}

fn install_with_an_idle_timeout() {
    let timeout = Some(Duration::from_secs(600));
    set(Install::new(PrometheusBuilder::new()).idle_timeout(MetricKindMask::ALL, timeout));
}

fn set(install: Install) {
    assert!(set_global_recorder(install.build_recorder()).is_ok());
}

#[library_benchmark(config = at_most(40))]
fn classify_an_address() {
    let peer = black_box(SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0207], 6969)));
    measured(|| _ = black_box(ClientLabels::from(black_box(peer))));
}

#[library_benchmark(config = at_most(7))]
fn enter_and_leave_a_scope() {
    let scope = client();
    measured(|| black_box(scope).run(|| black_box(())));
}

#[library_benchmark(config = at_most(38))]
fn compose_two_scopes() {
    let (outer, inner) = (client(), Scope::new(&ClientLabels::UNKNOWN));
    measured(|| _ = black_box(black_box(outer).with(&inner)));
}

#[library_benchmark(config = at_most(293))]
fn look_up_a_fixed_value() {
    let tenants = FixedLabel::new("tenant", (0..200).map(|n| n.to_string())).unwrap();
    measured(|| _ = black_box(tenants.value(black_box("150"))));
}

#[library_benchmark(config = at_most(348))]
fn look_up_a_capped_value() {
    static REFERER: CappedLabel = CappedLabel::new("referer", 20);

    measured(|| _ = black_box(REFERER.value(black_box("https://a.example/"))));
}

#[library_benchmark(config = at_most(342))]
fn compose_a_client_and_three_labels() {
    let value = |name, value| FixedLabel::new(name, ["a", "b"]).unwrap().value(value);
    let (client, labels) = (client(), (value("x", "a"), value("y", "b"), value("z", "c")));
    measured(|| _ = black_box(Scope::new(&(client, black_box(labels)))));
}

#[library_benchmark(config = at_most(481))]
fn macro_increment_bare() {
    assert!(set_global_recorder(PrometheusBuilder::new().build_recorder()).is_ok());
    measured(|| counter!("requests_total").increment(1));
}

#[library_benchmark(config = at_most(261))]
fn macro_increment_in_a_scope() {
    install(ScopedRecorderLayer::new());
    client().run(|| measured(|| counter!("requests_total").increment(1)));
}

#[library_benchmark(config = at_most(308))]
fn macro_increment_in_a_scope_with_an_idle_timeout() {
    install_with_an_idle_timeout();
    client().run(|| measured(|| counter!("requests_total").increment(1)));
}

#[library_benchmark(config = at_most(273))]
fn macro_increment_in_a_scope_with_a_label() {
    install(ScopedRecorderLayer::new());
    client().run(|| measured(|| counter!("requests_total", "request_kind" => "announce").increment(1)));
}

#[library_benchmark(config = at_most(258))]
fn macro_increment_outside_every_scope() {
    install(ScopedRecorderLayer::new());
    measured(|| counter!("requests_total").increment(1));
}

#[library_benchmark(config = at_most(615))]
fn macro_increment_excluded() {
    install(ScopedRecorderLayer::new().exclude("requests_total"));
    client().run(|| measured(|| counter!("requests_total").increment(1)));
}

#[library_benchmark(config = at_most(76))]
fn kept_handle_in_a_scope() {
    install(ScopedRecorderLayer::new());
    let kept: Counter = counter!("requests_total");
    client().run(|| measured(|| kept.increment(1)));
}

#[library_benchmark(config = at_most(111))]
fn kept_handle_in_a_scope_with_an_idle_timeout() {
    install_with_an_idle_timeout();
    let kept: Counter = counter!("requests_total");
    client().run(|| measured(|| kept.increment(1)));
}

#[library_benchmark(config = at_most(391))]
fn http_layer_around_a_ready_service() {
    let peer: SocketAddr = ([192, 0, 2, 7], 50_000).into();
    let inner = service_fn(|_: Request<()>| std::future::ready(Ok::<_, Infallible>(Response::new(()))));
    let mut service = ClientLabelsLayer::new(binding())
        .source(move |_: &_| Some(peer))
        .without_body()
        .layer(inner);
    measured(|| _ = black_box(service.call(black_box(Request::new(()))).now_or_never()));
}

fn router() -> Router {
    Router::new().route("/", get(async || "hello"))
}

/// A request, and its response read to the end.
fn served_by(router: Router) {
    let mut service = router.with_state::<()>(()).into_service::<Body>();
    measured(|| {
        let mut request = Request::new(Body::empty());
        let peer: SocketAddr = ([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0207], 50_000).into();
        request.extensions_mut().insert(ConnectInfo(peer));
        let response = service.call(black_box(request)).now_or_never().unwrap().unwrap();
        let body = to_bytes(response.into_body(), 16).now_or_never().unwrap();
        assert_eq!(black_box(body.unwrap()), "hello");
    });
}

#[library_benchmark(config = at_most(4_990))]
fn axum_router_without_a_layer() {
    served_by(router());
}

#[library_benchmark(config = at_most(5_858))]
fn axum_router_with_a_layer_that_does_nothing() {
    served_by(router().layer(Identity::new()));
}

#[library_benchmark(config = at_most(6_493))]
fn axum_router_with_the_http_layer() {
    served_by(router().layer(ClientLabelsLayer::new(binding())));
}

#[library_benchmark(config = at_most(6_167))]
fn axum_router_with_the_http_layer_without_the_body() {
    served_by(router().layer(ClientLabelsLayer::new(binding()).without_body()));
}

library_benchmark_group!(
    name = hot_operations,
    benchmarks = [
        classify_an_address,
        enter_and_leave_a_scope,
        compose_two_scopes,
        look_up_a_fixed_value,
        look_up_a_capped_value,
        compose_a_client_and_three_labels,
        macro_increment_bare,
        macro_increment_in_a_scope,
        macro_increment_in_a_scope_with_an_idle_timeout,
        macro_increment_in_a_scope_with_a_label,
        macro_increment_outside_every_scope,
        macro_increment_excluded,
        kept_handle_in_a_scope,
        kept_handle_in_a_scope_with_an_idle_timeout,
        http_layer_around_a_ready_service,
        axum_router_without_a_layer,
        axum_router_with_a_layer_that_does_nothing,
        axum_router_with_the_http_layer,
        axum_router_with_the_http_layer_without_the_body
    ]
);
main!(library_benchmark_groups = hot_operations);
