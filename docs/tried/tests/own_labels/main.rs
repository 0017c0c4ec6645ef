//! The code of `docs/your-own-labels.md`, run: a module for each section. `adopting/page.rs` tests that the page shows it.

mod capped;
mod kinds;
mod late;
mod layers;
mod limits;
mod names;
mod zeros;

use std::net::{IpAddr, Ipv6Addr};

use axum::{body::Body, extract::Request, http::header};
use dualstack_metrics::{
    ClientLabels, ScopedRecorder,
    prometheus::{Install, PrometheusBuilder, PrometheusRecorder},
};
use test_support::{Labels, and};

fn recorder() -> ScopedRecorder<PrometheusRecorder> {
    Install::new(PrometheusBuilder::new()).build_recorder()
}

/// A request for the host `acme`, from an IPv6 client.
fn request(path: &str) -> Request {
    let mut request = Request::get(path).body(Body::empty()).expect("a request");
    let headers = request.headers_mut();
    headers.insert(header::HOST, "acme".parse().expect("a header"));
    let client: IpAddr = Ipv6Addr::LOCALHOST.into();
    request.extensions_mut().insert(ClientLabels::from(client));
    request
}

/// The labels of that client, and more.
fn labels(more: &[(&'static str, &str)]) -> Labels {
    let client = [
        ("client_address_ip_family", "inet6"),
        ("client_address_ip_type", "plain"),
    ];
    let all = client.iter().chain(more);
    all.fold(Labels::new(), |labels, (name, value)| and(labels, name, value))
}
