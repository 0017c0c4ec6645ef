use std::net::{IpAddr, SocketAddr};

use dualstack_metrics::{
    ClientScopes, Protocol, ServerBinding,
    labels::{CLIENT_ADDRESS_IP_FAMILY, CLIENT_ADDRESS_IP_TYPE},
};

#[test]
fn other_names() -> Result<(), Box<dyn std::error::Error>> {
    let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse::<SocketAddr>()?);

    let scopes = ClientScopes::builder()
        .binding(binding)
        .rename(CLIENT_ADDRESS_IP_FAMILY, "family")
        .rename_value(CLIENT_ADDRESS_IP_FAMILY, "inet", "v4")
        .rename_value(CLIENT_ADDRESS_IP_FAMILY, "inet6", "v6")
        .omit(CLIENT_ADDRESS_IP_TYPE)
        .build()?;

    let client: IpAddr = "::ffff:192.0.2.7".parse()?;
    assert_eq!(scopes.for_client(client).value_of("family"), Some("v4"));
    assert_eq!(scopes.for_client(client).pairs().len(), 6);
    Ok(())
}

#[test]
fn a_name_that_prometheus_refuses() {
    let refused = ClientScopes::builder()
        .rename(CLIENT_ADDRESS_IP_FAMILY, "address-family")
        .build();
    let error = refused.unwrap_err().to_string();

    let message = "\"address-family\" is not a label name: use letters, digits, `_` and `.`, and do not begin with a digit, \
                   a dot or `__`";
    assert_eq!(error, message);
}
