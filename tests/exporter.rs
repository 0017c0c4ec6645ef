//! The exporter's own HTTP listener, passed through: `cargo test --features http-listener --test exporter`.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use dualstack_metrics::{
    ClientLabels, Scope,
    prometheus::{Install, PrometheusBuilder},
};

fn scrape(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

#[test]
fn the_listener_serves_scoped_counters() {
    // The builder takes an address and tells no port.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let install = || Install::new(PrometheusBuilder::new().with_http_listener(free));
    install().install_exporter().unwrap();
    Scope::new(&ClientLabels::UNKNOWN).run(|| metrics::counter!("requests_total").increment(3));

    let deadline = Instant::now() + Duration::from_secs(30);
    let response = loop {
        match scrape(free) {
            Ok(response) => break response,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    let sample = r#"requests_total{client_address_ip_family="unknown",client_address_ip_type="unknown"} 3"#;
    assert!(response.lines().any(|line| line == sample), "{response}");

    let again = Install::new(PrometheusBuilder::new()).install().unwrap_err();
    assert!(again.is_already_installed());
    assert!(
        again
            .to_string()
            .starts_with("a global metrics recorder is installed already"),
        "{again}"
    );
    let taken = install().install_exporter().unwrap_err();
    assert!(!taken.is_already_installed());
}
