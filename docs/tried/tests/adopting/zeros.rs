use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dualstack_metrics::{ClientScopes, Protocol, ServerBinding};
use metrics::counter;
use test_support::{INET6, MAPPED, assert_samples, sample, samples, seven};

use super::recorder;

fn start_at_zero(scopes: &ClientScopes) {
    let mapped = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
    for client in [mapped, Ipv6Addr::UNSPECIFIED] {
        scopes.for_client(IpAddr::V6(client)).run(|| {
            counter!("requests_total").increment(0);
            counter!("errors_total").increment(0);
        });
    }
}

#[test]
fn a_dual_stack_socket_has_two_classes() {
    let recorder = recorder();
    let server: SocketAddr = "[::]:6969".parse().unwrap();
    metrics::with_local_recorder(&recorder, || {
        start_at_zero(&ClientScopes::new(ServerBinding::new(Protocol::Udp, server)));
    });
    let expected = ["requests_total", "errors_total"]
        .iter()
        .flat_map(|name| [MAPPED, INET6].map(|seen| sample(name, &seven("udp", server, seen), 0)));
    assert_samples(samples(&recorder.get_ref().handle().render()), expected);
}
