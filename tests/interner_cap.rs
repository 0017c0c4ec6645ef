//! The limit on label sets. It runs in its own process, because label sets are never freed.

#![cfg(all(feature = "axum", feature = "prometheus"))]

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
};

use dualstack_metrics::{
    ClientLabels, ClientLabelsLayer, ClientScopes, MAX_LABEL_SETS, Protocol, Scope, ServerBinding,
    TooManyLabelSets, prometheus::Install,
};
use metrics::counter;
use metrics_exporter_prometheus::PrometheusBuilder;
use test_support::{INET, assert_samples, sample, samples, seven};

/// A binding that is made from a peer: the mistake that the limit protects from.
fn binding(port: usize) -> ServerBinding {
    ServerBinding::new(
        Protocol::Http,
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.try_into().unwrap()),
    )
}

fn panic_of<T>(f: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| drop(f()))).expect_err("a panic");
    *panic.downcast::<String>().expect("a message")
}

#[test]
fn the_cap() {
    assert_eq!(MAX_LABEL_SETS, 4096);

    // A binding takes five sets, as documented. The clients alone take four.
    let first = ClientScopes::try_new(binding(1)).unwrap();
    let alone = ClientLabels::ALL.map(|client| Scope::new(&client));
    let mut sets = vec![first.server()];
    sets.extend(ClientLabels::ALL.map(|client| first.for_client(client)));
    sets.extend(alone);
    assert!(sets.iter().enumerate().all(|(at, set)| !sets[..at].contains(set)));

    // Making the same sets again takes no place.
    for _ in 0..MAX_LABEL_SETS {
        assert_eq!(ClientScopes::try_new(binding(1)).unwrap(), first);
        assert_eq!(
            first.server().nest(alone[0]),
            first.for_client(ClientLabels::ALL[0])
        );
    }

    // Whole bindings, then single sets until the limit.
    let mut port = 2;
    while sets.len() + 5 <= 2_000 {
        let scopes = ClientScopes::try_new(binding(port)).unwrap();
        sets.push(scopes.server());
        sets.extend(ClientLabels::ALL.map(|client| scopes.for_client(client)));
        port += 1;
    }
    let error: TooManyLabelSets = loop {
        match Scope::try_for_server(&binding(port)) {
            Ok(scope) => sets.push(scope),
            Err(error) => break error,
        }
        port += 1;
    };
    assert_eq!(sets.len(), MAX_LABEL_SETS);
    let distinct: BTreeSet<_> = sets.iter().map(|set| set.pairs()).collect();
    assert_eq!(distinct.len(), MAX_LABEL_SETS);

    // The error says what to do.
    let message = error.to_string();
    for words in ["4096", "start-up", "`local_addr()`", "never from a peer"] {
        assert!(message.contains(words), "{words}: {message}");
    }
    let _: &dyn std::error::Error = &error;

    // Everything that would make a set fails.
    let fresh = binding(60_000);
    assert_eq!(Scope::try_for_server(&fresh), Err(error));
    assert_eq!(ClientScopes::try_new(fresh), Err(error));
    assert_eq!(
        first.server().try_nest(sets[sets.len() - 1]),
        Ok(sets[sets.len() - 1])
    );
    let server_of_other = sets[sets.len() - 1];
    assert_eq!(alone[0].try_nest(server_of_other), Err(error));
    assert_eq!(first.try_nest(server_of_other), Err(error));
    assert_eq!(panic_of(|| Scope::for_server(&fresh)), message);
    assert_eq!(panic_of(|| ClientScopes::new(fresh)), message);
    assert_eq!(panic_of(|| ClientLabelsLayer::new(fresh)), message);
    assert_eq!(panic_of(|| alone[0].nest(server_of_other)), message);
    assert_eq!(panic_of(|| first.nest(server_of_other)), message);

    // The existing sets are found on each thread, and work.
    let find = || {
        for client in ClientLabels::ALL {
            assert_eq!(
                first.server().try_nest(Scope::new(&client)),
                Ok(first.for_client(client))
            );
        }
        assert_eq!(ClientScopes::new(binding(1)), first);
        assert_eq!(Scope::none().try_nest(server_of_other), Ok(server_of_other));
    };
    find();
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(find);
        }
    });
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let kept = counter!("kept_total");
        for scope in &sets {
            scope.run(|| kept.increment(1));
        }
        for _ in 0..3 {
            let client = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 7);
            first.for_client(client).run(|| {
                kept.increment(1);
                counter!("macro_total").increment(1);
            });
        }
    });
    let lines = samples(&recorder.get_ref().handle().render());
    assert_eq!(lines.len(), MAX_LABEL_SETS + 1);
    let labels = seven("http", binding(1).address(), INET);
    let (first, rest): (Vec<_>, Vec<_>) = lines
        .into_iter()
        .partition(|line| line.starts_with("macro_total") || !line.ends_with(" 1"));
    assert_samples(
        first,
        [
            sample("kept_total", &labels, 4),
            sample("macro_total", &labels, 3),
        ],
    );
    assert!(rest.iter().all(|line| line.starts_with("kept_total{")));
}
