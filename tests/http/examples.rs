//! Programs that a user copies.

#[allow(dead_code, reason = "`main` is not called")]
#[path = "../../examples/hyper_service.rs"]
mod hyper_service;

use hyper::{Request, header::CONTENT_TYPE};
use metrics_exporter_prometheus::PrometheusBuilder;

#[test]
fn metrics_of_the_hyper_service_have_the_content_type_that_prometheus_wants() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let response = hyper_service::answer(&Request::get("/").body(()).unwrap(), &metrics);
        assert_eq!(response.body(), "hello\n");
        let response = hyper_service::answer(&Request::get("/metrics").body(()).unwrap(), &metrics);
        assert_eq!(
            response.headers()[CONTENT_TYPE],
            "text/plain; version=0.0.4; charset=utf-8"
        );
        assert!(
            response.body().contains("requests_total 1"),
            "{}",
            response.body()
        );
    });
}
