//! An axum router whose counters have the address family of the client.
//!
//! ```text
//! cargo run --example axum_app
//! curl http://127.0.0.1:7070/ http://[::1]:7070/ http://127.0.0.1:7070/metrics
//! ```

use std::{error::Error, net::SocketAddr};

use axum::{Router, routing::get};
use dualstack_metrics::{ClientLabelsLayer, Protocol, ServerBinding, SocketOptions};
use metrics_exporter_prometheus::PrometheusBuilder;

async fn hello() -> &'static str {
    metrics::counter!("hellos_total").increment(1);
    "hello\n"
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let metrics = dualstack_metrics::prometheus::install(PrometheusBuilder::new())?;
    let listener = SocketOptions::dual_stack().bind_tcp("[::]:7070".parse()?)?;
    let binding = ServerBinding::new(Protocol::Http, listener.local_addr()?);
    println!("listening on {binding}");

    let app = Router::new()
        .route("/", get(hello))
        .layer(ClientLabelsLayer::new(binding))
        .route("/metrics", get(async move || metrics.render()));
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
