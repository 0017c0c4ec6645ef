//! The limit on label sets. It runs in its own process, because label sets are never freed.

#![cfg(all(feature = "axum", feature = "prometheus"))]

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
};

use dualstack_metrics::{
    BoundedLabel, ClientLabels, ClientLabelsLayer, ClientScopes, MAX_LABEL_SETS, Protocol, Scope,
    ServerBinding, TooManyLabelSets,
    prometheus::Install,
    scope::{ClientScopesError, overflows},
};
use futures_util::FutureExt;
use http::{Request, Response};
use metrics::counter;
use metrics_exporter_prometheus::PrometheusBuilder;
use test_support::{INET, Labels, Log, UNKNOWN, assert_samples, sample, samples, seven};
use tower::{Layer, Service, service_fn};

/// A label with 99 values. The names differ, so that two of them can be in one scope.
#[derive(Clone, Copy)]
struct Step<const NAME: char>(usize);

const VALUES: [&str; 99] = {
    const DIGITS: &str = "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445\
                          46474849505152535455565758596061626364656667686970717273747576777879808182838485868788899091\
                          92939495969798";
    let mut values = [""; 99];
    let mut at = 0;
    while at < 99 {
        values[at] = DIGITS.split_at(2 * at).1.split_at(2).0;
        at += 1;
    }
    values
};

impl<const NAME: char> BoundedLabel for Step<NAME> {
    const NAME: &'static str = match NAME {
        'a' => "a",
        'b' => "b",
        _ => "c",
    };
    const VALUES: &'static [&'static str] = &VALUES;

    fn index(self) -> usize {
        self.0
    }
}

/// A binding that is made from a peer: the mistake that the limit protects from.
fn binding(port: usize) -> ServerBinding {
    ServerBinding::new(
        Protocol::Http,
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.try_into().unwrap()),
    )
}

/// How often `overflows` grew during `work`.
fn overflows_of<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = overflows();
    let result = work();
    (overflows() - before, result)
}

