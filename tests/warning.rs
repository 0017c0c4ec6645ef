//! A server that does not know its clients' addresses warns once, and names the fix.

#![cfg(all(feature = "axum", feature = "prometheus"))]

use std::net::{IpAddr, SocketAddr};

use axum::{Router, routing::get};
use bytes::Bytes;
use dualstack_metrics::{ClientLabelsLayer, Protocol, ServerBinding, SocketOptions, prometheus::Install};
use futures_util::future::join_all;
use http::{Request, header};
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use metrics::counter;
use metrics_exporter_prometheus::PrometheusBuilder;
use test_support::{Log, UNKNOWN, and, assert_samples, loopbacks, sample, samples, seven};
use tokio::net::TcpStream;

fn bind() -> (tokio::net::TcpListener, ServerBinding) {
    let listener = SocketOptions::dual_stack()
        .bind_tcp("[::]:0".parse().unwrap())
        .unwrap();
    let binding = ServerBinding::new(Protocol::Http, listener.local_addr().unwrap());
    (listener, binding)
}

fn app(binding: ServerBinding, listener: &'static str) -> Router {
    Router::new()
        .route(
            "/",
            get(async move || counter!("requests_total", "listener" => listener).increment(1)),
        )
        .layer(ClientLabelsLayer::new(binding))
}

/// Sixty requests, in parallel: over 20 connections, HTTP/1.1 and HTTP/2.
async fn sixty_requests(server: SocketAddr, hosts: &[IpAddr]) {
    join_all((0..20).map(async |n| {
        let host = hosts[n % hosts.len()];
        let stream = TokioIo::new(TcpStream::connect((host, server.port())).await.unwrap());
        let request = || {
            Request::get(format!("http://{server}/"))
                .header(header::HOST, "test")
                .body(Full::<Bytes>::default())
                .unwrap()
        };
        if n % 4 < 2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            join_all((0..3).map(async |_| {
                assert!(
                    sender
                        .clone()
                        .send_request(request())
                        .await
                        .unwrap()
                        .status()
                        .is_success()
                );
            }))
            .await;
        } else {
            let (mut sender, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            for _ in 0..3 {
                sender.ready().await.unwrap();
                assert!(
                    sender
                        .send_request(request())
                        .await
                        .unwrap()
                        .status()
                        .is_success()
                );
            }
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_router_without_connect_info() {
    let log = Log::of_process();
    let metrics = Install::new(PrometheusBuilder::new()).install().unwrap();
    let hosts = loopbacks();

    // Binding logs a warning where there is no IPv6.
    let (first, first_binding) = bind();
    let (second, second_binding) = bind();
    let (third, third_binding) = bind();
    let before = log.lines().len();
    let new_lines = || log.lines().split_off(before);

    let server = first_binding.address();
    // Without connect info.
    tokio::spawn(async move { axum::serve(first, app(first_binding, "first")).await });
    sixty_requests(server, &hosts).await;
    sixty_requests(server, &hosts).await;

    let lines = new_lines();
    let [line] = &lines[..] else {
        panic!("one warning, not {lines:#?}")
    };
    assert!(line.starts_with("WARN "), "{line}");
    assert!(
        line.contains("into_make_service_with_connect_info::<SocketAddr>()"),
        "{line}"
    );
    assert!(line.contains(&server.port().to_string()), "{line}");
    let first_sample = sample(
        "requests_total",
        &and(seven("http", server, UNKNOWN), "listener", "first"),
        120,
    );
    assert_samples(samples(&metrics.render()), [first_sample.clone()]);

    // There is one warning for each binding, and none for one that is served right.
    let other = second_binding.address();
    tokio::spawn(async move { axum::serve(second, app(second_binding, "second")).await });
    let right = third_binding.address();
    let app = app(third_binding, "third").into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(third, app).await });
    sixty_requests(right, &hosts).await;
    assert_eq!(new_lines().len(), 1);
    sixty_requests(other, &hosts).await;
    sixty_requests(server, &hosts).await;
    let lines = new_lines();
    let [_, line] = &lines[..] else {
        panic!("one warning for each of two bindings, not {lines:#?}")
    };
    assert!(line.starts_with("WARN "), "{line}");
    assert!(line.contains(&other.port().to_string()), "{line}");

    let unknown: Vec<_> = samples(&metrics.render())
        .into_iter()
        .filter(|line| line.contains("unknown"))
        .collect();
    assert_samples(
        unknown,
        [
            sample(
                "requests_total",
                &and(seven("http", server, UNKNOWN), "listener", "first"),
                180,
            ),
            sample(
                "requests_total",
                &and(seven("http", other, UNKNOWN), "listener", "second"),
                60,
            ),
        ],
    );
}
