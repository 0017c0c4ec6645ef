//! The client's own address behind a proxy, from made-up requests and from real proxies.

#![cfg(all(feature = "axum", feature = "prometheus", feature = "proxy"))]

mod connections;
#[cfg(feature = "udp")]
mod datagrams;
mod example;
mod headers;
mod listener;
#[cfg(target_os = "linux")]
mod real;

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::connect_info::Connected,
    routing::get,
    serve::{IncomingStream, Listener},
};
use dualstack_metrics::{
    ClientLabelsLayer, Protocol, ServerBinding, SocketOptions, TrustedProxies,
    client::{ClientConnectInfo, ClientSource},
    prometheus::Install,
};
use http::Request;
use metrics::counter;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use test_support::{Labels, Seen, block_on, sample, seven};
use tokio::net::TcpListener;

/// Runs a test on one thread, with a recorder of its own.
fn local(test: impl AsyncFnOnce(PrometheusHandle)) {
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    let handle = recorder.get_ref().handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    block_on(async { tokio::time::timeout(Duration::from_secs(60), test(handle)).await })
        .expect("the test does not hang");
}

fn trusting(networks: &[&str]) -> TrustedProxies {
    TrustedProxies::new(networks).unwrap()
}

fn dual_stack() -> (TcpListener, SocketAddr, ServerBinding) {
    let listener = SocketOptions::dual_stack().bind_tcp("[::]:0".parse().unwrap());
    let listener = listener.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address, ServerBinding::new(Protocol::Http, address))
}

/// Serves a router that counts `requests_total`, in the background, until the runtime is dropped.
fn serve<L, Src>(listener: L, layer: ClientLabelsLayer<Src>)
where
    L: Listener<Addr: std::fmt::Debug>,
    ClientConnectInfo: for<'a> Connected<IncomingStream<'a, L>>,
    Src: ClientSource<Request<axum::body::Body>> + Clone + Send + Sync + 'static,
{
    let app = Router::new()
        .route("/", get(async || counter!("requests_total").increment(1)))
        .layer(layer)
        .into_make_service_with_connect_info::<ClientConnectInfo>();
    tokio::spawn(async { axum::serve(listener, app).await });
}

/// The labels of a server on a Unix socket.
fn on_unix((family, ip_type): Seen) -> Labels {
    let mut labels = seven("http", "[::]:1".parse().unwrap(), (family, ip_type));
    for name in ["address_ip_family", "address_ip_type", "ip", "port"] {
        let label = labels
            .iter_mut()
            .find(|(label, _)| **label == format!("server_binding_{name}"));
        "unknown".clone_into(label.unwrap().1);
    }
    labels
}

/// A sample of `requests_total`.
fn requests(server: SocketAddr, seen: Seen, value: u64) -> String {
    sample("requests_total", &seven("http", server, seen), value)
}

/// A sample of `client_address_rejected_total`.
fn rejected(source: &str, reason: &str, value: u64) -> String {
    let labels = Labels::from([("source", source.into()), ("reason", reason.into())]);
    sample("client_address_rejected_total", &labels, value)
}