#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one story: what is before the limit, and what is at it"
)]
fn the_limit() {
    let log = Log::of_process();
    assert_eq!(MAX_LABEL_SETS, 4096);

    // A binding takes five sets, as documented. The clients alone take four.
    let first = ClientScopes::try_new(binding(1)).unwrap();
    let alone: Vec<_> = ClientLabels::ALL
        .iter()
        .map(|client| Scope::try_new(client).unwrap())
        .collect();
    let mut sets = vec![first.server()];
    sets.extend(ClientLabels::ALL.iter().map(|client| first.for_client(client)));
    sets.extend(&alone);
    assert!(sets.iter().enumerate().all(|(at, set)| !sets[..at].contains(set)));

    // Making the same sets again takes no place.
    for _ in 0..MAX_LABEL_SETS {
        assert_eq!(ClientScopes::try_new(binding(1)).unwrap(), first);
        assert_eq!(
            first.server().nest(alone[0]),
            first.for_client(ClientLabels::ALL[0])
        );
    }

    // Scopes that are not entered take no place: the steps of a chain, and the labels it was made of. Only its result
    // is in `sets`.
    let chain = |n: usize| {
        let scope = first.server().nest(Scope::new(&Step::<'a'>(n)));
        scope.nest(Scope::new(&Step::<'b'>(n))).nest(alone[n % 4])
    };
    let in_one = |n: usize| Scope::new(&(first.server(), Step::<'a'>(n), Step::<'b'>(n), alone[n % 4]));
    for n in 0..99 {
        let scope = chain(n);
        assert_eq!(scope, in_one(n));
        scope.run(|| assert_eq!(Scope::current(), scope));
        sets.push(scope);
    }
    // Nor do these 3,168 sets of three labels, which nobody enters.
    let outer = Scope::new(&Step::<'c'>(0));
    let never_entered: Vec<_> = (0..99 * 32)
        .map(|n| outer.nest(Scope::new(&(Step::<'a'>(n % 99), Step::<'b'>(n / 99)))))
        .collect();
    let lazy = ClientScopes::new(binding(50_000));
    let nested = first.server().nest(outer);

    // Whole bindings, then single sets until the limit.
    let mut port = 2;
    while sets.len() + 5 <= 2_000 {
        let scopes = ClientScopes::try_new(binding(port)).unwrap();
        sets.push(scopes.server());
        sets.extend(ClientLabels::ALL.iter().map(|client| scopes.for_client(client)));
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

    // Everything that would make a set fails at start-up.
    let fresh = binding(60_000);
    let last = sets[sets.len() - 1];
    assert_eq!(Scope::try_for_server(&fresh), Err(error));
    assert_eq!(Scope::try_new(&Step::<'c'>(50)), Err(error));
    assert_eq!(ClientScopes::try_new(fresh), Err(error));
    assert_eq!(first.server().try_nest(last), Ok(last));
    assert_eq!(alone[0].try_nest(last), Err(error));
    assert_eq!(first.try_nest(last), Err(error));
    assert_eq!(
        outer.try_nest(Scope::none()),
        Err(error),
        "it was made, but not entered"
    );
    let built = ClientScopes::builder().binding(fresh).build();
    assert_eq!(built, Err(ClientScopesError::TooManyLabelSets(error)));
    assert_eq!(built.unwrap_err().to_string(), message);
    assert_eq!(overflows(), 0);
    assert_eq!(log.lines(), [""; 0]);

    // In a request, the scope that there is stays: the outer scope, or the scope in force.
    assert_eq!(overflows_of(|| alone[0].nest(last)), (1, alone[0]));
    let new = || alone[1].run(|| (Scope::new(&Step::<'c'>(50)), Scope::for_server(&fresh)));
    assert_eq!(overflows_of(new), (2, (alone[1], alone[1])));
    for _ in 0..2 {
        let (count, scopes) = overflows_of(|| alone[1].run(|| ClientScopes::new(fresh)));
        assert_eq!(
            (count, scopes.server(), scopes.for_client(ClientLabels::UNKNOWN)),
            (1, alone[1], alone[3])
        );
    }
    assert_eq!(overflows_of(|| ClientScopes::new(binding(1))), (0, first));
    let (_, scopes) = overflows_of(|| first.nest(last));
    assert_eq!(scopes.server(), last, "this set exists");
    assert_eq!(
        scopes.for_client(ClientLabels::UNKNOWN),
        first.for_client(ClientLabels::UNKNOWN)
    );
    // What was made before and is entered now falls back in the same way.
    let current = || alone[1].run(|| never_entered[0].run(Scope::current));
    assert_eq!(overflows_of(current), (1, alone[1]));
    let current = || alone[1].run(|| nested.run(Scope::current));
    assert_eq!(overflows_of(current), (1, first.server()));
    let wrapped = || {
        let future = alone[1].run(|| nested.wrap(async { Scope::current() }));
        (future.scope(), future.now_or_never())
    };
    assert_eq!(overflows_of(wrapped), (1, (first.server(), Some(first.server()))));
    let current = || alone[1].run(|| lazy.for_client(ClientLabels::UNKNOWN).run(Scope::current));
    assert_eq!(overflows_of(current), (1, alone[1]));
    assert_eq!(Scope::current(), Scope::none());
    let [line] = &log.lines()[..] else {
        panic!("one warning, not {:#?}", log.lines())
    };
    assert!(line.starts_with("WARN ") && line.contains(&message), "{line}");

    // The existing sets are found on each thread, and work.
    let find = || {
        for client in ClientLabels::ALL {
            assert_eq!(
                first.server().try_nest(Scope::new(client)),
                Ok(first.for_client(client))
            );
        }
        assert_eq!(ClientScopes::new(binding(1)), first);
        assert_eq!(Scope::none().try_nest(last), Ok(last));
    };
    find();
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(find);
        }
    });
    let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
    let before = overflows();
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
        // A layer for a binding that does not fit serves, with the labels that are in force.
        let mut service = ClientLabelsLayer::new(fresh).layer(service_fn(|_: Request<()>| async {
            counter!("served_total").increment(1);
            Ok::<_, std::convert::Infallible>(Response::new(()))
        }));
        let call = || drop(service.call(Request::new(())).now_or_never().unwrap().unwrap());
        first.for_client(ClientLabels::UNKNOWN).run(call);
    });
    let lines = samples(&recorder.get_ref().handle().render());
    assert_eq!(lines.len(), MAX_LABEL_SETS + 3);
    let overflowed = overflows() - before;
    assert!(overflowed > 0);
    let of = |seen| seven("http", SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), seen);
    let (first, rest): (Vec<_>, Vec<_>) = lines
        .into_iter()
        .partition(|line| !line.starts_with("kept_total") || !line.ends_with(" 1"));
    assert_samples(
        first,
        [
            sample("kept_total", &of(INET), 4),
            sample("label_sets_overflowed_total", &Labels::new(), overflowed),
            sample("macro_total", &of(INET), 3),
            sample("served_total", &of(UNKNOWN), 1),
        ],
    );
    assert!(rest.iter().all(|line| line.starts_with("kept_total{")));
}
