use axum::{Router, routing::get};
use dualstack_metrics::{
    ClientLabelsLayer, ClientScopes, ClientScopesBuilder, FixedLabel, LabelsLayer, Protocol,
    labels::{
        CLIENT_ADDRESS_IP_FAMILY, CLIENT_ADDRESS_IP_TYPE, SERVER_BINDING_ADDRESS_IP_FAMILY,
        SERVER_BINDING_ADDRESS_IP_TYPE, SERVER_BINDING_IP, SERVER_BINDING_PORT,
    },
};
use metrics::counter;
use test_support::{INET6, Labels, recorded, sample, seven};

use super::{MAPPED_CLIENT, binding, from, send, server};

/// Asserts the labels of a mapped client of the tenant `acme`.
#[track_caller]
fn assert_labels(builder: ClientScopesBuilder, expected: impl IntoIterator<Item = (&'static str, String)>) {
    let scopes = builder.build().unwrap();
    let tenants = FixedLabel::new("tenant", ["acme"]).unwrap();
    let app = Router::new()
        .route("/", get(async || counter!("hellos_total").increment(1)))
        .layer(ClientLabelsLayer::from_scopes(scopes))
        .layer(LabelsLayer::new(move |_: &axum::extract::Request| {
            tenants.value("acme")
        }));
    let mut labels = Labels::from_iter(expected);
    labels.insert("tenant", "acme".into());
    recorded(async |metrics| {
        send(app, from(MAPPED_CLIENT)).await;
        metrics.assert([sample("hellos_total", &labels, 1)]);
    });
}

fn builder() -> ClientScopesBuilder {
    ClientScopes::builder().binding(binding(Protocol::Http))
}

fn pairs<const N: usize>(pairs: [(&'static str, &str); N]) -> [(&'static str, String); N] {
    pairs.map(|(name, value)| (name, value.to_owned()))
}

#[test]
fn the_view_of_the_socket() {
    let mut labels = seven("http", server(), INET6);
    labels.insert("client_address_ip_type", "v4_mapped_v6".into());
    assert_labels(builder().socket_view(), labels);
}

#[test]
fn the_names_of_opentelemetry() {
    assert_labels(
        builder().opentelemetry(),
        pairs([
            ("network_local_address", "::"),
            ("network_local_port", "7070"),
            ("network_transport", "tcp"),
            ("network_type", "ipv4"),
        ]),
    );
}

#[test]
fn names_and_values_of_the_user_and_labels_that_are_left_out() {
    let own = builder()
        .rename(CLIENT_ADDRESS_IP_FAMILY, "family")
        .rename_value(CLIENT_ADDRESS_IP_FAMILY, "inet", "v4")
        .omit(CLIENT_ADDRESS_IP_TYPE)
        .omit(SERVER_BINDING_ADDRESS_IP_FAMILY)
        .omit(SERVER_BINDING_ADDRESS_IP_TYPE)
        .omit(SERVER_BINDING_IP)
        .rename(SERVER_BINDING_PORT, "port")
        .label("site", "ams");
    assert_labels(
        own,
        pairs([
            ("family", "v4"),
            ("port", "7070"),
            ("server_binding_protocol", "http"),
            ("site", "ams"),
        ]),
    );
    let client = pairs([
        ("client_address_ip_family", "inet"),
        ("client_address_ip_type", "v4_mapped_v6"),
    ]);
    assert_labels(ClientScopes::builder(), client);
}
