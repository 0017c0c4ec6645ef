//! A recorder that makes scopes at the limit of label sets. It runs in its own process, because label sets are never
//! freed.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
};

use dualstack_metrics::{
    MAX_LABEL_SETS, Protocol, Scope, ScopedRecorderLayer, ServerBinding, scope::overflows,
};
use metrics::{Counter, counter};
use metrics_util::layers::Layer as _;
use test_support::CountersOf;

static REGISTERED: AtomicU64 = AtomicU64::new(0);

fn binding(protocol: Protocol, port: usize) -> ServerBinding {
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.try_into().unwrap());
    ServerBinding::new(protocol, address)
}

/// Returns the scope that is in force instead, if there is no place.
fn enter(protocol: Protocol, port: usize) -> Scope {
    Scope::for_server(&binding(protocol, port)).run(Scope::current)
}

#[test]
fn counting_an_overflow_does_not_start_again_while_it_counts() {
    for port in 1..=MAX_LABEL_SETS {
        Scope::try_for_server(&binding(Protocol::Udp, port)).unwrap();
    }
    // Enters a new scope at each registration.
    let makes_scopes = CountersOf::new(|_, _| {
        REGISTERED.fetch_add(1, Ordering::Relaxed);
        assert_eq!(enter(Protocol::Tcp, 1), Scope::none());
        Counter::noop()
    });
    let recorder = ScopedRecorderLayer::new().never_revalidate().layer(makes_scopes);
    assert!(metrics::set_global_recorder(recorder).is_ok());

    assert_eq!(enter(Protocol::Http, 1), Scope::none());
    assert_eq!(
        REGISTERED.load(Ordering::Relaxed),
        1,
        "`label_sets_overflowed_total`"
    );
    // The second one is the recorder's own.
    assert_eq!(overflows(), 2);

    // Later overflows are counted as well.
    counter!("a_total").increment(1);
    assert_eq!((REGISTERED.load(Ordering::Relaxed), overflows()), (2, 3));
}
