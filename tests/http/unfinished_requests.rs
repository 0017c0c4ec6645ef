//! Requests that are cancelled or that panic are dropped in their scope, and leave no scope behind.

use std::{
    convert::Infallible,
    future::{pending, ready},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    middleware::{Next, from_fn},
    response::IntoResponse as _,
    routing::get,
};
use dualstack_metrics::{ClientLabelsLayer, ClientScopes, Protocol, Scope, ServerBinding};
use futures_util::{FutureExt, StreamExt as _, stream};
use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use metrics::counter;
use test_support::{INET, INET6, of_server, recorded, sample, soon};
use tokio::sync::Notify;
use tower::{Layer, Service as _, ServiceBuilder, ServiceExt, service_fn};

use crate::{
    CountDrop, ask, binding, dual_stack, http1, labels_of, mock, mock_layer, plain, request_from, request_to,
    send, serve, serve_layered,
};

/// A handler that notifies when it has begun, and never ends.
fn never(begun: Arc<Notify>) -> Router {
    Router::new().route(
        "/",
        get(async move || {
            let _aborted = CountDrop("aborted_total");
            counter!("begun_total").increment(1);
            tokio::task::yield_now().await;
            begun.notify_one();
            pending::<()>().await;
        }),
    )
}

#[test]
fn a_client_that_goes_away_while_the_handler_waits() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        recorded(async |metrics| {
            let begun = Arc::new(Notify::new());
            let (server, clients) = serve_layered(never(Arc::clone(&begun)));
            for &client in &clients {
                tokio::select! {
                    _ = send(version, client, request_to(server, "/")) => unreachable!("the handler never ends"),
                    () = begun.notified() => {}
                }
            }
            soon("the handlers are aborted", || {
                metrics.series("aborted_total").len() == clients.len()
            })
            .await;
            let expected = clients.iter().flat_map(|&client| {
                let labels = labels_of(client, server);
                ["aborted_total", "begun_total"].map(|name| sample(name, &labels, 1))
            });
            metrics.assert(expected);
        });
    }
}

#[test]
fn a_timeout_outside() {
    recorded(async |metrics| {
        tokio::time::pause();
        let app = never(Arc::new(Notify::new())).layer(mock_layer());
        let service = ServiceBuilder::new().timeout(Duration::from_secs(1)).service(app);
        let error = service
            .oneshot(request_from("[2001:db8::7]:1"))
            .await
            .unwrap_err();
        assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
        metrics.assert(["aborted_total", "begun_total"].map(|name| mock(name, INET6, 1)));
    });
}

#[test]
fn a_request_that_is_never_polled() {
    recorded(async |metrics| {
        let mut service = mock_layer().layer(service_fn(|_: Request<Body>| {
            let never_polled = CountDrop("aborted_total");
            async move {
                drop(never_polled);
                Ok::<_, Infallible>(Response::new(()))
            }
        }));
        drop(service.call(request_from("192.0.2.7:1")));
        metrics.assert([mock("aborted_total", INET, 1)]);
    });
}

/// Panics at the place that the path names, and counts while it unwinds.
fn panicking() -> Router {
    Router::new()
        .route("/good", get(async || counter!("good_total").increment(1)))
        .route(
            "/at-once",
            get(async || -> () {
                let _unwound = CountDrop("unwound_total");
                panic!("on purpose");
            }),
        )
        .route(
            "/later",
            get(async || -> () {
                let _unwound = CountDrop("unwound_total");
                tokio::task::yield_now().await;
                panic!("on purpose");
            }),
        )
        .route(
            "/in-body",
            get(async || {
                let unwound = CountDrop("unwound_total");
                Body::from_stream(stream::iter(0..2).map(move |n| {
                    let _ = &unwound;
                    assert_eq!(n, 0, "on purpose");
                    Ok::<_, Infallible>("x")
                }))
            }),
        )
}

const PANICS: [&str; 3] = ["/at-once", "/later", "/in-body"];

