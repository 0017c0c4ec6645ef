use std::{io, net::TcpListener};

use dualstack_metrics::{
    ClientScopes, Protocol, ScopedRecorderLayer, ServerBinding,
    prometheus::{Install, PrometheusBuilder},
    recorder::Zeros,
};
use metrics::{counter, with_local_recorder};
use test_support::{INET, assert_samples, sample, samples, seven};

#[test]
fn counters_start_at_zero() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;

    let zeros = Zeros::new();
    let layer = ScopedRecorderLayer::new()
        .zeros(zeros.clone())
        .exclude_prefix("process_");
    let recorder = Install::new(PrometheusBuilder::new()).recorder(layer);

    let recorder = recorder.build_recorder();
    with_local_recorder(&recorder, || {
        drop(counter!("errors_total")); // registered at start-up, here or in a library

        let scopes = ClientScopes::new(ServerBinding::new(Protocol::Http, listener.local_addr()?));
        zeros.add(scopes.expected());

        for scope in scopes.expected() {
            scope.run(|| counter!("logins_total").increment(0));
        }
        io::Result::Ok(())
    })?;
    let labels = seven("http", listener.local_addr()?, INET);
    assert_samples(
        samples(&recorder.get_ref().handle().render()),
        ["errors_total", "logins_total"].map(|name| sample(name, &labels, 0)),
    );
    Ok(())
}
