//! An HTTP service whose counters have labels of its own: the plan of the caller, the tenant, and a header.
//!
//! ```text
//! cargo run --features derive --example own_labels
//! curl http://127.0.0.1:7070/ -H 'Host: acme' -H 'X-Plan: paid' -H 'Referer: a.example'
//! curl http://127.0.0.1:7070/ -H 'Host: acme' -H 'X-Plan: paid' -H 'Referer: a.example'
//! curl http://[::1]:7070/ -H 'Host: globex' -H 'Referer: b.example'
//! curl http://[::1]:7070/ -H 'Host: initech' -H 'Referer: c.example'
//! curl http://127.0.0.1:7070/metrics
//! ```
//!
//! The last one shows the lines below. `initech` is not in the file of tenants, and `c.example` came when the label was
//! full, so both are counted as `other`.
//!
//! ```text
//! # TYPE hellos_total counter
//! hellos_total{client_address_ip_family="inet",client_address_ip_type="v4_mapped_v6",plan="pay-as-you-go",referer="a.example",tenant="acme"} 2
//! hellos_total{client_address_ip_family="inet6",client_address_ip_type="plain",plan="free",referer="b.example",tenant="globex"} 1
//! hellos_total{client_address_ip_family="inet6",client_address_ip_type="plain",plan="free",referer="other",tenant="other"} 1
//!
//! # TYPE label_values_overflowed_total counter
//! label_values_overflowed_total{client_address_ip_family="inet6",client_address_ip_type="plain",label="referer",reason="full"} 1
//! label_values_overflowed_total{client_address_ip_family="inet6",client_address_ip_type="plain",label="tenant",reason="unknown"} 1
//! ```

use std::{error::Error, fs, net::SocketAddr};

use axum::{
    Router,
    http::{Request, header},
    routing::get,
};
use dualstack_metrics::{
    BoundedLabel, CappedLabel, ClientLabelsLayer, ClientScopes, FixedLabel, LabelsLayer, SocketOptions, scope,
};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;

/// Its values are known when the program is compiled.
#[derive(Clone, Copy, BoundedLabel)]
#[label(name = "plan")]
enum Plan {
    Free,
    #[label(value = "pay-as-you-go")]
    PayAsYouGo,
}

fn plan_of<B>(request: &Request<B>) -> Plan {
    match request.headers().get("x-plan") {
        Some(plan) if plan == "paid" => Plan::PayAsYouGo,
        _ => Plan::Free,
    }
}

/// Its values come from clients: the first two are kept.
static REFERER: CappedLabel = CappedLabel::new("referer", 2);

async fn hello() -> &'static str {
    metrics::counter!("hellos_total").increment(1);
    "hello\n"
}

pub(crate) async fn serve(listener: TcpListener, tenants: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let metrics = dualstack_metrics::prometheus::install(PrometheusBuilder::new())?;

    // Its values are known at start-up.
    let tenants = FixedLabel::new("tenant", tenants.lines())?;

    // Without the labels of the server, because this program has only one listener.
    let clients = ClientScopes::builder().build()?;

    // A counter can have 76 series: 4 for the classes of clients alone, in the outer layer, and in the inner layer
    // 4 classes × 2 plans × 3 tenants × 3 referers, where `other` is one of the tenants and referers.
    let labels = (Plan::Free, tenants.other(), REFERER.other());
    let needed = clients.max_label_sets(&()) + clients.max_label_sets(&labels);
    scope::limit_label_sets(100, needed)?; // an error if more are needed

    let app = Router::new()
        .route("/", get(hello))
        .layer(LabelsLayer::new(move |request: &Request<_>| {
            let headers = request.headers();
            (
                plan_of(request),
                tenants.value(headers.get(header::HOST)),
                REFERER.value(headers.get(header::REFERER)),
            )
        }))
        .layer(ClientLabelsLayer::from_scopes(clients))
        .route("/metrics", get(async move || metrics.render()));
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let tenants = fs::read_to_string("examples/own_labels.tenants")?;
    let listener = SocketOptions::dual_stack().bind_tcp("[::]:7070".parse()?)?;
    println!("listening on http://{}", listener.local_addr()?);
    serve(listener, &tenants).await
}
