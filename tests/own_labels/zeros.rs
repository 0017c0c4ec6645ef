use std::{net::IpAddr, time::Duration};

use dualstack_metrics::{
    ClientScopes, FixedLabel, Protocol, Scope,
    prometheus::{Install, MetricKindMask},
};
use metrics::counter;
use metrics_exporter_prometheus::PrometheusBuilder;
use test_support::{
    INET6, MAPPED, and, assert_samples, eventually, recorded_by, sample, samples, series, seven,
};

use super::{binding, server};

fn start_at_zero(scopes: &ClientScopes, tenants: FixedLabel) {
    for scope in scopes.expected_with(&tenants.other()).unwrap() {
        scope.run(|| counter!("requests_total").increment(0));
    }
}

#[test]
fn zeros_stay_under_an_idle_timeout_if_each_scrape_counts_them_again() {
    let tenants = FixedLabel::new("tenant", ["acme"]).unwrap();
    let scopes = ClientScopes::new(binding(Protocol::Udp));
    let install = Install::new(PrometheusBuilder::new())
        .idle_timeout(MetricKindMask::ALL, Some(Duration::from_millis(100)));
    recorded_by(install, async |metrics| {
        counter!("forgotten_total").increment(1);
        let client: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        let scope = Scope::new(&(scopes.for_client(client), tenants.value("acme")));
        scope.run(|| counter!("requests_total").increment(7));

        let scrape = || {
            start_at_zero(&scopes, tenants);
            metrics.render()
        };
        eventually("the timeout is over", || {
            series(&scrape(), "forgotten_total").is_empty()
        });
        let expected = [
            (MAPPED, "acme", 7),
            (MAPPED, "other", 0),
            (INET6, "acme", 0),
            (INET6, "other", 0),
        ];
        let expected = expected.map(|(seen, tenant, count)| {
            let labels = and(seven("udp", server(), seen), "tenant", tenant);
            sample("requests_total", &labels, count)
        });
        assert_samples(samples(&scrape()), expected);
        eventually("the zeros are forgotten", || metrics.samples().is_empty());
    });
}
