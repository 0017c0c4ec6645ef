use std::net::{IpAddr, SocketAddr};

use dualstack_metrics::{
    ClientScopes, FixedLabel, Protocol, ServerBinding,
    labels::{CLIENT_ADDRESS_IP_FAMILY, CLIENT_ADDRESS_IP_TYPE, Exporter},
};

#[test]
fn other_names() -> Result<(), Box<dyn std::error::Error>> {
    let binding = ServerBinding::new(Protocol::Http, "[::]:7070".parse::<SocketAddr>()?);

    let scopes = ClientScopes::builder()
        .binding(binding)
        .rename(CLIENT_ADDRESS_IP_FAMILY, "family")
        .rename_value(CLIENT_ADDRESS_IP_FAMILY, "inet", "v4")
        .rename_value(CLIENT_ADDRESS_IP_FAMILY, "inet6", "v6")
        .without(CLIENT_ADDRESS_IP_TYPE)
        .build()?;

    let client: IpAddr = "::ffff:192.0.2.7".parse()?;
    assert_eq!(scopes.for_client(client).value_of("family"), Some("v4"));
    assert_eq!(scopes.for_client(client).pairs().len(), 6);
    Ok(())
}

#[test]
fn what_an_exporter_refuses() -> Result<(), Box<dyn std::error::Error>> {
    let urls = FixedLabel::new("url", ["udp://[2001:db8::]:6969", "udp://[2001:db8::]:"])?;

    let checked = Exporter::DogStatsD.check(&urls.other());

    let error = checked.unwrap_err().to_string();
    assert!(error.contains("does not end with a colon"), "{error}");

    let refused = ClientScopes::builder()
        .rename(CLIENT_ADDRESS_IP_FAMILY, "address-family")
        .build();
    let error = refused.unwrap_err().to_string();

    let message = "\"address-family\" is not a label name: use letters, digits, `_` and `.`, and do not begin with a digit, \
                   a dot or `__`";
    assert_eq!(error, message);
    Ok(())
}
