use std::{net::SocketAddr, time::Duration};

use axum::{
    BoxError, Router, error_handling::HandleErrorLayer, extract::Request, http::StatusCode,
    http::header::HOST, routing::get,
};
use dualstack_metrics::{
    ClientLabels, ClientLabelsLayer, FixedLabel, LabelsLayer, PropagateScopeLayer, Protocol, Scope,
    ServerBinding, scope::Scoped,
};
use metrics::counter;
use test_support::{and, assert_samples, sample, samples, seven};
use tokio::sync::mpsc;
use tower::{ServiceBuilder, buffer::BufferLayer, limit::RateLimitLayer, util::MapRequestLayer};

use super::{clients, listener, recorder};

async fn overloaded(_: BoxError) -> StatusCode {
    StatusCode::SERVICE_UNAVAILABLE
}

async fn hello() {
    counter!("hellos_total").increment(1);
}

fn count_call(request: Request) -> Request {
    counter!("calls_total").increment(1);
    request
}

#[tokio::test]
async fn a_rate_limit_keeps_the_labels() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (listener, address) = listener();
    let binding = ServerBinding::new(Protocol::Http, address);
    let tenants = FixedLabel::new("tenant", ["acme"]).unwrap();
    let tenant = move |request: &Request| tenants.value(request.headers().get(HOST));

    let limit = ServiceBuilder::new()
        .layer(ClientLabelsLayer::new(binding))
        .layer(HandleErrorLayer::new(overloaded))
        .layer(PropagateScopeLayer::new(BufferLayer::new(1024)))
        .layer(RateLimitLayer::new(100, Duration::from_secs(1)))
        .layer(LabelsLayer::new(tenant));

    let limit = limit.layer(MapRequestLayer::new(count_call));
    let app = Router::new().route("/", get(hello)).layer(limit);

    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, app).await });
    super::get(address, "/").await;
    let labels = |seen| and(seven("http", address, seen), "tenant", "other");
    let counted = |name, seen| sample(name, &labels(seen), 1);
    let expected = clients(address)
        .flat_map(|(_, seen)| ["hellos_total", "calls_total"].map(|name| counted(name, seen)));
    let mut lines = samples(&recorder.get_ref().handle().render());
    lines.retain(|line| !line.starts_with("label_values"));
    assert_samples(lines, expected);
}

#[tokio::test]
async fn a_worker_of_your_own_finds_the_scope() {
    let scope = Scope::new(&ClientLabels::UNKNOWN);
    let (send, mut receive) = mpsc::channel(1);
    let worker = tokio::spawn(async move {
        let request: Scoped<&str> = receive.recv().await.unwrap();
        let scope = request.scope();
        scope.run(|| (Scope::current(), request.into_inner()))
    });
    let request = "request";
    scope
        .run(|| send.try_send(Scope::current().wrap(request)))
        .unwrap();
    assert_eq!(worker.await.unwrap(), (scope, "request"));
}
