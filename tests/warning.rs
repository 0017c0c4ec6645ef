//! A server that does not learn the addresses of its clients logs one warning with the fix.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::{Ready, ready},
    net::{IpAddr, SocketAddr},
};

use axum::{Router, routing::get};
use bytes::Bytes;
use dualstack_metrics::{
    BoundedLabel, ClientLabels, ClientLabelsLayer, Protocol, Scope, ServerBinding,
    client::{FromRequest, connect_info},
    prometheus::Install,
};
use futures_util::{FutureExt, future::join_all};
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use metrics::counter;
use metrics_exporter_prometheus::PrometheusBuilder;
use test_support::{Log, Metrics, UNKNOWN, and, assert_samples, dual_stack, loopbacks, sample, seven};
use tokio::net::TcpStream;
use tower::{Layer, Service, service_fn};

fn app(binding: ServerBinding, listener: &'static str) -> Router {
    Router::new()
        .route(
            "/",
            get(async move || counter!("requests_total", "listener" => listener).increment(1)),
        )
        .layer(ClientLabelsLayer::new(binding))
}

/// Sends sixty requests over twenty concurrent connections.
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
            let answers = join_all((0..3).map(|_| sender.clone().send_request(request()))).await;
            assert!(
                answers
                    .into_iter()
                    .all(|answer| answer.unwrap().status().is_success())
            );
        } else {
            let (mut sender, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            for _ in 0..3 {
                sender.ready().await.unwrap();
                let answer = sender.send_request(request()).await.unwrap();
                assert!(answer.status().is_success());
            }
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_router_without_connect_info() {
    let log = Log::of_process();
    let metrics = Metrics::from(Install::new(PrometheusBuilder::new()).install().unwrap());
    let hosts = loopbacks();

    // Binding logs a line of its own on a host without IPv6.
    let [first, second, third] = [(); 3].map(|()| dual_stack());
    let before = log.lines().len();
    let assert_warned = |servers: &[SocketAddr]| {
        let lines = log.lines().split_off(before);
        assert_eq!(lines.len(), servers.len(), "{lines:#?}");
        for (line, server) in lines.iter().zip(servers) {
            assert!(line.starts_with("WARN "), "{line}");
            assert!(line.contains(&server.port().to_string()), "{line}");
            let fix = "into_make_service_with_connect_info::<SocketAddr>()";
            assert!(line.contains(fix), "{line}");
        }
    };
    let unknown = |server, listener, requests| {
        let labels = and(seven("http", server, UNKNOWN), "listener", listener);
        sample("requests_total", &labels, requests)
    };

    let (listener, server, binding) = first;
    // The mistake.
    tokio::spawn(async move { axum::serve(listener, app(binding, "first")).await });
    sixty_requests(server, &hosts).await;
    sixty_requests(server, &hosts).await;
    assert_warned(&[server]);
    metrics.assert([unknown(server, "first", 120)]);

    // There is one warning for each binding, and none for a binding that is served correctly.
    let (listener, other, binding) = second;
    tokio::spawn(async move { axum::serve(listener, app(binding, "second")).await });
    let (listener, right, binding) = third;
    let app = app(binding, "third").into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    sixty_requests(right, &hosts).await;
    assert_warned(&[server]);
    sixty_requests(other, &hosts).await;
    sixty_requests(server, &hosts).await;
    assert_warned(&[server, other]);

    let mut lines = metrics.samples();
    lines.retain(|line| line.contains("unknown"));
    assert_samples(
        lines,
        [unknown(server, "first", 180), unknown(other, "second", 60)],
    );
}

/// The connection info of tonic, of another version of axum, or of a listener.
#[derive(Clone)]
struct Info(Option<SocketAddr>);

/// A layer for a binding of its own, because each binding has one warning.
fn layer(port: u16) -> ClientLabelsLayer {
    ClientLabelsLayer::new(ServerBinding::new(Protocol::Http, ([192, 0, 2, 1], port).into()))
}

fn family(_: Request<()>) -> Ready<Result<Response<&'static str>, Infallible>> {
    let family = Scope::current().value_of("client_address_ip_family");
    ready(Ok(Response::new(family.unwrap_or("none"))))
}

/// The advice in the one line that is logged while requests with this `info` are served, and their client's family.
fn served<S>(mut service: S, info: Option<SocketAddr>) -> (Option<String>, &'static str)
where
    S: Service<Request<()>, Response = Response<&'static str>, Error: Debug>,
{
    // Without one there is a warning about that as well.
    drop(Install::new(PrometheusBuilder::new()).build_recorder());
    let log = Log::of_thread();
    let families = [(); 3].map(|()| {
        let mut request = Request::new(());
        request.extensions_mut().insert(Info(info));
        *service.call(request).now_or_never().unwrap().unwrap().body()
    });
    assert!(families.iter().all(|family| *family == families[0]));
    let mut lines = log.lines();
    let advice = lines.pop().map(|line| {
        let (start, advice) = line.split_once("labelled `unknown`: ").expect(&line);
        assert!(start.starts_with("WARN "), "{line}");
        advice.split_once(" labels=").expect(&line).0.to_owned()
    });
    assert_eq!(lines, [""; 0]);
    (advice, families[0])
}

#[test]
fn the_warning_fits_the_source() {
    let address = Some("[::ffff:192.0.2.7]:1".parse().unwrap());
    let service = || service_fn(family);
    let unknown = |advice: &str| (Some(advice.to_owned()), "unknown");
    let of_layer = "the source that was given to `ClientLabelsLayer` returned `None`; add another with `or`, or \
                    `or(ClientLabels::UNKNOWN)` if clients have no address here";
    let of_request = "serve an axum router with `into_make_service_with_connect_info::<SocketAddr>()`; for axum \
                      0.7, turn on the feature `axum07`; if the address is in another type, such as the \
                      `TcpConnectInfo` of tonic, name the type with `ClientLabelsLayer::connect_info`";

    // The request itself, which has connection info that the layer does not know.
    let layer1 = layer(1).without_body();
    assert_eq!(served(layer1.layer(service()), address), unknown(of_request));

    // A closure.
    let source = |request: &Request<_>| request.extensions().get::<Info>()?.0;
    let layer2 = layer(2).source(source).without_body();
    assert_eq!(served(layer2.layer(service()), None), unknown(of_layer));
    assert_eq!(served(layer2.layer(service()), address), (None, "inet"));

    // A type in the extensions, with and without an address, and one that is not there.
    let layer3 = layer(3).without_body().connect_info(|info: &Info| info.0);
    assert_eq!(
        served(layer3.layer(service()), None),
        unknown("the request has no address in its `warning::Info`")
    );
    assert_eq!(served(layer3.layer(service()), address), (None, "inet"));
    let layer4 = layer(4)
        .without_body()
        .connect_info(|&address: &SocketAddr| address);
    assert_eq!(
        served(layer4.layer(service()), address),
        unknown("the request has no `core::net::socket_addr::SocketAddr`")
    );

    // Two sources.
    let layer5 = layer(5).without_body().source(source).or(FromRequest);
    assert_eq!(
        served(layer5.layer(service()), None),
        unknown(&format!("{of_layer}; {of_request}"))
    );
    assert_eq!(served(layer5.layer(service()), address), (None, "inet"));
    let layer6 = layer(6).or(connect_info(|info: &Info| info.0)).without_body();
    assert_eq!(served(layer6.layer(service()), address), (None, "inet"));
    let first = "[2001:db8::7]:1".parse::<SocketAddr>().unwrap();
    let layer7 = layer(7).source(first).or(source).without_body();
    assert_eq!(served(layer7.layer(service()), address), (None, "inet6"));

    // A missing address that is no mistake.
    let layer8 = layer(8).source(source).or(ClientLabels::UNKNOWN).without_body();
    assert_eq!(served(layer8.layer(service()), None), (None, "unknown"));
}

#[test]
fn an_index_outside_of_the_values_is_logged_once_with_the_name_of_the_label() {
    #[derive(Clone, Copy)]
    struct Outside(usize);

    impl BoundedLabel for Outside {
        const NAME: &'static str = "outside";
        const VALUES: &'static [&'static str] = &["inside"];

        fn index(self) -> usize {
            self.0
        }
    }

    let log = Log::of_thread();
    for _ in 0..3 {
        assert_eq!(Scope::new(&Outside(7)).pairs(), [("outside", "other")]);
    }
    log.assert_warning(&[r#"label="outside" index=7 values=1"#]);
}
