//! The layer under real servers: axum and hyper, HTTP/1.1 and HTTP/2, clients of both families on one socket.

#![cfg(all(feature = "axum", feature = "prometheus"))]

use std::{
    convert::Infallible,
    future::{pending, poll_fn, ready},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, State, connect_info::MockConnectInfo},
    middleware::{Next, from_fn},
    response::IntoResponse,
    routing::{get, post},
};
use bytes::Bytes;
use dualstack_metrics::{
    ClientLabels, ClientLabelsLayer, ClientScopes, Protocol, Scope, Scoped, ServerBinding, SocketOptions,
    WithScope, prometheus::Install,
};
use futures_util::{
    FutureExt, Stream, StreamExt,
    future::{join, join_all},
    stream,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use metrics::{Counter, counter};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use test_support::{
    INET, INET6, Labels, MAPPED, Seen, UNKNOWN, and, assert_samples, ipv6_or_say, sample, samples, series,
    seven, soon,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Barrier, Notify},
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::trace::{OnBodyChunk, OnEos, OnRequest, OnResponse, TraceLayer};
use tracing::Span;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Runs a test on one thread, with a recorder of its own.
fn local(test: impl AsyncFnOnce(PrometheusHandle)) {
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    let handle = recorder.get_ref().handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(Duration::from_secs(60), test(handle)).await })
        .expect("the test does not hang");
    assert_eq!(Scope::current(), Scope::none(), "a scope leaked");
}

/// The recorder of the tests that need several threads, which keep to metric names of their own.
fn global() -> &'static PrometheusHandle {
    static GLOBAL: OnceLock<PrometheusHandle> = OnceLock::new();
    GLOBAL.get_or_init(|| Install::new(PrometheusBuilder::new()).install().unwrap())
}

/// A listener for both families, and what there is to connect to it from.
fn dual_stack() -> (TcpListener, Vec<IpAddr>) {
    let listener = SocketOptions::dual_stack()
        .bind_tcp("[::]:0".parse().unwrap())
        .unwrap();
    let clients = if ipv6_or_say() { vec![V4, V6] } else { vec![V4] };
    (listener, clients)
}

fn binding(listener: &TcpListener) -> ServerBinding {
    ServerBinding::new(Protocol::Http, listener.local_addr().unwrap())
}

/// What a client's labels must be on this listener.
fn seen(client: IpAddr, server: SocketAddr) -> Seen {
    match (client, server) {
        (IpAddr::V4(_), SocketAddr::V4(_)) => INET,
        (IpAddr::V4(_), SocketAddr::V6(_)) => MAPPED,
        (IpAddr::V6(_), _) => INET6,
    }
}

fn labels_of(client: IpAddr, server: SocketAddr) -> Labels {
    seven("http", server, seen(client, server))
}

/// Serves a router with connect info, in the background, until the runtime is dropped.
fn serve(listener: TcpListener, app: Router) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn tcp(client: IpAddr, server: SocketAddr) -> TcpStream {
    TcpStream::connect((client, server.port())).await.unwrap()
}

async fn http1(client: IpAddr, server: SocketAddr) -> http1::SendRequest<Full<Bytes>> {
    handshake1(tcp(client, server).await).await
}

