//! The limit on label sets. It runs in its own process, because label sets are never freed.

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

/// A binding that does not fit.
fn fresh() -> ServerBinding {
    binding(60_000)
}

/// How often `overflows` grew during `work`.
fn overflows_of<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = overflows();
    let result = work();
    (overflows() - before, result)
}

/// What the steps of the test leave to each other.
struct Process {
    /// The scopes of the binding with port 1.
    first: ClientScopes,
    /// The clients without a binding.
    alone: Vec<Scope>,
    /// All sets that have a place.
    sets: Vec<Scope>,
    never_entered: NeverEntered,
}

/// Scopes that are made before the limit, and entered at it.
struct NeverEntered {
    outer: Scope,
    many: Vec<Scope>,
    in_first: Scope,
    lazy: ClientScopes,
}

/// One story, because there is one limit for the process: what is before it, and what is at it.
#[test]
fn the_limit() {
    let log = Log::of_process();
    assert_eq!(MAX_LABEL_SETS, 4096);
    let mut process = Process::new();
    process.making_the_same_sets_again_takes_no_place();
    process.only_the_end_of_a_chain_takes_a_place();
    let error = process.fill();

    let message = error.to_string();
    for words in ["4096", "start-up", "`local_addr()`", "never from a peer"] {
        assert!(message.contains(words), "{words}: {message}");
    }
    let _: &dyn std::error::Error = &error;
    process.what_would_make_a_set_fails_at_start_up(error);
    assert_eq!(overflows(), 0);
    assert_eq!(log.lines(), [""; 0]);

    process.a_request_keeps_the_scope_that_there_is();
    process.what_was_made_before_falls_back();
    assert_eq!(Scope::current(), Scope::none());
    log.assert_warning(&[&message]);

    process.each_thread_finds_the_sets_that_there_are();
    process.all_sets_count();
}

impl Process {
    /// A binding takes five sets, as documented. The clients alone take four.
    fn new() -> Self {
        let first = ClientScopes::try_new(binding(1)).unwrap();
        let alone: Vec<_> = ClientLabels::ALL
            .iter()
            .map(|client| Scope::try_new(client).unwrap())
            .collect();
        let mut sets = vec![first.server()];
        sets.extend(ClientLabels::ALL.iter().map(|client| first.for_client(client)));
        sets.extend(&alone);
        assert!(sets.iter().enumerate().all(|(at, set)| !sets[..at].contains(set)));

        // These 3,168 sets of three labels take no place, because nobody enters them.
        let outer = Scope::new(&Step::<'c'>(0));
        let many = (0..99 * 32)
            .map(|n| outer.nest(Scope::new(&(Step::<'a'>(n % 99), Step::<'b'>(n / 99)))))
            .collect();
        let never_entered = NeverEntered {
            outer,
            many,
            in_first: first.server().nest(outer),
            lazy: ClientScopes::new(binding(50_000)),
        };
        Self {
            first,
            alone,
            sets,
            never_entered,
        }
    }

    fn making_the_same_sets_again_takes_no_place(&self) {
        for _ in 0..MAX_LABEL_SETS {
            assert_eq!(ClientScopes::try_new(binding(1)).unwrap(), self.first);
            assert_eq!(
                self.first.server().nest(self.alone[0]),
                self.first.for_client(ClientLabels::ALL[0])
            );
        }
    }

    /// The steps to it take none, and neither do the labels that it is made of.
    fn only_the_end_of_a_chain_takes_a_place(&mut self) {
        let server = self.first.server();
        for n in 0..99 {
            let client = self.alone[n % 4];
            let scope = server.nest(Scope::new(&Step::<'a'>(n)));
            let scope = scope.nest(Scope::new(&Step::<'b'>(n))).nest(client);
            let in_one = (server, Step::<'a'>(n), Step::<'b'>(n), client);
            assert_eq!(scope, Scope::new(&in_one));
            scope.run(|| assert_eq!(Scope::current(), scope));
            self.sets.push(scope);
        }
    }

