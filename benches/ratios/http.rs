//! A request through the layer, against the same through a layer that does nothing.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Instant,
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    routing::{RouterIntoService, get},
};
use bytes::Bytes;
use dualstack_metrics::{
    ClientLabelsLayer, ClientScopes, Protocol, ServerBinding, TrustedProxies,
    client::{ClientConnectInfo, DatagramClient, DatagramSource as _},
    proxy::HeaderSource,
};
use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue, Request, Response};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use metrics::{Recorder, counter, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_tracing_context::{MetricsLayer, TracingContextLayer};
use metrics_util::layers::Layer as _;
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, Service, layer::util::Identity, service_fn};
use tower_http::trace::TraceLayer;
use tracing_subscriber::layer::SubscriberExt as _;

use super::paired::{Paired, allocations, header, nanos, paired, row};

const CALLS: u32 = 20_000;

const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), 50_000);

fn binding() -> ServerBinding {
    ServerBinding::new(Protocol::Http, ([0; 16], 7070).into())
}

fn request() -> Request<Body> {
    let mut request = Request::new(Body::empty());
    let peer: SocketAddr = ([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0207], 50_000).into();
    request.extensions_mut().insert(ConnectInfo(peer));
    request
}

/// A router like that of an application. It counts nothing, so that only the layer is measured.
fn router() -> Router {
    Router::new().route("/", get(async || "hello"))
}

fn bare(_: Request<Body>) -> Ready<Result<Response<Body>, Infallible>> {
    ready(Ok(Response::new(Body::empty())))
}

/// The service that `into_make_service` makes, with its routes prepared.
fn eager(router: Router) -> RouterIntoService<Body> {
    router.with_state::<()>(()).into_service()
}

/// One request in process, answered and dropped.
fn call<S, B>(service: &mut S)
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
{
    answer(service, request());
}

fn answer<S, B>(service: &mut S, request: Request<Body>)
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
{
    black_box(
        service
            .call(request)
            .now_or_never()
            .expect("a handler that is ready at once"),
    )
    .ok();
}

/// Calls of one service against calls of another.
fn calls<A, B>(
    ours: &mut impl FnMut(&mut A),
    a: &mut A,
    rival: &mut impl FnMut(&mut B),
    b: &mut B,
) -> Paired {
    paired(|| nanos(CALLS, || ours(a)), || nanos(CALLS, || rival(b)))
}

pub(crate) fn print() {
    header("a request, with our layer / with a layer that does nothing");

    let against = |what: &str, target: &str, mut ours: RouterIntoService<Body>, rival: Router| {
        let mut rival = eager(rival);
        let paired = calls(&mut call, &mut ours, &mut call, &mut rival);
        let more = allocations(|| call(&mut ours)) - allocations(|| call(&mut rival));
        row(what, &paired, target, format!("{more:+}"));
    };
    let identity = || router().layer(Identity::new());
    let of = |what: &str, target: &str, ours| against(what, target, ours, identity());
    let layer = ClientLabelsLayer::new(binding());
    of("axum router, in process", "≤ 1.06", eager(router().layer(layer)));
    of(
        "axum router, in process, `.without_body()`",
        "",
        eager(router().layer(layer.without_body())),
    );
    against(
        "a layer that does nothing / no layer",
        "",
        eager(identity()),
        router(),
    );
    of(
        "`TraceLayer` instead of ours",
        "",
        eager(router().layer(TraceLayer::new_for_http())),
    );

    let mut ours = layer.layer(service_fn(bare));
    let mut plain = service_fn(bare);
    let paired = calls(&mut call, &mut ours, &mut call, &mut plain);
    let more = allocations(|| call(&mut ours)) - allocations(|| call(&mut plain));
    row(
        "a tower service that does nothing / no layer",
        &paired,
        "",
        format!("{more:+}"),
    );

    counting();
    connections();
    sources();
    datagrams();
}

