//! A response body is polled and dropped in the scope, and reaches the client unchanged.

use std::{
    convert::Infallible,
    future::ready,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use dualstack_metrics::{ClientLabelsLayer, scope::Scoped};
use futures_util::{FutureExt, StreamExt as _, future::join_all, stream};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use metrics::counter;
use test_support::{Labels, V4, assert_samples, recorded, sample, soon};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::{
    CountDrop, ask, binding, dual_stack, http1, labels_of, mock_layer, request_from, request_to, send, serve,
    serve_layered, stacks::two_chunks, text,
};

/// Three counted chunks, with a yield in each. Afterwards the body ends, or stays pending if not `ends`.
fn counted_body(ends: bool) -> Body {
    let guard = CountDrop("body_dropped_total");
    let chunks = stream::iter(0..3).then(move |n| {
        let _ = &guard;
        async move {
            counter!("chunks_total").increment(1);
            tokio::task::yield_now().await;
            counter!("chunk_ends_total").increment(1);
            Ok::<_, Infallible>(Bytes::from(format!("chunk {n};")))
        }
    });
    if ends {
        Body::from_stream(chunks)
    } else {
        Body::from_stream(chunks.chain(stream::pending()))
    }
}

fn body_samples(labels: &Labels) -> Vec<String> {
    vec![
        sample("body_dropped_total", labels, 1),
        sample("chunk_ends_total", labels, 3),
        sample("chunks_total", labels, 3),
    ]
}

#[test]
fn a_body_that_streams_after_the_handler_has_returned() {
    recorded(async |metrics| {
        let (server, clients) = serve_layered(Router::new().route("/", get(async || counted_body(true))));
        // Both at once, so that the bodies take turns.
        join_all(clients.iter().map(async |&client| {
            let mut connection = http1(client, server).await;
            assert_eq!(ask(&mut connection, "/").await, "chunk 0;chunk 1;chunk 2;");
        }))
        .await;
        soon("the bodies are dropped", || {
            metrics.series("body_dropped_total").len() == clients.len()
        })
        .await;
        let expected = clients
            .iter()
            .flat_map(|&client| body_samples(&labels_of(client, server)));
        metrics.assert(expected);
    });
}

/// A client reads the first chunk and goes away.
async fn leave_midway(client: IpAddr, server: SocketAddr, version: Version) {
    // Dropping the body closes the HTTP/1.1 connection and resets the HTTP/2 stream.
    let response = send(version, client, request_to(server, "/")).await.unwrap();
    response.into_body().frame().await.unwrap().unwrap();
}

#[test]
fn a_body_that_is_dropped_midway() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        recorded(async |metrics| {
            let (server, clients) =
                serve_layered(Router::new().route("/", get(async || counted_body(false))));
            for &client in &clients {
                leave_midway(client, server, version).await;
            }
            soon("the bodies are dropped", || {
                metrics.series("body_dropped_total").len() == clients.len()
            })
            .await;
            let expected = clients
                .iter()
                .map(|&client| sample("body_dropped_total", &labels_of(client, server), 1));
            assert_samples(metrics.series("body_dropped_total"), expected);
            // The server decides how many chunks are made before, but each has the labels of a client.
            for line in metrics.samples() {
                let known = clients.iter().any(|&client| {
                    let labels = sample("", &labels_of(client, server), 0);
                    line.contains(labels.trim_end_matches(" 0"))
                });
                assert!(known, "{line}");
            }
        });
    }
}

#[test]
fn without_body_leaves_the_body_outside() {
    recorded(async |metrics| {
        let (listener, clients) = dual_stack();
        let app = Router::new()
            .route(
                "/",
                get(async || {
                    counter!("requests_total").increment(1);
                    counted_body(true)
                }),
            )
            .layer(ClientLabelsLayer::new(binding(&listener)).without_body());
        let server = serve(listener, app);
        ask(&mut http1(clients[0], server).await, "/").await;
        soon("the body is dropped", || {
            !metrics.series("body_dropped_total").is_empty()
        })
        .await;
        let mut expected = body_samples(&Labels::new());
        expected.push(sample("requests_total", &labels_of(clients[0], server), 1));
        metrics.assert(expected);
    });
}

#[test]
fn without_body_the_response_type_stays() {
    fn response_of<S: Service<R>, R>(_: &S) -> &'static str {
        std::any::type_name::<S::Response>()
    }

    let inner =
        service_fn(|_: Request<Body>| ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))));
    let outer = mock_layer().without_body().layer(inner);
    assert_eq!(
        response_of::<_, Request<Body>>(&outer),
        std::any::type_name::<Response<Full<Bytes>>>()
    );
    let outer = mock_layer().layer(inner);
    assert_eq!(
        response_of::<_, Request<Body>>(&outer),
        std::any::type_name::<Response<Scoped<Full<Bytes>>>>()
    );
    // The order of the two choices does not matter, and a response need not have a body.
    let _ = mock_layer()
        .source(V4)
        .without_body()
        .layer(service_fn(|(): ()| ready(Ok::<_, Infallible>(7_u8))));
    let no_http = mock_layer()
        .without_body()
        .source(V4)
        .layer(service_fn(|(): ()| ready(Ok::<_, Infallible>(7_u8))));
    assert_eq!(no_http.oneshot(()).now_or_never().unwrap().unwrap(), 7);
}

