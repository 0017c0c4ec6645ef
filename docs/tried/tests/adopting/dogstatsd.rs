use std::{net::UdpSocket, time::Duration};

use dualstack_metrics::{ClientScopes, Protocol, ScopedRecorderLayer, ServerBinding};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_dogstatsd::DogStatsDBuilder;
use metrics_util::layers::Layer as _;

/// Writes `::` as `::0`, the same address, because a tag must not end with a colon.
struct NoColonAtTheEnd<R>(R);

fn mend(key: &Key) -> Key {
    let labels = key.labels().map(|label| match label.value() {
        value if value.ends_with(':') => Label::new(label.key().to_owned(), format!("{value}0")),
        _ => label.clone(),
    });
    Key::from_parts(key.name().to_owned(), labels.collect::<Vec<_>>())
}

impl<R: Recorder> Recorder for NoColonAtTheEnd<R> {
    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.0.register_counter(&mend(key), metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.0.register_gauge(&mend(key), metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.0.register_histogram(&mend(key), metadata)
    }

    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_histogram(key, unit, description);
    }
}

#[test]
fn no_tag_ends_with_a_colon() -> Result<(), Box<dyn std::error::Error>> {
    let agent = UdpSocket::bind("127.0.0.1:0")?;
    agent.set_read_timeout(Some(Duration::from_secs(30)))?;
    let builder = DogStatsDBuilder::default()
        .with_remote_address(agent.local_addr()?.to_string())?
        .with_flush_interval(Duration::from_millis(50))
        .with_telemetry(false);

    let exporter = builder.build()?;
    let recorder = ScopedRecorderLayer::new().layer(NoColonAtTheEnd(exporter));

    let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, "[::]:6969".parse()?));
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
