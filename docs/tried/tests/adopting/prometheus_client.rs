use dualstack_metrics::ClientLabels;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use std::net::SocketAddr;

type Labels = Vec<(&'static str, &'static str)>;

fn count(requests: &Family<Labels, Counter>, client: SocketAddr) {
    requests
        .get_or_create(&ClientLabels::from(client).pairs().to_vec())
        .inc();
}

#[test]
fn the_registry_has_the_labels() {
    let mut registry = Registry::default();
    let requests = Family::default();
    registry.register("requests", "Requests", requests.clone());
    count(&requests, "[::ffff:192.0.2.7]:50000".parse().unwrap());
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    assert_eq!(
        text,
        "# HELP requests Requests.\n# TYPE requests counter\n\
         requests_total{client_address_ip_family=\"inet\",client_address_ip_type=\"v4_mapped_v6\"} 1\n# EOF\n"
    );
}