#[test]
fn content_length_is_kept() {
    recorded(async |_| {
        let (listener, clients) = dual_stack();
        let app = Router::new()
            .route("/", get(async || "hello"))
            .route("/empty", get(async || StatusCode::OK))
            .route("/none", get(async || StatusCode::NO_CONTENT))
            .route("/stream", get(async || two_chunks()));
        let layered = app.clone().layer(ClientLabelsLayer::new(binding(&listener)));
        let servers = [serve(dual_stack().0, app), serve(listener, layered)];
        let client = clients[0];
        for (method, path, length, body) in [
            (Method::GET, "/", Some("5"), "hello"),
            (Method::HEAD, "/", Some("5"), ""),
            (Method::GET, "/empty", Some("0"), ""),
            (Method::HEAD, "/empty", Some("0"), ""),
            (Method::GET, "/none", None, ""),
            (Method::GET, "/stream", None, "onetwo"),
            (Method::HEAD, "/stream", None, ""),
        ] {
            let mut answers = Vec::new();
            for server in servers {
                let mut request = request_to(server, path);
                *request.method_mut() = method.clone();
                for version in [Version::HTTP_11, Version::HTTP_2] {
                    let response = send(version, client, request.clone()).await.unwrap();
                    let (mut parts, body) = response.into_parts();
                    parts.headers.remove(header::DATE);
                    // On HTTP/2 the headers can carry the end of the stream.
                    let ended = body.is_end_stream();
                    answers.push((
                        parts.version,
                        parts.status,
                        parts.headers,
                        ended,
                        text(Response::new(body)).await,
                    ));
                }
            }
            let [bare1, bare2, layered1, layered2] = answers.try_into().unwrap();
            assert_eq!(layered1, bare1, "{method} {path}");
            assert_eq!(layered2, bare2, "{method} {path}");

            for (version, _, headers, ended, text) in [layered1, layered2] {
                let what = format!("{method} {path} {version:?}");
                if path != "/none" {
                    let is = headers
                        .get(header::CONTENT_LENGTH)
                        .map(|value| value.to_str().unwrap());
                    assert_eq!(is, length, "{what}");
                }
                assert_eq!(ended, body.is_empty(), "{what}");
                assert_eq!(text, body, "{what}");
            }
        }
    });
}

#[test]
fn size_hint_and_end_of_stream_are_passed_on() {
    /// Has a size hint and an end that change with each frame.
    struct Odd(u64);

    impl http_body::Body for Odd {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0 -= 1;
            let mut trailers = HeaderMap::new();
            trailers.insert("left", self.0.into());
            Poll::Ready(Some(Ok(Frame::trailers(trailers))))
        }

        fn is_end_stream(&self) -> bool {
            self.0 == 0
        }

        fn size_hint(&self) -> SizeHint {
            let mut hint = SizeHint::new();
            hint.set_lower(self.0);
            hint.set_upper(self.0 * 2);
            hint
        }
    }

    let service = mock_layer().layer(service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Odd(3)))
    }));
    let response = service
        .oneshot(request_from("192.0.2.7:1"))
        .now_or_never()
        .unwrap()
        .unwrap();
    let mut body = response.into_body();
    for left in [3, 2, 1, 0] {
        let hint = http_body::Body::size_hint(&body);
        assert_eq!((hint.lower(), hint.upper()), (left, Some(left * 2)));
        assert_eq!(body.is_end_stream(), left == 0);
        if left > 0 {
            let frame = body.frame().now_or_never().unwrap().unwrap().unwrap();
            assert_eq!(frame.into_trailers().unwrap()["left"], (left - 1).to_string());
        }
    }
}

#[test]
fn trailers_arrive() {
    const CHECKSUM: HeaderName = HeaderName::from_static("checksum");

    recorded(async |_| {
        let (server, clients) = serve_layered(Router::new().route(
            "/",
            get(async || {
                let trailers = async { Some(Ok(HeaderMap::from_iter([(CHECKSUM, "7".parse().unwrap())]))) };
                Body::new(Full::<Bytes>::from("hello").with_trailers(trailers))
            }),
        ));
        let request = request_to(server, "/");
        let response = send(Version::HTTP_2, clients[0], request).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()[CHECKSUM], "7");
        assert_eq!(body.to_bytes(), "hello");
    });
}
