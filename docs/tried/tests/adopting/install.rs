use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use dualstack_metrics::{
    ClientLabels, Scope, ScopedRecorderLayer,
    prometheus::{self, MetricKindMask, PrometheusBuilder},
};
use metrics_exporter_prometheus::Matcher;
use metrics_util::layers::{Layer as _, PrefixLayer};
use test_support::{free_port, soon};

const LABELS: &str = r#"client_address_ip_family="unknown",client_address_ip_type="unknown""#;

/// The only test here that installs a global recorder, of which there is one in a process.
#[tokio::test(flavor = "multi_thread")]
async fn your_builder_with_its_listener() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    install(address).unwrap();

    Scope::new(&ClientLabels::UNKNOWN).run(|| {
        metrics::counter!("requests_total").increment(1);
        metrics::counter!("swarm_torrents_total").increment(1);
        metrics::histogram!("request_seconds").record(0.05);
    });
    let scrape = || {
        let mut stream = TcpStream::connect(address).ok()?;
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        Some(answer)
    };
    let mut answer = None;
    soon("the listener answers", || {
        answer = scrape();
        answer.is_some()
    })
    .await;
    let answer = answer.unwrap();
    let has = |line: &str| assert!(answer.lines().any(|other| other == line), "{line}, not: {answer}");
    has(&format!(r#"requests_total{{service="tracker",{LABELS}}} 1"#));
    has(r#"swarm_torrents_total{service="tracker"} 1"#);
    has(r#"request_seconds_bucket{service="tracker",le="0.1"} 1"#);
}

fn install(address: SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
    let builder = PrometheusBuilder::new()
        .add_global_label("service", "tracker")
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &[0.1, 1.0])?
        .with_http_listener(address);

    prometheus::Install::new(builder)
        .recorder(ScopedRecorderLayer::new().exclude_prefix("swarm_"))
        .idle_timeout(MetricKindMask::ALL, Some(Duration::from_secs(600)))
        .install_exporter()?; // `.install()?` if the builder has no listener
    Ok(())
}

#[test]
fn one_histogram_has_the_labels() {
    let layer = ScopedRecorderLayer::new().include(MetricKindMask::HISTOGRAM, "request_seconds");

    let recorder = prometheus::Install::new(PrometheusBuilder::new())
        .recorder(layer)
        .build_recorder();
    metrics::with_local_recorder(&recorder, || {
        Scope::new(&ClientLabels::UNKNOWN).run(|| {
            metrics::counter!("requests_total").increment(1);
            metrics::histogram!("request_seconds").record(0.05);
            metrics::histogram!("response_seconds").record(0.05);
        });
    });
    let output = recorder.get_ref().handle().render();
    let has = |line: &str| assert!(output.lines().any(|other| other == line), "{line}, not: {output}");
    has(&format!("requests_total{{{LABELS}}} 1"));
    has(&format!("request_seconds_count{{{LABELS}}} 1"));
    has("response_seconds_count 1");
}

#[test]
fn a_stack_of_layers() {
    let builder = PrometheusBuilder::new();

    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    let recorder = ScopedRecorderLayer::new().wrap(recorder);
    let recorder = PrefixLayer::new("tracker").layer(recorder);

    metrics::with_local_recorder(&recorder, || {
        Scope::new(&ClientLabels::UNKNOWN).run(|| metrics::counter!("requests_total").increment(1));
    });
    assert_eq!(
        handle.render().trim_end(),
        format!("# TYPE tracker_requests_total counter\ntracker_requests_total{{{LABELS}}} 1"),
    );
}
