//! Scopes from outside: their parts and their wrappers.

use std::{future::ready, net::SocketAddr};

use dualstack_metrics::{ClientLabels, ClientScopes, Protocol, Scope, ServerBinding, WithScope as _};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::FusedFuture as _,
    stream::{self, FusedStream as _},
};
use test_support::{Digit, numbered};

fn binding() -> ServerBinding {
    ServerBinding::new(Protocol::Udp, "[::]:6969".parse().unwrap())
}

#[test]
fn a_scope_that_was_nested_before_keeps_the_labels_of_its_own_outer_scope() {
    let inner = Scope::new(&Digit::<3>(7));
    let outers: Vec<_> = (0..300).map(numbered).collect();
    for _ in 0..2 {
        for outer in &outers {
            let mut expected = outer.pairs().to_vec();
            expected.push(("thousands", "7"));
            expected.sort_unstable();
            // Twice, so that the second is remembered.
            assert_eq!(outer.with(&inner).pairs(), expected);
            assert_eq!(outer.with(&inner).pairs(), expected);
        }
    }
}

#[test]
fn labels_added_to_the_scopes_of_clients_reach_the_servers_scope() {
    let inner = Scope::new(&Digit::<3>(1));
    let scopes = ClientScopes::new(binding());
    let both = scopes.with(&inner);
    assert_eq!(both.server(), scopes.server().with(&inner));
    assert_eq!(both.server().value_of("thousands"), Some("1"));
    assert_eq!(both.server().value_of("server_binding_port"), Some("6969"));
    for client in ["192.0.2.7:1", "[::ffff:192.0.2.7]:1", "[2001:db8::7]:1"] {
        let client: SocketAddr = client.parse().unwrap();
        assert_eq!(both.for_client(client), scopes.for_client(client).with(&inner));
    }
}

#[test]
fn a_wrapped_future_or_stream_tells_when_it_has_ended() {
    let scope = Scope::new(&ClientLabels::UNKNOWN);

    let mut future = ready(1).fuse().with_scope(scope);
    assert!(!future.is_terminated());
    assert_eq!((&mut future).now_or_never(), Some(1));
    assert!(future.is_terminated());

    let mut stream = stream::iter([1]).fuse().with_scope(scope);
    assert!(!stream.is_terminated());
    assert_eq!(stream.next().now_or_never(), Some(Some(1)));
    assert_eq!(stream.next().now_or_never(), Some(None));
    assert!(stream.is_terminated());
}