#[test]
fn a_panic_ends_the_connection_and_the_scope() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        recorded(async |metrics| {
            let (server, clients) = serve_layered(panicking());
            for path in PANICS {
                for &client in &clients {
                    if let Ok(response) = send(version, client, request_to(server, path)).await {
                        assert_eq!(path, "/in-body");
                        response.into_body().collect().await.unwrap_err();
                    }
                    counter!("between_total").increment(1);
                    ask(&mut http1(client, server).await, "/good").await;
                }
            }
            let count = clients.len() as u64;
            let mut expected = vec![plain("between_total", 3 * count)];
            for &client in &clients {
                let labels = labels_of(client, server);
                expected.push(sample("good_total", &labels, 3));
                expected.push(sample("unwound_total", &labels, 3));
            }
            metrics.assert(expected);
        });
    }
}

/// Works as `tower_http::catch_panic` does.
async fn catch_panic(request: axum::extract::Request, next: Next) -> axum::response::Response {
    let response = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    counter!("after_total").increment(1);
    response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

#[test]
fn a_panic_that_is_caught_inside_or_outside() {
    recorded(async |metrics| {
        let (listener, clients) = dual_stack();
        let layer = ClientLabelsLayer::new(binding(&listener));
        let inside = panicking().layer(from_fn(catch_panic)).layer(layer);
        let outside = panicking().layer(layer).layer(from_fn(catch_panic));
        let server = serve(
            listener,
            Router::new().nest("/inside", inside).nest("/outside", outside),
        );
        let mut connections = Vec::new();
        for &client in &clients {
            connections.push(http1(client, server).await);
        }
        for place in ["/inside", "/outside"] {
            for path in ["/at-once", "/later"] {
                for connection in &mut connections {
                    connection.ready().await.unwrap();
                    let request = request_to(server, &format!("{place}{path}"));
                    let response = connection.send_request(request).await.unwrap();
                    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
                    ask(connection, &format!("{place}/good")).await;
                }
            }
        }
        let count = clients.len() as u64;
        let mut expected = vec![plain("after_total", 4 * count)];
        for &client in &clients {
            let labels = labels_of(client, server);
            expected.push(sample("after_total", &labels, 4));
            expected.push(sample("good_total", &labels, 4));
            expected.push(sample("unwound_total", &labels, 4));
        }
        metrics.assert(expected);
    });
}

struct PanicInDrop;

impl Drop for PanicInDrop {
    fn drop(&mut self) {
        let _unwound = CountDrop("unwound_total");
        panic!("on purpose");
    }
}

#[test]
fn a_panic_in_call_or_in_a_drop_restores_the_scope() {
    recorded(async |metrics| {
        let address = "192.0.2.1:1".parse().unwrap();
        let outer = ClientScopes::new(ServerBinding::new(Protocol::Tcp, address)).server();
        outer.run(|| {
            let mut in_call = mock_layer().layer(service_fn(|_: Request<Body>| {
                let _unwound = CountDrop("unwound_total");
                assert!(Scope::current() == Scope::none(), "on purpose");
                ready(Ok::<_, Infallible>(Response::new(())))
            }));
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
                drop(in_call.call(request_from("192.0.2.7:1")));
            }));
            assert!(result.is_err());
            assert_eq!(Scope::current(), outer);
            counter!("after_total").increment(1);

            let mut in_drop = mock_layer().layer(service_fn(|_: Request<Body>| {
                let bomb = PanicInDrop;
                async move {
                    let _bomb = bomb;
                    pending::<Result<Response<()>, Infallible>>().await
                }
            }));
            let future = in_drop.call(request_from("192.0.2.7:1"));
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| drop(future)));
            assert!(result.is_err());
            assert_eq!(Scope::current(), outer);
            counter!("after_total").increment(1);
        });
        metrics.assert([
            sample("after_total", &of_server("tcp", address), 2),
            mock("unwound_total", INET, 2),
        ]);
    });
}
