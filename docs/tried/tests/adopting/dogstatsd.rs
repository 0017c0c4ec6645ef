use std::{net::UdpSocket, time::Duration};

use dualstack_metrics::{
    ClientScopes, Protocol, ScopedRecorderLayer, ServerBinding, labels::SERVER_BINDING_IP,
};
use metrics_exporter_dogstatsd::DogStatsDBuilder;

#[test]
fn no_tag_ends_with_a_colon() -> Result<(), Box<dyn std::error::Error>> {
    let agent = UdpSocket::bind("127.0.0.1:0")?;
    agent.set_read_timeout(Some(Duration::from_secs(30)))?;
    let builder = DogStatsDBuilder::default()
        .with_remote_address(agent.local_addr()?.to_string())?
        .with_flush_interval(Duration::from_millis(50))
        .with_telemetry(false);
    let binding = ServerBinding::new(Protocol::Udp, "[::]:6969".parse()?);

    let recorder = ScopedRecorderLayer::new().wrap(builder.build()?);
    let scopes = ClientScopes::builder()
        .binding(binding)
        .rename_value(SERVER_BINDING_IP, "::", "::0")
        .build()?;

    let client: std::net::SocketAddr = "[::ffff:192.0.2.7]:50000".parse()?;
    metrics::with_local_recorder(&recorder, || {
        scopes
            .for_client(client)
            .run(|| metrics::counter!("requests_total").increment(1));
    });
    let mut buffer = [0; 1500];
    let length = agent.recv(&mut buffer)?;
    assert_eq!(
        std::str::from_utf8(&buffer[..length])?.trim_end(),
        "requests_total:1|c|#client_address_ip_family:inet,client_address_ip_type:v4_mapped_v6,\
         server_binding_address_ip_family:inet6,server_binding_address_ip_type:plain,server_binding_ip:::0,\
         server_binding_port:6969,server_binding_protocol:udp"
    );
    Ok(())
}