async fn handshake1(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
) -> http1::SendRequest<Full<Bytes>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn http2(client: IpAddr, server: SocketAddr) -> http2::SendRequest<Full<Bytes>> {
    let stream = TokioIo::new(tcp(client, server).await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(path: &str) -> Request<Full<Bytes>> {
    Request::get(path)
        .header(header::HOST, "test")
        .body(Full::default())
        .unwrap()
}

async fn text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Error: std::fmt::Debug>,
{
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.into()).unwrap()
}

/// `GET path` on an open HTTP/1.1 connection, read to the end.
async fn ask(connection: &mut http1::SendRequest<Full<Bytes>>, path: &str) -> String {
    connection.ready().await.unwrap();
    let response = connection.send_request(request(path)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    text(response).await
}

/// Counts when it is dropped.
struct CountDrop(&'static str);

impl Drop for CountDrop {
    fn drop(&mut self) {
        counter!(self.0).increment(1);
    }
}

fn plain(name: &str, value: u64) -> String {
    sample(name, &Labels::new(), value)
}

/// A request as a server with connect info would hand it over.
fn request_from(client: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    request
        .extensions_mut()
        .insert(ConnectInfo(client.parse::<SocketAddr>().unwrap()));
    request
}

const SERVER: &str = "[::]:7070";

fn mock_layer() -> ClientLabelsLayer {
    ClientLabelsLayer::new(ServerBinding::new(Protocol::Http, SERVER.parse().unwrap()))
}

fn mock_labels(client: Seen) -> Labels {
    seven("http", SERVER.parse().unwrap(), client)
}

// Who the client is.

#[test]
fn both_families_on_one_listener() {
    local(async |metrics| {
        let (listener, clients) = dual_stack();
        let kept = counter!("kept_total");
        let app = Router::new()
            .route(
                "/",
                get(async |State(kept): State<Counter>| {
                    counter!("requests_total", "request_kind" => "announce").increment(1);
                    kept.increment(2);
                }),
            )
            .layer(ClientLabelsLayer::new(binding(&listener)))
            .with_state(kept);
        let server = serve(listener, app);

        let mut expected = Vec::new();
        for (&client, times) in clients.iter().zip([3, 5]) {
            for _ in 0..times {
                ask(&mut http1(client, server).await, "/").await;
            }
            let labels = labels_of(client, server);
            expected.push(sample("kept_total", &labels, 2 * times));
            expected.push(sample(
                "requests_total",
                &and(labels, "request_kind", "announce"),
                times,
            ));
        }
        assert_samples(samples(&metrics.render()), expected);
    });
}

#[test]
fn ipv4_listener() {
    local(async |metrics| {
        let listener = SocketOptions::dual_stack()
            .bind_tcp("127.0.0.1:0".parse().unwrap())
            .unwrap();
        let app = Router::new()
            .route("/", get(async || counter!("requests_total").increment(1)))
            .layer(ClientLabelsLayer::new(binding(&listener)));
        let server = serve(listener, app);
        ask(&mut http1(V4, server).await, "/").await;

        let labels = [
            ("client_address_ip_family", "inet"),
            ("client_address_ip_type", "plain"),
            ("server_binding_address_ip_family", "inet"),
            ("server_binding_address_ip_type", "plain"),
            ("server_binding_ip", "127.0.0.1"),
            ("server_binding_port", &server.port().to_string()),
            ("server_binding_protocol", "http"),
        ];
        let labels = labels.map(|(name, value)| (name, value.to_owned())).into();
        assert_samples(samples(&metrics.render()), [sample("requests_total", &labels, 1)]);
    });
}

#[test]
fn two_listeners_of_one_router() {
    local(async |metrics| {
        let app = Router::new().route("/", get(async || counter!("requests_total").increment(1)));
        let mut expected = Vec::new();
        for times in [1, 2] {
            let (listener, _) = dual_stack();
            let layer = ClientLabelsLayer::new(binding(&listener));
            let server = serve(listener, app.clone().layer(layer));
            for _ in 0..times {
                ask(&mut http1(V4, server).await, "/").await;
            }
            expected.push(sample("requests_total", &labels_of(V4, server), times));
        }
        assert_samples(samples(&metrics.render()), expected);
    });
}

#[test]
fn connect_info_is_left_as_it_is() {
    local(async |_| {
        let (listener, clients) = dual_stack();
        let app = Router::new()
            .route(
                "/",
                get(async |ConnectInfo(address): ConnectInfo<SocketAddr>| address.to_string()),
            )
            .layer(ClientLabelsLayer::new(binding(&listener)));
        let server = serve(listener, app);
        for client in clients {
            let stream = tcp(client, server).await;
            let own = stream.local_addr().unwrap();
            let as_seen = match (own, server) {
                (SocketAddr::V4(own), SocketAddr::V6(_)) => {
                    SocketAddr::new(own.ip().to_ipv6_mapped().into(), own.port())
                }
                _ => own,
            };
            assert_eq!(ask(&mut handshake1(stream).await, "/").await, as_seen.to_string());
        }
    });
}

#[test]
fn mock_connect_info() {
    local(async |metrics| {
        for (address, seen) in [
            ("192.0.2.7:1", INET),
            ("[::ffff:192.0.2.7]:1", MAPPED),
            ("[2001:db8::7]:1", INET6),
        ] {
            let app = Router::new()
                .route(
                    "/",
                    get(async |ConnectInfo(address): ConnectInfo<SocketAddr>| {
                        counter!("requests_total").increment(1);
                        address.to_string()
                    }),
                )
                .layer(mock_layer())
                .layer(MockConnectInfo(address.parse::<SocketAddr>().unwrap()));
            let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
            assert_eq!(text(response).await, address);
            let lines = samples(&metrics.render());
            assert!(
                lines.contains(&sample("requests_total", &mock_labels(seen), 1)),
                "{lines:?}"
            );
        }
        assert_eq!(samples(&metrics.render()).len(), 3);
    });
}

#[test]
fn a_real_address_wins_over_a_mock_as_in_axum() {
    local(async |metrics| {
        let app = Router::new()
            .route("/", get(async || counter!("requests_total").increment(1)))
            .layer(mock_layer())
            .layer(MockConnectInfo("192.0.2.7:1".parse::<SocketAddr>().unwrap()));
        app.oneshot(request_from("[2001:db8::7]:1")).await.unwrap();
        assert_samples(
            samples(&metrics.render()),
            [sample("requests_total", &mock_labels(INET6), 1)],
        );
    });
}

#[test]
fn a_class_in_the_extensions_wins() {
    local(async |metrics| {
        let app = Router::new()
            .route("/", get(async || counter!("requests_total").increment(1)))
            .layer(mock_layer());
        for class in [
            ClientLabels::from("[::ffff:192.0.2.7]:1".parse::<SocketAddr>().unwrap()),
            ClientLabels::UNKNOWN,
        ] {
            let mut request = request_from("[2001:db8::7]:1");
            request.extensions_mut().insert(class);
            app.clone().oneshot(request).await.unwrap();
        }
        assert_samples(
            samples(&metrics.render()),
            [
                sample("requests_total", &mock_labels(MAPPED), 1),
                sample("requests_total", &mock_labels(UNKNOWN), 1),
            ],
        );
    });
}

/// What a proxy's layer does.
async fn forwarded(mut request: axum::extract::Request, next: Next) -> axum::response::Response {
    let client: IpAddr = request.headers()["x-forwarded-for"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    request.extensions_mut().insert(ClientLabels::from(client));
    next.run(request).await
}

#[test]
fn a_layer_outside_can_say_who_the_client_is() {
    local(async |metrics| {
        let (listener, clients) = dual_stack();
        let app = Router::new()
            .route("/", get(async || counter!("requests_total").increment(1)))
            .layer(ClientLabelsLayer::new(binding(&listener)))
            .layer(from_fn(forwarded));
        let server = serve(listener, app);
        for &client in &clients {
            let mut request = request("/");
            request
                .headers_mut()
                .insert("x-forwarded-for", "192.0.2.7".parse().unwrap());
            http1(client, server).await.send_request(request).await.unwrap();
        }
        let times = clients.len().try_into().unwrap();
        let expected = sample("requests_total", &seven("http", server, INET), times);
        assert_samples(samples(&metrics.render()), [expected]);
    });
}

#[test]
fn the_inner_of_two_layers_holds() {
    local(async |metrics| {
        let inner: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let app = Router::new()
            .route("/", get(async || counter!("inside_total").increment(1)))
            .layer(ClientLabelsLayer::new(ServerBinding::new(Protocol::Https, inner)).source(V4))
            .layer(from_fn(async |request: axum::extract::Request, next: Next| {
                counter!("between_total").increment(1);
                let response = next.run(request).await;
                counter!("between_total").increment(1);
                response
            }))
            .layer(mock_layer());
        app.oneshot(request_from("[2001:db8::7]:1")).await.unwrap();
        assert_samples(
            samples(&metrics.render()),
            [
                sample("between_total", &mock_labels(INET6), 2),
                sample("inside_total", &seven("https", inner, INET), 1),
            ],
        );
    });
}

#[test]
fn what_has_no_route_is_served_in_the_scope_too() {
    local(async |metrics| {
        let app = Router::new()
            .route("/only/get", get(async || ()))
            .fallback(async || {
                counter!("not_found_total").increment(1);
                StatusCode::NOT_FOUND
            })
            .layer(mock_layer());
        let mut request = request_from("192.0.2.7:1");
        *request.uri_mut() = "/nowhere".parse().unwrap();
        let response = app.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_samples(
            samples(&metrics.render()),
            [sample("not_found_total", &mock_labels(INET), 1)],
        );
    });
}

// Connections that carry many requests.

#[test]
fn keep_alive() {
    local(async |metrics| {
        let (listener, clients) = dual_stack();
        let app = Router::new()
            .route("/", get(async || counter!("requests_total").increment(1)))
            .layer(ClientLabelsLayer::new(binding(&listener)));
        let server = serve(listener, app);
        let mut connections = Vec::new();
        for &client in &clients {
            connections.push(http1(client, server).await);
        }
        for _ in 0..5 {
            for connection in &mut connections {
                ask(connection, "/").await;
            }
        }
        let expected = clients
            .iter()
            .map(|&client| sample("requests_total", &labels_of(client, server), 5));
        assert_samples(samples(&metrics.render()), expected);
    });
}

#[test]
fn pipelining() {
    local(async |metrics| {
        let (listener, clients) = dual_stack();
        let app = Router::new()
            .route(
                "/{kind}",
                get(async |axum::extract::Path(kind): axum::extract::Path<String>| {
                    counter!("requests_total", "request_kind" => kind.clone()).increment(1);
                    tokio::task::yield_now().await;
                    counter!("requests_total", "request_kind" => kind.clone()).increment(1);
                    kind
                }),
            )
            .layer(ClientLabelsLayer::new(binding(&listener)));
        let server = serve(listener, app);

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
        assert_samples(samples(&metrics.render()), expected);
    });
}

/// A handler that waits until all are in flight, and then takes turns with them.
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

    local(async |metrics| {
        let (listener, clients) = dual_stack();
        let app = interleaving(STREAMS * clients.len()).layer(ClientLabelsLayer::new(binding(&listener)));
        let server = serve(listener, app);

        let mut answers = Vec::new();
        for &client in &clients {
            let connection = http2(client, server).await;
            for _ in 0..STREAMS {
                let mut connection = connection.clone();
                answers.push(async move {
                    let request = Request::get(format!("http://{server}/"))
                        .body(Full::default())
                        .unwrap();
                    let response = connection.send_request(request).await.unwrap();
                    assert_eq!(response.version(), http::Version::HTTP_2);
                    assert_eq!(text(response).await, seen(client, server).0);
                });
            }
        }
        join_all(answers).await;
        let steps = 11 * STREAMS as u64;
        let expected = clients
            .iter()
            .map(|&client| sample("steps_total", &labels_of(client, server), steps));
        assert_samples(samples(&metrics.render()), expected);
    });
}

#[test]
fn http1_connections_of_both_families_at_once() {
    local(async |metrics| {
        let (listener, clients) = dual_stack();
        let app = interleaving(clients.len()).layer(ClientLabelsLayer::new(binding(&listener)));
        let server = serve(listener, app);
        join_all(clients.iter().map(async |&client| {
            let answer = ask(&mut http1(client, server).await, "/").await;
            assert_eq!(answer, seen(client, server).0);
        }))
        .await;
        let expected = clients
            .iter()
            .map(|&client| sample("steps_total", &labels_of(client, server), 11));
        assert_samples(samples(&metrics.render()), expected);
    });
}

// Stacks.

/// Counts whatever `TraceLayer` tells.
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

fn two_chunks() -> Body {
    Body::from_stream(stream::iter(["one", "two"].map(Ok::<_, Infallible>)))
}

#[test]
fn a_service_builder_stack_with_tracing_inside_and_outside() {
    local(async |metrics| {
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
        assert_samples(samples(&metrics.render()), traced(1));
    });
}

#[test]
fn a_router_with_tracing_inside_and_outside() {
    local(async |metrics| {
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
        assert_samples(samples(&metrics.render()), traced(3));
    });
}

#[test]
fn a_limit_inside_is_asked_and_used_on_the_same_service() {
    local(async |metrics| {
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
        assert_samples(
            samples(&metrics.render()),
            [sample("requests_total", &mock_labels(INET), 3)],
        );
    });
}

/// Counts where a service runs: in `poll_ready`, in `call`, and when it is dropped.
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
    local(async |metrics| {
        let mut service = mock_layer().layer(Counting);
        let future = service.ready().await.unwrap().call(request_from("192.0.2.7:1"));
        let expected = || {
            [
                plain("ready_total", 1),
                sample("called_total", &mock_labels(INET), 1),
            ]
        };
        assert_samples(samples(&metrics.render()), expected());
        assert_eq!(Scope::current(), Scope::none());
        future.await.unwrap();
        assert_samples(samples(&metrics.render()), expected());
    });
}

#[test]
fn a_request_body_that_the_handler_reads() {
    local(async |metrics| {
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
        assert_samples(
            samples(&metrics.render()),
            [
                sample("read_total", &mock_labels(INET), 3),
                sample("read_to_the_end_total", &mock_labels(INET), 1),
            ],
        );
    });
}

// Plain hyper.

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    counter!("requests_total").increment(1);
    tokio::task::yield_now().await;
    counter!("requests_total").increment(1);
    Ok(Response::new(Full::from("hello")))
}

#[test]
fn hyper_with_a_fixed_source_for_each_connection() {
    local(async |metrics| {
        let (listener, clients) = dual_stack();
        let server = listener.local_addr().unwrap();
        let layer = ClientLabelsLayer::new(binding(&listener));
        tokio::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(layer.source(peer).layer(service_fn(hello)));
                tokio::spawn(async move {
                    auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                });
            }
        });
        for &client in &clients {
            assert_eq!(ask(&mut http1(client, server).await, "/").await, "hello");
            let response = http2(client, server)
                .await
                .send_request(request("/"))
                .await
                .unwrap();
            assert_eq!(response.headers()[header::CONTENT_LENGTH], "5");
            assert_eq!(text(response).await, "hello");
        }
        let expected = clients
            .iter()
            .map(|&client| sample("requests_total", &labels_of(client, server), 4));
        assert_samples(samples(&metrics.render()), expected);
    });
}

