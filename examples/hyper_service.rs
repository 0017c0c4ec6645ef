//! A hyper service without axum. The client's address is known for each connection.
//!
//! ```text
//! cargo run --example hyper_service
//! curl http://127.0.0.1:7070/ http://[::1]:7070/ http://127.0.0.1:7070/metrics
//! ```

use std::{convert::Infallible, error::Error, future::ready};

use dualstack_metrics::{ClientLabelsLayer, Protocol, ServerBinding, SocketOptions};
use hyper::{
    Request, Response,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tower::{Layer, service_fn};

/// Prometheus refuses metrics without a content type.
const TEXT_FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub(crate) fn answer<B>(request: &Request<B>, metrics: &PrometheusHandle) -> Response<String> {
    if request.uri().path() == "/metrics" {
        let mut response = Response::new(metrics.render());
        response.headers_mut().insert(CONTENT_TYPE, TEXT_FORMAT);
        return response;
    }
    metrics::counter!("requests_total").increment(1);
    Response::new("hello\n".to_owned())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let metrics = dualstack_metrics::prometheus::install(PrometheusBuilder::new())?;
    let listener = SocketOptions::dual_stack().bind_tcp("[::]:7070".parse()?)?;
    let binding = ServerBinding::new(Protocol::Http, listener.local_addr()?);
    println!("listening on {binding}");

    // Each connection gets a copy with its own peer.
    let layer = ClientLabelsLayer::new(binding);
    loop {
        let (stream, peer) = listener.accept().await?;
        let metrics = metrics.clone();
        let service = layer
            .source(peer)
            .layer(service_fn(move |request: Request<Incoming>| {
                ready(Ok::<_, Infallible>(answer(&request, &metrics)))
            }));
        tokio::spawn(async move {
            let connection = auto::Builder::new(TokioExecutor::new());
            if let Err(error) = connection
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .await
            {
                eprintln!("{peer}: {error}");
            }
        });
    }
}
