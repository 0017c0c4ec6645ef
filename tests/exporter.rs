//! The exporter's own HTTP listener, passed through: `cargo test --features http-listener --test exporter`.

use std::net::{Ipv4Addr, TcpListener};

use dualstack_metrics::{
    ClientLabels, Scope,
    prometheus::{Install, PrometheusBuilder},
};
use test_support::{
    assert_samples, eventually,
    http::{get, request},
    samples,
};

#[test]
fn the_listener_serves_scoped_counters() {
    // The builder takes an address, but does not return the port that was bound.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let install = || Install::new(PrometheusBuilder::new().with_http_listener(free));
    install().install_exporter().unwrap();
    Scope::new(&ClientLabels::UNKNOWN).run(|| metrics::counter!("requests_total").increment(3));

    eventually("the listener answers", || {
        request(free, "GET", "/metrics").is_ok()
    });
    let answer = get(free, "/metrics");
    let sample = r#"requests_total{client_address_ip_family="unknown",client_address_ip_type="unknown"} 3"#;
    assert_samples(samples(&answer.text()), [sample.to_owned()]);

    let again = Install::new(PrometheusBuilder::new()).install().unwrap_err();
    assert!(again.is_already_installed());
    assert!(
        again
            .to_string()
            .starts_with("a global metrics recorder is already installed"),
        "{again}"
    );
    let taken = install().install_exporter().unwrap_err();
    assert!(!taken.is_already_installed());
}