/// The scope of a datagram's client, which is in a header of the PROXY protocol in front of it, or is the peer.
fn datagrams() {
    const IN_FRONT: &[u8] =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\xc0\0\x02\x07\xc0\0\x02\x01\xc3\x50\0\x35ask";

    header("the scope of a datagram, behind a proxy / without one");
    let scopes = ClientScopes::new(binding());
    let source = TrustedProxies::new(["192.0.2.0/24", "10.0.0.0/8", "::1"]).expect("networks");
    let source = source.proxy_protocol_datagrams();
    // As in the server, the payload is a part of a buffer.
    let payload = Bytes::from(IN_FRONT.to_vec());
    let behind = || {
        let mut payload = black_box(&payload).slice(..);
        match source.read_client(&mut payload, black_box(PEER)) {
            Ok(DatagramClient::Behind(client)) => scopes.for_client(client),
            other => unreachable!("{other:?}"),
        }
    };
    let direct = || {
        black_box(black_box(&payload).slice(..));
        scopes.for_client(black_box(PEER))
    };
    let paired = paired(
        || nanos(CALLS, || _ = black_box(behind())),
        || nanos(CALLS, || _ = black_box(direct())),
    );
    let more = allocations(|| _ = black_box(behind())) - allocations(|| _ = black_box(direct()));
    row("`proxy_protocol_datagrams`", &paired, "", format!("{more:+}"));
}

/// The sources behind a proxy. Both sides get the same request.
fn sources() {
    header("a request, with our layer and this source / and `ConnectInfo`");

    let proxies = TrustedProxies::new(["192.0.2.0/24", "10.0.0.0/8", "::1"]).expect("networks");
    let row_of = |what: &str, source: Option<HeaderSource>, add: &dyn Fn(&mut Request<Body>)| {
        let layer = ClientLabelsLayer::new(binding());
        let mut ours = match source {
            Some(source) => eager(router().layer(layer.source(source))),
            None => eager(router().layer(layer)),
        };
        let mut rival = eager(router().layer(layer));
        let with_connect_info = |service: &mut RouterIntoService<Body>| {
            let mut request = request();
            if what.starts_with("PROXY") {
                // Its connect info is of the same size, more or less.
                request.extensions_mut().clear();
                request.extensions_mut().insert(ConnectInfo(PEER));
            } else {
                add(&mut request);
            }
            answer(service, request);
        };
        let with_source = |service: &mut RouterIntoService<Body>| {
            let mut request = request();
            add(&mut request);
            answer(service, request);
        };
        let paired = calls(
            &mut { with_source },
            &mut ours,
            &mut { with_connect_info },
            &mut rival,
        );
        let more = allocations(|| with_source(&mut ours)) - allocations(|| with_connect_info(&mut rival));
        row(what, &paired, "", format!("{more:+}"));
    };
    let with = |name: &'static str, value: &'static str| {
        move |request: &mut Request<Body>| {
            let value = HeaderValue::from_static(value);
            request.headers_mut().insert(HeaderName::from_static(name), value);
        }
    };
    let name = "x-forwarded-for";
    let list = proxies.x_forwarded_for();
    row_of(
        "`x_forwarded_for`, one hop",
        Some(list.clone()),
        &with(name, "2001:db8::7"),
    );
    row_of(
        "`x_forwarded_for`, two proxies and a forged hop",
        Some(list.clone()),
        &with(name, "203.0.113.9, 2001:db8::7, 10.0.0.2, ::ffff:10.0.0.3"),
    );
    row_of(
        "`forwarded`",
        Some(proxies.forwarded()),
        &with("forwarded", "for=\"[2001:db8::7]:50000\";proto=https"),
    );
    row_of(
        "`header(\"x-real-ip\")`",
        Some(proxies.header("x-real-ip")),
        &with("x-real-ip", "2001:db8::7"),
    );
    let nobody = TrustedProxies::default().x_forwarded_for();
    row_of(
        "`x_forwarded_for`, a peer that is not trusted",
        Some(nobody),
        &|_| (),
    );
    row_of(
        "`x_forwarded_for`, no header, counted as missing",
        Some(list),
        &|_| (),
    );
    row_of("PROXY protocol, after the first request", None, &|request| {
        request.extensions_mut().clear();
        let info = ClientConnectInfo::new(Some(PEER), Some(PEER));
        request.extensions_mut().insert(ConnectInfo(info));
    });
}

