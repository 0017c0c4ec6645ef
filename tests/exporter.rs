//! The exporter's own HTTP listener, passed through: `cargo test --features http-listener --test exporter`.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Command,
};

use dualstack_metrics::{
    ClientLabels, Scope,
    prometheus::{Install, PrometheusBuilder},
};
use test_support::{
    assert_samples, eventually,
    http::{get, request},
    samples,
};

/// The builder takes an address, but does not return the port that was bound.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Runs the test of this name in another process, in which no thread can be started: its stack does not fit into the
/// address space. False in that process.
fn is_run_where_no_thread_starts(test: &str) -> bool {
    const STACK: &str = "RUST_MIN_STACK";

    if std::env::var_os(STACK).is_some() {
        return false;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        // One thread is the one that there is.
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(STACK, (1_u64 << 60).to_string())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    true
}

#[test]
fn nothing_is_installed_if_no_thread_can_be_started() {
    if is_run_where_no_thread_starts("nothing_is_installed_if_no_thread_can_be_started") {
        return;
    }
    let free = free_address();
    let with_exporter = Install::new(PrometheusBuilder::new().with_http_listener(free)).install_exporter();
    let without = Install::new(PrometheusBuilder::new()).install();
    for result in [with_exporter, without] {
        let error = result.unwrap_err();
        assert!(!error.is_already_installed());
        assert!(
            error.to_string().starts_with("cannot start the thread"),
            "{error}"
        );
    }
    TcpListener::bind(free).expect("the address is free again");
    assert!(metrics::set_global_recorder(metrics::NoopRecorder).is_ok());
}

#[test]
fn the_listener_serves_scoped_counters() {
    let free = free_address();
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

    let another = free_address();
    let again = Install::new(PrometheusBuilder::new().with_http_listener(another)).install_exporter();
    assert!(again.unwrap_err().is_already_installed());
    TcpListener::bind(another).expect("the address is free again");
}
