use std::{net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use dualstack_metrics::{
    ClientScopes, FixedLabel, Protocol, Scope, ScopedRecorder, ScopedRecorderLayer, ServerBinding,
    prometheus::{Install, MetricKindMask, PrometheusBuilder, PrometheusRecorder},
    recorder::Zeros,
    scope::TooManyLabelSets,
};
use metrics::counter;
use test_support::{INET6, MAPPED, and, assert_samples, sample, samples, series, seven, soon};
use tokio::time::interval;
use tower::ServiceExt as _;

use super::request;

fn start_at_zero(scopes: &[Scope]) {
    for scope in scopes {
        scope.run(|| counter!("requests_total").increment(0));
    }
}

const SERVER: &str = "[::]:6969";
const TIMEOUT: Duration = Duration::from_millis(200);

/// Forgets what nobody counts.
fn recorder() -> ScopedRecorder<PrometheusRecorder> {
    Install::new(PrometheusBuilder::new())
        .idle_timeout(MetricKindMask::ALL, Some(TIMEOUT))
        .build_recorder()
}

fn scopes() -> (ClientScopes, FixedLabel) {
    let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, SERVER.parse().unwrap()));
    (scopes, FixedLabel::new("tenant", ["acme"]).unwrap())
}

fn zeros() -> Vec<Scope> {
    let (scopes, tenants) = scopes();
    let zeros = scopes.expected_with(&tenants.other()).unwrap();
    start_at_zero(&zeros);
    zeros
}

fn expected() -> Vec<String> {
    let server: SocketAddr = SERVER.parse().unwrap();
    let tenants = ["acme", "other"].into_iter();
    let of_tenant = |tenant| {
        [MAPPED, INET6].map(|seen| {
            let labels = and(seven("udp", server, seen), "tenant", tenant);
            sample("requests_total", &labels, 0)
        })
    };
    let mut expected: Vec<_> = tenants.flat_map(of_tenant).collect();
    expected.sort();
    expected
}

#[test]
fn each_tenant_starts_at_zero() -> Result<(), TooManyLabelSets> {
    let zeros = Zeros::new();
    let recorder = Install::new(PrometheusBuilder::new())
        .recorder(ScopedRecorderLayer::new().zeros(zeros.clone()))
        .build_recorder();
    metrics::with_local_recorder(&recorder, || drop(counter!("requests_total")));
    let (scopes, tenants) = scopes();

    zeros.add(scopes.expected_with(&tenants.other())?);

    assert_samples(samples(&recorder.get_ref().handle().render()), expected());
    Ok(())
}

/// Longer than the timeout, because something else is forgotten.
async fn the_zeros_stay(mut scrape: impl AsyncFnMut() -> String) {
    counter!("forgotten_total").increment(1);
    loop {
        let output = scrape().await;
        if series(&output, "forgotten_total").is_empty() {
            return assert_samples(samples(&output), expected());
        }
        tokio::time::sleep(TIMEOUT / 8).await;
    }
}

#[tokio::test]
async fn each_scrape_keeps_the_zeros() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let metrics = recorder.get_ref().handle();
    let zeros = zeros();

    let scrape = async move || {
        start_at_zero(&zeros); // before each render
        metrics.render()
    };
    let app = Router::new().route("/metrics", get(scrape));

    the_zeros_stay(async || {
        let response = app.clone().oneshot(request("/metrics")).await.unwrap();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await;
        String::from_utf8(body.unwrap().to_vec()).unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_timer_keeps_the_zeros() {
    let period = TIMEOUT / 8;
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let handle = recorder.get_ref().handle();
    let zeros = zeros();
    counter!("forgotten_total").increment(1);

    tokio::spawn(async move {
        let mut timer = interval(period); // shorter than the idle timeout
        loop {
            timer.tick().await;
            start_at_zero(&zeros);
        }
    });

    // A busy machine may delay the timer, so the zeros may be away for a moment.
    soon("the rest is forgotten, and the zeros stay", || {
        let output = handle.render();
        series(&output, "forgotten_total").is_empty() && samples(&output) == expected()
    })
    .await;
}