/// A request in which one counter is incremented: with our layer and recorder, against a span and its fields.
fn counting() {
    let app = || Router::new().route("/", get(async || counter!("hellos_total").increment(1)));
    let run = |recorder: &dyn Recorder, app: &mut RouterIntoService<Body>| {
        with_local_recorder(recorder, || nanos(CALLS, || call(app)))
    };
    let plain_recorder = PrometheusBuilder::new().build_recorder();
    let ours_recorder =
        dualstack_metrics::prometheus::Install::new(PrometheusBuilder::new()).build_recorder();
    let span_recorder = TracingContextLayer::all().layer(PrometheusBuilder::new().build_recorder());

    let mut plain = eager(app().layer(Identity::new()));
    let mut ours = eager(app().layer(ClientLabelsLayer::new(binding())));
    let spans = TraceLayer::new_for_http().make_span_with(|_: &Request<Body>| {
        tracing::info_span!(
            "request",
            client_address_ip_family = "inet",
            client_address_ip_type = "v4_mapped_v6"
        )
    });
    let mut traced = eager(app().layer(spans));

    let paired_ours = paired(
        || run(&ours_recorder, &mut ours),
        || run(&plain_recorder, &mut plain),
    );
    row(
        "axum router with one counter / the same, unlabelled",
        &paired_ours,
        "",
        "",
    );
    let subscriber = tracing_subscriber::registry().with(MetricsLayer::new());
    let paired_span = tracing::subscriber::with_default(subscriber, || {
        paired(
            || run(&span_recorder, &mut traced),
            || run(&plain_recorder, &mut plain),
        )
    });
    row(
        "… a span per request and `metrics-tracing-context` / the same, unlabelled",
        &paired_span,
        "",
        "",
    );
}

/// Requests over one connection that is kept alive, client and server on one thread.
fn connections() {
    const REQUESTS: u32 = 2_000;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let connect = async |app: Router| {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, peer) = accepted.expect("a connection");
        let app = app.with_state::<()>(());
        let service = TowerToHyperService::new(service_fn(move |mut request: Request<_>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            app.clone().call(request)
        }));
        tokio::spawn(async move {
            auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await
        });
        let io = TokioIo::new(client.expect("a connection"));
        let (sender, connection) = hyper::client::conn::http1::handshake::<_, Body>(io)
            .await
            .expect("a handshake");
        tokio::spawn(connection);
        sender
    };
    let mut ours = runtime.block_on(connect(router().layer(ClientLabelsLayer::new(binding()))));
    let mut identity = runtime.block_on(connect(router().layer(Identity::new())));
    let run = |sender: &mut hyper::client::conn::http1::SendRequest<Body>| {
        runtime.block_on(async {
            let start = Instant::now();
            for _ in 0..REQUESTS {
                let request = Request::get("/").body(Body::empty()).expect("a request");
                sender.ready().await.expect("a connection");
                let response = sender.send_request(request).await.expect("a response");
                let body = axum::body::to_bytes(Body::new(response.into_body()), 16)
                    .await
                    .expect("a body");
                assert_eq!(body, "hello");
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(REQUESTS)
        })
    };
    let paired = paired(|| run(&mut ours), || run(&mut identity));
    row(
        "axum router, over a connection that is kept alive",
        &paired,
        "≤ 1.03",
        "",
    );
}