/// What another server's connection info may look like.
#[derive(Clone, Copy)]
struct Peer(Option<SocketAddr>);

#[test]
fn hyper_with_a_closure_for_a_source() {
    local(async |metrics| {
        let (listener, clients) = dual_stack();
        let server = listener.local_addr().unwrap();
        let layer = ClientLabelsLayer::new(binding(&listener))
            .source(|request: &Request<Incoming>| request.extensions().get::<Peer>()?.0);
        tokio::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let service = ServiceBuilder::new()
                    .map_request(move |mut request: Request<Incoming>| {
                        request.extensions_mut().insert(Peer(Some(peer)));
                        request
                    })
                    .layer(layer)
                    .service(service_fn(hello));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)),
                );
            }
        });
        for &client in &clients {
            let mut connection = http1(client, server).await;
            for _ in 0..2 {
                assert_eq!(ask(&mut connection, "/").await, "hello");
            }
        }
        let expected = clients
            .iter()
            .map(|&client| sample("requests_total", &labels_of(client, server), 4));
        assert_samples(samples(&metrics.render()), expected);
    });
}

#[test]
fn sources_of_every_kind() {
    local(async |metrics| {
        let address: SocketAddr = "[::ffff:192.0.2.7]:1".parse().unwrap();
        let class = ClientLabels::from(address);
        let layer = mock_layer;
        for answer in [
            layer().source(address.ip()).layer(counted()).oneshot(()).await,
            layer().source(address).layer(counted()).oneshot(()).await,
            layer().source(class).layer(counted()).oneshot(()).await,
            layer()
                .source(move |(): &()| Some(address.ip()))
                .layer(counted())
                .oneshot(())
                .await,
            layer()
                .source(move |(): &()| Some(address))
                .layer(counted())
                .oneshot(())
                .await,
            layer()
                .source(move |(): &()| Some(class))
                .layer(counted())
                .oneshot(())
                .await,
        ] {
            answer.unwrap();
        }
        assert_samples(
            samples(&metrics.render()),
            [sample("calls_total", &mock_labels(MAPPED), 6)],
        );
    });
}

