//! A dual-stack HTTP server.

use std::{fmt::Debug, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::connect_info::Connected,
    http::Request,
    routing::get,
    serve::{IncomingStream, Listener},
};
use dualstack_metrics::{
    ClientLabelsLayer, Protocol, ServerBinding, SocketOptions,
    client::{ClientConnectInfo, ClientSource},
};
use metrics::counter;
use tokio::net::TcpListener;

pub fn dual_stack() -> (TcpListener, SocketAddr, ServerBinding) {
    let listener = SocketOptions::dual_stack().bind_tcp("[::]:0".parse().unwrap());
    let listener = listener.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address, ServerBinding::new(Protocol::Http, address))
}

/// Serves a router that counts `requests_total`, in the background, until the runtime is dropped.
pub fn serve<L, Src>(listener: L, layer: ClientLabelsLayer<Src>)
where
    L: Listener<Addr: Debug>,
    ClientConnectInfo: for<'a> Connected<IncomingStream<'a, L>>,
    Src: ClientSource<Request<Body>> + Clone + Send + Sync + 'static,
{
    let app = Router::new()
        .route("/", get(async || counter!("requests_total").increment(1)))
        .layer(layer)
        .into_make_service_with_connect_info::<ClientConnectInfo>();
    tokio::spawn(async { axum::serve(listener, app).await });
}
