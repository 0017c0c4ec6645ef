//! A hyper service without axum. The client's address is known for each connection.
//!
//! ```text
//! cargo run --example hyper_service
//! curl http://127.0.0.1:7070/ http://[::1]:7070/
//! ```

use std::{convert::Infallible, error::Error};

use dualstack_metrics::{ClientLabelsLayer, Protocol, ServerBinding, SocketOptions};
use hyper::{Request, Response, body::Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::{Layer, service_fn};

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
        let service = layer.source(peer).layer(service_fn(move |_: Request<Incoming>| {
            metrics::counter!("requests_total").increment(1);
            std::future::ready(Ok::<_, Infallible>(Response::new(metrics.render())))
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
