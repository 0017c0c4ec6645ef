use std::net::SocketAddr;

use axum::{Router, routing::get};
use dualstack_metrics::{ClientScopes, Protocol, ServerBinding};
use metrics::counter;
use test_support::{INET6, MAPPED, V4, assert_samples, http, sample, samples, seven};

use super::{listener, recorder};

fn start_at_zero(scopes: &ClientScopes) {
    for scope in scopes.expected() {
        scope.run(|| counter!("requests_total").increment(0));
        scope.run(|| counter!("errors_total").increment(0));
    }
}

#[test]
fn a_dual_stack_socket_has_two_classes() {
    let recorder = recorder();
    let server: SocketAddr = "[::]:6969".parse().unwrap();
    metrics::with_local_recorder(&recorder, || {
        start_at_zero(&ClientScopes::new(ServerBinding::new(Protocol::Udp, server)));
    });
    let expected = ["requests_total", "errors_total"]
        .iter()
        .flat_map(|name| [MAPPED, INET6].map(|seen| sample(name, &seven("udp", server, seen), 0)));
    assert_samples(samples(&recorder.get_ref().handle().render()), expected);
}

#[tokio::test]
async fn each_scrape_keeps_the_zeros() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let metrics = recorder.get_ref().handle();
    let (listener, server) = listener();
    let scopes = ClientScopes::new(ServerBinding::new(Protocol::Http, server));

    let scrape = async move || {
        start_at_zero(&scopes); // before each render
        metrics.render()
    };
    let app = Router::new().route("/metrics", get(scrape));

    tokio::spawn(async { axum::serve(listener, app).await });
    let address = SocketAddr::new(V4, server.port());
    let answer = tokio::task::spawn_blocking(move || http::get(address, "/metrics"));
    let expected = ["requests_total", "errors_total"]
        .iter()
        .flat_map(|name| [MAPPED, INET6].map(|seen| sample(name, &seven("http", server, seen), 0)));
    assert_samples(samples(&answer.await.unwrap().text()), expected);
}
