//! The layers around tower's `Buffer`, which calls its service in a task of its own.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    time::Duration,
};

use axum::{
    BoxError, Router, body::Body, error_handling::HandleErrorLayer, extract::Request, http::StatusCode,
    routing::get,
};
use bytes::Bytes;
use dualstack_metrics::{ClientLabelsLayer, Datagram, LabelsLayer, PropagateScopeLayer, Protocol};
use futures_util::{StreamExt as _, future::poll_immediate, stream};
use metrics::counter;
use test_support::{INET6, Log, MAPPED, and, recorded, sample, seven};
use tower::{
    ServiceBuilder, ServiceExt as _, buffer::BufferLayer, limit::RateLimitLayer, service_fn,
    util::MapRequestLayer,
};

use super::{
    MAPPED_CLIENT, Plan, binding, client_layer, from,
    late::{CountDrop, buy},
    send, server,
};

const SECOND: Duration = Duration::from_secs(1);

/// A router with layers that it adds from the outside to the inside.
macro_rules! app {
    ($handler:expr, $($layer:expr),+) => {
        Router::new()
            .route("/", get($handler))
            .layer(ServiceBuilder::new()$(.layer($layer))+)
    };
}

fn plan() -> LabelsLayer<fn(&Request) -> Plan> {
    LabelsLayer::new(|_| Plan::Paid)
}

fn handle_error() -> HandleErrorLayer<fn(BoxError) -> Ready<StatusCode>, ()> {
    HandleErrorLayer::new(|_| ready(StatusCode::SERVICE_UNAVAILABLE))
}

fn count_call() -> MapRequestLayer<fn(Request) -> Request> {
    MapRequestLayer::new(|request| {
        counter!("calls_total").increment(1);
        request
    })
}

async fn hello() -> Body {
    counter!("hellos_total").increment(1);
    Body::from_stream(stream::iter([(); 2]).map(|()| {
        counter!("chunks_total").increment(1);
        Ok::<_, Infallible>("x")
    }))
}

#[test]
fn the_layers_around_a_buffer_make_one_scope_in_either_order() {
    recorded(async |metrics| {
        for app in [
            app!(
                hello,
                client_layer(),
                handle_error(),
                PropagateScopeLayer::new(BufferLayer::new(16)),
                RateLimitLayer::new(100, SECOND),
                plan(),
                count_call()
            ),
            app!(
                hello,
                plan(),
                handle_error(),
                PropagateScopeLayer::new(BufferLayer::new(16)),
                RateLimitLayer::new(100, SECOND),
                client_layer(),
                count_call()
            ),
        ] {
            assert_eq!(send(app, from(MAPPED_CLIENT)).await, "xx");
        }
        let labels = and(seven("http", server(), MAPPED), "plan", "paid");
        metrics.assert([
            sample("calls_total", &labels, 2),
            sample("hellos_total", &labels, 2),
            sample("chunks_total", &labels, 4),
        ]);
    });
}

#[test]
fn a_label_that_is_added_below_a_buffer_holds_for_the_rest_of_the_request() {
    recorded(async |metrics| {
        let app = app!(
            buy,
            client_layer(),
            handle_error(),
            PropagateScopeLayer::new(BufferLayer::new(16))
        );
        assert_eq!(send(app, from(MAPPED_CLIENT)).await, "xx");
        let before = seven("http", server(), MAPPED);
        let after = and(before.clone(), "plan", "paid");
        metrics.assert([
            sample("begun_total", &before, 1),
            sample("authenticated_total", &after, 1),
            sample("bought_total", &after, 1),
            sample("chunks_total", &after, 3),
            sample("dropped_total", &after, 1),
        ]);
    });
}

#[test]
fn a_request_that_leaves_the_buffer_unserved_is_dropped_in_its_scope() {
    recorded(async |metrics| {
        let app = app!(
            hello,
            client_layer(),
            handle_error(),
            PropagateScopeLayer::new(BufferLayer::new(16)),
            RateLimitLayer::new(1, Duration::from_millis(10))
        );
        send(app.clone(), from(MAPPED_CLIENT)).await;
        let guard = CountDrop;
        let body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>().map(move |chunk| {
            let _ = &guard;
            chunk
        }));
        let mut waits = Box::pin(app.oneshot(from(MAPPED_CLIENT).map(|_| body)));
        assert!(poll_immediate(&mut waits).await.is_none());
        drop(waits);
        let dropped = sample("dropped_total", &seven("http", server(), MAPPED), 1);
        metrics.wait_for(&dropped).await;
    });
}

#[test]
fn a_buffer_of_datagrams() {
    recorded(async |metrics| {
        let answer = |_: Datagram| {
            counter!("answers_total").increment(1);
            ready(Ok::<_, Infallible>(Some(Bytes::new())))
        };
        let service = ServiceBuilder::new()
            .layer(ClientLabelsLayer::new(binding(Protocol::Udp)))
            .layer(PropagateScopeLayer::new(BufferLayer::new(16)))
            .layer(LabelsLayer::new(|_: &Datagram| Plan::Paid))
            .service(service_fn(answer));
        let client: SocketAddr = "[2001:db8::7]:1".parse().unwrap();
        service
            .oneshot(Datagram::new("", client, server()))
            .await
            .unwrap();
        let labels = and(seven("udp", server(), INET6), "plan", "paid");
        metrics.assert([sample("answers_total", &labels, 1)]);
    });
}

#[test]
fn a_buffer_that_loses_the_scope_is_logged_once() {
    recorded(async |_| {
        let log = Log::of_thread();
        for app in [
            app!(
                hello,
                client_layer(),
                handle_error(),
                BufferLayer::new(16),
                plan()
            ),
            app!(
                hello,
                client_layer(),
                handle_error(),
                BufferLayer::new(16),
                plan().without_body()
            ),
        ] {
            send(app, from(MAPPED_CLIENT)).await;
        }
        log.assert_warning(&["`PropagateScopeLayer::new(BufferLayer::new(1024))`"]);
    });
}
