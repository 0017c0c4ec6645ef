//! An axum service that counts with OpenTelemetry. Each count has the IP version of the client.
//!
//! ```text
//! cargo run -p otlp
//! curl http://127.0.0.1:7070/ http://[::1]:7070/
//! ```
//!
//! It prints what it exports, every ten seconds and when it is stopped with Ctrl-C. With the address of a collector, it
//! sends it there instead:
//!
//! ```text
//! OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317 cargo run -p otlp
//! ```

use std::{env, error::Error, net::SocketAddr, time::Duration};

use axum::{Router, extract::State, routing::get};
use dualstack_metrics::{
    ClientLabelsLayer, ClientScopes, Protocol, ScopedMeterProvider, ServerBinding, SocketOptions,
};
use opentelemetry::{KeyValue, global, metrics::Counter};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, exporter::PushMetricExporter};

async fn hello(State(hellos): State<Counter<u64>>) -> &'static str {
    // With the attributes of the client and of the server, like any counter in here.
    hellos.add(1, &[KeyValue::new("language", "en")]);
    "hello\n"
}

fn sdk(exporter: impl PushMetricExporter) -> SdkMeterProvider {
    let reader = PeriodicReader::builder(exporter).with_interval(Duration::from_secs(10));
    SdkMeterProvider::builder().with_reader(reader.build()).build()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let sdk = if env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_some() {
        sdk(opentelemetry_otlp::MetricExporter::builder()
            .with_tonic()
            .build()?)
    } else {
        sdk(opentelemetry_stdout::MetricExporter::default())
    };
    global::set_meter_provider(ScopedMeterProvider::new(sdk.clone()));

    let address = env::args().nth(1).unwrap_or("[::]:7070".into());
    let listener = SocketOptions::dual_stack().bind_tcp(address.parse()?)?;
    let binding = ServerBinding::new(Protocol::Http, listener.local_addr()?);
    println!("listening on {binding}");
    // `network.type`, `network.transport`, `network.local.address` and `network.local.port`.
    let scopes = ClientScopes::builder().binding(binding).opentelemetry().build()?;

    let hellos = global::meter("hello").u64_counter("hellos").build();
    let app = Router::new()
        .route("/", get(hello))
        .layer(ClientLabelsLayer::from_scopes(scopes))
        .with_state(hellos);
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(async { _ = tokio::signal::ctrl_c().await })
        .await?;
    // Exports the rest.
    sdk.shutdown()?;
    Ok(())
}
