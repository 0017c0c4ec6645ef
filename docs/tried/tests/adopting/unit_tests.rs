use std::net::SocketAddr;

use axum::{Router, body::Body, extract::ConnectInfo, http::Request, routing::get};
use dualstack_metrics::{
    ClientLabelsLayer, Protocol, ServerBinding,
    prometheus::{Install, PrometheusBuilder},
};
use tower::ServiceExt as _;

fn app() -> Router {
    let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap());
    Router::new()
        .route("/", get(async || metrics::counter!("hellos_total").increment(1)))
        .layer(ClientLabelsLayer::new(binding))
}

fn request_from(client: &str) -> Request<Body> {
    let client: SocketAddr = client.parse().unwrap();
    Request::get("/")
        .extension(ConnectInfo(client))
        .body(Body::empty())
        .unwrap()
}

#[tokio::test]
async fn a_mapped_client_is_counted_as_inet() {
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);

    let client = request_from("[::ffff:192.0.2.7]:50000");
    app().oneshot(client).await.unwrap();

    let output = recorder.get_ref().handle().render();
    assert_eq!(sum(&output, "hellos_total", &[INET]), 1);
    assert_eq!(sum(&output, "hellos_total", &[INET6]), 0);
}

const INET: (&str, &str) = ("client_address_ip_family", "inet");
const INET6: (&str, &str) = ("client_address_ip_family", "inet6");

/// `sum(name{labels})` in Prometheus.
fn sum(output: &str, name: &str, labels: &[(&str, &str)]) -> u64 {
    let samples = output
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    samples
        .filter(|(series, _)| series.is_empty() || series.starts_with('{'))
        .filter(|(series, _)| {
            labels.iter().all(|(label, value)| {
                let pair = format!("{label}={value:?}");
                series.contains(&format!("{{{pair}")) || series.contains(&format!(",{pair}"))
            })
        })
        .map(|(_, value)| value.parse::<u64>().unwrap())
        .sum()
}

async fn spawned(output: impl Fn() -> String) -> u64 {
    let spawned = tokio::spawn(async { metrics::counter!("spawned_total").increment(1) });
    spawned.await.unwrap();
    sum(&output(), "spawned_total", &[])
}

#[tokio::test]
async fn a_spawned_task_is_counted() {
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    assert_eq!(spawned(|| recorder.get_ref().handle().render()).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spawned_task_on_another_thread_is_not_counted() {
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    assert_eq!(spawned(|| recorder.get_ref().handle().render()).await, 0);
}

#[test]
fn the_sum_is_that_of_prometheus() {
    let output = "# TYPE a_total counter\na_total 1\na_total{x=\"1\",y=\"2\"} 2\na_total{my_x=\"1\"} 4\na_total_b{x=\"1\"} 8";
    assert_eq!(sum(output, "a_total", &[]), 7);
    assert_eq!(sum(output, "a_total", &[("x", "1")]), 2);
    assert_eq!(sum(output, "a_total", &[("y", "2"), ("x", "1")]), 2);
    assert_eq!(sum(output, "a_total", &[("x", "2")]), 0);
    assert_eq!(sum(output, "b_total", &[]), 0);
}
