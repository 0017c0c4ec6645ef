//! A request through the layer: `cargo bench --bench http_layer`.
//!
//! Times of one machine; `cargo bench --bench ratios -- http` compares.

use std::{convert::Infallible, future::ready, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    routing::{RouterIntoService, get},
};
use criterion::{Criterion, criterion_group, criterion_main};
use dualstack_metrics::{ClientLabelsLayer, Protocol, ServerBinding, prometheus::Install};
use futures_util::FutureExt as _;
use http::{Request, Response};
use metrics::{Recorder, counter, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_tracing_context::{MetricsLayer, TracingContextLayer};
use metrics_util::layers::Layer as _;
use tower::{Layer as _, Service, service_fn};
use tower_http::trace::TraceLayer;
use tracing_subscriber::layer::SubscriberExt as _;

fn layer() -> ClientLabelsLayer {
    ClientLabelsLayer::new(ServerBinding::new(Protocol::Http, ([0; 16], 7070).into()))
}

fn call<B>(service: &mut impl Service<Request<Body>, Response = Response<B>, Error = Infallible>) {
    let peer: SocketAddr = ([192, 0, 2, 7], 50_000).into();
    let mut request = Request::new(Body::empty());
    request.extensions_mut().insert(ConnectInfo(peer));
    drop(
        service
            .call(request)
            .now_or_never()
            .expect("a handler that is ready at once"),
    );
}

fn tower(c: &mut Criterion) {
    let inner = service_fn(|_: Request<Body>| ready(Ok::<_, Infallible>(Response::new(Body::empty()))));
    let mut group = c.benchmark_group("bare tower service");
    group.bench_function("without", |b| b.iter(|| call(&mut { inner })));
    group.bench_function("with the layer", |b| {
        let mut service = layer().layer(inner);
        b.iter(|| call(&mut service));
    });
    group.bench_function("with the layer, without the body", |b| {
        let mut service = layer().without_body().layer(inner);
        b.iter(|| call(&mut service));
    });
    group.finish();
}

fn axum(c: &mut Criterion) {
    let app = || Router::new().route("/", get(async || counter!("requests_total").increment(1)));
    // As `into_make_service` makes it.
    let service = |router: Router| router.with_state::<()>(()).into_service::<Body>();
    let bare = PrometheusBuilder::new().build_recorder();
    let ours = Install::new(PrometheusBuilder::new()).build_recorder();
    let context = TracingContextLayer::all().layer(PrometheusBuilder::new().build_recorder());

    let mut group = c.benchmark_group("axum router with a counter");
    let mut bench = |what: &str, recorder: &dyn Recorder, mut service: RouterIntoService<Body>| {
        group.bench_function(what, |b| {
            with_local_recorder(recorder, || b.iter(|| call(&mut service)));
        });
    };
    bench("unlabelled", &bare, service(app()));
    bench("with the layer", &ours, service(app().layer(layer())));
    bench(
        "with the layer, without the body",
        &ours,
        service(app().layer(layer().without_body())),
    );
    bench(
        "unlabelled, with `TraceLayer`",
        &bare,
        service(app().layer(TraceLayer::new_for_http())),
    );
    let spans = TraceLayer::new_for_http().make_span_with(|_: &Request<Body>| {
        tracing::info_span!(
            "request",
            client_address_ip_family = "inet",
            client_address_ip_type = "plain"
        )
    });
    let subscriber = tracing_subscriber::registry().with(MetricsLayer::new());
    tracing::subscriber::with_default(subscriber, || {
        bench(
            "with a span per request, `metrics-tracing-context`",
            &context,
            service(app().layer(spans)),
        );
    });
    group.finish();
}

criterion_group!(benches, tower, axum);
criterion_main!(benches);