fn counted() -> impl Service<(), Response = Response<String>, Error = Infallible> {
    service_fn(|(): ()| async {
        counter!("calls_total").increment(1);
        Ok(Response::new(String::new()))
    })
}

/// What is logged on this thread while `work` runs.
async fn logged(work: impl Future<Output = ()>) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    work.await;
    drop(guard);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
#[cfg(unix)]
fn a_unix_socket_is_unknown_and_that_is_no_news() {
    local(async |metrics| {
        let path = std::env::temp_dir().join(format!("dualstack-metrics-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let layer = mock_layer().source(ClientLabels::UNKNOWN);
        let log = logged(async {
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let service = TowerToHyperService::new(layer.layer(service_fn(hello)));
                    tokio::spawn(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service),
                    );
                }
            });
            let mut connection = handshake1(tokio::net::UnixStream::connect(&path).await.unwrap()).await;
            for _ in 0..3 {
                assert_eq!(ask(&mut connection, "/").await, "hello");
            }
        })
        .await;
        std::fs::remove_file(&path).unwrap();
        assert_eq!(log, "");
        assert_samples(
            samples(&metrics.render()),
            [sample("requests_total", &mock_labels(UNKNOWN), 6)],
        );
    });
}

#[test]
fn an_unknown_class_in_the_extensions_is_no_news() {
    local(async |metrics| {
        let server = "[::]:7071".parse().unwrap();
        let app = Router::new()
            .route("/", get(async || counter!("requests_total").increment(1)))
            .layer(ClientLabelsLayer::new(ServerBinding::new(Protocol::Http, server)));
        let log = logged(async {
            let mut request = Request::new(Body::empty());
            request.extensions_mut().insert(ClientLabels::UNKNOWN);
            app.oneshot(request).await.unwrap();
        })
        .await;
        assert_eq!(log, "");
        let expected = sample("requests_total", &seven("http", server, UNKNOWN), 1);
        assert_samples(samples(&metrics.render()), [expected]);
    });
}

