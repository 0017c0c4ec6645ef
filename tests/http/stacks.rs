//! The layer among other layers: those inside of it run in the scope, those outside do not.

use std::{
    convert::Infallible,
    future::ready,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    routing::{get, post},
};
use bytes::Bytes;
use dualstack_metrics::Scope;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, Request, Response};
use metrics::counter;
use test_support::{INET, Labels, MAPPED, and, recorded, sample};
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::trace::{OnBodyChunk, OnEos, OnRequest, OnResponse, TraceLayer};
use tracing::Span;

use crate::{CountDrop, mock, mock_labels, mock_layer, plain, request_from, text};

/// Counts the events of `TraceLayer`.
#[derive(Clone, Copy)]
struct Count(&'static str);

impl Count {
    fn count(self, event: &'static str) {
        counter!(self.0, "event" => event).increment(1);
    }
}

impl<B> OnRequest<B> for Count {
    fn on_request(&mut self, _: &Request<B>, _: &Span) {
        self.count("request");
    }
}

impl<B> OnResponse<B> for Count {
    fn on_response(self, _: &Response<B>, _: Duration, _: &Span) {
        self.count("response");
    }
}

impl<B> OnBodyChunk<B> for Count {
    fn on_body_chunk(&mut self, _: &B, _: Duration, _: &Span) {
        self.count("chunk");
    }
}

impl OnEos for Count {
    fn on_eos(self, _: Option<&HeaderMap>, _: Duration, _: &Span) {
        self.count("eos");
    }
}

macro_rules! trace {
    ($count:expr) => {
        TraceLayer::new_for_http()
            .on_request($count)
            .on_response($count)
            .on_body_chunk($count)
            .on_eos($count)
            .on_failure(())
    };
}

fn traced(inside: u64) -> Vec<String> {
    let mut expected = Vec::new();
    for (event, times) in [("request", 1), ("response", 1), ("chunk", 2), ("eos", 1)] {
        let of = |name, labels| sample(name, &and(labels, "event", event), times * inside);
        expected.push(of("inside_total", mock_labels(MAPPED)));
        expected.push(of("outside_total", Labels::new()));
    }
    expected
}

pub(crate) fn two_chunks() -> Body {
    Body::from_stream(stream::iter(["one", "two"].map(Ok::<_, Infallible>)))
}

#[test]
fn a_service_builder_stack_with_tracing_inside_and_outside() {
    recorded(async |metrics| {
        let service = ServiceBuilder::new()
            .layer(trace!(Count("outside_total")))
            .layer(mock_layer())
            .layer(trace!(Count("inside_total")))
            .service(service_fn(|_: Request<Body>| async {
                Ok::<_, Infallible>(Response::new(two_chunks()))
            }));
        let response = service
            .oneshot(request_from("[::ffff:192.0.2.7]:1"))
            .await
            .unwrap();
        assert_eq!(text(response).await, "onetwo");
        metrics.assert(traced(1));
    });
}

#[test]
fn a_router_with_tracing_inside_and_outside() {
    recorded(async |metrics| {
        let app = Router::new()
            .route("/", get(async || two_chunks()))
            .layer(trace!(Count("inside_total")))
            .layer(mock_layer())
            .layer(trace!(Count("outside_total")));
        for _ in 0..3 {
            let response = app
                .clone()
                .oneshot(request_from("[::ffff:192.0.2.7]:1"))
                .await
                .unwrap();
            assert_eq!(text(response).await, "onetwo");
        }
        metrics.assert(traced(3));
    });
}

#[test]
fn poll_ready_and_call_reach_the_same_service() {
    recorded(async |metrics| {
        let mut service = ServiceBuilder::new()
            .layer(mock_layer())
            .concurrency_limit(1)
            .service(service_fn(|_: Request<Body>| async {
                counter!("requests_total").increment(1);
                Ok::<_, Infallible>(Response::new(Body::empty()))
            }));
        for _ in 0..3 {
            let ready = service.ready().await.unwrap();
            ready.call(request_from("192.0.2.7:1")).await.unwrap();
        }
        metrics.assert([mock("requests_total", INET, 3)]);
    });
}

/// Counts in `poll_ready` and in `call`.
struct Counting;

impl Service<Request<Body>> for Counting {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        counter!("ready_total").increment(1);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        counter!("called_total").increment(1);
        ready(Ok(Response::new(Body::empty())))
    }
}

#[test]
fn call_is_inside_and_poll_ready_is_not() {
    recorded(async |metrics| {
        let mut service = mock_layer().layer(Counting);
        let future = service.ready().await.unwrap().call(request_from("192.0.2.7:1"));
        let expected = || [plain("ready_total", 1), mock("called_total", INET, 1)];
        metrics.assert(expected());
        assert_eq!(Scope::current(), Scope::none());
        future.await.unwrap();
        metrics.assert(expected());
    });
}

#[test]
fn a_request_body_is_read_in_the_scope() {
    recorded(async |metrics| {
        let app = Router::new()
            .route("/", post(async |body: Bytes| body))
            .layer(mock_layer());
        let guard = CountDrop("read_to_the_end_total");
        let body = Body::from_stream(stream::iter(0..3).map(move |_| {
            let _ = &guard;
            counter!("read_total").increment(1);
            Ok::<_, Infallible>("x")
        }));
        let mut request = request_from("192.0.2.7:1").map(|_| body);
        *request.method_mut() = Method::POST;
        let response = app.oneshot(request).await.unwrap();
        assert_eq!(text(response).await, "xxx");
        metrics.assert([
            mock("read_total", INET, 3),
            mock("read_to_the_end_total", INET, 1),
        ]);
    });
}
