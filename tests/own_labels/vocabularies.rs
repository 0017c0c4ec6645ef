use axum::{Router, routing::get};
use dualstack_metrics::{
    ClientLabelsLayer, ClientScopes, ClientScopesBuilder, FixedLabel, LabelsLayer, Protocol, Scope,
    labels::{
        CLIENT_ADDRESS_IP_FAMILY, CLIENT_ADDRESS_IP_TYPE, SERVER_BINDING_ADDRESS_IP_FAMILY,
        SERVER_BINDING_ADDRESS_IP_TYPE, SERVER_BINDING_IP, SERVER_BINDING_PORT,
    },
    prometheus::{Install, PrometheusBuilder},
};
use metrics::counter;
use test_support::{INET6, Labels, Log, recorded, sample, seven};

use super::{MAPPED_CLIENT, Plan, binding, from, send, server};

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

fn labelled(name: &str) -> Scope {
    let scopes = ClientScopes::builder().label(name.to_owned(), "x").build();
    scopes.unwrap().server()
}

#[test]
fn names_that_prometheus_writes_alike_are_logged_once() {
    let log = Log::of_thread();
    for _ in 0..2 {
        _ = labelled("deployment.rack");
    }
    assert_eq!(log.lines(), [""; 0]);
    for _ in 0..2 {
        _ = labelled("deployment_rack").with(&Plan::Paid);
        _ = labelled("deployment.rack").with(&Plan::Free);
    }
    log.assert_warning(&[
        r#""deployment.rack" and "deployment_rack" are one name"#,
        "global labels",
    ]);
}

#[test]
fn a_global_label_that_is_written_like_a_label_is_logged_whichever_is_first() {
    let install = |name: &str| Install::new(PrometheusBuilder::new().add_global_label(name, "x"));
    let log = Log::of_thread();
    _ = install("service.name").build_recorder();
    _ = labelled("service_name");
    log.assert_warning(&[r#""service.name" and "service_name""#]);
    drop(log);

    let log = Log::of_thread();
    _ = labelled("service_version");
    _ = install("service_version").build_recorder();
    assert_eq!(log.lines(), [""; 0]);
    _ = install("service.version").build_recorder();
    log.assert_warning(&[r#""service_version" and "service.version""#]);
}