#[test]
fn a_closure_that_finds_no_address_is_news_once() {
    local(async |metrics| {
        let server = "[::]:7072".parse().unwrap();
        let layer = ClientLabelsLayer::new(ServerBinding::new(Protocol::Https, server))
            .source(|(): &()| None::<SocketAddr>);
        let log = logged(async {
            for _ in 0..3 {
                layer.layer(counted()).oneshot(()).await.unwrap();
            }
        })
        .await;
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains(" WARN "), "{log}");
        assert!(log.contains("7072"), "{log}");
        let expected = sample("calls_total", &seven("https", server, UNKNOWN), 3);
        assert_samples(samples(&metrics.render()), [expected]);
    });
}

// Response bodies.

/// Three chunks, each counted, with a turn for others in between, and then nothing more, ever, unless `ends`.
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
    local(async |metrics| {
        let (listener, clients) = dual_stack();
        let app = Router::new()
            .route("/", get(async || counted_body(true)))
            .layer(ClientLabelsLayer::new(binding(&listener)));
        let server = serve(listener, app);
        // Both at once, so that the bodies take turns.
        join_all(clients.iter().map(async |&client| {
            let mut connection = http1(client, server).await;
            assert_eq!(ask(&mut connection, "/").await, "chunk 0;chunk 1;chunk 2;");
        }))
        .await;
        soon("the bodies are dropped", || {
            series(&metrics.render(), "body_dropped_total").len() == clients.len()
        })
        .await;
        let expected = clients
            .iter()
            .flat_map(|&client| body_samples(&labels_of(client, server)));
        assert_samples(samples(&metrics.render()), expected);
    });
}

