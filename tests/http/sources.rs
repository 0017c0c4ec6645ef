//! Where the layer takes the client from, with and without axum, and when it warns that a client is unknown.

use std::{convert::Infallible, net::SocketAddr};

use axum::body::Body;
use bytes::Bytes;
use dualstack_metrics::{
    ClientLabels, ClientLabelsLayer, Protocol, ServerBinding, client::ClientConnectInfo,
};
use http::{Request, Response, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use metrics::counter;
use test_support::{Log, MAPPED, UNKNOWN, recorded, sample, seven};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::{
    ask, assert_each, binding, counting, dual_stack, handshake1, http1, mock, mock_layer, request_to, send,
    text,
};

#[test]
fn sources_of_every_kind() {
    recorded(async |metrics| {
        let address: SocketAddr = "[::ffff:192.0.2.7]:1".parse().unwrap();
        let class = ClientLabels::from(address);
        let info = ClientConnectInfo::direct(Some(address));
        let layer = mock_layer;
        for answer in [
            layer().source(address.ip()).layer(counted()).oneshot(()).await,
            layer().source(address).layer(counted()).oneshot(()).await,
            layer().source(class).layer(counted()).oneshot(()).await,
            layer().source(info).layer(counted()).oneshot(()).await,
            layer().source(Some(address)).layer(counted()).oneshot(()).await,
            layer().source(Some(info)).layer(counted()).oneshot(()).await,
            layer()
                .source(move |(): &()| info)
                .layer(counted())
                .oneshot(())
                .await,
            layer()
                .source(None::<SocketAddr>)
                .or(address)
                .layer(counted())
                .oneshot(())
                .await,
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
        metrics.assert([mock("calls_total", MAPPED, 11)]);
    });
}

fn counted() -> impl Service<(), Response = Response<String>, Error = Infallible> {
    service_fn(|(): ()| async {
        counter!("calls_total").increment(1);
        Ok(Response::new(String::new()))
    })
}

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    counter!("requests_total").increment(1);
    tokio::task::yield_now().await;
    counter!("requests_total").increment(1);
    Ok(Response::new(Full::from("hello")))
}

#[test]
fn hyper_with_a_fixed_source_for_each_connection() {
    recorded(async |metrics| {
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
            let response = send(Version::HTTP_2, client, request_to(server, "/"))
                .await
                .unwrap();
            assert_eq!(response.headers()[header::CONTENT_LENGTH], "5");
            assert_eq!(text(response).await, "hello");
        }
        assert_each(&metrics, &clients, server, "requests_total", 4);
    });
}

/// The connection info of some other server.
#[derive(Clone, Copy)]
struct Peer(Option<SocketAddr>);

#[test]
fn hyper_with_a_closure_for_a_source() {
    recorded(async |metrics| {
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
        assert_each(&metrics, &clients, server, "requests_total", 4);
    });
}

#[test]
#[cfg(unix)]
fn a_unix_socket_is_unknown_without_a_warning() {
    recorded(async |metrics| {
        let path = std::env::temp_dir().join(format!("dualstack-metrics-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let layer = mock_layer().source(ClientLabels::UNKNOWN);
        let log = Log::of_thread();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(layer.layer(service_fn(hello)));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        let mut connection = handshake1(tokio::net::UnixStream::connect(&path).await.unwrap()).await;
        for _ in 0..3 {
            assert_eq!(ask(&mut connection, "/").await, "hello");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(log.lines(), [""; 0]);
        metrics.assert([mock("requests_total", UNKNOWN, 6)]);
    });
}

#[test]
fn an_unknown_class_in_the_extensions_is_not_warned_about() {
    recorded(async |metrics| {
        let server = "[::]:7071".parse().unwrap();
        let app = counting().layer(ClientLabelsLayer::new(ServerBinding::new(Protocol::Http, server)));
        let log = Log::of_thread();
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(ClientLabels::UNKNOWN);
        app.oneshot(request).await.unwrap();
        assert_eq!(log.lines(), [""; 0]);
        let expected = sample("requests_total", &seven("http", server, UNKNOWN), 1);
        metrics.assert([expected]);
    });
}

#[test]
fn a_closure_that_finds_no_address_is_warned_about_once() {
    recorded(async |metrics| {
        let server = "[::]:7072".parse().unwrap();
        let layer = ClientLabelsLayer::new(ServerBinding::new(Protocol::Https, server))
            .source(|(): &()| None::<SocketAddr>);
        let log = Log::of_thread();
        for _ in 0..3 {
            layer.layer(counted()).oneshot(()).await.unwrap();
        }
        log.assert_warning(&["7072"]);
        let expected = sample("calls_total", &seven("https", server, UNKNOWN), 3);
        metrics.assert([expected]);
    });
}
