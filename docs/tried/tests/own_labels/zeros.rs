use std::{net::SocketAddr, time::Duration};

use dualstack_metrics::{
    ClientScopes, FixedLabel, Protocol, ServerBinding,
    prometheus::{Install, PrometheusBuilder},
    scope::TooManyLabelSets,
};
use metrics::counter;
use metrics_util::MetricKindMask;
use test_support::{INET6, MAPPED, and, assert_samples, sample, samples, series, seven, soon};
use tokio::time::interval;

use super::recorder;

fn start_at_zero(scopes: &ClientScopes, tenants: FixedLabel) -> Result<(), TooManyLabelSets> {
    for scope in scopes.expected_with(&tenants.other())? {
        scope.run(|| counter!("requests_total").increment(0));
    }
    Ok(())
}

const SERVER: &str = "[::]:6969";

fn zeros() -> impl Iterator<Item = String> {
    let server: SocketAddr = SERVER.parse().unwrap();
    ["acme", "other"].into_iter().flat_map(move |tenant| {
        [MAPPED, INET6].map(|seen| {
            let labels = and(seven("udp", server, seen), "tenant", tenant);
            sample("requests_total", &labels, 0)
        })
    })
}

fn scopes() -> ClientScopes {
    ClientScopes::new(ServerBinding::new(Protocol::Udp, SERVER.parse().unwrap()))
}

#[test]
fn each_tenant_starts_at_zero() {
    let recorder = recorder();
    let tenants = FixedLabel::new("tenant", ["acme"]).unwrap();
    metrics::with_local_recorder(&recorder, || start_at_zero(&scopes(), tenants).unwrap());
    assert_samples(samples(&recorder.get_ref().handle().render()), zeros());
}

/// The exporter forgets what nobody counts, but not the zeros.
#[tokio::test]
async fn a_timer_keeps_the_zeros() {
    let timeout = Duration::from_millis(200);
    let period = timeout / 8;
    let recorder = Install::new(PrometheusBuilder::new())
        .idle_timeout(MetricKindMask::ALL, Some(timeout))
        .build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let handle = recorder.get_ref().handle();
    let tenants = FixedLabel::new("tenant", ["acme"]).unwrap();
    let scopes = scopes();
    start_at_zero(&scopes, tenants).unwrap();
    counter!("forgotten_total").increment(1);

    tokio::spawn(async move {
        let mut timer = interval(period); // shorter than the idle timeout
        loop {
            timer.tick().await;
            start_at_zero(&scopes, tenants).expect("they were made at start-up");
        }
    });

    let mut zeros: Vec<_> = zeros().collect();
    zeros.sort();
    soon("the rest is forgotten, and the zeros stay", || {
        let output = handle.render();
        series(&output, "forgotten_total").is_empty() && samples(&output) == zeros
    })
    .await;
}