/// A client reads the first chunk and goes away.
async fn leave_midway(client: IpAddr, server: SocketAddr, version: http::Version) {
    let uri = format!("http://{server}/");
    let request = Request::get(uri)
        .header(header::HOST, "test")
        .body(Full::<Bytes>::default())
        .unwrap();
    // Dropping the senders and the body closes the HTTP/1.1 connection and resets the HTTP/2 stream.
    if version == http::Version::HTTP_2 {
        let mut connection = http2(client, server).await;
        let mut body = connection.send_request(request).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
    } else {
        let mut connection = http1(client, server).await;
        let mut body = connection.send_request(request).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
    }
}

#[test]
fn a_body_that_is_dropped_midway() {
    for version in [http::Version::HTTP_11, http::Version::HTTP_2] {
        local(async |metrics| {
            let (listener, clients) = dual_stack();
            let app = Router::new()
                .route("/", get(async || counted_body(false)))
                .layer(ClientLabelsLayer::new(binding(&listener)));
            let server = serve(listener, app);
            for &client in &clients {
                leave_midway(client, server, version).await;
            }
            soon("the bodies are dropped", || {
                series(&metrics.render(), "body_dropped_total").len() == clients.len()
            })
            .await;
            let expected = clients
                .iter()
                .map(|&client| sample("body_dropped_total", &labels_of(client, server), 1));
            assert_samples(series(&metrics.render(), "body_dropped_total"), expected);
            // How many chunks were made before is the server's affair, but not whose they are.
            for line in samples(&metrics.render()) {
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
    local(async |metrics| {
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
            !series(&metrics.render(), "body_dropped_total").is_empty()
        })
        .await;
        let mut expected = body_samples(&Labels::new());
        expected.push(sample("requests_total", &labels_of(clients[0], server), 1));
        assert_samples(samples(&metrics.render()), expected);
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
    // The order of the two choices is no matter, and what is no body at all can be a response.
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
    local(async |_| {
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
                let request = Request::builder()
                    .method(&method)
                    .uri(format!("http://{server}{path}"))
                    .header(header::HOST, "test")
                    .body(Full::<Bytes>::default())
                    .unwrap();
                for response in [
                    http1(client, server)
                        .await
                        .send_request(request.clone())
                        .await
                        .unwrap(),
                    http2(client, server).await.send_request(request).await.unwrap(),
                ] {
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
    /// Knows things about itself that no body in use does, and changes its mind at each frame.
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
    local(async |_| {
        let (listener, clients) = dual_stack();
        let app = Router::new()
            .route(
                "/",
                get(async || {
                    let trailers = async { Some(Ok([("checksum", "7")].into_header_map())) };
                    Body::new(Full::<Bytes>::from("hello").with_trailers(trailers))
                }),
            )
            .layer(ClientLabelsLayer::new(binding(&listener)));
        let server = serve(listener, app);
        let request = Request::get(format!("http://{server}/"))
            .body(Full::default())
            .unwrap();
        let response = http2(clients[0], server)
            .await
            .send_request(request)
            .await
            .unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["checksum"], "7");
        assert_eq!(body.to_bytes(), "hello");
    });
}

trait IntoHeaderMap {
    fn into_header_map(self) -> HeaderMap;
}

impl<const N: usize> IntoHeaderMap for [(&'static str, &'static str); N] {
    fn into_header_map(self) -> HeaderMap {
        self.into_iter()
            .map(|(name, value)| {
                (
                    name.parse::<header::HeaderName>().unwrap(),
                    value.parse().unwrap(),
                )
            })
            .collect()
    }
}

// Requests that do not end well.

/// A handler that says when it has begun, and never ends.
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
    for version in [http::Version::HTTP_11, http::Version::HTTP_2] {
        local(async |metrics| {
            let begun = Arc::new(Notify::new());
            let (listener, clients) = dual_stack();
            let app = never(Arc::clone(&begun)).layer(ClientLabelsLayer::new(binding(&listener)));
            let server = serve(listener, app);
            for &client in &clients {
                if version == http::Version::HTTP_2 {
                    let mut connection = http2(client, server).await;
                    let request = Request::get(format!("http://{server}/"))
                        .body(Full::default())
                        .unwrap();
                    let answer = connection.send_request(request);
                    tokio::select! {
                        _ = answer => unreachable!("the handler never ends"),
                        () = begun.notified() => {}
                    }
                } else {
                    let mut stream = tcp(client, server).await;
                    stream
                        .write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
                        .await
                        .unwrap();
                    begun.notified().await;
                }
            }
            soon("the handlers are aborted", || {
                series(&metrics.render(), "aborted_total").len() == clients.len()
            })
            .await;
            let expected = clients.iter().flat_map(|&client| {
                let labels = labels_of(client, server);
                ["aborted_total", "begun_total"].map(|name| sample(name, &labels, 1))
            });
            assert_samples(samples(&metrics.render()), expected);
        });
    }
}

#[test]
fn a_timeout_outside() {
    local(async |metrics| {
        tokio::time::pause();
        let app = never(Arc::new(Notify::new())).layer(mock_layer());
        let service = ServiceBuilder::new().timeout(Duration::from_secs(1)).service(app);
        let error = service
            .oneshot(request_from("[2001:db8::7]:1"))
            .await
            .unwrap_err();
        assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
        assert_samples(
            samples(&metrics.render()),
            ["aborted_total", "begun_total"].map(|name| sample(name, &mock_labels(INET6), 1)),
        );
    });
}

#[test]
fn a_request_that_is_never_polled() {
    local(async |metrics| {
        let mut service = mock_layer().layer(service_fn(|_: Request<Body>| {
            let never_polled = CountDrop("aborted_total");
            async move {
                drop(never_polled);
                Ok::<_, Infallible>(Response::new(()))
            }
        }));
        drop(service.call(request_from("192.0.2.7:1")));
        assert_samples(
            samples(&metrics.render()),
            [sample("aborted_total", &mock_labels(INET), 1)],
        );
    });
}

/// Panics where the path says so, and counts on the way out.
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
    for version in [http::Version::HTTP_11, http::Version::HTTP_2] {
        local(async |metrics| {
            let (listener, clients) = dual_stack();
            let app = panicking().layer(ClientLabelsLayer::new(binding(&listener)));
            let server = serve(listener, app);
            for path in PANICS {
                for &client in &clients {
                    let uri = format!("http://{server}{path}");
                    let request = Request::get(uri)
                        .header(header::HOST, "test")
                        .body(Full::default())
                        .unwrap();
                    let answer = if version == http::Version::HTTP_2 {
                        http2(client, server).await.send_request(request).await
                    } else {
                        http1(client, server).await.send_request(request).await
                    };
                    if let Ok(response) = answer {
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
            assert_samples(samples(&metrics.render()), expected);
        });
    }
}

/// What a layer such as `CatchPanic` does.
async fn catch_panic(request: axum::extract::Request, next: Next) -> axum::response::Response {
    let response = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    counter!("after_total").increment(1);
    response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

#[test]
fn a_panic_that_is_caught_inside_or_outside() {
    local(async |metrics| {
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
                    let response = connection
                        .send_request(request(&format!("{place}{path}")))
                        .await
                        .unwrap();
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
        assert_samples(samples(&metrics.render()), expected);
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
    local(async |metrics| {
        let outer = Scope::for_server(&ServerBinding::new(Protocol::Tcp, "192.0.2.1:1".parse().unwrap()));
        let server = Labels::from(
            [
                ("server_binding_address_ip_family", "inet"),
                ("server_binding_address_ip_type", "plain"),
                ("server_binding_ip", "192.0.2.1"),
                ("server_binding_port", "1"),
                ("server_binding_protocol", "tcp"),
            ]
            .map(|(name, value)| (name, value.to_owned())),
        );
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
        assert_samples(
            samples(&metrics.render()),
            [
                sample("after_total", &server, 2),
                sample("unwound_total", &mock_labels(INET), 2),
            ],
        );
    });
}

// Tasks and threads.

#[test]
fn spawned_tasks() {
    local(async |metrics| {
        async fn child(kind: &'static str, kept: Counter) {
            let _dropped = CountDrop("child_dropped_total");
            for _ in 0..3 {
                counter!("child_total", "kind" => kind).increment(1);
                kept.increment(1);
                tokio::task::yield_now().await;
            }
        }

        let kept = counter!("kept_total");
        let (listener, clients) = dual_stack();
        let app = Router::new()
            .route(
                "/",
                get(async |State(kept): State<Counter>| {
                    let outside = tokio::spawn(child("outside", kept.clone()));
                    let inside = tokio::spawn(child("inside", kept.clone()).with_current_scope());
                    // Goes on when the response has long been sent.
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
            .layer(ClientLabelsLayer::new(binding(&listener)))
            .with_state(kept);
        let server = serve(listener, app);
        join_all(clients.iter().map(async |&client| {
            ask(&mut http1(client, server).await, "/").await;
        }))
        .await;
        soon("the late children are done", || {
            series(&metrics.render(), "late_total").len() == clients.len()
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
        assert_samples(samples(&metrics.render()), expected);
    });
}

#[test]
fn an_aborted_child_is_dropped_in_its_scope() {
    local(async |metrics| {
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
        assert_samples(
            samples(&metrics.render()),
            [sample("aborted_total", &mock_labels(INET), 1)],
        );
    });
}

#[test]
fn threads() {
    let metrics = global();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let kept = counter!("threads_kept_total");
            let (listener, clients) = dual_stack();
            let app = Router::new()
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
                .layer(ClientLabelsLayer::new(binding(&listener)))
                .with_state(kept);
            let server = serve(listener, app);
            join_all(clients.iter().map(async |&client| {
                for _ in 0..5 {
                    ask(&mut http1(client, server).await, "/").await;
                }
            }))
            .await;

            let name = "threads_total";
            let count = 5 * clients.len() as u64;
            assert_samples(
                series(&metrics.render(), name),
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
                series(&metrics.render(), "threads_kept_total"),
                clients
                    .iter()
                    .map(|&client| sample("threads_kept_total", &labels_of(client, server), 15))
                    .chain([plain("threads_kept_total", count)]),
            );
        });
}

#[test]
fn futures_that_take_turns_on_one_thread_never_see_each_other() {
    local(async |metrics| {
        let scopes = ClientScopes::new(ServerBinding::new(Protocol::Http, SERVER.parse().unwrap()));
        let work = async |steps: usize| {
            let own = Scope::current();
            for _ in 0..steps {
                counter!("steps_total").increment(1);
                tokio::task::yield_now().await;
                assert_eq!(Scope::current(), own);
            }
        };
        let tasks: Vec<_> = ClientLabels::ALL
            .iter()
            .map(|client| tokio::spawn(work(10).with_scope(scopes.for_client(client))))
            .collect();
        let bare = tokio::spawn(work(7));
        // In one task, too.
        let (first, second) = (
            work(3).with_scope(scopes.for_client(V4)),
            work(4).with_scope(scopes.for_client(V6)),
        );
        join(join(first, second), work(5)).await;
        for task in tasks.into_iter().chain([bare]) {
            task.await.unwrap();
        }
        assert_samples(
            samples(&metrics.render()),
            [
                sample("steps_total", &mock_labels(INET), 13),
                sample("steps_total", &mock_labels(MAPPED), 10),
                sample("steps_total", &mock_labels(INET6), 14),
                sample("steps_total", &mock_labels(UNKNOWN), 10),
                plain("steps_total", 12),
            ],
        );
    });
}

#[test]
fn a_future_in_a_scope_inside_another() {
    local(async |metrics| {
        let scopes = ClientScopes::new(ServerBinding::new(Protocol::Http, SERVER.parse().unwrap()));
        let count = || counter!("steps_total").increment(1);
        async {
            count();
            async {
                count();
                tokio::task::yield_now().await;
                count();
            }
            .with_scope(scopes.for_client(V6))
            .await;
            async {
                count();
                tokio::task::yield_now().await;
                count();
            }
            .with_scope(Scope::none())
            .await;
            count();
        }
        .with_scope(scopes.for_client(V4))
        .await;
        assert_samples(
            samples(&metrics.render()),
            [
                sample("steps_total", &mock_labels(INET), 2),
                sample("steps_total", &mock_labels(INET6), 2),
                plain("steps_total", 2),
            ],
        );
    });
}

#[test]
fn streams() {
    local(async |metrics| {
        let scopes = ClientScopes::new(ServerBinding::new(Protocol::Http, SERVER.parse().unwrap()));
        let counting = |items: usize| {
            let dropped = CountDrop("dropped_total");
            let mut left = items;
            stream::poll_fn(move |_| {
                let _ = &dropped;
                counter!("polls_total").increment(1);
                if left == 0 {
                    return Poll::Ready(None);
                }
                left -= 1;
                Poll::Ready(Some(left))
            })
        };
        let ended = counting(3).with_scope(scopes.for_client(V4));
        let cut = counting(9).with_scope(scopes.for_client(V6));
        let (mut ended, mut cut) = (pin!(ended), Box::pin(cut));
        for _ in 0..4 {
            ended.next().await;
            counter!("between_total").increment(1);
            cut.next().await;
        }
        drop(cut);
        assert_samples(
            samples(&metrics.render()),
            [
                plain("between_total", 4),
                sample("polls_total", &mock_labels(INET), 4),
                sample("polls_total", &mock_labels(INET6), 4),
                sample("dropped_total", &mock_labels(INET6), 1),
            ],
        );
        let sized = stream::iter(0..5).with_scope(scopes.for_client(V4));
        assert_eq!(sized.size_hint(), (5, Some(5)));
        assert_eq!(sized.collect::<Vec<_>>().await, [0, 1, 2, 3, 4]);
    });
}

#[test]
fn what_is_taken_out_of_the_wrapper_is_outside() {
    local(async |metrics| {
        let scope =
            ClientScopes::new(ServerBinding::new(Protocol::Http, SERVER.parse().unwrap())).for_client(V4);
        drop(scope.wrap(CountDrop("inside_total")));
        drop(scope.wrap(CountDrop("outside_total")).into_inner());

        let polls = AtomicUsize::new(0);
        let work = poll_fn(|_| {
            counter!("polls_total").increment(1);
            if polls.fetch_add(1, Ordering::Relaxed) < 2 {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        });
        let mut scoped = work.with_scope(scope);
        assert!((&mut scoped).now_or_never().is_none());
        assert!(scoped.get_mut().now_or_never().is_none());
        assert!(scoped.into_inner().now_or_never().is_some());
        assert_samples(
            samples(&metrics.render()),
            [
                sample("inside_total", &mock_labels(INET), 1),
                plain("outside_total", 1),
                sample("polls_total", &mock_labels(INET), 1),
                plain("polls_total", 2),
            ],
        );
    });
}
