//! A recorder that makes scopes at the limit of label sets. It runs in its own process, because label sets are never
//! freed.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
};

use dualstack_metrics::{
    MAX_LABEL_SETS, Protocol, Scope, ScopedRecorderLayer, ServerBinding, scope::overflows,
};
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, NoopRecorder, Recorder, SharedString, Unit, counter,
};
use metrics_util::layers::Layer as _;

static REGISTERED: AtomicU64 = AtomicU64::new(0);

/// Enters a new scope at each registration.
struct MakesScopes;

impl Recorder for MakesScopes {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        REGISTERED.fetch_add(1, Ordering::Relaxed);
        assert_eq!(enter(Protocol::Tcp, 1), Scope::none());
        NoopRecorder.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        NoopRecorder.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        NoopRecorder.register_histogram(key, metadata)
    }
}

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
    let recorder = ScopedRecorderLayer::new().never_revalidate().layer(MakesScopes);
    metrics::set_global_recorder(recorder).unwrap_or_else(|_| panic!("a recorder is installed"));

    assert_eq!(enter(Protocol::Http, 1), Scope::none());
    assert_eq!(
        REGISTERED.load(Ordering::Relaxed),
        1,
        "`label_sets_overflowed_total`"
    );
    // The second one is that of the recorder.
    assert_eq!(overflows(), 2);

    // Later overflows are counted as well.
    counter!("a_total").increment(1);
    assert_eq!((REGISTERED.load(Ordering::Relaxed), overflows()), (2, 3));
}