    /// Takes all places: whole bindings, then single sets until the limit.
    fn fill(&mut self) -> TooManyLabelSets {
        let sets = &mut self.sets;
        let mut port = 2;
        while sets.len() + 5 <= 2_000 {
            let scopes = ClientScopes::try_new(binding(port)).unwrap();
            sets.push(scopes.server());
            sets.extend(ClientLabels::ALL.iter().map(|client| scopes.for_client(client)));
            port += 1;
        }
        let error = loop {
            match Scope::try_for_server(&binding(port)) {
                Ok(scope) => sets.push(scope),
                Err(error) => break error,
            }
            port += 1;
        };
        assert_eq!(sets.len(), MAX_LABEL_SETS);
        let distinct: BTreeSet<_> = sets.iter().map(|set| set.pairs()).collect();
        assert_eq!(distinct.len(), MAX_LABEL_SETS);
        error
    }

    /// The set that took the last place.
    fn last(&self) -> Scope {
        self.sets[self.sets.len() - 1]
    }

    fn what_would_make_a_set_fails_at_start_up(&self, error: TooManyLabelSets) {
        let (first, last) = (self.first, self.last());
        assert_eq!(Scope::try_for_server(&fresh()), Err(error));
        assert_eq!(Scope::try_new(&Step::<'c'>(50)), Err(error));
        assert_eq!(ClientScopes::try_new(fresh()), Err(error));
        assert_eq!(first.server().try_nest(last), Ok(last));
        assert_eq!(self.alone[0].try_nest(last), Err(error));
        assert_eq!(first.try_nest(last), Err(error));
        assert_eq!(
            self.never_entered.outer.try_nest(Scope::none()),
            Err(error),
            "it was made, but not entered"
        );
        let built = ClientScopes::builder().binding(fresh()).build();
        assert_eq!(built, Err(ClientScopesError::TooManyLabelSets(error)));
        assert_eq!(built.unwrap_err().to_string(), error.to_string());
    }

    /// The outer scope, or the scope in force.
    fn a_request_keeps_the_scope_that_there_is(&self) {
        let (first, alone, last) = (self.first, &self.alone, self.last());
        assert_eq!(overflows_of(|| alone[0].nest(last)), (1, alone[0]));
        let new = || alone[1].run(|| (Scope::new(&Step::<'c'>(50)), Scope::for_server(&fresh())));
        assert_eq!(overflows_of(new), (2, (alone[1], alone[1])));
        let add = || {
            alone[1].run(|| {
                Scope::add(&Step::<'c'>(50));
                Scope::current()
            })
        };
        assert_eq!(overflows_of(add), (1, alone[1]));
        for _ in 0..2 {
            let (count, scopes) = overflows_of(|| alone[1].run(|| ClientScopes::new(fresh())));
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
    }

    /// If it is entered now, in the same way.
    fn what_was_made_before_falls_back(&self) {
        let in_force = self.alone[1];
        let server = self.first.server();
        let NeverEntered {
            many, in_first, lazy, ..
        } = &self.never_entered;
        let current = || in_force.run(|| many[0].run(Scope::current));
        assert_eq!(overflows_of(current), (1, in_force));
        let current = || in_force.run(|| in_first.run(Scope::current));
        assert_eq!(overflows_of(current), (1, server));
        let wrapped = || {
            let future = in_force.run(|| in_first.wrap(async { Scope::current() }));
            (future.scope(), future.now_or_never())
        };
        assert_eq!(overflows_of(wrapped), (1, (server, Some(server))));
        let current = || in_force.run(|| lazy.for_client(ClientLabels::UNKNOWN).run(Scope::current));
        assert_eq!(overflows_of(current), (1, in_force));
    }

    fn each_thread_finds_the_sets_that_there_are(&self) {
        let (first, last) = (self.first, self.last());
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
    }

    fn all_sets_count(&self) {
        let first = self.first;
        let recorder = Install::new(PrometheusBuilder::new()).build_recorder();
        let before = overflows();
        metrics::with_local_recorder(&recorder, || {
            let kept = counter!("kept_total");
            for scope in &self.sets {
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
            let mut service = ClientLabelsLayer::new(fresh()).layer(service_fn(|_: Request<()>| async {
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
        let (some, rest): (Vec<_>, Vec<_>) = lines
            .into_iter()
            .partition(|line| !line.starts_with("kept_total") || !line.ends_with(" 1"));
        assert_samples(
            some,
            [
                sample("kept_total", &of(INET), 4),
                sample("label_sets_overflowed_total", &Labels::new(), overflowed),
                sample("macro_total", &of(INET), 3),
                sample("served_total", &of(UNKNOWN), 1),
            ],
        );
        assert!(rest.iter().all(|line| line.starts_with("kept_total{")));
    }
}
