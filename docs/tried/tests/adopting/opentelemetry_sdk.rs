use std::net::SocketAddr;

use dualstack_metrics::{ClientLabels, ClientScopes, Protocol, Scope, ServerBinding};
use opentelemetry::{KeyValue, metrics::MeterProvider as _};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData},
};

/// The labels of the client that is being served. Empty outside of `ClientLabelsLayer` and `UdpServer`.
fn scope_attributes() -> Vec<KeyValue> {
    let labels = Scope::current().pairs().iter();
    labels.map(|&(name, value)| KeyValue::new(name, value)).collect()
}

/// The two labels of an address, with no scope.
fn client_attributes(client: SocketAddr) -> Vec<KeyValue> {
    let labels = ClientLabels::from(client);
    labels
        .pairs()
        .iter()
        .map(|&(name, value)| KeyValue::new(name, value))
        .collect()
}

#[test]
fn attributes_are_the_labels() {
    let exporter = InMemoryMetricExporter::default();
    let provider = SdkMeterProvider::builder()
        .with_reader(PeriodicReader::builder(exporter.clone()).build())
        .build();
    let requests = provider.meter("tracker").u64_counter("requests").build();
    let client: SocketAddr = "[::ffff:192.0.2.7]:50000".parse().unwrap();

    let scopes = ClientScopes::new(ServerBinding::new(Protocol::Http, "[::]:7070".parse().unwrap()));
    scopes
        .for_client(client)
        .run(|| requests.add(1, &scope_attributes()));
    requests.add(2, &client_attributes(client));
    requests.add(4, &scope_attributes());

    provider.force_flush().unwrap();
    let finished = exporter.get_finished_metrics().unwrap();
    let metric = finished[0]
        .scope_metrics()
        .next()
        .unwrap()
        .metrics()
        .next()
        .unwrap();
    let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() else {
        panic!("{metric:?}");
    };
    let mut points: Vec<_> = sum
        .data_points()
        .map(|point| {
            let mut attributes: Vec<_> = point
                .attributes()
                .map(|pair| format!("{}={}", pair.key, pair.value))
                .collect();
            attributes.sort();
            (point.value(), attributes.join(","))
        })
        .collect();
    points.sort();
    let two = "client_address_ip_family=inet,client_address_ip_type=v4_mapped_v6";
    let five = "server_binding_address_ip_family=inet6,server_binding_address_ip_type=plain,server_binding_ip=::,\
                server_binding_port=7070,server_binding_protocol=http";
    assert_eq!(
        points,
        [(1, format!("{two},{five}")), (2, two.into()), (4, String::new())]
    );
}
