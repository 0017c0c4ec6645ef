//! Keep-alive, pipelining and HTTP/2 streams: requests that share a connection or take turns keep their own labels.

use std::sync::Arc;

use axum::{Router, routing::get};
use dualstack_metrics::Scope;
use futures_util::future::join_all;
use http::Version;
use metrics::counter;
use test_support::{and, loopbacks, recorded, sample, seen};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Barrier,
};

use crate::{ask, assert_each, counting, http1, http2, labels_of, request_to, serve_layered, tcp, text};

#[test]
fn keep_alive() {
    recorded(async |metrics| {
        let (server, clients) = serve_layered(counting());
        let mut connections = Vec::new();
        for &client in &clients {
            connections.push(http1(client, server).await);
        }
        for _ in 0..5 {
            for connection in &mut connections {
                ask(connection, "/").await;
            }
        }
        assert_each(&metrics, &clients, server, "requests_total", 5);
    });
}

#[test]
fn pipelining() {
    recorded(async |metrics| {
        let (server, clients) = serve_layered(Router::new().route(
            "/{kind}",
            get(async |axum::extract::Path(kind): axum::extract::Path<String>| {
                counter!("requests_total", "request_kind" => kind.clone()).increment(1);
                tokio::task::yield_now().await;
                counter!("requests_total", "request_kind" => kind.clone()).increment(1);
                kind
            }),
        ));

        let mut streams = Vec::new();
        for &client in &clients {
            let mut stream = tcp(client, server).await;
            let three = "GET /a HTTP/1.1\r\nhost: test\r\n\r\n\
                         GET /b HTTP/1.1\r\nhost: test\r\n\r\n\
                         GET /a HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
            stream.write_all(three.as_bytes()).await.unwrap();
            streams.push(stream);
        }
        for stream in &mut streams {
            let mut answers = String::new();
            stream.read_to_string(&mut answers).await.unwrap();
            assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{answers}");
        }
        let expected = clients.iter().flat_map(|&client| {
            let labels = labels_of(client, server);
            [
                sample("requests_total", &and(labels.clone(), "request_kind", "a"), 4),
                sample("requests_total", &and(labels, "request_kind", "b"), 2),
            ]
        });
        metrics.assert(expected);
    });
}

/// A handler that waits until `all` requests are in flight and then takes turns with the others.
fn interleaving(all: usize) -> Router {
    let barrier = Arc::new(Barrier::new(all));
    Router::new().route(
        "/",
        get(async move || {
            let scope = Scope::current();
            counter!("steps_total").increment(1);
            barrier.wait().await;
            for _ in 0..10 {
                assert_eq!(Scope::current(), scope);
                counter!("steps_total").increment(1);
                tokio::task::yield_now().await;
            }
            scope.value_of("client_address_ip_family").unwrap_or("none")
        }),
    )
}

#[test]
fn http2_streams_of_both_families_at_once() {
    const STREAMS: usize = 16;

    recorded(async |metrics| {
        let (server, clients) = serve_layered(interleaving(STREAMS * loopbacks().len()));

        let mut answers = Vec::new();
        for &client in &clients {
            let connection = http2(client, server).await;
            for _ in 0..STREAMS {
                let mut connection = connection.clone();
                answers.push(async move {
                    let response = connection.send_request(request_to(server, "/")).await.unwrap();
                    assert_eq!(response.version(), Version::HTTP_2);
                    assert_eq!(text(response).await, seen(client, server).0);
                });
            }
        }
        join_all(answers).await;
        let steps = 11 * STREAMS as u64;
        assert_each(&metrics, &clients, server, "steps_total", steps);
    });
}

#[test]
fn http1_connections_of_both_families_at_once() {
    recorded(async |metrics| {
        let (server, clients) = serve_layered(interleaving(loopbacks().len()));
        join_all(clients.iter().map(async |&client| {
            let answer = ask(&mut http1(client, server).await, "/").await;
            assert_eq!(answer, seen(client, server).0);
        }))
        .await;
        assert_each(&metrics, &clients, server, "steps_total", 11);
    });
}
