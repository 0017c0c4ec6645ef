//! Tasks and threads that a handler starts.

use std::future::pending;

use axum::{Router, extract::State, routing::get};
use dualstack_metrics::{Scope, WithScope, prometheus::Install};
use futures_util::future::join_all;
use metrics::{Counter, counter};
use metrics_exporter_prometheus::PrometheusBuilder;
use test_support::{INET, Labels, Metrics, and, assert_samples, recorded, sample, soon};
use tower::ServiceExt;

use crate::{CountDrop, ask, http1, labels_of, mock, mock_layer, plain, request_from, serve_layered};

#[test]
fn spawned_tasks() {
    recorded(async |metrics| {
        async fn child(kind: &'static str, kept: Counter) {
            let _dropped = CountDrop("child_dropped_total");
            for _ in 0..3 {
                counter!("child_total", "kind" => kind).increment(1);
                kept.increment(1);
                tokio::task::yield_now().await;
            }
        }

        let kept = counter!("kept_total");
        let (server, clients) = serve_layered(
            Router::new()
                .route(
                    "/",
                    get(async |State(kept): State<Counter>| {
                        let outside = tokio::spawn(child("outside", kept.clone()));
                        let inside = tokio::spawn(child("inside", kept.clone()).with_current_scope());
                        // Continues after the response was sent.
                        tokio::spawn(
                            async move {
                                child("late", kept).await;
                                counter!("late_total").increment(1);
                            }
                            .with_current_scope(),
                        );
                        inside.await.unwrap();
                        outside.await.unwrap();
                    }),
                )
                .with_state(kept),
        );
        join_all(clients.iter().map(async |&client| {
            ask(&mut http1(client, server).await, "/").await;
        }))
        .await;
        soon("the late children are done", || {
            metrics.series("late_total").len() == clients.len()
        })
        .await;
        let count = clients.len() as u64;
        let kind = |labels, kind, value| sample("child_total", &and(labels, "kind", kind), value);
        let mut expected = vec![
            plain("child_dropped_total", count),
            kind(Labels::new(), "outside", 3 * count),
            plain("kept_total", 3 * count),
        ];
        for &client in &clients {
            let labels = labels_of(client, server);
            expected.push(sample("child_dropped_total", &labels, 2));
            expected.push(kind(labels.clone(), "inside", 3));
            expected.push(kind(labels.clone(), "late", 3));
            expected.push(sample("kept_total", &labels, 6));
            expected.push(sample("late_total", &labels, 1));
        }
        metrics.assert(expected);
    });
}

#[test]
fn an_aborted_child_is_dropped_in_its_scope() {
    recorded(async |metrics| {
        let app = Router::new()
            .route(
                "/",
                get(async || {
                    let child = async {
                        let _aborted = CountDrop("aborted_total");
                        pending::<()>().await;
                    };
                    let child = tokio::spawn(child.with_current_scope());
                    tokio::task::yield_now().await;
                    child.abort();
                    assert!(child.await.unwrap_err().is_cancelled());
                }),
            )
            .layer(mock_layer());
        app.oneshot(request_from("192.0.2.7:1")).await.unwrap();
        metrics.assert([mock("aborted_total", INET, 1)]);
    });
}

#[test]
fn threads() {
    let metrics = Metrics::from(Install::new(PrometheusBuilder::new()).install().unwrap());
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let kept = counter!("threads_kept_total");
            let (server, clients) = serve_layered(
                Router::new()
                    .route(
                        "/",
                        get(async |State(kept): State<Counter>| {
                            let work = |kept: Counter, name| {
                                move || {
                                    kept.increment(1);
                                    counter!("threads_total", "thread" => name).increment(1);
                                }
                            };
                            let bound = Scope::current().bind(work(kept.clone(), "bound"));
                            tokio::task::spawn_blocking(bound).await.unwrap();
                            tokio::task::spawn_blocking(work(kept.clone(), "unbound"))
                                .await
                                .unwrap();
                            let bound = Scope::current().bind(work(kept.clone(), "std"));
                            std::thread::spawn(bound).join().unwrap();
                            tokio::task::block_in_place(work(kept, "in_place"));
                        }),
                    )
                    .with_state(kept),
            );
            join_all(clients.iter().map(async |&client| {
                for _ in 0..5 {
                    ask(&mut http1(client, server).await, "/").await;
                }
            }))
            .await;

            let name = "threads_total";
            let count = 5 * clients.len() as u64;
            assert_samples(
                metrics.series(name),
                clients
                    .iter()
                    .flat_map(|&client| {
                        let labels = labels_of(client, server);
                        ["bound", "std", "in_place"]
                            .map(|thread| sample(name, &and(labels.clone(), "thread", thread), 5))
                    })
                    .chain([sample(name, &and(Labels::new(), "thread", "unbound"), count)]),
            );
            assert_samples(
                metrics.series("threads_kept_total"),
                clients
                    .iter()
                    .map(|&client| sample("threads_kept_total", &labels_of(client, server), 15))
                    .chain([plain("threads_kept_total", count)]),
            );
        });
}
