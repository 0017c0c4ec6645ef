use dualstack_metrics::{
    ClientLabels,
    labels::{CLIENT_ADDRESS_IP_FAMILY, CLIENT_ADDRESS_IP_TYPE},
};
use prometheus::{IntCounterVec, Opts, Registry, TextEncoder};
use std::net::SocketAddr;

fn count(requests: &IntCounterVec, client: SocketAddr) {
    let labels = ClientLabels::from(client);
    let values: Vec<&str> = labels.pairs().iter().map(|&(_, value)| value).collect();
    requests.with_label_values(&values).inc();
}

#[test]
fn the_registry_has_the_labels() -> Result<(), prometheus::Error> {
    let registry = Registry::new();

    let names = [CLIENT_ADDRESS_IP_FAMILY, CLIENT_ADDRESS_IP_TYPE];
    let requests = IntCounterVec::new(Opts::new("requests_total", "Requests"), &names)?;
    registry.register(Box::new(requests.clone()))?;

    count(&requests, "[::ffff:192.0.2.7]:50000".parse().unwrap());
    count(&requests, "[2001:db8::7]:50000".parse().unwrap());
    assert_eq!(
        TextEncoder::new().encode_to_string(&registry.gather())?,
        "# HELP requests_total Requests\n# TYPE requests_total counter\n\
         requests_total{client_address_ip_family=\"inet\",client_address_ip_type=\"v4_mapped_v6\"} 1\n\
         requests_total{client_address_ip_family=\"inet6\",client_address_ip_type=\"plain\"} 1\n"
    );
    Ok(())
}
